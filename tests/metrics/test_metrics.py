import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from ganseg import metrics
from ganseg.metrics import LeftOut, Predictions, clustering, landmarks, masks

FACES = ("landmark_error", "landmark_error_with_bias", "landmark_error_mean_landmarks", "landmark_error_unit",
         "landmark_error_centered", "landmark_error_standardized")
BOXES = ("keypoint_error_box", "keypoint_error_box_with_bias", "keypoint_error_box_mean_keypoints", "pck10_box")
UNDER = ("nmi_keypoints", "ari_keypoints")
UNDER_PARTS = ("nmi_keypoints_parts", "ari_keypoints_parts")
MATCHED = ("part_miou", "part_iou_min", "part_iou_median")
LABEL_FREE = {name for name, sentence in metrics.protocols().items() if sentence.startswith("Label-free")}
KEYPOINTS = ("keypoint_error_percent", "keypoint_error_percent_mean_keypoints")


def rng(seed=0):
    return np.random.default_rng(seed)


def labels(*rows):
    """One picture, (1, H, W)."""
    return np.array([rows], np.uint8)


def to_minus_one_one(square_px, image_size=128):
    """The inverse of landmarks_to_square."""
    return square_px * image_size / 128 / (image_size - 1) * 2 - 1


# masks


def test_foreground_iou_averages_over_pictures():
    predicted = np.array([[[1, 2, 0, 0]], [[3, 0, 0, 0]]], np.uint8)
    true = np.array([[[0, 1, 1, 0]], [[1, 0, 0, 0]]], bool)
    # pictures 1/3 and 1/1: mean 2/3 (pooled it would be 2/4)
    assert masks.foreground_iou(predicted, true) == pytest.approx(2 / 3)


def test_foreground_iou_of_empty_against_empty_is_1_and_against_a_mask_is_0():
    empty, full = np.zeros((1, 2, 2), np.uint8), np.ones((1, 2, 2), bool)
    assert masks.foreground_iou(empty, ~full) == 1
    assert masks.foreground_iou(empty, full) == 0


def test_the_best_centred_box_is_found_among_all_of_them():
    true = rng(3).uniform(size=(5, 8, 8)) < rng(4).uniform(size=(5, 1, 1))
    true[0, 2:6, 1:7] = True

    def iou(height, width):
        box = np.zeros((8, 8), bool)
        box[4 - height : 4 + height, 4 - width : 4 + width] = True
        return np.mean([(t & box).sum() / (t | box).sum() for t in true])

    best = max(iou(height, width) for height in range(1, 5) for width in range(1, 5))
    assert masks.foreground_iou_center_box(true) == pytest.approx(best, abs=1e-9)
    box = np.zeros((1, 8, 8), bool)
    box[:, 2:6, 1:7] = True
    assert masks.foreground_iou_center_box(box) == 1


def test_pixels_that_are_not_known_count_in_no_metric():
    """As if those pixels had been cut away: a strip of unknown ones beside each picture changes nothing."""
    whole, cut = everything(), everything()
    strip = rng(8).integers(0, 4, (6, 8, 2), np.uint8)  # what is predicted there plays no role
    for name in ("labels", "train_labels"):
        setattr(whole, name, np.concatenate([getattr(cut, name), strip], axis=2))
    for name in ("true_labels", "train_true_labels", "true_foreground"):
        unknown = np.full((6, 8, 2), -1, np.int16)
        setattr(whole, name, np.concatenate([np.int16(getattr(cut, name)), unknown], axis=2))
    whole.landmarks = cut.landmarks = None
    whole, cut = (metrics.compute(predictions)[0] for predictions in (whole, cut))
    same = ("foreground_iou", "nmi", "ari", "nmi_foreground", "ari_foreground", "part_miou")
    assert {name: whole[name] for name in same} == {name: cut[name] for name in same}


def test_a_centred_box_is_measured_on_known_pixels():
    true = np.full((2, 4, 4), -1)
    true[0, 1:3, 1:3] = 1  # the second picture is not known at all
    assert masks.foreground_iou_center_box(true) == 1
    true[0, 0] = [0, 0, 1, 1]
    assert masks.foreground_iou_center_box(true) == 3 / 4  # the whole: 6 of 8 known pixels; 2 x 2: 4 of 6
    assert masks.foreground_ious(true > 5, true).tolist()[0] == 0 and np.isnan(masks.foreground_ious(true > 5, true)[1])


