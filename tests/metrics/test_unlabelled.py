"""Label-free metrics against closed forms, and moves against moves by hand."""

import numpy as np
import pytest
import torch

from ganseg.metrics import LeftOut, unlabelled
from ganseg.model.geometry import to_float
from ganseg.model.prediction import predict_moved


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("values, expected", [
    (dict.fromkeys(unlabelled.SCORES, 0.5), 0.5),
    ({"equivariance": 0.9, "parts_effective": 0.4}, 0.6),
    ({"equivariance": 1.0, "parts_effective": 1.0, "colors_explained": 0.0, "agreement": 1.0}, 1e-6 ** 0.25),
    ({"foreground_iou": 0.9}, 0.0),  # it needs labels
])  # fmt: skip
def test_the_score_is_the_geometric_mean_of_what_is_known_without_labels(values, expected):
    assert unlabelled.score(values) == pytest.approx(expected)


def test_agreement_counts_matched_foreground_of_either_side():
    first = np.array([[[1, 1, 2, 2, 0, 0]]])
    second = np.array([[[2, 2, 1, 0, 0, 3]]])
    # matched 1-2 (two pixels) and 2-1 (one), of five that are foreground in either
    assert unlabelled.part_agreement(first, second) == pytest.approx(3 / 5)
    assert unlabelled.part_agreement(second, first) == pytest.approx(3 / 5)


def test_agreement_is_1_under_any_numbering_and_for_background_alone():
    labels = rng().integers(0, 5, (4, 8, 8))
    renumbered = np.array([0, 3, 1, 4, 2])[labels]
    assert unlabelled.part_agreement(labels, renumbered) == 1
    assert unlabelled.part_agreement(labels * 0, labels * 0) == 1
    assert unlabelled.part_agreement(labels * 0, labels * 0 + 1) == 0


def test_agreement_leaves_out_what_is_outside():
    first, second = np.array([[[1, -1, -1, 2]]]), np.array([[[1, 2, 1, 2]]])
    assert unlabelled.part_agreement(first, second) == 1


def test_equivariance_is_the_mean_over_moves():
    moved = np.array([[[[1, 1]]], [[[1, 2]]]])
    found = np.array([[[[1, 0]]], [[[1, 2]]]])
    assert unlabelled.equivariance(moved, found) == pytest.approx((1 / 2 + 1) / 2)


@pytest.mark.parametrize("counts, effective", [([4, 4, 4, 4], 1), ([8, 0, 0, 0], 1 / 4), ([8, 8, 0, 0], 1 / 2)])
def test_effective_parts(counts, effective):
    labels = np.repeat(np.arange(1, 5), counts)[None, None]
    assert unlabelled.parts_effective(labels, 4) == pytest.approx(effective)


def test_what_needs_parts_is_left_out_without_them():
    nothing = np.zeros((2, 4, 4), int)
    for metric in (unlabelled.parts_effective, unlabelled.places_held):
        with pytest.raises(LeftOut):
            metric(nothing, 3)


def test_part_means_are_those_of_a_loop():
    labels, values = rng(1).integers(0, 4, (3, 5, 5)), rng(2).normal(size=(3, 2, 5, 5))
    labels[0][labels[0] == 2] = 0
    means = unlabelled.part_means(values, labels, 3)
    for i, k in np.ndindex(3, 3):
        inside = labels[i] == k + 1
        expected = values[i][:, inside].mean(axis=1) if inside.any() else [np.nan, np.nan]
        np.testing.assert_allclose(means[i, k], expected)
    assert np.isnan(means[0, 1]).all()


def test_places_are_held_wholly_by_parts_that_stay_and_less_by_parts_that_move():
    still = np.zeros((6, 8, 8), int)
    still[:, 1:3, 1:3], still[:, 5:7, 5:7] = 1, 2
    assert unlabelled.places_held(still, 2) == pytest.approx(1)
    swapped = still.copy()
    swapped[::2] = np.array([0, 2, 1])[still[::2]]
    assert unlabelled.places_held(swapped, 2) == pytest.approx(0)


