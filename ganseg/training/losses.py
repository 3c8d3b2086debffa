"""Losses of both stages, as pure functions of tensors."""

import torch
import torch.nn.functional as F

from ganseg.model import geometry

START_STEPS = 200  # with lambda_con_start
HALVING_STEPS = 100  # after them, in which the difference to lambda_con halves


def discriminator_loss(real_scores, fake_scores):
    """Logistic GAN loss of the discriminator: scores (B,) each -> scalar."""
    return F.softplus(fake_scores).mean() + F.softplus(-real_scores).mean()


def generator_loss(fake_scores):
    """Non-saturating GAN loss of the generator: scores (B,) -> scalar."""
    return F.softplus(-fake_scores).mean()


def hinge_loss(real_scores, fake_scores):
    """Hinge loss of a discriminator: scores of any shape -> scalar."""
    return F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()


def range_penalty(images, limit=1.5):
    """Mean squared excess over the limit of the values before the tanh: images (B, 3, H, W) in [-1, 1] -> scalar."""
    before = images.clamp(-1 + 1e-6, 1 - 1e-6).atanh()
    return F.relu(before.abs() - limit).square().mean()


def gradient_penalty(discriminator, images):
    """Mean of (||gradient of D at a real image||_2 - 1)^2; images (B, 3, H, W)."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def concentration_loss(masks, centers):
    """Mean squared distance of each part's mass from its center.

    masks    (B, K, H, W) in [0, 1], no background
    centers  (B, K, 2) in [-1, 1]
    Returns a scalar >= 0; 0 when each mask is one pixel on its center.
    Raises ValueError when K differs.
    Source: GANSeg, concentration loss; 1e-6 is added to the area.
    """
    if masks.shape[:2] != centers.shape[:2]:
        raise ValueError(f"masks {tuple(masks.shape)} and centers {tuple(centers.shape)} differ in B or K")
    grid = geometry.pixel_grid(masks.shape[-1], device=masks.device)
    distance = (grid - centers[:, :, None, None]).square().sum(-1)  # (B, K, H, W)
    weights = masks / (masks.sum(dim=(2, 3), keepdim=True) + geometry.EPS)
    return (weights * distance).sum(dim=(2, 3)).mean()


def concentration_weight(cfg, step):
    """Weight of the concentration loss at a step, 0 the first: lambda_con, or lambda_con_start, which falls to it.

    Parts have to gather before the image's gradient makes them paint the background. What gathers them so fast would
    then keep them too small. After a warm start they are gathered.
    """
    if cfg.lambda_con_start is None or cfg.warm_start:
        return cfg.lambda_con
    left = 0.5 ** (max(0, step - START_STEPS) / HALVING_STEPS)
    return cfg.lambda_con + left * (cfg.lambda_con_start - cfg.lambda_con)


def area_loss(masks, target_area):
    """How far the parts' areas stay below their targets, summed over parts, in pixels^2.

    masks        (B, K, H, W) in [0, 1], no background
    target_area  (B, K) in pixels^2
    Raises ValueError when K differs.
    Source: GANSeg, area loss.
    """
    if masks.shape[:2] != target_area.shape:
        raise ValueError(f"masks {tuple(masks.shape)} and areas {tuple(target_area.shape)} differ in B or K")
    return F.relu(target_area - masks.sum(dim=(2, 3))).sum(dim=1).mean()


def area_targets(generated, kind):
    """(B, K) in pixels^2: by the points' extent (released code) or the heatmaps' sum (paper)."""
    if kind == "heatmap":
        return generated.heatmaps.sum(dim=(2, 3))
    return geometry.extent_area(generated.extent, generated.masks.shape[-1])


def segmentation_loss(logits, labels):
    """Half cross-entropy, half Dice: logits (B, C, H, W), labels (B, H, W) integers, -1 where not known."""
    return 0.5 * F.cross_entropy(logits, labels, ignore_index=-1) + 0.5 * dice_loss(logits.softmax(dim=1), labels)


def dice_loss(probabilities, labels, eps=1e-8):
    """1 - Dice per image and class, background included: (B, C, H, W) and (B, H, W) -> scalar in [0, 1]."""
    C, known = probabilities.shape[1], (labels >= 0)[:, None]
    truth = F.one_hot(labels.clamp(min=0), C).permute(0, 3, 1, 2).to(probabilities) * known  # (B, C, H, W)
    probabilities = probabilities * known
    overlap = (probabilities * truth).sum(dim=(2, 3))
    total = probabilities.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
    return (1 - (2 * overlap + eps) / (total + eps)).mean()
