"""Masks whose pixels are label numbers: 0 background, parts above. A pixel whose label is not known is below 0.

Such pixels count in no metric. Photos and other tools leave them: a void border, a margin that is no part of the photo,
edges that were smoothed, whose grey lies between two labels and would be taken for parts of their own.
"""

import numpy as np
import scipy  # which imports its parts where they are first used
from PIL import Image

IGNORED, SOFT = -1, -2  # labels of pixels that the data set leaves out, and of smoothed edges
SOFT_SHARE = 0.12  # of the pixels at edges; 0.14 to 0.9 where masks were smoothed, up to 0.09 in drawn ones
RARE_SHARE = 0.001  # of a smoothed mask: a label below this is a trace of compression
VOID = 255  # what PASCAL VOC and its like call void


def index_labels(mask, resize, ignore_label=None):
    """Labels of a mask whose pixels are label numbers, grey or palette, for read_labels.

    ignore_label  the number of the pixels to leave out, or None
    Returns (S, S) integers, IGNORED and SOFT among them. Raises ValueError for other masks.
    """
    labels = np.asarray(mask)
    if labels.ndim != 2:
        raise ValueError(f"it is a {mask.mode} picture; a mask holds one number per pixel, grey or palette")
    if labels.max() > 255 or labels.min() < 0:
        raise ValueError(f"it holds labels up to {labels.max()}; allowed are 0 to 255")
    found = labels.astype(np.int32)  # the only integers below 0 that Pillow resizes
    found[_smoothed(labels.astype(np.uint8))] = SOFT
    found[labels == ignore_label] = IGNORED
    return np.asarray(resize(Image.fromarray(found), Image.Resampling.NEAREST))


def _smoothed(labels):
    """Where a mask (H, W) uint8 was smoothed, so that its labels mean nothing: (H, W) bool.

    A smoothed edge has pixels that lie between their neighbours. In drawn masks these are few: a thin part between two
    others. Of a smoothed mask only what belongs to 3 x 3 equal pixels stays.
    """
    low, high = scipy.ndimage.minimum_filter(labels, 3), scipy.ndimage.maximum_filter(labels, 3)
    flat = scipy.ndimage.maximum_filter(low == high, 3)
    between = (low < labels) & (labels < high) & ~flat
    if between.sum() <= SOFT_SHARE * (low < high).sum():
        return np.zeros(labels.shape, bool)
    rare = np.bincount(labels[flat], minlength=256) < RARE_SHARE * labels.size
    return ~flat | rare[labels]


def label_shares(photos):
    """{label: share of the pixels} of the pictures with masks, IGNORED and SOFT among them; {} without any."""
    counts = np.zeros(256 - SOFT, int)
    for one in [] if photos.labels is None else photos.labels.numpy():
        if one.max() >= 0:
            counts += np.bincount(one.ravel().astype(int) - SOFT, minlength=len(counts))
    return {int(i) + SOFT: counts[i] / counts.sum() for i in np.flatnonzero(counts)}


def say_doubts(photos, what):
    """Print what masks hold that was not taken for labels, or perhaps should not be. Returns it, or "none".

    what  the pictures, for the sentence: "test pictures"
    """
    shares, said = label_shares(photos), []
    if SOFT in shares:
        said.append(f"The masks of the {what} have smoothed edges: {shares[SOFT]:.1%} of the pixels lie between labels "
                    "and count in no metric. Save masks without smoothing (nearest neighbour, no JPEG) to count all.")
    if VOID in shares and len([label for label in shares if label > 0]) > 1:
        said.append(f"Label {VOID} covers {shares[VOID]:.1%} of the masks of the {what} and counts as a part; if it "
                    f"means void, leave it out with -p ignore_label {VOID}.")
    print(*[f"{sentence}\n" for sentence in said], sep="", end="", flush=True)
    return " ".join(said) or "none"