def test_variance_between_is_that_of_an_analysis_of_variance():
    values = rng(3).normal(size=(7, 3, 2))
    values[2, 1] = np.nan
    groups = [values[:, k][np.isfinite(values[:, k]).all(axis=1)] for k in range(3)]
    everything = np.concatenate(groups)
    total = ((everything - everything.mean(axis=0)) ** 2).sum()
    # its centre is the mean of all values, so between = sum n_k |mean_k - mean|^2
    between = sum(len(g) * ((g.mean(axis=0) - everything.mean(axis=0)) ** 2).sum() for g in groups)
    assert unlabelled.variance_between(values) == pytest.approx(between / total)


def test_colors_are_held_by_parts_of_one_colour_whatever_the_picture_adds():
    labels = np.tile(np.array([[0, 1, 2, 2]]), (5, 4, 1))
    palette = np.array([[0, 0, 0], [90, 0, 0], [0, 60, 30]])
    images = palette[labels].transpose(0, 3, 1, 2) + 10 * np.arange(5)[:, None, None, None]
    assert unlabelled.colors_held(images, labels, 2) == pytest.approx(1)
    assert unlabelled.colors_explained(images, labels, 2) == pytest.approx(1)
    assert unlabelled.colors_explained(images, labels * 0 + 1, 2) == pytest.approx(0)
    noisy = images + rng(4).normal(0, 40, images.shape)
    assert 0.1 < unlabelled.colors_explained(noisy, labels, 2) < 0.8
    most = np.where(labels == 1, 255, 0).astype(np.uint8)  # as a segmenter of 255 parts gives them
    assert unlabelled.colors_explained(np.repeat(most[:, None], 3, axis=1), most, 255) == pytest.approx(1)


def test_the_border_is_a_sixteenth_of_the_side_of_what_counts():
    labels = np.zeros((2, 32, 32), int)
    labels[0, 2:30, 2:30] = 3  # touches no edge, which is two pixels wide
    assert unlabelled.border_clear(labels) == 1
    labels[1] = 1
    assert unlabelled.border_clear(labels) == 0.5
    tall = np.full((1, 32, 32), -1)
    tall[:, :, 8:24] = 0
    tall[:, :16, 8:10] = 2  # 32 of 2 * 2 * 32 + 2 * 2 * 12 pixels
    assert unlabelled.border_clear(tall) == pytest.approx(1 - 32 / 176)


class Brightness(torch.nn.Module):
    """Two parts by brightness alone, or by place alone: position=True."""

    def __init__(self, position=False):
        super().__init__()
        self.position, self.anything = position, torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        value = images.mean(dim=1)
        if self.position:
            rows = torch.linspace(-1, 1, images.shape[-1])
            value = (6 * rows[:, None] + 4 * rows).sin().expand_as(value)
        return torch.stack([-100 * (value.abs() - 0.05), 100 * value, -100 * value], dim=1)


def smooth_photos(n=6, S=32):
    coarse = torch.tensor(rng(5).uniform(0, 255, (n, 3, 4, 4)), dtype=torch.float32)
    return torch.nn.functional.interpolate(coarse, size=(S, S), mode="bicubic").clamp(0, 255).byte()


def test_a_segmenter_that_follows_the_picture_is_more_equivariant_than_one_of_places():
    images = smooth_photos()
    scores = {}
    for position in (False, True):
        network = Brightness(position).eval()
        labels = network(to_float(images)).argmax(dim=1)
        moved, found = (x.numpy() for x in predict_moved(network, images, labels))
        assert moved.shape == found.shape == (6, 6, 32, 32)
        geometric = slice(0, 5)
        scores[position] = unlabelled.equivariance(moved[geometric], found[geometric])
        assert (moved[1:4] == -1).any() and not (moved[[0, 4, 5]] == -1).any()
    assert scores[False] > 0.9 > scores[True]


def test_mirrored_labels_are_compared_pixel_by_pixel():
    images = smooth_photos(2)
    network = Brightness().eval()
    labels = network(to_float(images)).argmax(dim=1)
    moved, found = predict_moved(network, images, labels)
    assert (moved[0] == found[0]).all() and (moved[0] == labels.flip(-1)).all()
