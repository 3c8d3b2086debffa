"""What a run was trained on: names and checksums of its pictures in its folder, a digest of them in its checkpoints."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from ganseg import distributed, files
from ganseg.errors import UserError

TABLE = "trained_on.csv"
COLUMNS = ["name", "checksum", "by"]
OWN, EARLIER, CORRECTED = "this run", "its warm start", "its fine-tuning"  # in the column by
NOTE = "test pictures that were trained on"


def digest(checksums):
    """A text that tells some pictures from others, whatever their names and order; None where they are drawn."""
    if checksums is None:
        return None
    return hashlib.sha256(np.sort(np.asarray(checksums, np.uint32)).tobytes()).hexdigest()[:16]


def check(run, photos):
    """Raise UserError where the run's GAN was trained on other pictures than these Pictures.

    Equal pictures in another place or under other names are the same. Of a run by older code nothing is known.
    """
    if photos.checksums is None or run.newest("gan") is None:
        return
    before = [checksum for _, checksum, by in _read(run) if by == OWN]
    known = digest(before) if before else run.load_state("gan").get("trained_on")
    if known is None:
        print(f"It is not known what {run.label} was trained on so far; it goes on with {run.cfg.source}.", flush=True)
    elif known != digest(photos.checksums):
        new = (Counter(photos.checksums.tolist()) - Counter(before)).total()
        of_these = f", of which {new:,} of {len(photos):,} are new to it" if before else ""
        raise UserError(
            f"source: {run.label} was trained on other pictures than those of {run.cfg.source}{of_these}; choose "
            f"another name with --run, to which -p warm_start {run.newest('gan')} gives the weights."
        )


def keep(run, photos):
    """Write the names and checksums of what a run is trained on, and of what its warm start was, into its folder."""
    if photos.checksums is None or distributed.rank():
        return
    rows = _rows(photos, OWN)
    if run.cfg.warm_start:
        earlier = _read(type(run)(Path(run.cfg.warm_start).parents[1], None))
        rows += [(name, checksum, EARLIER) for name, checksum, _ in earlier]
        if not earlier:
            print(f"It is not known what {run.cfg.warm_start} was trained on.", flush=True)
    _write(run, rows)


def add_corrected(run, photos):
    """Write the corrected photos that the segmenter learns from into the table too, where there is one."""
    if rows := _read(run):
        _write(run, dict.fromkeys([*rows, *_rows(photos, CORRECTED)]))


def count(run, photos):
    """How many of some test Pictures a run was trained on: said, and returned as notes (name -> fact).

    They are told by their content. Those that only have the name of a training picture are counted apart: they were
    changed since, or are others.
    """
    if photos.checksums is None:
        return {}
    rows, n = _read(run), f"{len(photos):,} test pictures"
    if not rows:
        print(f"It is not known how many of {n} were trained on: the training was by older code.", flush=True)
        return {NOTE: "not known"}
    names, checksums, _ = zip(*rows, strict=True)
    seen, named = np.isin(photos.checksums, checksums), np.isin(photos.names, names)
    only_named = int((named & ~seen).sum())
    print(f"{int(seen.sum()):,} of {n} were trained on.", flush=True)
    if not only_named:
        return {NOTE: int(seen.sum())}
    print(f"{only_named:,} more have the name of a training picture, and other content.", flush=True)
    return {NOTE: int(seen.sum()), "test pictures named as a training picture, with other content": only_named}


def _rows(photos, by):
    return [(str(name), checksum, by) for name, checksum in zip(photos.names, photos.checksums.tolist(), strict=True)]


def _write(run, rows):
    with files.whole(run.folder / TABLE) as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def _read(run):
    """The rows (name, checksum, by) of a run's table; [] where there is none."""
    path = run.folder / TABLE
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [(name, int(checksum), by) for name, checksum, by in list(csv.reader(file))[1:]]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {files.one_line(error)}; delete it, and what the run was trained on "
                        "counts as not known.") from None
