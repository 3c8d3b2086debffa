"""The discriminator: residual down-blocks to 2 x 2, then two linear layers."""

import math

from torch import nn

from ganseg.model.features import FeatureDiscriminator
from ganseg.model.layers import SLOPE, conv3x3, kaiming


class _DownBlock(nn.Module):
    """Halve the map: three convolutions beside a strided 1x1, sum / sqrt(2)."""

    def __init__(self, n_in, n_out, inplace):
        super().__init__()
        self.main = nn.Sequential(
            conv3x3(n_in, n_out),
            nn.LeakyReLU(SLOPE, inplace=inplace),
            conv3x3(n_out, n_out),
            nn.LeakyReLU(SLOPE, inplace=inplace),
            nn.Conv2d(n_out, n_out, 3, stride=2, padding=1),
        )
        self.skip = nn.Conv2d(n_in, n_out, 1, stride=2)

    def forward(self, x):
        return (self.main(x) + self.skip(x)) / math.sqrt(2)


class Discriminator(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] -> scores (B,), high for real ones.

    features  a FeatureDiscriminator that judges beside it, or None
    """

    def __init__(self, cfg):
        super().__init__()
        channels = [3, *cfg.discriminator_channels]
        self.blocks = nn.Sequential(*(
            _DownBlock(a, b, cfg.fast) for a, b in zip(channels, channels[1:], strict=False)
        ))
        n = channels[-1]
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(2 * 2 * n, n), nn.LeakyReLU(SLOPE), nn.Linear(n, 1)
        )
        self.apply(kaiming)
        self.features = FeatureDiscriminator(cfg) if cfg.features != "none" else None

    def forward(self, images):
        return self.head(self.blocks(images)).flatten().float()