def test_a_keypoint_on_a_pixel_that_is_not_known_is_left_out():
    found, points = np.zeros((2, 3, 3), np.uint8), np.array([[[-1.0, -1], [0, 0]]] * 2)
    true = np.zeros((2, 3, 3), int)
    true[0, 0, 0], true[1] = -1, -1  # the second picture has no mask: its keypoints count
    assert clustering.labels_under_keypoints(found, points, true)[0].tolist() == [1, 0, 1]


def test_shares_and_used_parts_are_counted_over_the_predicted_foreground():
    # 100 foreground pixels: 97, 2, 1, 0; background 100 of 200
    picture = np.repeat(np.array([0, 1, 2, 3], np.uint8), [100, 97, 2, 1]).reshape(2, 10, 10)
    assert masks.part_shares(picture, 4) == pytest.approx([0.97, 0.02, 0.01, 0])
    assert masks.parts_used(picture, 4) == 2  # exactly 2 % counts
    assert masks.part_share_min(picture, 4) == 0
    assert masks.background_share(picture, 4) == 0.5


def test_collapse_asks_for_half_of_the_parts():
    picture = np.repeat(np.array([0, 1, 2], np.uint8), [100, 50, 50]).reshape(1, 10, 20)
    assert masks.collapse(picture, n_parts=4) == 0  # 2 used parts are half of 4
    assert masks.collapse(picture, n_parts=5) == 1


@pytest.mark.parametrize("background, collapsed", [(4, 1), (5, 0), (98, 0), (99, 1), (100, 1)])
def test_collapse_bounds_the_background(background, collapsed):
    picture = np.repeat(np.array([0, 1], np.uint8), [background, 100 - background]).reshape(1, 10, 10)
    assert masks.collapse(picture, n_parts=1) == collapsed


@pytest.mark.parametrize("extents, collapsed", [([0.5, 1.4], 1), ([0.5, 1.5], 0), ([np.nan], 1), (None, 0)])
def test_collapse_bounds_the_mean_extent_where_it_is_known(extents, collapsed):
    extents = None if extents is None else np.array(extents)
    assert masks.collapse(labels([0, 1]), n_parts=1, extents_px=extents) == collapsed


def test_a_label_above_n_parts_is_an_error():
    with pytest.raises(ValueError, match="label 3 with n_parts 2"):
        masks.parts_used(labels([0, 3]), 2)


# clustering


@pytest.mark.parametrize("n_true, n_predicted", [(2, 2), (3, 9), (9, 3), (1, 4), (4, 1), (1, 1)])
def test_nmi_and_ari_equal_sklearn(n_true, n_predicted):
    true = rng(1).integers(0, n_true, (4, 9, 9), np.uint8)
    random = rng(2).integers(0, n_predicted, true.shape, np.uint8)
    predicted = np.where(rng(3).random(true.shape) < 0.5, true % n_predicted, random).astype(np.uint8)
    flat = true.ravel(), predicted.ravel()
    assert clustering.nmi(predicted, true) == pytest.approx(normalized_mutual_info_score(*flat), abs=1e-6)
    assert clustering.ari(predicted, true) == pytest.approx(adjusted_rand_score(*flat), abs=1e-6)
    if n_true > 1:
        on = true.ravel() > 0
        flat = flat[0][on], flat[1][on]
        nmi, ari = normalized_mutual_info_score(*flat), adjusted_rand_score(*flat)
        assert clustering.nmi_foreground(predicted, true) == pytest.approx(nmi, abs=1e-6)
        assert clustering.ari_foreground(predicted, true) == pytest.approx(ari, abs=1e-6)


def test_nmi_and_ari_by_hand():
    true, predicted = labels([0, 0, 1, 1]), labels([0, 0, 1, 2])
    # MI = H(true) = ln 2, H(predicted) = 1.5 ln 2: 1 / 1.25
    assert clustering.nmi(predicted, true) == pytest.approx(0.8)
    # of 6 pairs 1 is together in both, 2 in true, 1 in predicted; chance 2 * 1 / 6: (1 - 1/3) / (1.5 - 1/3)
    assert clustering.ari(predicted, true) == pytest.approx(4 / 7)


