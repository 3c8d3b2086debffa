"""Landmarks regressed from part centroids.

Coordinates are pixels of a 128 px square from its top-left corner, as in the released evaluation. Without bias
the origin matters. Ours come in [-1, 1] on the outer pixel centres:
    centroid c  mask pixel i = (c + 1) / 2 (R - 1) of R, at 128 i / (R - 1) = 128 (c + 1) / 2
    landmark c  image pixel x = (c + 1) / 2 (S - 1) of S, at 128 x / S
"""

import numpy as np

from ganseg.metrics.registry import LeftOut, metric

SQUARE_PX = 128


def centroids_to_square(centroids):
    """(..., 2) in [-1, 1] -> pixels of the 128 px square."""
    return SQUARE_PX * (np.asarray(centroids, np.float64) + 1) / 2


def landmarks_to_square(landmarks, image_size):
    """(..., 2) in [-1, 1] on an image `image_size` wide -> pixels of the 128 px square; NaN stays."""
    landmarks = np.asarray(landmarks, np.float64)
    landmarks = np.where(np.isfinite(landmarks).all(axis=-1, keepdims=True), landmarks, np.nan)
    return SQUARE_PX * (landmarks + 1) / 2 * (image_size - 1) / image_size


def fit_without_bias(x, y):
    """Least squares through the origin: x (n, F), y (n, 2) -> a function from (m, F) to (m, 2)."""
    normal = x.T @ x
    if np.linalg.matrix_rank(normal) < len(normal):  # by rank: rounding can let inversion pass
        normal += np.eye(len(normal))
    weights = np.linalg.solve(normal, x.T @ y)
    return lambda x: x @ weights


def fit_with_bias(x, y):
    """As fit_without_bias, with an intercept."""
    from sklearn.linear_model import LinearRegression  # takes two seconds, and training needs none of it

    return LinearRegression().fit(x, y).predict


def fit_in_shares(origin):
    """fit_without_bias in shares of the square's width, counted from a point on its diagonal: 0 corner, 0.5 middle."""

    def fit(x, y):
        predict = fit_without_bias(x / SQUARE_PX - origin, y / SQUARE_PX - origin)
        return lambda x: SQUARE_PX * (predict(x / SQUARE_PX - origin) + origin)

    return fit


def fit_standardized(x, y):
    """As fit_without_bias, each coordinate of both sides less its training mean, over its training deviation."""
    from sklearn.compose import TransformedTargetRegressor  # see fit_with_bias
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs = make_pipeline(StandardScaler(), LinearRegression(fit_intercept=False))
    return TransformedTargetRegressor(inputs, transformer=StandardScaler()).fit(x, y).predict


def fit_mean(x, y):
    """As fit_with_bias, blind to the centroids: the control."""
    from sklearn.dummy import DummyRegressor  # see fit_with_bias

    return DummyRegressor().fit(x, y).predict


def regress(centroids, train_centroids, train_landmarks, fit):
    """Landmarks predicted from all centroids. Each is fitted on the training pictures that show it.

    centroids (N, K, 2), train_centroids (M, K, 2), train_landmarks (M, L, 2) with NaN = missing
    fit        fit_without_bias, fit_with_bias, fit_standardized, fit_in_shares(origin) or fit_mean
    Returns (N, L, 2), NaN for a landmark that no training picture shows.
    Raises ValueError when K or M differs or a centroid is not finite.
    """
    if centroids.shape[1:] != train_centroids.shape[1:] or len(train_centroids) != len(train_landmarks):
        raise ValueError(f"centroids {centroids.shape}, train_centroids {train_centroids.shape} and "
                         f"train_landmarks {train_landmarks.shape} do not fit together")
    if not (np.isfinite(centroids).all() and np.isfinite(train_centroids).all()):
        raise ValueError("a centroid is not finite")
    x, train_x = (c.reshape(len(c), -1) for c in (centroids, train_centroids))  # (N, 2K), (M, 2K)
    predicted = np.full((len(x), train_landmarks.shape[1], 2), np.nan)
    for i in range(train_landmarks.shape[1]):
        shown = ~np.isnan(train_landmarks[:, i, 0])
        if shown.any():
            predicted[:, i] = fit(train_x[shown], train_landmarks[shown, i])(x)
    return predicted


