"""The curves of a training, drawn once for notebooks, the viewer and the report."""

import numpy as np

from ganseg import part_names
from ganseg.figures import pictures

COLOR = "#0072B2"
QUANTITIES = ("loss", "penalty", "accuracy")  # how the names of what training logs end
N_COLUMNS, WIDTH_IN, ROW_IN = 3, 7.2, 1.6  # panels in a row; inches


def stage_curves(run, stage):
    """The curves of a run's stage (train, distill or control) as a picture (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second, and training needs no figures

    records, shares = run.records(stage), run.records(f"{stage}_samples")
    parts = part_names.read_parts(run)
    canvas = FigureCanvasAgg(training_figure(records, shares, parts.labels, parts.colors))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def training_figure(records, shares, part_labels, colors=None):
    """Losses, penalties, accuracies, then the parts' shares of the foreground over the steps: a matplotlib Figure.

    records      dicts {step, name: value} of a stage, oldest first; a name may be missing from some
    shares       dicts {step, background_share, part_1_share, ..., part_K_share} of its samples
    part_labels  K texts, and colors (K, 3) uint8 or None, as of part_names.Parts
    """
    import matplotlib  # takes a second, and training needs no figures
    from matplotlib.figure import Figure

    names = [name for name in dict.fromkeys(name for line in records for name in line) if name.endswith(QUANTITIES)]
    names += ["background_share"] if shares else []
    rows = [[*names[i : i + N_COLUMNS], *"." * N_COLUMNS][:N_COLUMNS] for i in range(0, len(names), N_COLUMNS)]
    heights = [ROW_IN] * len(rows)
    if shares:
        rows.append(["shares"] * (N_COLUMNS - 1) + ["."])  # the legend stands in the last column
        heights.append(max(ROW_IN, 0.4 + 0.15 * len(part_labels)))  # with a line per part
    # A name may hold a $
    style = {"font.size": 8, "axes.titlesize": 8, "axes.grid": True, "grid.alpha": 0.3, "text.parse_math": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH_IN, sum(heights) or ROW_IN / 4), layout="constrained")
        if not rows:
            figure.suptitle("No step is logged yet.")
            return figure
        axes = figure.subplot_mosaic(rows, height_ratios=heights)
        for name in names:
            lines = [line for line in records + shares if name in line]
            marker = "." if len(lines) == 1 else ""  # a line needs two ends
            x, y = [line["step"] for line in lines], [line[name] for line in lines]
            axes[name].plot(x, y, color=COLOR, marker=marker)
            axes[name].set_title(name.replace("_", " "))
        if shares:
            _draw_shares(axes["shares"], shares, part_labels, colors)
    return figure


def _draw_shares(axes, shares, part_labels, colors):
    """Each part's share of the foreground, stacked in the parts' colours."""
    steps = [line["step"] for line in shares]
    bands = np.array([[line[f"part_{k}_share"] for line in shares] for k in range(1, len(part_labels) + 1)])
    bands = bands / np.maximum(bands.sum(axis=0), 1e-6)
    if len(steps) == 1:  # a band needs two ends
        steps, bands = [0, *steps], bands.repeat(2, axis=1)
    colors = pictures.part_colors(len(part_labels) if colors is None else colors) / 255
    axes.stackplot(steps, bands, colors=colors, labels=part_labels)
    axes.set(title="share of the foreground", xlabel="step", xlim=(steps[0], steps[-1]), ylim=(0, 1))
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "fontsize": 7, "frameon": False}
    legend = axes.legend(reverse=True, **place)
    legend.set_in_layout(False)  # else long names would squeeze all panels
