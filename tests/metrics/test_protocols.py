"""Each published protocol against a direct computation with loops, on twenty random cases."""

import math

import numpy as np
import pytest

from ganseg import metrics
from ganseg.metrics import Predictions, landmarks

S, K, L = 16, 3, 4


def case(seed):
    """Predictions of 9 test and 14 training pictures with everything that the protocols ask for, some of it missing."""
    rng = np.random.default_rng(seed)
    true, train_true = (rng.integers(0, 4, (n, S, S), np.uint8) for n in (9, 14))
    predicted, train_predicted = (np.where(rng.random(t.shape) < 0.5, t, rng.integers(0, K + 1, t.shape))
                                  for t in (true, train_true))
    points, train_points = (rng.uniform(-0.9, 0.9, (n, L, 2)) for n in (9, 14))
    points[1, 2], points[4, 3], train_points[2, 1] = np.nan, np.nan, np.nan
    return Predictions(
        n_parts=K, image_size=S, labels=predicted, true_labels=true, train_labels=train_predicted,
        train_true_labels=train_true, part_labels=rng.integers(1, K + 1, true.shape, np.uint8), landmarks=points,
        train_landmarks=train_points, eyes=(0, 1), centroids=rng.uniform(-0.8, 0.8, (9, K, 2)),
        train_centroids=rng.uniform(-0.8, 0.8, (14, K, 2)), box_px=rng.uniform(4, 14, (9, 2)))


def landmark_distances(p, to_x, to_y, bias=False, standardize=False):
    """{(picture, landmark): (predicted, true)} in [0, 1] of the width; to_x, to_y prepare coordinates in [0, 1]."""
    share_x = lambda c: (c + 1) / 2  # noqa: E731
    share_y = lambda c: (c + 1) / 2 * (S - 1) / S  # noqa: E731
    found = {}
    for j in range(L):
        shown = [i for i in range(14) if not math.isnan(p.train_landmarks[i, j, 0])]
        A = np.array([[to_x(share_x(v)) for v in p.train_centroids[i].ravel()] for i in shown])
        B = np.array([[to_y(share_y(v)) for v in p.train_landmarks[i, j]] for i in shown])
        T = np.array([[to_x(share_x(v)) for v in c.ravel()] for c in p.centroids])
        back = lambda y: y  # noqa: E731
        if standardize:
            (ma, sa), (mb, sb) = ((m.mean(0), m.std(0)) for m in (A, B))
            A, T, B = (A - ma) / sa, (T - ma) / sa, (B - mb) / sb
            back = lambda y, mb=mb, sb=sb: y * sb + mb  # noqa: E731
        if bias:
            A, T = (np.hstack([m, np.ones((len(m), 1))]) for m in (A, T))
        predicted = back(T @ np.linalg.lstsq(A, B, rcond=None)[0])
        for i in range(9):
            if not math.isnan(p.landmarks[i, j, 0]):
                found[i, j] = predicted[i], np.array([to_y(share_y(v)) for v in p.landmarks[i, j]])
    return found


def face_error(p, **how):
    """Percent of the distance between the landmarks 0 and 1."""
    how = {"to_x": lambda v: v, "to_y": lambda v: v, **how}
    found, errors = landmark_distances(p, **how), []
    for (i, _), (a, b) in found.items():
        errors.append(100 * math.dist(a, b) / math.dist(found[i, 0][1], found[i, 1][1]))
    return sum(errors) / len(errors)


def box_errors(p, **how):
    """Percent of the longer edge of the box; shares of the width times S are pixels."""
    found = landmark_distances(p, lambda v: v, lambda v: v, **how)
    return [100 * math.dist(a, b) * S / max(p.box_px[i]) for (i, _), (a, b) in found.items()]


def mean_landmark(p, j):
    return np.nanmean(p.train_landmarks[:, j], axis=0)


def pairs_under_keypoints(p, labels):
    pairs = []
    for i in range(9):
        for j in range(L):
            if not math.isnan(p.landmarks[i, j, 0]):
                x, y = (math.floor((v + 1) / 2 * (S - 1) + 1e-3) for v in p.landmarks[i, j])
                pairs.append((j, int(labels[i, y, x])))
    return pairs