def percent_errors(predicted, true, eyes=None, unit_px=None):
    """Distances in percent, (N, L), NaN where one side is not known.

    predicted, true (N, L, 2) in pixels of the 128 px square, NaN = missing
    eyes       two indices: percent of their distance, NaN for pictures that miss one or show both at one place.
    unit_px    (N,) what percent are of where eyes are None, NaN for pictures with 0. None: the picture's width.
    Raises ValueError when N or L differs.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"predicted {predicted.shape} and true {true.shape} landmarks differ in shape")
    unit = np.full(len(true), float(SQUARE_PX)) if unit_px is None else unit_px
    if eyes is not None:
        unit = np.linalg.norm(true[:, eyes[0]] - true[:, eyes[1]], axis=-1)
    return 100 * np.linalg.norm(predicted - true, axis=-1) / np.where(unit == 0, np.nan, unit)[:, None]


def mean_error(predicted, true, eyes=None):
    """The mean of percent_errors; LeftOut when nothing is known."""
    return _known(percent_errors(predicted, true, eyes), eyes).mean()


def _known(errors, eyes=None):
    """The errors that are no NaN, (n,), all landmarks pooled; LeftOut when there are none."""
    known = errors[~np.isnan(errors)]
    if not known.size:
        raise LeftOut("no test picture shows a landmark that training pictures show too"
                      + (", together with both eyes" if eyes is not None else ""))
    return known


def _regression_errors(fit, centroids, landmarks, train_centroids, train_landmarks, image_size, eyes=None,
                       box_px=None):
    """Percent errors that are known, (n,)."""
    train_y, y = (landmarks_to_square(points, image_size) for points in (train_landmarks, landmarks))
    x, train_x = centroids_to_square(centroids), centroids_to_square(train_centroids)
    unit_px = None if box_px is None else box_px.max(axis=1) * SQUARE_PX / image_size
    return _known(percent_errors(regress(x, train_x, train_y, fit), y, eyes, unit_px), eyes)


def _regression_error(*args):
    return _regression_errors(*args).mean()


@metric("Landmarks from part centroids by least squares without bias in pixels of the 128 px square (the "
        "released protocol), fitted on the training split; mean distance in percent of the inter-ocular one.")
def landmark_error(centroids, landmarks, train_centroids, train_landmarks, image_size, eyes):
    return _regression_error(fit_without_bias, centroids, landmarks, train_centroids, train_landmarks, image_size, eyes)


@metric("Landmarks from part centroids by least squares with bias, fitted on the training split; mean "
        "distance in percent of the inter-ocular distance.")
def landmark_error_with_bias(centroids, landmarks, train_centroids, train_landmarks, image_size, eyes):
    return _regression_error(fit_with_bias, centroids, landmarks, train_centroids, train_landmarks, image_size, eyes)


@metric("Landmarks from part centroids by least squares without bias in shares of the picture's width from its "
        "corner, 0 to 1, fitted on the training split; mean distance in percent of the inter-ocular one. A scale "
        "changes nothing, so it is landmark_error, but where parts leave the least squares undecided.")
def landmark_error_unit(centroids, landmarks, train_centroids, train_landmarks, image_size, eyes):
    return _regression_error(fit_in_shares(0.0), centroids, landmarks, train_centroids, train_landmarks, image_size,
                             eyes)


@metric("Landmarks from part centroids by least squares without bias in shares of the picture's width less 0.5, so "
        "from its middle, fitted on the training split; mean distance in percent of the inter-ocular one.")
def landmark_error_centered(centroids, landmarks, train_centroids, train_landmarks, image_size, eyes):
    return _regression_error(fit_in_shares(0.5), centroids, landmarks, train_centroids, train_landmarks, image_size,
                             eyes)


@metric("Landmarks from part centroids by least squares without bias, the coordinates of both brought to zero mean and "
        "unit variance on the training split; mean distance in percent of the inter-ocular one. The means stand for a "
        "bias, so it is landmark_error_with_bias.")
def landmark_error_standardized(centroids, landmarks, train_centroids, train_landmarks, image_size, eyes):
    return _regression_error(fit_standardized, centroids, landmarks, train_centroids, train_landmarks, image_size, eyes)


@metric("Control of every landmark_error: the mean training landmarks predicted for each picture; mean distance in "
        "percent of the inter-ocular distance. Parts that never move give it with a bias and without one, from the "
        "middle too unless they all lie there.")
def landmark_error_mean_landmarks(centroids, landmarks, train_centroids, train_landmarks, image_size, eyes):
    return _regression_error(fit_mean, centroids, landmarks, train_centroids, train_landmarks, image_size, eyes)


@metric("Keypoints from part centroids by least squares without bias in pixels of the 128 px square, fitted on the "
        "training split; mean over all visible keypoints of 100 * distance / longer edge of the object's bounding box, "
        "both in the square (CUB in AutoLink and before: an edge of the box; which one, they leave open).")
def keypoint_error_box(centroids, landmarks, train_centroids, train_landmarks, image_size, box_px):
    return _regression_error(fit_without_bias, centroids, landmarks, train_centroids, train_landmarks, image_size, None,
                             box_px)


@metric("As keypoint_error_box, by least squares with bias.")
def keypoint_error_box_with_bias(centroids, landmarks, train_centroids, train_landmarks, image_size, box_px):
    return _regression_error(fit_with_bias, centroids, landmarks, train_centroids, train_landmarks, image_size, None,
                             box_px)


@metric("Control of both keypoint_error_box: the mean training keypoints predicted for each picture.")
def keypoint_error_box_mean_keypoints(centroids, landmarks, train_centroids, train_landmarks, image_size, box_px):
    return _regression_error(fit_mean, centroids, landmarks, train_centroids, train_landmarks, image_size, None, box_px)


@metric("PCK at 0.1: share of all visible keypoints that least squares with bias, fitted on the training split, "
        "predict from part centroids within 0.1 of the longer edge of the object's bounding box.")
def pck10_box(centroids, landmarks, train_centroids, train_landmarks, image_size, box_px):
    return (_regression_errors(fit_with_bias, centroids, landmarks, train_centroids, train_landmarks, image_size, None,
                               box_px) <= 10).mean()


def _only_without(eyes):
    if eyes is not None:
        raise LeftOut("the landmarks name a pair of eyes: landmark_error is given instead")


@metric("Keypoints from part centroids by least squares with bias, fitted on the training split; mean "
        "distance in percent of the picture's width.")
def keypoint_error_percent(centroids, landmarks, train_centroids, train_landmarks, image_size, eyes=None):
    _only_without(eyes)
    return _regression_error(fit_with_bias, centroids, landmarks, train_centroids, train_landmarks, image_size, None)


@metric("Control: the mean training keypoints predicted for each picture; mean distance in percent of the "
        "picture's width.")
def keypoint_error_percent_mean_keypoints(centroids, landmarks, train_centroids, train_landmarks, image_size,
                                          eyes=None):
    _only_without(eyes)
    return _regression_error(fit_mean, centroids, landmarks, train_centroids, train_landmarks, image_size, None)


@metric("Keypoints from part centroids by least squares with bias, fitted on the training pictures that show each; "
        "mean absolute error of each coordinate where it is known, summed over the coordinates, in pixels of the "
        "original frames (the protocol of Taichi: 18 joints, 36 coordinates).")
def taichi_mae(centroids, landmarks, train_centroids, train_landmarks, image_size, frame_px):
    """Sum over the 2 L coordinates of their mean absolute errors, in pixels of frames `frame_px` wide.

    Arguments as of regress, in [-1, 1]; NaN = missing. Raises LeftOut when a coordinate is known nowhere.
    """
    predicted = regress(centroids, train_centroids, train_landmarks, fit_with_bias)
    errors = np.abs(predicted - landmarks) * (image_size - 1) / 2 * frame_px / image_size  # (N, L, 2)
    known = ~np.isnan(errors)
    if not known.any(axis=0).all():
        raise LeftOut("a keypoint is shown by no training or no test picture")
    return np.nanmean(errors, axis=0).sum()
