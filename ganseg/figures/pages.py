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


def samples_page(generated, n_columns=6, parts=None, caution=""):
    """A page of generated pictures, each beside itself with its points and part masks.

    generated  from sampling.sample
    parts      from part_names, which names, colours and merges them; None: numbers
    caution    of captions.caution, over the legend
    Returns a matplotlib Figure. Points and letters are vectors; all pictures are one image.
    """
    images = pictures.to_uint8(generated.image)
    labels, points = generated.masks.argmax(dim=1).numpy(), generated.points.numpy()
    N, K, _, _ = points.shape
    S = images.shape[1]
    figure, axes, gap = _page(images, labels, K, n_columns, parts, caution)
    i = np.arange(N)
    corner = np.stack([i % n_columns * (2 * S + gap) + S, i // n_columns * (S + gap)], axis=-1)  # (N, 2), right picture
    xy_px = corner[:, None, None] + (points + 1) / 2 * (S - 1)  # (N, K, n_per, 2), pixel centres are whole numbers
    dot_pt2 = (0.06 * 72 * PAGE_IN / (2 * n_columns)) ** 2  # a dot is 6 % of a picture wide
    for k, color in enumerate((parts.colors if parts else pictures.part_colors(K)) / 255):
        x, y = xy_px[:, k].reshape(-1, 2).T
        axes.scatter(x, y, s=dot_pt2, color=color, edgecolors="black", linewidths=0.2, clip_on=False)
    return figure


def detections_page(images, labels, n_parts, n_columns=8, parts=None, caution=""):
    """A page of photos, each beside itself with its detected parts.

    images  (N, 3, S, S) uint8
    labels  (N, S, S) integers, 0 background, parts 1..n_parts
    parts, caution  as of samples_page
    Returns a matplotlib Figure.
    """
    return _page(pictures.to_uint8(images), np.asarray(labels), n_parts, n_columns, parts, caution)[0]


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


def _page(images, labels, n_parts, n_columns, parts, caution):
    """Pictures (N, S, S, 3), plain and painted, over a legend: Figure, Axes in pixels, pixels of the gap."""
    import matplotlib  # takes a second, for which --help need not wait
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors, texts = pictures.part_colors(n_parts), {k: str(k) for k in range(1, n_parts + 1)}
    if parts:
        labels, colors, texts = parts.apply(labels), parts.colors, {k: parts.labels[k - 1] for k in parts.numbers}
    painted = pictures.overlay(images, labels, colors, STRENGTH)
    gap = max(2, images.shape[1] // 16)
    sheet = pictures.grid(pictures.pairs(images, painted), n_columns, gap)
    H, W, _ = sheet.shape
    sheet_in, per_row = PAGE_IN * H / W, 12 if parts is None else max(1, 100 // (4 + max(map(len, texts.values()))))
    legend_in = 0.15 + 0.2 * (-(-len(texts) // per_row) + bool(caution))
    with matplotlib.rc_context(PRINT):
        figure = Figure(figsize=(PAGE_IN, sheet_in + legend_in))
        share = sheet_in / (sheet_in + legend_in)
        axes = figure.add_axes((0, 1 - share, 1, share))
        axes.imshow(sheet, interpolation="none", aspect="auto")
        axes.set_axis_off()
        patches = [Patch(color=colors[k - 1] / 255, label=text) for k, text in texts.items()]
        style = {"loc": "lower center", "frameon": False, "handlelength": 1, "title": caution.strip(" ()")}
        figure.legend(handles=patches, ncols=per_row, **style)
    return figure, axes, gap
