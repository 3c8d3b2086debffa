"""Building blocks of the generator: embeddings, style-modulated blocks, upsampling with a margin."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

SLOPE = 0.2  # of every LeakyReLU


def activate(x):
    """LeakyReLU in place, of a tensor that nothing else needs: one map less to keep for the way back."""
    return F.leaky_relu_(x, SLOPE)


def mlp(n_in, width, n_hidden, n_out):
    """n_hidden layers with LeakyReLU, then a linear one."""
    widths = [n_in] + [width] * n_hidden
    hidden = [nn.Sequential(nn.Linear(a, b), nn.LeakyReLU(SLOPE)) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], n_out))


def conv3x3(n_in, n_out):
    return nn.Conv2d(n_in, n_out, 3, padding=1)


def convolve(conv, x, trim):
    """A 3 x 3 convolution: zeros around a whole map, nothing around one that was trimmed to one pixel more."""
    return F.conv2d(x, conv.weight, conv.bias, padding=0 if trim else 1)


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
        phase = math.pi * self.conv(offsets)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class StyleMap(NamedTuple):
    """A map sum_k weights_k(p) w_k with D channels, kept as the factors that make its rank K.

    Where rows or columns at a border are alike, two convolutions make lines of them that are alike but for the two
    nearest either end: so five are kept, the third standing for those left out.
    """

    patches: torch.Tensor  # (B, 9 K, h, w), the 3 x 3 neighbourhood of each weight, zeros beyond the border
    w: torch.Tensor  # (B, K, D)
    left_out: tuple  # how many rows at the top and bottom, columns at the left and right


def style_map(weights, w, n_alike):
    """Weights (B, K, H, W) and embeddings (B, K, D) -> StyleMap.

    n_alike  how many rows at the top and bottom, and columns at the left and right, equal their neighbours
    """
    B, K, H, W = weights.shape
    top, bottom, left, right = left_out = tuple(max(n - 5, 0) for n in n_alike)
    patches = F.unfold(weights[:, :, top : H - bottom, left : W - right], 3, padding=1)
    return StyleMap(patches.view(B, 9 * K, H - top - bottom, W - left - right), w, left_out)


def n_alike(weights):
    """How many rows at the top and bottom, and columns at the left and right, of (B, K, H, W) equal their neighbours.

    At most half of them, so that each end keeps lines of its own.
    """
    counts = []
    for lines in (weights.movedim(2, 0), weights.movedim(3, 0)):
        n = len(lines)
        changes = (lines[1:] != lines[:-1]).flatten(1).any(dim=1).nonzero().flatten().tolist()
        first, last = (changes[0], changes[-1]) if changes else (n, -1)
        counts += [min(first + 1, n // 2), min(n - 1 - last, n // 2)]
    return counts


def _end(left_out, trim):
    """At one end of a shortened map: the lines to take off for a trim of the whole one, and those still left out."""
    return min(trim, 2) + max(trim - 2 - left_out, 0), left_out - min(max(trim - 2, 0), left_out)


def put_back(x, left_out, at):
    """Repeat the row or column `at` lines from each end of x (B, C, h, w) for those that were left out there."""
    top, bottom, left, right = left_out
    if not any(left_out):
        return x
    if at == 0:
        return F.pad(x, [left, right, top, bottom], mode="replicate")
    for dim, front, back in ((3, left, right), (2, top, bottom)):
        start, first, middle, last, end = x.split([at, 1, x.shape[dim] - 2 * at - 2, 1, at], dim)
        times = [-1] * 4
        times[dim] = front + 1
        first = first.expand(times)
        times[dim] = back + 1
        x = torch.cat([start, first, middle, last.expand(times), end], dim)
    return x


class Spade(nn.Module):
    """Scale and shift, painted by a StyleMap, of what a BatchNorm has normalised."""

    def __init__(self, n_channels, n_style, n_hidden):
        super().__init__()
        self.hidden = conv3x3(n_style, n_hidden)
        self.gamma_beta = conv3x3(n_hidden, 2 * n_channels)  # one convolution is faster than two

    def forward(self, normed, style, trim=0):
        """normed (B, C, H, W) -> modulated, and trim pixels smaller on each side."""
        off, left_out = zip(*(_end(n, trim) for n in style.left_out), strict=True)
        halo = min(trim, 1)  # what the convolution reads beyond its output
        _, _, h, w = style.patches.shape
        top, bottom, left, right = (n - halo for n in off)
        hidden = self._hidden(style.patches[:, :, top : h - bottom, left : w - right], style.w)
        gamma_beta = put_back(convolve(self.gamma_beta, hidden, trim), left_out, 2 - min(trim, 2))
        scale, shift = gamma_beta.chunk(2, dim=1)
        return torch.addcmul(shift, 1 + scale, crop(normed, trim))

    def _hidden(self, patches, w):
        """The first convolution, on K channels: its kernel applied to each w_k before it meets the weights."""
        B, n_patch, h, _ = patches.shape
        kernel = torch.einsum("oduv,bkd->bokuv", self.hidden.weight, w).reshape(B, -1, n_patch)
        hidden = torch.baddbmm(self.hidden.bias[:, None], kernel, patches.flatten(2))
        return activate(hidden).view(B, -1, h, patches.shape[3])


class SpadeBlock(nn.Module):
    """Residual block of two SPADE-modulated convolutions."""

    def __init__(self, n_in, n_out, n_style, n_hidden):
        super().__init__()
        n_mid = min(n_in, n_out)
        self.norm1 = nn.BatchNorm2d(n_in, affine=False)  # of the shortcut too, which sees the same map
        self.spade1 = Spade(n_in, n_style, n_hidden)
        self.conv1 = conv3x3(n_in, n_mid)
        self.norm2 = nn.BatchNorm2d(n_mid, affine=False)
        self.spade2 = Spade(n_mid, n_style, n_hidden)
        self.conv2 = conv3x3(n_mid, n_out)
        if n_in != n_out:
            self.spade_shortcut = Spade(n_in, n_style, n_hidden)
            self.conv_shortcut = conv3x3(n_in, n_out)

    def forward(self, x, style, trim=0):
        """x (B, n_in, H, W) -> (B, n_out, H - 2 trim, W - 2 trim): what a crop would throw away is not computed."""
        halo = max(trim - 1, 0)
        normed = self.norm1(x)
        y = self.norm2(self.conv1(activate(self.spade1(normed, style))))  # statistics of all, margin included
        y = convolve(self.conv2, activate(self.spade2(y, style, halo)), trim)
        if hasattr(self, "conv_shortcut"):
            x = convolve(self.conv_shortcut, self.spade_shortcut(normed, style, halo), trim)
        else:
            x = crop(x, trim)
        return x + y


class AdainBlock(nn.Module):
    """Convolution after a BatchNorm whose scale and shift come from one style vector (B, D)."""

    def __init__(self, n_in, n_out, n_style, n_hidden):
        super().__init__()
        self.norm = nn.BatchNorm2d(n_in, affine=False)
        self.hidden = nn.Linear(n_style, n_hidden)
        self.gamma_beta = nn.Linear(n_hidden, 2 * n_in)
        self.conv = conv3x3(n_in, n_out)

    def forward(self, x, style, trim=0):
        """x (B, n_in, H, W) -> (B, n_out, H - 2 trim, W - 2 trim)."""
        gamma, beta = self.gamma_beta(activate(self.hidden(style)))[:, :, None, None].chunk(2, dim=1)
        x = crop(self.norm(x), max(trim - 1, 0))
        return convolve(self.conv, activate(torch.addcmul(beta, 1 + gamma, x)), trim)


def upsample(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def crop(x, margin):
    """Take off the margin on each side."""
    return x[..., margin:-margin, margin:-margin] if margin else x
