"""A run that trains elsewhere, read from its folder: how far it is, what goes wrong, and what to change."""

import time
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ganseg import config
from ganseg.datasets import decode
from ganseg.errors import UserError
from ganseg.training import health

SILENT_LINES, SILENT_S = 5, 120  # silence lasts so many times the usual time between log lines, and at least so long


class Progress(NamedTuple):
    """How far a stage of a run has come, read from its folder."""

    cfg: config.Config  # as last saved
    records: list[dict]  # log lines, oldest first
    shares: list[dict]  # mean shares of background and parts in generated samples
    sample_steps: list[int]  # of the files in samples/
    silent_s: float | None  # since the last line was written; None: there is none
    finished: bool  # at its last step, or a later stage has begun


def read_progress(run, stage="train"):
    """The Progress of a run that another process may be writing; stage train, distill or control."""
    saved, written = run.folder / "config.yaml", run.folder / "metrics.jsonl"
    cfg = config.read(saved) if saved.exists() else run.cfg
    records = run.records(stage)
    steps = sorted(int(path.stem) for path in run.folder.glob("samples/*.png") if path.stem.isdecimal())
    silent_s = max(0.0, time.time() - written.stat().st_mtime) if records else None
    last = cfg.max_steps if stage == "train" else cfg.distill_steps
    begun = run.records("distill" if stage == "train" else "evaluate")  # max_minutes may have ended this stage early
    finished = bool(records) and (records[-1]["step"] >= last or bool(begun))
    return Progress(cfg, records, run.records(f"{stage}_samples"), steps, silent_s, finished)


def read_sample_sheet(run, step):
    """A file of samples/ as (H, W, 3) uint8; UserError where it is missing or half-written."""
    path = run.folder / "samples" / f"{step:08d}.png"
    try:
        return np.asarray(decode.open_upright(path))
    except ValueError as error:
        raise UserError(f"{path.name}: cannot be read ({error}); if it is being written, refresh.") from None


def warnings(progress, command="the same command"):
    """Sentences on what goes wrong in a Progress, each with what to change; [] where nothing does."""
    cfg, records, found = progress.cfg, progress.records, []
    if progress.silent_s is not None and not progress.finished:
        usual_s = np.median([b["time_s"] - a["time_s"] for a, b in pairwise(records[-health.N_LAST:])] or [SILENT_S])
        if progress.silent_s > max(SILENT_S, SILENT_LINES * usual_s):
            found.append(f"Nothing was written for {progress.silent_s / 60:.0f} minutes, usual are {usual_s:.0f} s "
                         f"between lines: if training has stopped, {command} goes on from the last checkpoint.")
    return found + [trouble.sentence for trouble in health.troubles(cfg, records, progress.shares).values()]