def test_a_background_prediction_on_true_foreground_is_a_class_like_any_other():
    true, predicted = labels([0, 0, 1, 1, 2, 2]), labels([0, 1, 0, 0, 1, 1])
    assert clustering.nmi_foreground(predicted, true) == pytest.approx(1)
    assert clustering.ari_foreground(predicted, true) == 1
    assert clustering.nmi(predicted, true) < 1


def test_names_of_the_parts_do_not_matter():
    true = labels([0, 0, 1, 1, 2, 2])
    renamed = np.array([7, 0, 3], np.uint8)[true]
    assert clustering.nmi(renamed, true) == pytest.approx(1)
    assert clustering.ari(renamed, true) == 1


def test_ari_of_8e8_pixels_does_not_overflow():
    table = np.array([[3, 1], [1, 3]], np.int64) * 10**8
    # pairs in 1e16: together in both 20, in one only 32 - 20 = 12 each, in neither 64 - 32 - 32 + 20 = 20
    assert clustering.adjusted_rand_index(table) == pytest.approx(2 * (20 * 20 - 12 * 12) / (2 * 32 * 32))


def test_part_miou_is_matched_on_the_training_split_and_scored_on_the_test_split():
    train_true, train_predicted = labels([0, 1, 1, 2, 2]), labels([0, 2, 2, 1, 1])
    true, predicted = labels([1, 1, 2, 0]), labels([2, 1, 1, 1])
    # 1 <-> 2: IoU 1/2; 2 <-> 1: 1 shared of 3: 1/3
    value = clustering.part_miou(predicted, true, train_predicted, train_true, n_parts=2)
    assert value == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_part_miou_counts_a_true_part_without_a_match_as_0():
    true = labels([1, 2, 3, 0])
    one_part = labels([1, 0, 0, 0])
    assert clustering.part_miou(one_part, true, one_part, true, n_parts=1) == pytest.approx(1 / 3)
    # part 2 never meets true part 2 in training, so meeting it in the test split earns nothing
    train = labels([1, 0, 0, 2])
    assert clustering.part_miou(labels([1, 2, 0, 0]), true, train, true, n_parts=2) == pytest.approx(1 / 3)


def test_part_miou_ignores_surplus_predicted_parts_and_true_parts_absent_from_the_test_split():
    train_true, train_predicted = labels([1, 1, 1, 2]), labels([4, 4, 3, 1])
    true, predicted = labels([1, 1, 1, 0]), labels([4, 4, 3, 0])
    value = clustering.part_miou(predicted, true, train_predicted, train_true, n_parts=5)
    assert value == pytest.approx(2 / 3)  # true part 1 with part 4: 2 of 3 pixels; true part 2 is not shown


def test_the_matching_maximises_the_sum_of_ious_not_each_in_turn():
    true, predicted = labels([1, 1, 1, 1, 1, 2, 2]), labels([1, 1, 1, 2, 2, 1, 1])
    ious = clustering.part_ious(clustering.contingency_table(true, predicted))
    # areas: true 5, 2; parts 5, 2; shared 3, 2; 2, 0
    assert ious == pytest.approx(np.array([[3 / 7, 2 / 5], [2 / 5, 0]]))
    # 2/5 + 2/5 beats 3/7 + 0
    assert clustering.part_miou(predicted, true, predicted, true, 2) == pytest.approx(2 / 5)


# landmarks


def test_centroids_and_landmarks_come_into_one_128_px_square():
    assert landmarks.centroids_to_square([-1, 0, 1]) == pytest.approx([0, 64, 128])
    # a 256 px image: pixels 0 and 255 lie at 128 * x / 256
    assert landmarks.landmarks_to_square([[-1, 1]], 256) == pytest.approx(np.array([[0, 127.5]]))


def test_least_squares_without_bias_by_hand():
    x, y = np.array([[1.0], [2]]), np.array([[1.0, 2], [3, 4]])
    # weights = x.y / x.x = (1 + 6) / 5, (2 + 8) / 5
    assert landmarks.fit_without_bias(x, y)(np.array([[5.0]])) == pytest.approx(np.array([[7, 10]]))


def test_identity_is_added_only_where_the_normal_matrix_is_singular():
    x, y = np.array([[1.0, 1], [2, 2]]), np.array([[2.0, 0], [4, 0]])
    # normal [[5, 5], [5, 5]] + I, right side 10, 10: weights 10 / 11 each; without the identity 1 each
    assert landmarks.fit_without_bias(x, y)(np.array([[1.0, 1]])) == pytest.approx(np.array([[20 / 11, 0]]))
    regular = np.array([[1.0, 0], [0, 2]])
    assert landmarks.fit_without_bias(regular, y)(regular) == pytest.approx(y)


