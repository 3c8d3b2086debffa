"""Foreground against the true mask, and the signs of a collapsed model."""

import numpy as np

from ganseg.metrics.registry import LeftOut, metric

USED_SHARE = 0.02  # of the predicted foreground; a part below it counts as unused


@metric("IoU of (label != background) with the true mask, per picture, averaged over the test pictures.")
def foreground_iou(labels, true_foreground):
    """Mean over pictures of the foreground's intersection over union; see foreground_ious."""
    return np.nanmean(foreground_ious(labels, true_foreground))


def foreground_ious(labels, true_foreground):
    """The foreground's intersection over union in each picture.

    labels           (N, H, W), 0 background
    true_foreground  (N, H, W), 0 or False background, above 0 foreground, below 0 not known and not counted
    Returns (N,) floats in [0, 1]; a picture without foreground on either side counts 1 (released code: 0), NaN where
    nothing of a picture is known. Raises ValueError when the shapes differ.
    Source: GANSeg's released evaluation.
    """
    if labels.shape != true_foreground.shape:
        raise ValueError(f"labels {labels.shape} and true_foreground {true_foreground.shape} differ")
    known, there = true_foreground >= 0, true_foreground > 0
    found = (labels > 0) & known
    both, either = (where.sum(axis=(1, 2)) for where in (found & there, found | there))
    empty = np.where(known.any(axis=(1, 2)), 1.0, np.nan)
    return np.divide(both, either, out=empty, where=either > 0)


@metric("IoU of (label != background) with the true mask, intersections and unions each summed over the test set.")
def foreground_iou_pooled(labels, true_foreground):
    """1 where no picture has foreground on either side. Arguments as of foreground_ious."""
    found, there = (labels > 0) & (true_foreground >= 0), true_foreground > 0
    either = np.count_nonzero(found | there)
    return np.count_nonzero(found & there) / either if either else 1.0


@metric("Control: the IoU of foreground_iou for one box in the middle of every picture, of the width and height that "
        "are best on these test pictures.")
def foreground_iou_center_box(true_foreground):
    """The largest mean IoU that any centred box reaches.

    true_foreground  (N, S, S) as of foreground_ious
    Raises LeftOut where S is odd or the pictures are not square: no box of whole pixels lies in their middle.
    """
    _, height, width = true_foreground.shape
    if height != width or width % 2:
        raise LeftOut("the pictures are not squares of an even width")
    half = width // 2

    def inside(pixels):
        """(N, half, half): how many of the pixels lie in the box of 2 i + 2 by 2 j + 2 pixels."""
        quarters = pixels.reshape(-1, 2, half, 2, half)  # by upper, lower, left and right half
        top, bottom = quarters[:, 0, ::-1].astype(int), quarters[:, 1].astype(int)  # rows from the middle outwards
        folded = top[:, :, 0, ::-1] + top[:, :, 1] + bottom[:, :, 0, ::-1] + bottom[:, :, 1]
        return folded.cumsum(axis=1).cumsum(axis=2)

    known = true_foreground[(true_foreground >= 0).any(axis=(1, 2))]
    both, box = inside(known > 0), inside(known >= 0)
    either = box + both[:, -1:, -1:] - both
    return np.divide(both, either, out=np.ones(both.shape), where=either > 0).mean(axis=0).max()


def _pixel_counts(labels, n_parts):
    """Pixels of each label 0..n_parts over all pictures, (K+1,) int.

    labels  (N, H, W), 0 background, below 0 what is no part of a photo
    Raises ValueError when a label is above n_parts.
    """
    if labels.max() > n_parts:
        raise ValueError(f"label {labels.max()} with n_parts {n_parts}")
    # picture by picture: bincount copies its input to 8 bytes a pixel
    return sum(np.bincount(picture[picture >= 0], minlength=n_parts + 1) for picture in labels)


def part_shares(labels, n_parts):
    """Share of the predicted foreground that each part holds, (K,); all 0 without foreground."""
    foreground = _pixel_counts(labels, n_parts)[1:]
    return foreground / max(foreground.sum(), 1)


@metric("Number of parts that hold at least 2 % of the predicted foreground, test set pooled.")
def parts_used(labels, n_parts):
    return np.count_nonzero(part_shares(labels, n_parts) >= USED_SHARE)


@metric("Smallest share of the predicted foreground that a part holds, test set pooled.")
def part_share_min(labels, n_parts):
    return part_shares(labels, n_parts).min()


@metric("Share of all pixels predicted as background, test set pooled.")
def background_share(labels, n_parts):
    counts = _pixel_counts(labels, n_parts)
    return counts[0] / counts.sum()


@metric("1 (else 0) where fewer than half of the parts hold at least 2 % of the predicted foreground each, "
        "or the mean extent (where known) is under 1 pixel, or the background covers under 5 % or over 98 %.")
def collapse(labels, n_parts, extents_px=None):
    """Whether the model has collapsed: 1.0 or 0.0.

    labels      (N, H, W), 0 background
    extents_px  (n,) mean extents of generated samples, in pixels; None: not looked at
    Raises ValueError when a label is above n_parts.
    """
    few = parts_used(labels, n_parts) < n_parts / 2
    thin = extents_px is not None and not np.mean(extents_px) >= 1  # NaN, a diverged model, counts as thin
    return float(few or thin or not 0.05 <= background_share(labels, n_parts) <= 0.98)


@metric("Mean extent of the parts in generated samples (of an auto-encoder: in repeated photos), in pixels.")
def extent_px(extents_px):
    return np.mean(extents_px)


@metric("Standard deviation of a part's center over generated samples, mean over parts and both axes, in pixels.")
def center_spread_px(centers_px):
    """How far the centres move between pictures: (n, K, 2) in pixels -> float."""
    return centers_px.std(axis=0).mean()


@metric("Entropy of the soft masks per pixel of generated samples, divided by log(K + 1): 0 certain, 1 undecided.")
def mask_entropy(mask_entropies):
    return np.mean(mask_entropies)
