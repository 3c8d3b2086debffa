"""A run that trains elsewhere, read from its folder: how far it is, what goes wrong, and what to change."""

import time
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ganseg import config, records, runs
from ganseg.datasets import decode
from ganseg.errors import UserError
from ganseg.records import clock
from ganseg.training import health

LATER = {"train": ("distill", "control"), "distill": ("control", "evaluate"), "control": ("evaluate",)}
SILENT_LINES, SILENT_S = 5, 120  # silence lasts so many times the usual time between log lines, and at least so long
SHEET_PX = 640  # samples are shrunk to this width


class Progress(NamedTuple):
    """How far a stage of a run has come, read from its folder."""

    cfg: config.Config  # as last saved
    records: list[dict]  # log lines, oldest first
    shares: list[dict]  # mean shares of background and parts in generated samples
    sample_steps: list[int]  # of the files in samples/
    at_end: bool  # at its last step
    passed: bool  # a later stage has logged since its last line: max_minutes may have ended this one early
    silent_s: float | None  # since the last line was written; None: there is none

    @property
    def finished(self):
        return self.at_end or self.passed


def open_followed(run, name=None):
    """The run to follow: RUN, of the same data set as `run`, or DATASET/RUN; without a name `run` itself.

    Raises UserError where there is none.
    """
    if name is None:
        return run
    try:
        return runs.find(name if "/" in name else f"{run.folder.parent.name}/{name}")
    except UserError as error:
        raise UserError(str(error).replace("run:", "follow:", 1)) from None


def read_progress(run, stage="train"):
    """The Progress of a run that another process may be writing; stage train, distill or control."""
    saved, written = run.folder / "config.yaml", run.folder / "metrics.jsonl"
    cfg = config.read(saved) if saved.exists() else run.cfg
    lines = records.read(written)
    of_stage = [line for line in lines if line["stage"] == stage]
    shares = [line for line in lines if line["stage"] == f"{stage}_samples"]
    steps = sorted(int(path.stem) for path in run.folder.glob("samples/*.png") if path.stem.isdecimal())
    last_step = cfg.max_steps if stage == "train" else cfg.distill_steps
    at_end = bool(of_stage) and of_stage[-1]["step"] >= last_step
    since = [line["stage"] for line in lines if line["stage"] in (stage, *LATER[stage])]
    passed = bool(of_stage) and since[-1] != stage
    silent_s = max(0.0, time.time() - written.stat().st_mtime) if of_stage else None
    return Progress(cfg, of_stage, shares, steps, at_end, passed, silent_s)


def list_runs():
    """[(text, label)] of all runs, the one that wrote last first: how far each is, and the time that was left then."""
    def written(folder):
        return max((path.stat().st_mtime for path in folder.glob("metrics.jsonl")), default=0)

    folders = [path.parent for path in runs.outputs_root().glob("*/*/config.yaml")]
    return [(f"{label}: {_state(folder)}", label) for folder in sorted(folders, key=written, reverse=True)
            for label in [runs.Run(folder, None).label]]


def _state(folder):
    """How far a run is, in words, by its last log line."""
    try:
        cfg, lines = config.read(folder / "config.yaml"), records.read(folder / "metrics.jsonl")
    except UserError:
        return "cannot be read"
    last = next((line for line in reversed(lines) if not line["stage"].endswith("_samples")), None)
    if last is None:
        return "nothing is logged"
    if last["stage"] not in LATER:
        return f"{last['stage']} is done"
    share = last["step"] / (cfg.max_steps if last["stage"] == "train" else cfg.distill_steps)
    left = f", {clock(last['left_s'])} left" if share < 1 else ""
    return f"{last['stage']} {min(share, 1):.0%}{left}"


def read_sample_sheet(run, step):
    """A file of samples/ as a PIL image, SHEET_PX wide at most; UserError where it is missing or half-written."""
    path = run.folder / "samples" / f"{step:08d}.png"
    try:
        sheet = decode.open_upright(path)
    except ValueError as error:
        raise UserError(f"{path.name}: cannot be read ({error}); if it is being written, refresh.") from None
    sheet.thumbnail((SHEET_PX, 4 * SHEET_PX))
    return sheet


def warnings(progress, command="the same command"):
    """Sentences on what goes wrong in a Progress, each with what to change; [] where nothing does."""
    cfg, lines, found = progress.cfg, progress.records, []
    if progress.silent_s is not None and not progress.finished:
        usual_s = np.median([b["time_s"] - a["time_s"] for a, b in pairwise(lines[-health.N_LAST:])] or [SILENT_S])
        if progress.silent_s > max(SILENT_S, SILENT_LINES * usual_s):
            found.append(f"Nothing was written for {progress.silent_s / 60:.0f} minutes, usual are {usual_s:.0f} s "
                         f"between lines: if training has stopped, {command} goes on from the last checkpoint.")
    return found + [trouble.sentence for trouble in health.troubles(cfg, lines, progress.shares).values()]