def nmi_of(pairs):
    """Mutual information over the mean of the entropies, from counted pairs."""
    n = len(pairs)
    share = lambda of: {v: of.count(v) / n for v in set(of)}  # noqa: E731
    a, b, ab = share([x for x, _ in pairs]), share([y for _, y in pairs]), share(pairs)
    mutual = sum(v * math.log(v / (a[x] * b[y])) for (x, y), v in ab.items())
    entropies = [-sum(v * math.log(v) for v in of.values()) for of in (a, b)]
    return mutual / (sum(entropies) / 2)


def ari_of(pairs):
    """The share of agreeing pairs of keypoints, less chance."""
    both = one = other = total = 0
    for i in range(len(pairs)):
        for j in range(i):
            same = pairs[i][0] == pairs[j][0], pairs[i][1] == pairs[j][1]
            both, one, other, total = both + all(same), one + same[0], other + same[1], total + 1
    chance = one * other / total
    return (both - chance) / ((one + other) / 2 - chance)


def ious_of_parts(true, found):
    """{(true part, predicted part): IoU} over pooled pixels."""
    def iou(t, k):
        return ((true == t) & (found == k)).sum() / max(((true == t) | (found == k)).sum(), 1)

    return {(t, k): iou(t, k) for t in (1, 2, 3) for k in (1, 2, 3)}


def matched(p):
    """The best of the six ways to match three parts to three on the training pictures, scored on the test ones."""
    train, test = ious_of_parts(p.train_true_labels, p.train_labels), ious_of_parts(p.true_labels, p.labels)
    ways = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)]
    best = max(ways, key=lambda way: sum(train[t, k] for t, k in zip((1, 2, 3), way, strict=True)))
    return sorted(test[t, k] for t, k in zip((1, 2, 3), best, strict=True))


def pooled_iou(p):
    both = either = 0
    for label, true in zip(p.labels.ravel(), p.true_labels.ravel(), strict=True):
        both, either = both + bool(label and true), either + bool(label or true)
    return both / either


def mean_iou(p):
    each = [((x > 0) & (t > 0)).sum() / ((x > 0) | (t > 0)).sum() for x, t in zip(p.labels, p.true_labels, strict=True)]
    return sum(each) / len(each)


def box_control(p):
    errors = [100 * math.dist(mean_landmark(p, j), p.landmarks[i, j]) * (S - 1) / 2 / max(p.box_px[i])
              for i in range(9) for j in range(L) if not math.isnan(p.landmarks[i, j, 0])]
    return sum(errors) / len(errors)


def less_half(v):
    return v - 0.5


DIRECT = {
    "landmark_error": lambda p: face_error(p, to_x=lambda v: 128 * v, to_y=lambda v: 128 * v),
    "landmark_error_unit": face_error,
    "landmark_error_centered": lambda p: face_error(p, to_x=less_half, to_y=less_half),
    "landmark_error_with_bias": lambda p: face_error(p, bias=True),
    "landmark_error_standardized": lambda p: face_error(p, standardize=True),
    "keypoint_error_box": lambda p: np.mean(box_errors(p)),
    "keypoint_error_box_with_bias": lambda p: np.mean(box_errors(p, bias=True)),
    "keypoint_error_box_mean_keypoints": box_control,
    "pck10_box": lambda p: np.mean([error <= 10 for error in box_errors(p, bias=True)]),
    "nmi_keypoints": lambda p: nmi_of(pairs_under_keypoints(p, p.labels)),
    "ari_keypoints": lambda p: ari_of(pairs_under_keypoints(p, p.labels)),
    "nmi_keypoints_parts": lambda p: nmi_of(pairs_under_keypoints(p, p.part_labels)),
    "ari_keypoints_parts": lambda p: ari_of(pairs_under_keypoints(p, p.part_labels)),
    "foreground_iou": mean_iou,
    "foreground_iou_pooled": pooled_iou,
    "part_miou": lambda p: sum(matched(p)) / 3,
    "part_iou_min": lambda p: matched(p)[0],
    "part_iou_median": lambda p: matched(p)[1],
}