def faces(n=40, K=3, image_size=64, seed=0):
    """Pictures whose landmarks are centroids moved by a constant: exact with bias, not without."""
    centroids = rng(seed).uniform(-0.5, 0.5, (2, n, K, 2))
    square = landmarks.centroids_to_square(centroids)[:, :, [0, 1, 2, 0]] + np.array([9.0, -7])
    train, test = to_minus_one_one(square, image_size)
    return Predictions(n_parts=K, image_size=image_size, train_centroids=centroids[0], centroids=centroids[1],
                       train_landmarks=train, landmarks=test, eyes=(0, 1))


def test_a_constant_offset_is_learned_with_bias_only():
    values, _ = metrics.compute(faces())
    assert values["landmark_error_with_bias"] == pytest.approx(0, abs=1e-9)
    assert 1 < values["landmark_error"] < values["landmark_error_mean_landmarks"]


def test_without_bias_landmarks_in_the_released_origin_are_exact():
    predictions = faces()
    scaled = landmarks.centroids_to_square(np.stack([predictions.train_centroids, predictions.centroids])) / 2
    predictions.train_landmarks, predictions.landmarks = to_minus_one_one(scaled, 64)
    assert metrics.compute(predictions)[0]["landmark_error"] == pytest.approx(0, abs=1e-9)


def test_landmark_error_is_a_percentage_of_the_distance_between_the_eyes():
    true = np.array([[[0.0, 0], [3, 4], [1, 1]], [[0, 0], [10, 0], [5, 5]]])
    predicted = true + np.array([[[0, 1.0]], [[2, 0]]])
    # eyes 5 and 10 px apart, errors 1 and 2 px on all three: 20 % each
    assert landmarks.mean_error(predicted, true, eyes=(0, 1)) == pytest.approx(20)
    # of 128 px: mean 1.5 px
    assert landmarks.mean_error(predicted, true) == pytest.approx(150 / 128)


def test_pictures_that_miss_an_eye_and_missing_landmarks_are_left_out_of_the_mean():
    true = np.array([[[0.0, 0], [10, 0], [5, 5]]] * 3)
    predicted = true + np.array([[[1.0, 0]], [[0, 2]], [[4, 0]]])
    true[0, 0] = np.nan  # an eye: the picture goes
    true[1, 2] = np.nan  # another landmark: this one goes
    # 20 % twice, 40 % three times
    assert landmarks.mean_error(predicted, true, eyes=(0, 1)) == pytest.approx((2 * 20 + 3 * 40) / 5)


def test_a_picture_with_both_eyes_at_one_place_is_left_out():
    true = np.array([[[1.0, 1], [1, 1]], [[0, 0], [10, 0]]])
    assert landmarks.mean_error(true + [1.0, 0], true, eyes=(0, 1)) == pytest.approx(10)


def test_missing_training_landmarks_are_left_out_of_the_fit():
    predictions = faces()
    predictions.train_landmarks[::3, 2] = np.nan
    predictions.train_landmarks[1::3, 0, 1] = np.nan  # one coordinate missing: the landmark is missing
    assert metrics.compute(predictions)[0]["landmark_error_with_bias"] == pytest.approx(0, abs=1e-9)


def test_a_landmark_no_training_picture_shows_is_left_out_of_the_mean():
    predictions = faces()
    predictions.train_landmarks[:, 3] = np.nan
    predictions.landmarks[:, 3] = 50
    assert metrics.compute(predictions)[0]["landmark_error_with_bias"] == pytest.approx(0, abs=1e-9)


def test_the_control_is_the_mean_of_the_training_landmarks():
    train = to_minus_one_one(np.array([[[0.0, 0], [30, 0]], [[10, 0], [50, 0]], [[np.nan] * 2, [40, 0]]]))
    test = to_minus_one_one(np.array([[[5.0, 0], [44, 3]]]))
    predictions = Predictions(n_parts=1, image_size=128, train_landmarks=train, landmarks=test,
                              train_centroids=np.zeros((3, 1, 2)), centroids=np.zeros((1, 1, 2)))
    # means (5, 0) and (40, 0): errors 0 and 5 px of 128
    value = metrics.compute(predictions)[0]["keypoint_error_percent_mean_keypoints"]
    assert value == pytest.approx(100 * 2.5 / 128)
    assert np.isfinite(metrics.compute(predictions)[0]["keypoint_error_percent"])


