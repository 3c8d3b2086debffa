"""Grids, points, centres, extents and heatmaps: the one place that knows the conventions.

Coordinates are (x, y) in [-1, 1]; -1 and 1 lie on the centres of the outermost pixels, so pixel i of R
sits at -1 + 2i / (R - 1). A margin continues the same spacing beyond [-1, 1]. Images are float in [-1, 1].
Background is mask channel 0.
"""

import math
from typing import NamedTuple

import torch

EPS = 1e-6


def pixel_grid(resolution, margin=0, device=None, dtype=torch.float32):
    """Positions of the pixels of a square map: (R + 2 margin, R + 2 margin, 2) as (x, y)."""
    i = torch.arange(-margin, resolution + margin, device=device, dtype=dtype)
    line = -1 + 2 * i / (resolution - 1)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1)


def offsets(points, grid):
    """Point minus pixel, coordinates fastest: points (B, N, 2), grid (H, W, 2) -> (B, 2 N, H, W)."""
    difference = points[:, :, :, None, None] - grid.permute(2, 0, 1)  # (B, N, 2, H, W)
    return difference.flatten(1, 2)


class PartShape(NamedTuple):
    """Where the parts are: centers (B, K, 2), extent (B, K) and the heatmap's spread (B, K)."""

    centers: torch.Tensor
    extent: torch.Tensor
    spread: torch.Tensor


def part_shape(points, heatmap, fixed_sigma2=None):
    """Centre, extent and heatmap spread of each part.

    points  (B, K, n_per, 2)
    heatmap cone | gaussian | paper | fixed
    The extent is the mean distance to the centre along an axis, whatever the heatmap. The spread is the
    cone's radius, otherwise the square sigma^2 by which squared distances are divided.
    Source: GANSeg; the cone and the variance of distances as in the released models, `paper` as printed.
    """
    centers = points.mean(dim=2)
    difference = points - centers[:, :, None]  # (B, K, n_per, 2)
    extent = difference.abs().mean(dim=(2, 3))
    if heatmap == "cone":
        spread = extent + EPS
    elif heatmap == "gaussian":
        spread = safe_norm(difference).var(dim=2, unbiased=True) + EPS
    elif heatmap == "paper":
        # The same 1e-6 keeps parts whose points coincide finite.
        spread = difference.square().sum(dim=(2, 3)) / (points.shape[2] - 1) + EPS
    else:
        spread = torch.full_like(extent, fixed_sigma2)
    return PartShape(centers, extent, spread)


def heatmaps(shape, grid, heatmap):
    """Soft disc of each part, 1 at its centre: grid (H, W, 2) -> (B, K, H, W) in [0, 1]."""
    difference = grid - shape.centers[:, :, None, None]  # (B, K, H, W, 2)
    spread = shape.spread[:, :, None, None]
    if heatmap == "cone":
        return (1 - safe_norm(difference) / spread).clamp(min=0)
    return (-difference.square().sum(-1) / spread).exp()


def safe_norm(vectors):
    """Length along the last dimension; its gradient at 0 is 0 instead of NaN."""
    square = vectors.square().sum(-1)
    is_zero = square == 0
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, square).sqrt())


def extent_area(extent, image_size):
    """Area in pixels^2 of the disc whose diameter is the extent: pi (e H / 2)^2."""
    return math.pi * (extent * image_size / 2).square()


def to_float(images):
    """Images uint8 of any shape -> float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


def soft_centroids(masks):
    """Centre of mass of each map: (B, K, H, W) >= 0 -> (B, K, 2) as (x, y)."""
    grid = pixel_grid(masks.shape[-1], device=masks.device, dtype=masks.dtype)
    weights = masks / (masks.sum(dim=(2, 3), keepdim=True) + EPS)
    return torch.einsum("bkhw,hwc->bkc", weights, grid)
