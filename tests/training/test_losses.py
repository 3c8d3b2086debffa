"""The losses by hand, and that they stay finite and non-negative on anything."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganseg.training import losses


def pixels(*places, size=5):
    """A map that is 1 at the given (row, column) places: (1, 1, size, size)."""
    mask = torch.zeros(1, 1, size, size)
    for row, column in places:
        mask[0, 0, row, column] = 1
    return mask


def test_at_score_zero_the_adversarial_losses_are_two_log_two_and_log_two():
    zero = torch.zeros(3)
    assert losses.discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert losses.generator_loss(zero).item() == pytest.approx(math.log(2))


def test_the_adversarial_losses_reward_telling_apart_and_fooling():
    high, low = torch.full((3,), 5.0), torch.full((3,), -5.0)
    assert losses.discriminator_loss(high, low) < 0.02 < 9 < losses.discriminator_loss(low, high)
    assert losses.generator_loss(high) < 0.01 < 4 < losses.generator_loss(low)


def test_the_gradient_penalty_of_a_linear_discriminator_is_its_slopes_distance_from_one():
    D = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    nn.init.constant_(D[1].weight, 0.5)  # the norm is sqrt(12) / 2
    penalty = losses.gradient_penalty(D, torch.randn(4, 3, 2, 2))
    assert penalty.item() == pytest.approx((math.sqrt(3) - 1) ** 2, rel=1e-5)
    penalty.backward()
    assert D[1].weight.grad.any()


def test_the_gradient_penalty_is_taken_per_image():
    D = lambda x: x.flatten(1).sum(1) * torch.tensor([1.0, 2.0]) / math.sqrt(12)  # noqa: E731  norms 1 and 2
    assert losses.gradient_penalty(D, torch.randn(2, 3, 2, 2)).item() == pytest.approx(0.5, rel=1e-5)


def test_concentration_is_zero_for_one_pixel_on_its_center():
    assert losses.concentration_loss(pixels((1, 3)), torch.tensor([[[0.5, -0.5]]])).item() == 0


def test_concentration_of_two_pixels_is_their_mean_squared_distance():
    mask = pixels((2, 0), (2, 3))  # x = -1 and 0.5
    loss = losses.concentration_loss(0.3 * mask, torch.tensor([[[0.0, 0.0]]]))
    assert loss.item() == pytest.approx((1 + 0.25) / 2, rel=1e-5)


def test_concentration_is_the_mean_over_parts_and_batch():
    masks = torch.cat([pixels((2, 0)), pixels((2, 2))], dim=1).repeat(2, 1, 1, 1)  # squared distances 1 and 0
    assert losses.concentration_loss(masks, torch.zeros(2, 2, 2)).item() == pytest.approx(0.5, rel=1e-5)


def test_area_counts_missing_pixels_summed_over_parts_and_averaged_over_the_batch():
    masks = torch.zeros(2, 2, 4, 4)
    masks[0, 0] = 0.5  # 8 pixels
    targets = torch.tensor([[10.0, 3.0], [0.0, 1.0]])  # missing 2, 3, 0, 1
    assert losses.area_loss(masks, targets).item() == pytest.approx(3)
    assert losses.area_loss(masks, torch.zeros(2, 2)).item() == 0  # too large is free


def test_dice_of_equal_masks_is_zero_and_of_disjoint_ones_is_one():
    labels = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    equal = F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    assert losses.dice_loss(equal, labels).item() == pytest.approx(0, abs=1e-6)
    assert losses.dice_loss(equal.roll(1, dims=1), labels).item() == pytest.approx(1, abs=1e-6)


def test_dice_of_half_overlap_by_hand():
    labels = torch.tensor([[[1, 1, 0, 0]]])
    probabilities = F.one_hot(torch.tensor([[[1, 0, 1, 0]]]), 2).permute(0, 3, 1, 2).float()
    assert losses.dice_loss(probabilities, labels).item() == pytest.approx(0.5)


def test_dice_of_a_class_that_is_nowhere_is_perfect():
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    probabilities = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    assert losses.dice_loss(probabilities, labels).item() == pytest.approx(0, abs=1e-6)


def test_the_segmentation_loss_is_half_cross_entropy_and_half_dice():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=random)
    labels = torch.randint(0, 3, (2, 4, 4), generator=random)
    p, t = logits.softmax(1), F.one_hot(labels, 3).permute(0, 3, 1, 2)
    dice = torch.stack([1 - 2 * (p[b, c] * t[b, c]).sum() / (p[b, c] + t[b, c]).sum()
                        for b in range(2) for c in range(3)]).mean()
    expected = 0.5 * nn.CrossEntropyLoss()(logits, labels) + 0.5 * dice
    torch.testing.assert_close(losses.segmentation_loss(logits, labels), expected)


@pytest.mark.parametrize("seed", range(8))
def test_every_loss_is_finite_and_not_negative_with_gradients_on_random_inputs(seed):
    random = torch.Generator().manual_seed(seed)
    B, K, S = (int(n) for n in torch.randint(1, 7, (3,), generator=random) + torch.tensor([0, 0, 1]))
    scale = 10.0 ** (seed - 3)
    leaves = [torch.randn(*shape, generator=random) * scale
              for shape in ((B, K + 1, S, S), (B, K, 2), (B, K), (2, B))]
    logits, centers, targets, scores = (leaf.requires_grad_() for leaf in leaves)
    labels = torch.randint(0, K + 1, (B, S, S), generator=random)
    masks = logits.softmax(1)[:, 1:]
    found = {
        "discriminator": losses.discriminator_loss(*scores), "generator": losses.generator_loss(scores[0]),
        "concentration": losses.concentration_loss(masks, centers.tanh()),
        "area": losses.area_loss(masks, targets.abs()), "segmentation": losses.segmentation_loss(logits, labels),
    }
    assert all(loss.isfinite() and loss >= 0 for loss in found.values()), found
    sum(found.values()).backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


def test_the_weight_of_concentration_is_held_and_then_halves_towards_its_end(tiny):
    cfg = tiny(lambda_con=20.0, lambda_con_start=100.0)
    weights = [losses.concentration_weight(cfg, step) for step in (0, 200, 300, 400, 5000)]
    assert weights == pytest.approx([100, 100, 60, 40, 20])
    for constant in (tiny(lambda_con=20.0), tiny(lambda_con=20.0, lambda_con_start=100.0, warm_start="gan.pt")):
        assert {losses.concentration_weight(constant, step) for step in (0, 200, 300)} == {20}
    assert losses.concentration_weight(tiny(lambda_con=20.0, lambda_con_start=0.0), 0) == 0


def test_empty_masks_give_a_finite_concentration():
    masks = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss = losses.concentration_loss(masks, torch.zeros(1, 2, 2))
    loss.backward()
    assert loss.item() == 0 and masks.grad.isfinite().all()


def test_another_number_of_parts_is_refused():
    with pytest.raises(ValueError, match="differ in B or K"):
        losses.concentration_loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 2))
    for targets in (torch.zeros(1, 2), torch.zeros(1, 1)):  # the second would broadcast
        with pytest.raises(ValueError):
            losses.area_loss(torch.zeros(1, 3, 4, 4), targets)
