"""What speaks for a segmenter without any label: the same parts again after a move, in another training, in all photos.

A high value is no proof, for a wrong answer may be stable too. notebooks/README.md says which of these agree with true
labels.
"""

import numpy as np
import scipy  # which imports its parts where they are first used

from ganseg.metrics.clustering import contingency_table
from ganseg.metrics.masks import part_shares
from ganseg.metrics.registry import LeftOut, metric

# All in [0, 1]; the score is their geometric mean, so that none can be bought with another
SCORES = ("equivariance", "parts_effective", "colors_explained", "border_clear", "agreement")


def score(values, names=SCORES):
    """The geometric mean of those of some scores that a dict of metrics has, in [0, 1]; 0 where it has none."""
    given = [max(value, 1e-6) for name in names if (value := values.get(name, np.nan)) == value]
    return float(np.exp(np.mean(np.log(given)))) if given else 0.0


def part_agreement(first, second):
    """Share of the pixels that are foreground in either of two labellings that belong to one part in both.

    first, second  (N, H, W) int, 0 background; pixels below 0 in the first do not count. Parts are matched one to one
                   so that the share is largest; their numbers may differ.
    Returns a float in [0, 1]: 1 for equal labels under any numbering, and where both are background alone.
    Raises ValueError when the shapes differ.
    """
    table = contingency_table(first, second)
    both, either = table[1:, 1:], table.sum() - table[0, 0]
    return both[scipy.optimize.linear_sum_assignment(both, maximize=True)].sum() / either if either else 1.0


def matched_order(first, second, n_parts):
    """Which label of the second labelling is label k of the first, (K + 1,) int: 0, then parts as of part_agreement."""
    table = contingency_table(first, second, (n_parts + 1, n_parts + 1))[1:, 1:]
    return np.concatenate([[0], scipy.optimize.linear_sum_assignment(table, maximize=True)[1] + 1])


@metric("Label-free: of the pixels that are foreground before or after a photo is mirrored, turned by 15 degrees, "
        "scaled by 0.8 and 1.25 or recoloured, the share that keeps its part, parts matched, mean over moves.")
def equivariance(moved_labels, labels_of_moved):
    """Mean part_agreement of the labels moved alike with those of the moved photos, each (moves, N, S, S)."""
    return np.mean([part_agreement(*pair) for pair in zip(moved_labels, labels_of_moved, strict=True)])


@metric("Label-free: part agreement with the checkpoint of the segmenter before this one, matched, test set pooled.")
def stability(labels, earlier_labels):
    return part_agreement(labels, earlier_labels)


@metric("Label-free: exp(entropy of the parts' shares of the foreground) / K: 1 for equal shares, 1 / K for one part "
        "alone, test set pooled.")
def parts_effective(labels, n_parts):
    shares = part_shares(labels, n_parts)
    if not shares.any():
        raise LeftOut("no pixel of the test pictures was predicted as foreground")
    return np.exp(scipy.stats.entropy(shares)) / n_parts


def part_means(values, labels, n_parts):
    """Mean over each part's pixels in each picture: values (N, C, S, S), labels (N, S, S) -> (N, K, C), NaN: absent."""
    N, C, _, _ = values.shape
    means = np.full((N, n_parts, C), np.nan)
    for mean, picture, of_picture in zip(means, values.reshape(N, C, -1), labels.reshape(N, -1), strict=True):
        inside = of_picture > 0
        count = np.bincount(of_picture[inside] - 1, minlength=n_parts)
        total = [np.bincount(of_picture[inside] - 1, channel[inside], n_parts) for channel in picture]
        mean[count > 0] = (np.array(total) / np.maximum(count, 1)).T[count > 0]
    return means


def variance_between(values):
    """Share of the variance that lies between groups, in [0, 1]: values (N, K, C) of K groups, NaN where missing.

    Raises LeftOut where fewer than two groups have values, or nothing varies.
    """
    there = np.isfinite(values).all(axis=-1)  # (N, K)
    used = values[:, there.any(axis=0)]
    if used.shape[1] < 2:
        raise LeftOut("fewer than two parts are in use")
    total = np.square(used - np.nanmean(used, axis=(0, 1))).sum(axis=-1)
    within = np.square(used - np.nanmean(used, axis=0)).sum(axis=-1)
    if not np.nansum(total) > 0:
        raise LeftOut("the parts do not differ")
    return 1 - np.nansum(within) / np.nansum(total)


@metric("Label-free: share of the variance of the parts' centroids over all test pictures that lies between parts.")
def places_held(labels, n_parts):
    """1 where each part sits at one place in all pictures, near 0 where parts lie anywhere: labels (N, S, S)."""
    N, H, W = labels.shape
    y_x = np.broadcast_to(np.mgrid[:H, :W], (N, 2, H, W))
    return variance_between(part_means(y_x, labels, n_parts))


@metric("Label-free: share of the variance of the parts' mean colours (less the picture's own) over all test pictures "
        "that lies between parts.")
def colors_held(images, labels, n_parts):
    """images (N, 3, S, S), labels (N, S, S)."""
    of_pictures = np.stack([image.mean(axis=(1, 2)) for image in images])  # one at a time: in floats all are large
    return variance_between((part_means(images, labels, n_parts) - of_pictures[:, None]) / 255)


@metric("Label-free: share of the variance of a picture's colours that its own labels, background included, explain, "
        "mean over the test pictures.")
def colors_explained(images, labels, n_parts):
    """1 where each label has one colour, 0 where labels tell no colour: images (N, 3, S, S), labels (N, S, S)."""
    total = np.array([image.var(axis=(1, 2)).sum() for image in images])  # (N,)
    known = np.where(labels < 0, 0, labels + np.int16(1))  # uint8 holds no 256
    count = np.stack([(known == k + 1).sum(axis=(1, 2)) for k in range(n_parts + 1)], axis=1)  # (N, K + 1)
    means = part_means(images, known, n_parts + 1)
    middle = np.nansum(means * count[..., None], axis=1) / count.sum(axis=1, keepdims=True)
    between = np.nansum(np.square(means - middle[:, None]).sum(axis=-1) * count, axis=1) / count.sum(axis=1)
    return np.divide(between, total, out=np.zeros(len(total)), where=total > 0).clip(max=1).mean()


@metric("Label-free: share of the pixels along the test pictures' edges, a sixteenth of their side wide, that are "
        "background.")
def border_clear(labels):
    """1 where no part touches the edge of a photo, as objects in the middle do not: labels (N, S, S), below 0 outside.

    What counts of a picture is a rectangle, so a pixel is on the edge where one so far up, down, left or right is not.
    """
    inside, w = labels >= 0, max(1, labels.shape[-1] // 16)
    wide = np.pad(inside, ((0, 0), (w, w), (w, w)))
    far = (wide[:, : -2 * w, w:-w], wide[:, 2 * w :, w:-w], wide[:, w:-w, : -2 * w], wide[:, w:-w, 2 * w :])
    edge = inside & ~np.logical_and.reduce(far)
    return (labels[edge] == 0).mean()


@metric("Label-free: the segmenter's largest probability, mean over the pixels of the test pictures.")
def certainty(certainties):
    return np.mean(certainties)


@metric("Label-free: how much more certain the segmenter is of generated pictures, on average, than of test pictures.")
def certainty_gap(certainties, certainties_of_generated):
    return np.mean(certainties_of_generated) - np.mean(certainties)
