"""The generator in three stages: latents -> points and embeddings -> part masks -> image."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ganseg.model import geometry
from ganseg.model.layers import (
    SLOPE,
    AdainBlock,
    PositionalEmbedding,
    SpadeBlock,
    conv3x3,
    crop,
    kaiming,
    mlp,
    style_map,
    upsample,
)


class Latents(NamedTuple):
    """What an image is generated from: three (B, z_dim) normal vectors and a position (B, 2) as (x, y)."""

    points: torch.Tensor
    appearance: torch.Tensor
    background: torch.Tensor
    background_position: torch.Tensor

    def to(self, device):
        return Latents(*(z.to(device) for z in self))

    def __getitem__(self, index):
        """A slice of the batch; a plain integer is a field, as in any tuple."""
        if isinstance(index, int):
            return tuple.__getitem__(self, index)
        return Latents(*(z[index] for z in self))


class Scene(NamedTuple):
    """What an image is painted from. The batch may be left out where a scene is kept, not painted."""

    points: torch.Tensor  # (B, K, n_per, 2) in [-1, 1]; beyond is allowed
    w: torch.Tensor  # (B, K, D), the parts' appearance
    background_style: torch.Tensor  # (B, D)
    background_position: torch.Tensor  # (B, 2)

    @property
    def centers(self):
        """(B, K, 2), the mean of each part's points."""
        return self.points.mean(dim=-2)

    def map(self, function):
        """The scene with a function applied to each of its tensors."""
        return Scene(*map(function, self))


class Generated(NamedTuple):
    """One batch of the generator; H = W = image_size, background is mask channel 0."""

    points: torch.Tensor  # (B, K, n_per, 2)
    centers: torch.Tensor  # (B, K, 2)
    extent: torch.Tensor  # (B, K)
    w: torch.Tensor  # (B, K, D)
    heatmaps: torch.Tensor  # (B, K, H, W)
    masks: torch.Tensor  # (B, K + 1, H, W), sums to 1
    foreground: torch.Tensor  # (B, C, H, W), features before the blend
    background: torch.Tensor  # (B, C, H, W)
    image: torch.Tensor  # (B, 3, H, W) in [-1, 1]


