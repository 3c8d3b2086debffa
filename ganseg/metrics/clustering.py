"""Predicted against true parts, from one contingency table of the pooled pixels."""

import numpy as np
import scipy  # which imports its parts where they are first used

from ganseg.metrics.registry import LeftOut, metric


def contingency_table(true, predicted, shape=None):
    """Pixels with each pair of labels, (n_true, n_predicted) int64.

    true, predicted  (N, H, W) int; pixels whose true label is below 0 do not count
    shape            of the table; None: just large enough
    Raises ValueError when the shapes differ or a label does not fit.
    """
    if true.shape != predicted.shape:
        raise ValueError(f"true {true.shape} and predicted {predicted.shape} labels differ in shape")
    shape = shape or (int(true.max()) + 1, int(predicted.max()) + 1)
    table = np.zeros(shape, np.int64)
    # picture by picture: sklearn's contingency_matrix sorts all pixels, at 8 bytes each
    for t, p in zip(true, predicted, strict=True):
        cells = np.ravel_multi_index((t[t >= 0], p[t >= 0]), shape)  # refuses labels that do not fit
        table += np.bincount(cells, minlength=table.size).reshape(shape)
    return table


def _normalized_mutual_information(table):
    """NMI in [0, 1] with the arithmetic mean of both entropies; 1 where neither side is divided.

    Source: sklearn's normalized_mutual_info_score, which takes no table.
    """
    from sklearn.metrics import mutual_info_score  # takes two seconds, and training needs none of it

    mean_entropy = (scipy.stats.entropy(table.sum(axis=1)) + scipy.stats.entropy(table.sum(axis=0))) / 2
    if mean_entropy == 0:
        return 1.0
    return mutual_info_score(None, None, contingency=table) / mean_entropy


def adjusted_rand_index(table):
    """ARI in [-0.5, 1]; 0 is chance. Source: sklearn's adjusted_rand_score, which takes no table."""
    n = int(table.sum())  # Python's integers: products of pair counts pass 2^63
    cells, rows, columns = (int((t**2).sum()) for t in (table, table.sum(axis=1), table.sum(axis=0)))
    # ordered pairs of pixels that share a label of both sides, of one only, of neither
    both, true, predicted, neither = cells - n, rows - cells, columns - cells, n * n - rows - columns + cells
    if predicted == true == 0:
        return 1.0
    chance_free = (both + true) * (true + neither) + (both + predicted) * (predicted + neither)
    return 2 * (both * neither - true * predicted) / chance_free


def _foreground_rows(table):
    if not table[1:].any():
        raise LeftOut("no pixel of the test set is truly foreground")
    return table[1:]


@metric("NMI of predicted and true labels over all pixels, background included, test set pooled.")
def nmi(labels, true_labels):
    return _normalized_mutual_information(contingency_table(true_labels, labels))


@metric("ARI of predicted and true labels over all pixels, background included, test set pooled.")
def ari(labels, true_labels):
    return adjusted_rand_index(contingency_table(true_labels, labels))


@metric("NMI over the pixels whose true label is foreground, a predicted background being a class like any "
        "other, test set pooled.")
def nmi_foreground(labels, true_labels):
    return _normalized_mutual_information(_foreground_rows(contingency_table(true_labels, labels)))


@metric("ARI over the pixels whose true label is foreground, a predicted background being a class like any "
        "other, test set pooled.")
def ari_foreground(labels, true_labels):
    return adjusted_rand_index(_foreground_rows(contingency_table(true_labels, labels)))


def part_ious(table):
    """IoU of each true with each predicted part, background dropped from both; 0 where both are empty."""
    both = table[1:, 1:]
    either = table.sum(axis=1)[1:, None] + table.sum(axis=0)[None, 1:] - both
    return both / np.maximum(either, 1)


def matched_ious(labels, true_labels, train_labels, train_true_labels, n_parts):
    """IoU of each true part that occurs in the test split with the part that it is matched to, 0 without a match.

    labels, true_labels              (N, H, W), 0 background, true ones below 0 where not known
    train_labels, train_true_labels  (M, H, W)
    Raises ValueError when a prediction's and its truth's shapes differ or a label is above n_parts;
    LeftOut when the test split shows no true part.
    """
    shape = int(max(true_labels.max(), train_true_labels.max())) + 1, n_parts + 1
    test = contingency_table(true_labels, labels, shape)
    present = _foreground_rows(test).any(axis=1)
    train_ious = part_ious(contingency_table(train_true_labels, train_labels, shape))
    true, predicted = scipy.optimize.linear_sum_assignment(train_ious, maximize=True)
    # the assignment also pairs parts that never meet in training; those are no match
    scores = np.zeros(len(present))
    scores[true] = part_ious(test)[true, predicted] * (train_ious[true, predicted] > 0)
    return scores[present]


