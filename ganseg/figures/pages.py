"""Pages of samples and detections at print quality."""

from pathlib import Path

import numpy as np

from ganseg import files
from ganseg.figures import pictures

PAGE_IN = 7.0  # width of a page's text in inches
DPI = 300
STRENGTH = 0.75  # of the parts' colours over a picture
# 42: TrueType fonts, embedded, whose text stays text. A $ in a name is a $
PRINT = {"pdf.fonttype": 42, "font.size": 8, "text.parse_math": False}


def samples_page(generated, n_columns=6, names=None, caution=""):
    """A page of generated pictures, each beside itself with its points and part masks.

    generated  from sampling.sample
    names      K texts for the legend; None: numbers
    caution    of captions.caution, over the legend
    Returns a matplotlib Figure. Points and letters are vectors; all pictures are one image.
    """
    images = pictures.to_uint8(generated.image)
    labels, points = generated.masks.argmax(dim=1).numpy(), generated.points.numpy()
    N, K, _, _ = points.shape
    S = images.shape[1]
    figure, axes, gap = _page(images, labels, K, n_columns, names, caution)
    i = np.arange(N)
    corner = np.stack([i % n_columns * (2 * S + gap) + S, i // n_columns * (S + gap)], axis=-1)  # (N, 2), right picture
    xy_px = corner[:, None, None] + (points + 1) / 2 * (S - 1)  # (N, K, n_per, 2), pixel centres are whole numbers
    dot_pt2 = (0.06 * 72 * PAGE_IN / (2 * n_columns)) ** 2  # a dot is 6 % of a picture wide
    for k, color in enumerate(pictures.part_colors(K) / 255):
        x, y = xy_px[:, k].reshape(-1, 2).T
        axes.scatter(x, y, s=dot_pt2, color=color, edgecolors="black", linewidths=0.2, clip_on=False)
    return figure


def detections_page(images, labels, n_parts, n_columns=8, names=None, caution=""):
    """A page of photos, each beside itself with its detected parts.

    images  (N, 3, S, S) uint8
    labels  (N, S, S) integers, 0 background, parts 1..n_parts
    names   K texts for the legend; None: numbers; caution as of samples_page
    Returns a matplotlib Figure.
    """
    return _page(pictures.to_uint8(images), np.asarray(labels), n_parts, n_columns, names, caution)[0]


def save_page(figure, stem):
    """Write <stem>.png at 300 dpi and <stem>.pdf with its fonts embedded; returns both paths."""
    import matplotlib  # takes a second, for which --help need not wait

    paths = [Path(f"{stem}.{kind}") for kind in ("png", "pdf")]
    with matplotlib.rc_context(PRINT):
        for path in paths:
            with files.whole(path, "wb") as file:
                figure.savefig(file, dpi=DPI, format=path.suffix[1:])
    return paths


def random_rows(n_pictures, wanted, seed):
    """Random rows of a split, (wanted,). Where there are fewer, all in random order, and a printed sentence."""
    if n_pictures < wanted:
        print(f"There are only {n_pictures} test pictures, fewer than the wanted {wanted}: all of them are shown.")
    return np.random.default_rng(seed).permutation(n_pictures)[:wanted]


def _page(images, labels, n_parts, n_columns, names, caution):
    """Pictures (N, S, S, 3), plain and painted, over a legend: Figure, Axes in pixels, pixels of the gap."""
    import matplotlib  # takes a second, for which --help need not wait
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    painted = pictures.overlay(images, labels, n_parts, STRENGTH)
    gap = max(2, images.shape[1] // 16)
    sheet = pictures.grid(pictures.pairs(images, painted), n_columns, gap)
    H, W, _ = sheet.shape
    sheet_in, per_row = PAGE_IN * H / W, 12 if names is None else max(1, 100 // (4 + max(map(len, names))))
    legend_in = 0.15 + 0.2 * (-(-n_parts // per_row) + bool(caution))
    with matplotlib.rc_context(PRINT):
        figure = Figure(figsize=(PAGE_IN, sheet_in + legend_in))
        share = sheet_in / (sheet_in + legend_in)
        axes = figure.add_axes((0, 1 - share, 1, share))
        axes.imshow(sheet, interpolation="none", aspect="auto")
        axes.set_axis_off()
        colors = pictures.part_colors(n_parts) / 255
        texts = names or [str(k + 1) for k in range(n_parts)]
        patches = [Patch(color=color, label=text) for color, text in zip(colors, texts, strict=True)]
        style = {"loc": "lower center", "frameon": False, "handlelength": 1, "title": caution.strip(" ()")}
        figure.legend(handles=patches, ncols=per_row, **style)
    return figure, axes, gap