def test_without_eyes_the_keypoint_error_is_given_instead():
    with_eyes, without = faces(), faces()
    without.eyes = None
    values, left_out = metrics.compute(without)
    assert set(KEYPOINTS) <= set(values)
    assert {left_out[name] for name in FACES} == {"the data set's landmarks name no pair of eyes"}
    values, left_out = metrics.compute(with_eyes)
    assert set(FACES) <= set(values)
    assert all("landmark_error is given instead" in left_out[name] for name in KEYPOINTS)


def test_taichi_mae_is_summed_over_coordinates_and_averaged_where_each_is_known():
    train, test = rng(1).uniform(-0.5, 0.5, (50, 1, 2)), rng(2).uniform(-0.5, 0.5, (4, 1, 2))
    joints = [0.5 * x + shift for x in (train, test) for shift in (0.1, -0.2)]  # two joints, exact with bias
    train_landmarks, truth = np.concatenate(joints[:2], axis=1), np.concatenate(joints[2:], axis=1)
    off = truth.copy()
    off[0, 0, 0] += 2 * (64 / 256) / 63  # one pixel of 256, a quarter of one of 64, in one of four pictures
    off[:, 1, 1] += 4 * (64 / 256) / 63  # two pixels in each of them
    off[1:, 1] = np.nan  # of which one remains
    assert landmarks.taichi_mae(test, off, train, train_landmarks, 64, 256) == pytest.approx(1 / 4 + 2, abs=1e-6)
    train_landmarks[:, 1] = np.nan
    with pytest.raises(metrics.LeftOut, match="shown by no training or no test picture"):
        landmarks.taichi_mae(test, truth, train, train_landmarks, 64, 256)


def under(labels, points):
    """(keypoint, label under it) of each visible keypoint."""
    return list(zip(*(found.tolist() for found in clustering.labels_under_keypoints(labels, points)), strict=True))


def test_the_label_under_each_visible_keypoint_is_found():
    labels = np.zeros((2, 5, 5), np.uint8)
    labels[0, 0, 4], labels[1, 2, 2] = 1, 3
    points = np.array([[[1.0, -1], [0, 0]], [[np.nan, 0], [0, 0]]])  # upper right, middle; missing, middle
    assert under(labels, points) == [(0, 1), (1, 0), (1, 3)]
    points[0, 0] = 1.5, 0  # outside the square: left out, as the missing one
    assert under(labels, points) == [(1, 0), (1, 3)]
    with pytest.raises(metrics.LeftOut, match="no test picture shows a keypoint"):
        clustering.nmi_keypoints(labels, np.full_like(points, np.nan))
    with pytest.raises(metrics.LeftOut, match="no visible keypoint lies on a pixel that counts"):
        clustering.nmi_keypoints(np.full(labels.shape, -1), points)