@metric("Mean IoU over the true parts, matched one to one to predicted parts (Hungarian, by IoU) on the "
        "training split and scored on the test split, pixels pooled; a true part without a match counts 0.")
def part_miou(labels, true_labels, train_labels, train_true_labels, n_parts):
    return matched_ious(labels, true_labels, train_labels, train_true_labels, n_parts).mean()


@metric("IoU of the true part that is found worst, matched as for part_miou.")
def part_iou_min(labels, true_labels, train_labels, train_true_labels, n_parts):
    return matched_ious(labels, true_labels, train_labels, train_true_labels, n_parts).min()


@metric("Median IoU over the true parts, matched as for part_miou.")
def part_iou_median(labels, true_labels, train_labels, train_true_labels, n_parts):
    return np.median(matched_ious(labels, true_labels, train_labels, train_true_labels, n_parts))


def labels_under_keypoints(labels, landmarks, true_foreground=None):
    """The number of each visible keypoint, and the label predicted under it: two int arrays (n,), test set pooled.

    labels           (N, S, S), 0 background
    landmarks        (N, L, 2) in [-1, 1], (x, y), NaN where missing; those outside the square are left out
    true_foreground  (N, S, S), those on a pixel below 0, of a picture that has others, are left out too
    Raises LeftOut when no keypoint is visible, or none on a pixel that counts.
    """
    S = labels.shape[-1]
    shown = np.isfinite(landmarks).all(axis=-1)
    # Position 0 is the square's corner, as in the data sets' readers: a label's pixel begins at its own number.
    # 1e-3 pixels: float32 may leave a position just below a whole number
    pixels = np.floor((np.where(shown[..., None], landmarks, 0) + 1) / 2 * (S - 1) + 1e-3).astype(np.intp)
    shown &= ((pixels >= 0) & (pixels < S)).all(axis=-1)
    if not shown.any():
        raise LeftOut("no test picture shows a keypoint")
    picture, keypoint = np.nonzero(shown)
    x, y = pixels[shown].T
    if true_foreground is not None:
        known = true_foreground >= 0
        counted = known[picture, y, x] | ~known.any(axis=(1, 2))[picture]
        picture, keypoint, x, y = (array[counted] for array in (picture, keypoint, x, y))
    found = labels[picture, y, x]
    counted = found >= 0  # below 0 is no part of a photo
    if not counted.any():
        raise LeftOut("no visible keypoint lies on a pixel that counts")
    return keypoint[counted], found[counted]


def _under_keypoints(*given):
    """The contingency table of labels_under_keypoints, which explains the arguments."""
    return contingency_table(*(numbers[None] for numbers in labels_under_keypoints(*given)))


@metric("NMI of the keypoint's name and the label predicted under it, a predicted background being a class like any "
        "other, over all visible keypoints of the test set pooled.")
def nmi_keypoints(labels, landmarks, true_foreground=None):
    return _normalized_mutual_information(_under_keypoints(labels, landmarks, true_foreground))


@metric("ARI of the keypoint's name and the label predicted under it, a predicted background being a class like any "
        "other, over all visible keypoints of the test set pooled.")
def ari_keypoints(labels, landmarks, true_foreground=None):
    return adjusted_rand_index(_under_keypoints(labels, landmarks, true_foreground))


@metric("NMI of the keypoint's name and the most probable part under it, the background left out of the question, over "
        "all visible keypoints of the test set pooled (Choudhury et al. 2021: FG-NMI on CUB).")
def nmi_keypoints_parts(part_labels, landmarks, true_foreground=None):
    return _normalized_mutual_information(_under_keypoints(part_labels, landmarks, true_foreground))


@metric("ARI of the keypoint's name and the most probable part under it, the background left out of the question, over "
        "all visible keypoints of the test set pooled (Choudhury et al. 2021: FG-ARI on CUB).")
def ari_keypoints_parts(part_labels, landmarks, true_foreground=None):
    return adjusted_rand_index(_under_keypoints(part_labels, landmarks, true_foreground))
