"""Part colours that differ for every reader."""

import numpy as np

from ganseg.figures import pictures


def test_part_colours_never_repeat_up_to_32_and_the_first_eight_differ_for_colour_blind_readers():
    assert len({tuple(color) for color in pictures.part_colors(32)}) == 32
    # sRGB -> what protanopes, deuteranopes and tritanopes see, in linear light (Machado et al. 2009, severity 1)
    seen = [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
    srgb = pictures.part_colors(8) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    for matrix in (np.eye(3), *map(np.array, seen)):
        lab = _lab(np.clip(linear @ matrix.T, 0, 1))
        distances = np.linalg.norm(lab[:, None] - lab, axis=-1)[np.triu_indices(8, 1)]
        assert distances.min() > 10, distances.min()  # 2.3 is just noticeable


def _lab(linear):
    """Linear sRGB (N, 3) -> CIELAB (N, 3), white D65."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ np.array(matrix).T / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