@pytest.mark.parametrize("seed", range(20))
def test_each_protocol_agrees_with_a_direct_computation(seed):
    p = case(seed)
    values, _ = metrics.compute(p)
    assert {name: values[name] for name in DIRECT} == pytest.approx(
        {name: direct(p) for name, direct in DIRECT.items()}, rel=0, abs=1e-6)


def test_a_scale_changes_nothing_a_shift_does_and_standardized_is_with_bias():
    values, _ = metrics.compute(case(3))
    assert values["landmark_error_unit"] == pytest.approx(values["landmark_error"], abs=1e-9)
    assert values["landmark_error_standardized"] == pytest.approx(values["landmark_error_with_bias"], abs=1e-9)
    assert abs(values["landmark_error_centered"] - values["landmark_error"]) > 0.1


def test_least_squares_from_the_middle_by_hand():
    # One coordinate on each side, 32 and 96 px: -0.25 and 0.25 from the middle; landmarks twice as far from it
    x, y = np.array([[32.0], [96]]), np.array([[0.0, 64], [128, 64]])
    fit = landmarks.fit_in_shares(0.5)
    assert fit(x, y)(np.array([[80.0]])) == pytest.approx(np.array([[96, 64]]))
    # From the corner 1 / 4 and 3 / 4 to 0 and 1: the weight is 0.75 / (1 / 16 + 9 / 16) = 1.2
    assert landmarks.fit_in_shares(0.0)(x, y)(np.array([[80.0]]))[0, 0] == pytest.approx(96)
    assert landmarks.fit_in_shares(0.0)(x, y)(np.array([[32.0]]))[0, 0] == pytest.approx(1.2 * 32)


def test_parts_that_never_move_give_the_mean_landmarks_with_bias_or_without():
    p = case(5)
    p.centroids, p.train_centroids = (np.full((n, 1, 2), 0.3) * [1, 2] for n in (9, 14))
    p.train_landmarks[2, 1] = 0.1
    values, _ = metrics.compute(p)
    for name in ("landmark_error_with_bias", "landmark_error_standardized"):
        assert values[name] == pytest.approx(values["landmark_error_mean_landmarks"], abs=1e-6)
    # Without bias the two equal columns are singular: one of them alone is regular, up to the added identity
    assert values["landmark_error"] == pytest.approx(values["landmark_error_mean_landmarks"], abs=0.05)


def test_an_error_of_one_pixel_is_a_percentage_of_the_longer_edge():
    points = np.array([[[0.0, 0.0]], [[0.0, 0.0]]])
    moved = points + [2 / (S - 1), 0]  # one pixel
    p = Predictions(n_parts=1, image_size=S, landmarks=moved, train_landmarks=points, centroids=np.zeros((2, 1, 2)),
                    train_centroids=np.zeros((2, 1, 2)), box_px=np.array([[4.0, 8.0], [20.0, 2.0]]))
    values, _ = metrics.compute(p)
    assert values["keypoint_error_box_with_bias"] == pytest.approx((100 / 8 + 100 / 20) / 2)
    assert values["keypoint_error_box_mean_keypoints"] == pytest.approx((100 / 8 + 100 / 20) / 2)
    assert values["pck10_box"] == 0.5  # 12.5 and 5 percent
    p.box_px[0] = 0  # a picture without extent says nothing
    assert metrics.compute(p)[0]["keypoint_error_box_with_bias"] == pytest.approx(5)


def test_pooled_iou_by_hand_weighs_pixels_not_pictures():
    predicted = np.array([[[1, 2, 0, 0]], [[3, 0, 0, 0]]], np.uint8)
    true = np.array([[[0, 1, 1, -1]], [[1, 0, 0, 0]]])
    assert metrics.masks.foreground_iou_pooled(predicted, true) == 2 / 4  # the mean over pictures is 2 / 3
    predicted[0, 0, 3] = 1  # not known there
    assert metrics.masks.foreground_iou_pooled(predicted, true) == 2 / 4
    assert metrics.masks.foreground_iou_pooled(predicted * 0, true * 0) == 1
