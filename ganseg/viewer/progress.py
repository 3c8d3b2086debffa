"""A run that trains elsewhere, read from its folder: how far it is, what goes wrong, and what to change."""

import time
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ganseg import config
from ganseg.datasets import decode
from ganseg.errors import UserError
from ganseg.figures import pictures
from ganseg.training import health

SILENT_LINES, SILENT_S = 5, 120  # silence: so many times the usual time between log lines, and at least so long


class Progress(NamedTuple):
    """How far a stage of a run has come, read from its folder."""

    cfg: config.Config  # as last saved
    records: list[dict]  # log lines, oldest first
    shares: list[dict]  # mean shares of background and parts in generated samples
    sample_steps: list[int]  # of the files in samples/
    silent_s: float | None  # since the last line was written; None: there is none
    finished: bool  # at its last step, or a later stage has begun


def progress(run, stage="train"):
    """The Progress of a run that another process may be writing; stage train, distill or control."""
    saved, written = run.folder / "config.yaml", run.folder / "metrics.jsonl"
    cfg = config.read(saved) if saved.exists() else run.cfg
    records = run.records(stage)
    steps = sorted(int(path.stem) for path in run.folder.glob("samples/*.png") if path.stem.isdecimal())
    silent_s = max(0.0, time.time() - written.stat().st_mtime) if records else None
    last = cfg.max_steps if stage == "train" else cfg.distill_steps
    begun = run.records("distill" if stage == "train" else "evaluate")  # what max_minutes ended is not to be missed
    finished = bool(records) and (records[-1]["step"] >= last or bool(begun))
    return Progress(cfg, records, run.records(f"{stage}_samples"), steps, silent_s, finished)


def sample_sheet(run, step):
    """A file of samples/ as (H, W, 3) uint8; UserError where it is missing or half-written."""
    path = run.folder / "samples" / f"{step:08d}.png"
    try:
        return np.asarray(decode.open_upright(path))
    except ValueError as error:
        raise UserError(f"{path.name}: cannot be read ({error}); if it is being written, refresh.") from None


def warnings(progress, command="the same command"):
    """Sentences on what goes wrong in a Progress, each with what to change, [] where nothing does."""
    cfg, records, found = progress.cfg, progress.records, []
    if progress.silent_s is not None and not progress.finished:
        usual_s = np.median([b["time_s"] - a["time_s"] for a, b in pairwise(records[-health.N_LAST:])] or [SILENT_S])
        if progress.silent_s > max(SILENT_S, SILENT_LINES * usual_s):
            found.append(f"Nothing was written for {progress.silent_s / 60:.0f} minutes, usual are {usual_s:.0f} s "
                         f"between lines: if training has stopped, {command} goes on from the last checkpoint.")
    return found + list(health.troubles(cfg, records, progress.shares).values())


def curves(progress, part_labels):
    """Losses, penalties and part usage of a Progress as one picture (H, W, 3) uint8; None without log lines.

    part_labels  K texts, as of explore.part_labels
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ganseg.figures.plots import CURVE, QUANTITIES

    records, shares = progress.records, progress.shares
    of = [f"part_{k}_share" for k in range(1, len(part_labels) + 1)]
    quantities = [q for q in dict.fromkeys(name for line in records for name in line) if q.endswith(QUANTITIES)]
    quantities += ["background_share"] if shares else []
    if not quantities:
        return None
    panels = [[*quantities[i : i + 3], ".", "."][:3] for i in range(0, len(quantities), 3)]
    heights = [1.6] * len(panels)  # inches
    if shares:
        panels.append(["shares"] * 3)
        heights.append(max(1.6, 0.4 + 0.15 * len(part_labels)))  # the legend has a line per part
    with matplotlib.rc_context({"font.size": 8, "axes.titlesize": 8, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(7.2, sum(heights)), layout="constrained")
        axes = figure.subplot_mosaic(panels, height_ratios=heights)
        for name in quantities:
            lines = [line for line in records + shares if name in line]
            style = {"color": CURVE, "marker": "." if len(lines) == 1 else ""}
            axes[name].plot([line["step"] for line in lines], [line[name] for line in lines], **style)
            axes[name].set_title(name.replace("_", " "))
        if shares:
            steps = [line["step"] for line in shares]
            bands = np.array([[line[name] for line in shares] for name in of])
            bands = bands / np.maximum(bands.sum(axis=0), 1e-6)
            if len(steps) == 1:  # a band needs two ends
                steps, bands = [0, *steps], bands.repeat(2, axis=1)
            colors = pictures.part_colors(len(part_labels)) / 255
            axes["shares"].stackplot(steps, bands, colors=colors, labels=part_labels)
            axes["shares"].set(title="share of the foreground", xlabel="step", xlim=(steps[0], steps[-1]), ylim=(0, 1))
            place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "fontsize": 7, "frameon": False}
            for text in axes["shares"].legend(reverse=True, **place).get_texts():
                text.set_parse_math(False)  # a name may hold a $
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
