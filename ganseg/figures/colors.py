"""The parts' colours, for all who draw or list them."""

import colorsys

import numpy as np
from PIL import ImageColor

# Okabe and Ito's colours, distinct for colour-blind readers, without black.
FIRST = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#555555"]


def part_colors(n_parts):
    """One colour per part: (K, 3) uint8, none twice. Wherever n_parts is K, it may be such colours of one's own."""
    if np.ndim(n_parts):
        return np.asarray(n_parts, dtype=np.uint8)
    colors = [ImageColor.getrgb(color) for color in FIRST]
    for i in range(n_parts - len(FIRST)):  # further hues by the golden angle, in three lightnesses
        rgb = colorsys.hls_to_rgb((0.11 + 0.381966 * i) % 1, (0.35, 0.6, 0.8)[i % 3], 0.75)
        colors.append(tuple(round(255 * c) for c in rgb))
    return np.array(colors[:n_parts], dtype=np.uint8)
