"""Building blocks of the generator, as the paper writes them: embeddings, modulated blocks, upsampling."""

import math

import torch
import torch.nn.functional as F
from torch import nn

SLOPE = 0.2  # of every LeakyReLU


def activate(x):
    return F.leaky_relu(x, SLOPE)


def mlp(n_in, width, n_hidden, n_out):
    """n_hidden layers with LeakyReLU, then a linear one."""
    widths = [n_in] + [width] * n_hidden
    hidden = [nn.Sequential(nn.Linear(a, b), nn.LeakyReLU(SLOPE)) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], n_out))


def conv3x3(n_in, n_out):
    return nn.Conv2d(n_in, n_out, 3, padding=1)


def kaiming(module):
    """Initialise weights by Kaiming normal for the slope 0.2, biases by 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        nn.init.zeros_(module.bias)


class PositionalEmbedding(nn.Module):
    """Offsets (B, 2 N, H, W) -> sines and cosines of learned frequencies (B, n_out, H, W)."""

    def __init__(self, n_offsets, n_out):
        super().__init__()
        self.conv = nn.Conv2d(n_offsets, n_out // 2, 1)

    def forward(self, offsets):
        device = "cpu" if offsets.is_meta else offsets.device.type  # autocast does not know the meta device
        with torch.autocast(device, enabled=False):  # in bfloat16 neighbouring pixels would be alike
            phase = math.pi * self.conv(offsets.float())
            return torch.cat([phase.sin(), phase.cos()], dim=1)


def style_map(weights, w):
    """W(p) = sum_k weights_k(p) w_k: weights (B, K, H, W) and embeddings (B, K, D) -> (B, D, H, W)."""
    return torch.einsum("bkhw,bkd->bdhw", weights, w)


class Spade(nn.Module):
    """Scale and shift, painted by a style map, of what a BatchNorm has normalised."""

    def __init__(self, n_channels, n_style, n_hidden):
        super().__init__()
        self.hidden = conv3x3(n_style, n_hidden)
        self.gamma_beta = conv3x3(n_hidden, 2 * n_channels)  # both convolutions as one

    def forward(self, normed, style):
        """normed (B, C, H, W) and style (B, D, H, W) -> (B, C, H, W)."""
        gamma, beta = self.gamma_beta(activate(self.hidden(style))).chunk(2, dim=1)
        return (1 + gamma) * normed + beta


class SpadeBlock(nn.Module):
    """Residual block of two SPADE-modulated convolutions; the shortcut has a third where the channels change."""

    spade = Spade  # the class of its modulations

    def __init__(self, n_in, n_out, n_style, n_hidden):
        super().__init__()
        n_mid, self.changes_channels = min(n_in, n_out), n_in != n_out
        self.norm1, self.norm2 = (nn.BatchNorm2d(n, affine=False) for n in (n_in, n_mid))  # norm1 for the shortcut too
        self.spade1, self.conv1 = self.spade(n_in, n_style, n_hidden), conv3x3(n_in, n_mid)
        self.spade2, self.conv2 = self.spade(n_mid, n_style, n_hidden), conv3x3(n_mid, n_out)
        if self.changes_channels:
            self.spade_shortcut, self.conv_shortcut = self.spade(n_in, n_style, n_hidden), conv3x3(n_in, n_out)

    def forward(self, x, style):
        """x (B, n_in, H, W) and style (B, D, H, W) -> (B, n_out, H, W)."""
        normed = self.norm1(x)
        y = self.conv1(activate(self.spade1(normed, style)))
        y = self.conv2(activate(self.spade2(self.norm2(y), style)))
        if self.changes_channels:
            x = self.conv_shortcut(self.spade_shortcut(normed, style))
        return x + y


class AdainBlock(nn.Module):
    """Convolution after a BatchNorm whose scale and shift come from one style vector."""

    def __init__(self, n_in, n_out, n_style, n_hidden):
        super().__init__()
        self.norm = nn.BatchNorm2d(n_in, affine=False)
        self.hidden = nn.Linear(n_style, n_hidden)
        self.gamma_beta = nn.Linear(n_hidden, 2 * n_in)
        self.conv = conv3x3(n_in, n_out)

    def forward(self, x, style):
        """x (B, n_in, H, W) and style (B, D) -> (B, n_out, H, W)."""
        gamma, beta = self.gamma_beta(activate(self.hidden(style)))[:, :, None, None].chunk(2, dim=1)
        return self.conv(activate((1 + gamma) * self.norm(x) + beta))


def upsample(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def crop(x, margin):
    """Take off the margin on each side."""
    return x[..., margin:-margin, margin:-margin] if margin else x