@pytest.mark.parametrize("W, S", [(4, 2), (512, 32), (32, 32), (21, 128)])
def test_the_label_under_a_keypoint_is_that_of_its_own_pixel(W, S):
    """Pixel x of a picture W wide lies at x S / W of the square. Its label is the one that begins there or before."""
    x = np.arange(W)
    points = (2 * (x * S / W) / (S - 1) - 1).astype(np.float32)
    landmarks = np.stack([points, points], axis=-1)[None]  # a keypoint for each pixel of the diagonal
    labels = np.broadcast_to(np.arange(S, dtype=np.uint8), (1, S, S))
    assert under(labels, landmarks) == [(i, i * S // W) for i in range(W)]


def test_nmi_and_ari_of_keypoints_equal_sklearn():
    labels, points = rng(1).integers(0, 4, (30, 9, 9), np.uint8), rng(2).integers(0, 9, (30, 5, 2))
    points = np.where(rng(3).uniform(size=(30, 5, 1)) < 0.2, np.nan, points / 4 - 1)
    shown = ~np.isnan(points[..., 0])
    x, y = ((points[shown] + 1) * 4).astype(int).T
    true, under = np.nonzero(shown)[1], labels[np.nonzero(shown)[0], y, x]
    assert clustering.nmi_keypoints(labels, points) == pytest.approx(normalized_mutual_info_score(true, under))
    assert clustering.ari_keypoints(labels, points) == pytest.approx(adjusted_rand_score(true, under))


def test_pictures_without_a_mask_do_not_count_where_masks_are_asked_for():
    whole, some = everything(), everything()
    rows = np.array([True, False, True, True, False, True])
    whole.labels, whole.true_labels, whole.true_foreground = (
        array[rows] for array in (whole.labels, whole.true_labels, whole.true_foreground))
    whole.train_labels, whole.train_true_labels = whole.labels, whole.true_labels
    whole.landmarks = None
    for name in ("true_labels", "true_foreground", "train_true_labels"):
        setattr(some, name, np.where(rows[:, None, None], getattr(some, name), np.int16(-1)))
    whole, some = metrics.compute(whole)[0], metrics.compute(some)[0]
    for name in ("foreground_iou", "nmi", "ari_foreground", "part_miou"):
        assert some[name] == whole[name]
    assert some["background_share"] != whole["background_share"]  # of all predictions


@pytest.mark.parametrize("field, names, reason", [
    ("true_foreground", {"foreground_iou", "foreground_iou_pooled", "foreground_iou_center_box"},
     "the test pictures have no true foreground masks"),
    ("true_labels", {"nmi", "ari", "nmi_foreground", "ari_foreground", *MATCHED},
     "the test pictures have no true part labels"),
    ("train_true_labels", {*MATCHED}, "the training pictures have no true part labels"),
])
def test_where_no_picture_of_a_split_has_a_mask_what_asks_for_masks_is_left_out(field, names, reason):
    predictions, whole = everything(), metrics.compute(everything())[0]
    setattr(predictions, field, np.full((6, 8, 8), -1, np.int16))
    values, left_out = metrics.compute(predictions)
    assert {left_out[name] for name in names} == {reason}
    assert values == {name: whole[name] for name in values} and {"background_share", "nmi_keypoints"} <= values.keys()


# shapes and the registry


def regress_means(*arrays):
    return landmarks.regress(*arrays, landmarks.fit_mean)


@pytest.mark.parametrize("call", [
    lambda: masks.foreground_iou(labels([0, 1]), np.ones((2, 1, 2), bool)),
    lambda: clustering.nmi(labels([0, 1]), labels([0, 1, 1])),
    lambda: clustering.part_miou(labels([3]), labels([1]), labels([1]), labels([1]), n_parts=2),
    lambda: landmarks.mean_error(np.zeros((1, 5, 2)), np.zeros((2, 5, 2))),
    lambda: regress_means(np.zeros((4, 3, 2)), np.zeros((4, 2, 2)), np.zeros((4, 5, 2))),  # K differs
    lambda: regress_means(np.zeros((4, 3, 2)), np.zeros((4, 3, 2)), np.zeros((5, 5, 2))),  # M differs
    lambda: regress_means(np.full((4, 3, 2), np.nan), np.zeros((4, 3, 2)), np.zeros((4, 5, 2))),
])
def test_arrays_that_do_not_fit_together_are_a_value_error(call):
    with pytest.raises(ValueError):
        call()


def everything():
    predictions = faces(n=6)
    predictions.frame_px, predictions.box_px = 256.0, np.full((6, 2), 20.0)
    true = rng(5).integers(0, 4, (6, 8, 8), np.uint8)
    predicted = rng(6).integers(0, 4, true.shape, np.uint8)
    predictions.labels, predictions.true_labels, predictions.true_foreground = predicted, true, true != 0
    predictions.part_labels = np.maximum(predicted, 1)
    predictions.train_labels, predictions.train_true_labels = predicted, true
    predictions.extents_px, predictions.mask_entropies = np.array([2.0, 3.0]), np.array([0.1, 0.3])
    predictions.centers_px = rng(7).normal(size=(5, 3, 2))
    return predictions


def test_each_metric_is_either_a_finite_float_or_left_out_and_has_a_protocol():
    values, left_out = metrics.compute(everything())
    assert values.keys() | left_out.keys() == metrics.protocols().keys()
    assert set(left_out) - LABEL_FREE == set(KEYPOINTS)
    assert all(type(value) is float and np.isfinite(value) for value in values.values())
    assert all(protocol.endswith(".") for protocol in metrics.protocols().values())


@pytest.mark.parametrize("field, names, reason", [
    ("labels", {"foreground_iou", "foreground_iou_pooled", "nmi", "ari", "nmi_foreground", "ari_foreground", *MATCHED,
                "collapse",
                "parts_used", "part_share_min", "background_share", *UNDER},
     "no part labels were predicted for the test pictures"),
    ("true_labels", {"nmi", "ari", "nmi_foreground", "ari_foreground", *MATCHED},
     "the test pictures have no true part labels"),
    ("true_foreground", {"foreground_iou", "foreground_iou_pooled", "foreground_iou_center_box"},
     "the test pictures have no true foreground masks"),
    ("train_labels", {*MATCHED}, "no part labels were predicted for the training pictures"),
    ("train_true_labels", {*MATCHED}, "the training pictures have no true part labels"),
    ("part_labels", {*UNDER_PARTS}, "no parts without background were predicted for the test pictures"),
    ("box_px", {*BOXES}, "the data set names no bounding boxes of its objects"),
    ("centroids", {*FACES, *BOXES, "taichi_mae"}, "no centroids were predicted for the test pictures"),
    ("train_centroids", {*FACES, *BOXES, "taichi_mae"}, "no centroids were predicted for the training pictures"),
    ("landmarks", {*FACES, *BOXES, "taichi_mae", *UNDER, *UNDER_PARTS}, "the test pictures have no landmarks"),
    ("train_landmarks", {*FACES, *BOXES, "taichi_mae"}, "the training pictures have no landmarks"),
    ("frame_px", {"taichi_mae"}, "the data set has no protocol of its own in pixels of its frames"),
    ("extents_px", {"extent_px"}, "no extents of generated samples"),
    ("centers_px", {"center_spread_px"}, "no centers of generated samples"),
    ("mask_entropies", {"mask_entropy"}, "no masks of generated samples"),
])
@pytest.mark.parametrize("absent", [None, np.zeros((0, 8, 8), np.uint8)])
def test_a_metric_whose_inputs_are_missing_is_left_out_with_the_reason(field, names, reason, absent):
    predictions = everything()
    setattr(predictions, field, absent)
    left_out = metrics.compute(predictions)[1]
    assert {name for name in left_out if name not in {*KEYPOINTS, *LABEL_FREE}} == names
    assert {left_out[name] for name in names} == ({reason} if names else set())


def test_what_generated_samples_say_is_averaged():
    values, _ = metrics.compute(everything())
    assert values["extent_px"] == 2.5 and values["mask_entropy"] == pytest.approx(0.2)
    moved = np.array([[[0.0, 0.0]], [[2.0, 4.0]]])  # one part: 1 pixel of deviation in x, 2 in y
    assert masks.center_spread_px(moved) == 1.5


def test_what_the_data_set_lacks_is_named_before_what_was_not_predicted():
    left_out = metrics.compute(Predictions(n_parts=2, image_size=128))[1]
    assert left_out["part_miou"] == left_out["nmi"] == "the test pictures have no true part labels"
    assert left_out["landmark_error"] == left_out["keypoint_error_percent"] == "the test pictures have no landmarks"


def test_metrics_without_anything_to_average_are_left_out_not_nan():
    predictions = everything()
    predictions.true_labels = np.zeros_like(predictions.true_labels)
    predictions.landmarks[:, 0] = np.nan
    values, left_out = metrics.compute(predictions)
    for name in ("nmi_foreground", "ari_foreground", "part_miou"):
        assert left_out[name] == "no pixel of the test set is truly foreground"
    assert all("both eyes" in left_out[name] for name in FACES)
    assert not np.isnan(list(values.values())).any()


def test_the_true_foreground_comes_from_the_true_labels_where_only_those_are_given():
    true = labels([0, 1, 0])
    predictions = Predictions(n_parts=2, image_size=3, labels=labels([1, 2, 0]), true_labels=true)
    assert metrics.compute(predictions)[0]["foreground_iou"] == 0.5


def test_a_metric_that_asks_for_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="not in Predictions: .'colour'"):
        metrics.metric("A sentence.")(lambda colour: 0)


def test_left_out_is_no_error_of_the_user():
    with pytest.raises(LeftOut):
        landmarks.mean_error(np.zeros((1, 2, 2)), np.full((1, 2, 2), np.nan))
