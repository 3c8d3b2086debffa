"""The auto-encoders that the paper compares with its GAN: an image's points, or its masks, from the image itself.

They share the generator's later levels and learn to repeat their input by mean squared error alone, with neither a
discriminator nor penalties (supplement, F.1). What the supplement leaves open is chosen here: points are the means of
spatial softmaxes, and the centres that the foreground starts from are, without points, the masks' centres of mass.
"""

import torch
from torch import nn
from torchvision.models import resnet18

from ganseg.model import fast, geometry, sampling, segmenter
from ganseg.model.generator import Generated, Scene


class Autoencoder(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> Generated, with the image painted again.

    architecture autoencoder_points: a U-Net finds the points, the generator's own mask level follows.
    architecture autoencoder_masks: the segmenter's network predicts the masks; heatmaps are None.
    Two ResNet-18 see the parts' appearance, and the background's style and position.
    """

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.generator = fast.build(cfg)
        self.appearance = resnet18(num_classes=cfg.embedding_dim)
        self.background = resnet18(num_classes=cfg.embedding_dim + 2)
        self.finds_points = cfg.architecture == "autoencoder_points"
        if self.finds_points:
            self.encoder = segmenter.UNet(cfg.n_parts * cfg.n_per, cfg.segmenter_width)
        else:
            self.encoder = segmenter.build(cfg)

    def forward(self, images):
        cfg, G = self.cfg, self.generator
        w = G.w_const * self.appearance(images)[:, None]  # (B, K, D)
        style, position = self.background(images).split([cfg.embedding_dim, 2], dim=1)
        position = position.tanh()
        if cfg.background_position == "horizontal":
            position = position * position.new_tensor([1, 0])
        maps = self.encoder(images)
        if self.finds_points:
            probabilities = maps.flatten(2).softmax(dim=2).view_as(maps)
            points = geometry.soft_centroids(probabilities).view(-1, cfg.n_parts, cfg.n_per, 2)
            return G.paint(Scene(points, w, style, position))
        masks = maps.softmax(dim=1)
        centers = geometry.soft_centroids(masks[:, 1:])
        image, foreground, background = G.blend(masks, centers, w, style, position)
        extent = _mask_extent(masks[:, 1:], centers)
        return Generated(centers[:, :, None], centers, extent, w, None, masks, foreground, background, image)


class AsSegmenter(nn.Module):
    """An auto-encoder as a segmenter: images -> log masks (B, K + 1, H, W)."""

    def __init__(self, cfg):
        super().__init__()
        self.autoencoder = Autoencoder(cfg)

    def forward(self, images):
        return self.autoencoder(images).masks.clamp(min=1e-12).log()


@torch.no_grad()
def reconstruct(network, images, batch_size=32):
    """Images (N, 3, H, W) uint8 -> Generated on the CPU, without features and heatmaps."""
    device = next(network.parameters()).device
    batches = [network(geometry.to_float(batch.to(device))) for batch in images.split(batch_size)]
    return sampling.joined(batches)


def _mask_extent(masks, centers):
    """Mean distance of each mask's mass from its centre along an axis: (B, K)."""
    grid = geometry.pixel_grid(masks.shape[-1], device=masks.device)
    distance = (grid - centers[:, :, None, None]).abs().mean(dim=-1)  # (B, K, H, W)
    return (masks * distance).sum(dim=(2, 3)) / (masks.sum(dim=(2, 3)) + geometry.EPS)
