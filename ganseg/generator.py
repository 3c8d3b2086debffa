"""The generator in three stages: latents -> points and embeddings -> part masks -> image."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ganseg import geometry
from ganseg.layers import (
    SLOPE,
    AdainBlock,
    PositionalEmbedding,
    SpadeBlock,
    conv3x3,
    crop,
    kaiming,
    mlp,
    n_alike,
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
    """GANSeg's generator, built from a config (see ganseg.config.ModelConfig)."""

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        K, D, width, hidden = cfg.n_parts, cfg.embedding_dim, cfg.mlp_width, cfg.spade_hidden
        self.w_const = nn.Parameter(torch.randn(K, D))
        self.mlp_points = mlp(cfg.z_dim, width, 4, 2 * K * cfg.n_per)
        self.mlp_appearance = mlp(cfg.z_dim, width, 3, D)
        self.mlp_background = mlp(cfg.z_dim, width, 3, D)

        mask_channels = [*cfg.mask_channels, K + 1]
        self.mask_start = PositionalEmbedding(2 * K * cfg.n_per, mask_channels[0])
        self.mask_blocks = _blocks(SpadeBlock, mask_channels, D, hidden)
        self.foreground_start = PositionalEmbedding(2 * K, cfg.channels[0])
        self.foreground_blocks = _blocks(SpadeBlock, cfg.channels, D, hidden)
        self.background_start = PositionalEmbedding(2, cfg.channels[0])
        self.background_blocks = _blocks(AdainBlock, cfg.channels, D, hidden)
        self.rgb = _rgb_head(cfg.rgb_head, cfg.channels[-1])
        self.apply(kaiming)

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
        points, w = self.make_points(latents)
        return self.paint(points, w, self.mlp_background(latents.background), latents.background_position)

    def make_points(self, latents):
        """Level 1: points (B, K, n_per, 2) and embeddings w (B, K, D)."""
        cfg = self.cfg
        raw = self.mlp_points(latents.points).float() / cfg.point_divisor
        points = raw.tanh().view(-1, cfg.n_parts, cfg.n_per, 2)
        w = self.w_const * self.mlp_appearance(latents.appearance).float()[:, None]  # (B, K, D)
        return points, w

    def paint(self, points, w, background_style, background_position):
        """Levels 2 and 3: the picture of given points.

        points               (B, K, n_per, 2) in [-1, 1]; beyond is allowed
        w                    (B, K, D)
        background_style     (B, D)
        background_position  (B, 2)
        """
        shape, heatmaps, masks = self.make_masks(points, w)
        image, foreground, background = self.blend(masks, shape.centers, w, background_style, background_position)
        return Generated(points, shape.centers, shape.extent, w, heatmaps, masks, foreground, background, image)

    def make_masks(self, points, w):
        """Level 2: PartShape, heatmaps (B, K, H, W) and masks (B, K + 1, H, W), softmax over channels."""
        cfg, grids = self.cfg, self._grids(points.device)
        shape = geometry.part_shape(points, cfg.heatmap, cfg.fixed_sigma2)
        heatmaps = {r: geometry.heatmaps(shape, grid, cfg.heatmap) for r, grid in grids.items()}
        style_maps = {r: style_map(H, w, self._n_alike(H)) for r, H in heatmaps.items()}
        x = self.mask_start(geometry.offsets(points.flatten(1, 2), grids[cfg.resolutions[0]]))
        x = self._through(self.mask_blocks, x, style_maps)
        return shape, crop(heatmaps[cfg.image_size], cfg.margin), x.float().softmax(dim=1)

    def blend(self, masks, centers, w, background_style, background_position):
        """Level 3: the picture of given masks (B, K + 1, H, W), with its foreground and background features."""
        grids = self._grids(masks.device)
        foreground = self._make_foreground(centers, masks, w, grids)
        background = self._make_background(background_style, background_position, grids)
        M_bg = masks[:, :1]
        image = self.rgb((1 - M_bg) * foreground + M_bg * background).float().tanh()
        return image, foreground, background

    def _n_alike(self, heatmaps):
        """See layers.n_alike; looking would make a GPU wait, and give compiled blocks ever new shapes."""
        return n_alike(heatmaps) if heatmaps.device.type == "cpu" and not self.cfg.compile else [1] * 4

    def _grids(self, device):
        """The pixel grid of each resolution, margin included."""
        return {r: geometry.pixel_grid(r, self.cfg.margin, device) for r in sorted(set(self.cfg.resolutions))}

    def _make_foreground(self, centers, masks, w, grids):
        """Level 3: features painted by the part masks, (B, C, H, W)."""
        margin = self.cfg.margin
        style_maps = {}
        for r in grids:
            parts = F.interpolate(masks[:, 1:], size=(r, r), mode="bilinear", align_corners=False)
            style_maps[r] = style_map(F.pad(parts, [margin] * 4, mode="replicate"), w, [margin + 1] * 4)
        x = self.foreground_start(geometry.offsets(centers, grids[self.cfg.resolutions[0]]))
        return self._through(self.foreground_blocks, x, style_maps)

    def _make_background(self, style, position, grids):
        """Level 3: features of the background, (B, C, H, W)."""
        x = self.background_start(geometry.offsets(position[:, None], grids[self.cfg.resolutions[0]]))
        return self._through(self.background_blocks, x, dict.fromkeys(grids, style))

    def _through(self, blocks, x, styles):
        """Run the blocks, doubling where the next resolution is larger, without what ends up outside the margin."""
        resolutions, margin = self.cfg.resolutions, self.cfg.margin
        for block, r, r_next in zip(blocks, resolutions, [*resolutions[1:], resolutions[-1]], strict=True):
            if r_next > r:
                trim = max(margin - 1, 0) // 2  # doubling reads one pixel beyond half the margin
                x = crop(upsample(block(x, styles[r], trim)), margin - 2 * trim)
            else:
                x = block(x, styles[r], margin if block is blocks[-1] else 0)
        return x


def _blocks(block, channels, n_style, n_hidden):
    return nn.ModuleList(block(a, b, n_style, n_hidden) for a, b in zip(channels, channels[1:], strict=False))


def _rgb_head(kind, n_channels):
    """Features (B, C, H, W) -> (B, 3, H, W) before the tanh."""
    if kind == "conv1x1":
        return nn.Sequential(nn.LeakyReLU(SLOPE), nn.Conv2d(n_channels, 3, 1))
    return nn.Sequential(
        nn.LeakyReLU(SLOPE), conv3x3(n_channels, n_channels), nn.LeakyReLU(SLOPE), conv3x3(n_channels, 3)
    )