class Generator(nn.Module):
    """GANSeg's generator, built from a config (see ganseg.settings.ModelConfig).

    This is the paper's mathematics. ganseg.model.fast has a form with less work and the same weights.
    """

    spade_block, adain_block = SpadeBlock, AdainBlock

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        K, D, width = cfg.n_parts, cfg.embedding_dim, cfg.mlp_width
        self.w_const = nn.Parameter(torch.randn(K, D))
        self.mlp_points = mlp(cfg.z_dim, width, 4, 2 * K * cfg.n_per)
        self.mlp_appearance = mlp(cfg.z_dim, width, 3, D)
        self.mlp_background = mlp(cfg.z_dim, width, 3, D)

        mask_channels = [*cfg.mask_channels, K + 1]
        self.mask_start = PositionalEmbedding(2 * K * cfg.n_per, mask_channels[0])
        self.mask_blocks = self._blocks(self.spade_block, mask_channels)
        self.foreground_start = PositionalEmbedding(2 * K, cfg.channels[0])
        self.foreground_blocks = self._blocks(self.spade_block, cfg.channels)
        self.background_start = PositionalEmbedding(2, cfg.channels[0])
        self.background_blocks = self._blocks(self.adain_block, cfg.channels)
        self.rgb = _rgb_head(cfg.rgb_head, cfg.channels[-1])
        self.apply(kaiming)

    def _blocks(self, block, channels):
        D, hidden = self.cfg.embedding_dim, self.cfg.spade_hidden
        return nn.ModuleList(block(a, b, D, hidden) for a, b in zip(channels, channels[1:], strict=False))

    def sample_latents(self, n, generator=None):
        """Random latents for n images, on the generator's device.

        generator  a torch.Generator on the CPU: the same numbers on every device
        """
        z = torch.randn(3, n, self.cfg.z_dim, generator=generator)
        position = torch.rand(n, 2, generator=generator) * 2 - 1
        if self.cfg.background_position == "horizontal":
            position[:, 1] = 0
        return Latents(*z, position).to(self.w_const.device)

    def forward(self, latents):
        """Latents of B images -> Generated."""
        return self.paint(self.make_scene(latents))

    def make_scene(self, latents):
        """Level 1: the Scene of latents."""
        background_style = self.mlp_background(latents.background)
        return Scene(*self.make_points(latents), background_style, latents.background_position)

    def make_points(self, latents):
        """Points (B, K, n_per, 2) and embeddings w (B, K, D)."""
        cfg = self.cfg
        raw = self.mlp_points(latents.points).float() / cfg.point_divisor
        points = raw.tanh().view(-1, cfg.n_parts, cfg.n_per, 2)
        w = self.w_const * self.mlp_appearance(latents.appearance).float()[:, None]  # (B, K, D)
        return points, w

    def paint(self, scene):
        """Levels 2 and 3: a Scene -> Generated."""
        shape, heatmaps, masks = self.make_masks(scene.points, scene.w)
        image, foreground, background = self.blend(masks, shape.centers, *scene[1:])
        return Generated(scene.points, shape.centers, shape.extent, scene.w, heatmaps, masks, foreground, background,
                         image)  # fmt: skip

    def make_masks(self, points, w):
        """Level 2: PartShape, heatmaps (B, K, H, W) and masks (B, K + 1, H, W), softmax over channels."""
        cfg, grids = self.cfg, self._grids(points.device)
        shape = geometry.part_shape(points, cfg.heatmap, cfg.fixed_sigma2)
        heatmaps = {r: geometry.heatmaps(shape, grid, cfg.heatmap) for r, grid in grids.items()}
        x = self.mask_start(geometry.offsets(points.flatten(1, 2), grids[cfg.resolutions[0]]))
        x = self._through(self.mask_blocks, x, self._heatmap_styles(heatmaps, w))
        return shape, crop(heatmaps[cfg.image_size], cfg.margin), x.float().softmax(dim=1)

    def blend(self, masks, centers, w, background_style, background_position):
        """Level 3: the image of masks (B, K + 1, H, W), with its foreground and background features.

        centers  (B, K, 2); w, background_style and background_position as in Scene
        """
        grid = self._grids(masks.device)[self.cfg.resolutions[0]]
        foreground = self.foreground_start(geometry.offsets(centers, grid))
        foreground = self._through(self.foreground_blocks, foreground, self._mask_styles(masks, w))
        background = self.background_start(geometry.offsets(background_position[:, None], grid))
        background = self._through(self.background_blocks, background, dict.fromkeys(self._sizes(), background_style))
        M_bg = masks[:, :1]
        image = self.rgb((1 - M_bg) * foreground + M_bg * background).float().tanh()
        return image, foreground, background

    def _through(self, blocks, x, styles):
        """Run the blocks, doubling where the next resolution is larger, and take the margin off at the end."""
        resolutions, margin = self.cfg.resolutions, self.cfg.margin
        for block, r, r_next in zip(blocks, resolutions, [*resolutions[1:], resolutions[-1]], strict=True):
            x = block(x, styles[r])
            if r_next > r:
                x = crop(upsample(x), margin)  # doubled, the margin is twice as wide as it should be
        return crop(x, margin)

    def _heatmap_styles(self, heatmaps, w):
        """Level 2: the style map of each resolution, from its heatmaps (B, K, R + 2 margin, R + 2 margin)."""
        return {r: style_map(H, w) for r, H in heatmaps.items()}

    def _mask_styles(self, masks, w):
        """Level 3: the style map of each resolution, from the part masks at that size."""
        return {r: style_map(parts, w) for r, parts in self._resized_parts(masks).items()}

    def _resized_parts(self, masks):
        """Part masks by resolution r, (B, K, r + 2 margin, r + 2 margin): the border is repeated into the margin."""
        parts = {r: F.interpolate(masks[:, 1:], size=(r, r), mode="bilinear", align_corners=False)
                 for r in self._sizes()}
        return {r: F.pad(M, [self.cfg.margin] * 4, mode="replicate") for r, M in parts.items()}

    def _sizes(self):
        return sorted(set(self.cfg.resolutions))

    def _grids(self, device):
        """The pixel grid of each resolution, margin included."""
        return {r: geometry.pixel_grid(r, self.cfg.margin, device) for r in self._sizes()}


def _rgb_head(kind, n_channels):
    """Features (B, C, H, W) -> (B, 3, H, W) before the tanh."""
    if kind == "conv1x1":
        return nn.Sequential(nn.LeakyReLU(SLOPE), nn.Conv2d(n_channels, 3, 1))
    return nn.Sequential(
        nn.LeakyReLU(SLOPE), conv3x3(n_channels, n_channels), nn.LeakyReLU(SLOPE), conv3x3(n_channels, 3)
    )
