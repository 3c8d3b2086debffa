"""The drawn creatures: reproducible, and labels and keypoints that fit the picture."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from ganseg.datasets.creatures import KEYPOINT_NAMES, PART_NAMES, draw

PART_OF_KEYPOINT = {"left_hand": "left_arm", "right_hand": "right_arm",
                    "left_foot": "legs", "right_foot": "legs"}  # the others are named after their part


def test_shapes_types_and_ranges_are_as_promised():
    images, labels, keypoints = draw(range(5), "train", 0, 32)
    assert images.shape == (5, 3, 32, 32) and images.dtype == torch.uint8
    assert labels.shape == (5, 32, 32) and labels.dtype == torch.uint8 and labels.max() == len(PART_NAMES)
    assert keypoints.shape == (5, len(KEYPOINT_NAMES), 2) and keypoints.dtype == torch.float32
    assert [len(field) for field in draw([], "train", 0, 32)] == [0, 0, 0]


def test_a_picture_depends_only_on_seed_split_and_index():
    together = draw(range(300), "train", 3, 32)  # several chunks
    for index in (0, 7, 131, 299):
        alone = draw([index], "train", 3, 32)
        assert all(torch.equal(many[index], one[0]) for many, one in zip(together, alone, strict=True))


@pytest.mark.parametrize("other", [("test", 0), ("train", 1)])
def test_another_split_or_seed_gives_other_pictures(other):
    first, second = draw(range(30), "train", 0, 32).images, draw(range(30), *other, 32).images
    distance = (first[:, None].float() - second[None].float()).abs().mean((2, 3, 4))  # (30, 30)
    assert distance.min() > 5


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="valid.*train, test"):
        draw([0], "valid", 0, 32)


def test_every_part_is_a_fair_share_of_nearly_every_creature():
    labels = draw(range(300), "train", 0, 32).labels
    area = torch.stack([(labels == k + 1).sum((1, 2)) for k in range(5)], dim=1).float()  # (N, K)
    share = area / area.sum(1, keepdim=True)
    assert (share.min(1).values > 0.05).float().mean() > 0.98
    assert share.mean(0).min() > 0.1
    assert 0.25 < area.sum(1).mean() / 32**2 < 0.4


@pytest.mark.parametrize("name", KEYPOINT_NAMES)
def test_a_keypoint_lies_on_its_part(name):
    size = 32
    _, labels, keypoints = draw(range(100), "test", 0, size)
    pixels = ((keypoints[:, KEYPOINT_NAMES.index(name)] + 1) / 2 * (size - 1)).round().long()
    x, y = pixels.clamp(0, size - 1).T
    found = labels[torch.arange(len(labels)), y, x]
    assert (found == PART_NAMES.index(PART_OF_KEYPOINT.get(name, name)) + 1).float().mean() > 0.97


def test_another_size_shows_the_same_creature():
    small, large = draw(range(16), "train", 0, 32), draw(range(16), "train", 0, 128)
    assert torch.equal(small.keypoints, large.keypoints)
    # Not 0: outer pixel centres are fixed, so averaging 4 x 4 is off by up to 3/8 of a pixel at the border.
    assert (avg_pool2d(large.images.float(), 4) - small.images.float()).abs().mean() < 8
    assert (large.labels[:, 2::4, 2::4] == small.labels).float().mean() > 0.95


def test_left_is_left_and_the_head_is_up():
    keypoints = draw(range(200), "train", 0, 32).keypoints.unbind(1)
    keypoints = dict(zip(KEYPOINT_NAMES, keypoints, strict=True))
    assert (keypoints["left_hand"][:, 0] < keypoints["right_hand"][:, 0]).all()
    assert (keypoints["head"][:, 1] < keypoints["torso"][:, 1]).all()
