"""The auto-encoders that the paper holds against its GAN: a picture's points, or its masks, from the picture itself.

They share the generator's later levels and learn to repeat their input by mean squared error alone, with neither a
discriminator nor penalties (supplement, F.1). What the supplement leaves open is chosen here: points are the means of
spatial softmaxes, and the centres that the foreground starts from are, without points, the masks' centres of mass.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from ganseg import geometry, sampling, segmenter
from ganseg.generator import Generated, Generator
from ganseg.loop import Loop

N_SAMPLES = 30  # pictures in each file of samples/


class Autoencoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> Generated, with the picture painted again.

    architecture autoencoder_points: a U-Net finds the points, the generator's own mask level follows.
    architecture autoencoder_masks: the segmenter's network predicts the masks; heatmaps are None.
    Two ResNet-18 see the parts' appearance, and the background's style and position.
    """

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.generator = Generator(cfg)
        self.appearance = resnet18(num_classes=cfg.embedding_dim)
        self.background = resnet18(num_classes=cfg.embedding_dim + 2)
        self.finds_points = cfg.architecture == "autoencoder_points"
        if self.finds_points:
            self.encoder = segmenter.UNet(cfg.n_parts * cfg.n_per, cfg.segmenter_width)
        else:
            self.encoder = segmenter.build_plain(cfg)

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
            return G.paint(points, w, style, position)
        masks = maps.softmax(dim=1)
        centers = geometry.soft_centroids(masks[:, 1:])
        image, foreground, background = G.blend(masks, centers, w, style, position)
        extent = _mask_extent(masks[:, 1:], centers)
        return Generated(centers[:, :, None], centers, extent, w, None, masks, foreground, background, image)


class AsSegmenter(nn.Module):
    """An auto-encoder as a segmenter: pictures -> log masks (B, K + 1, H, W)."""

    def __init__(self, cfg):
        super().__init__()
        self.autoencoder = Autoencoder(cfg)

    def forward(self, images):
        return self.autoencoder(images).masks.clamp(min=1e-12).log()


def train(run, real_batch, device):
    """Train the run's auto-encoder, as ganseg.train.train does a GAN; real_batch is a Batches."""
    cfg = run.cfg
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        network = Autoencoder(cfg).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=cfg.lr_generator, betas=(0.5, 0.9))
    loop = Loop(run, "train", "gan", {"autoencoder": network, "optimizer": optimizer}, cfg.max_steps)

    for step in loop.steps():
        real = real_batch(step, loop.random(step))
        loss = F.mse_loss(network(real).image, real)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.add(reconstruction_loss=loss)

        if loop.due("log") or loop.due("save"):
            loop.check_finite()
        if loop.due("log"):
            record = loop.log()
        if loop.due("sample"):
            loop.save_samples(reconstruct(network.eval(), real_batch.images[:N_SAMPLES]))
            network.train()
        if loop.due("save"):
            loop.save()
        if loop.due("log"):
            yield record


def keep_as_segmenter(run):
    """Save the trained auto-encoder as the run's segmenter: it segments photos without distillation."""
    state = run.load("gan")
    weights = {f"autoencoder.{name}": value for name, value in state["autoencoder"].items()}
    run.save("segmenter", state["step"], {"segmenter": weights, "generator_weights": "auto-encoder"})


@torch.no_grad()
def reconstruct(network, images, batch_size=32):
    """Generated of pictures (N, 3, H, W) uint8, on the CPU, without features and heatmaps."""
    device = next(network.parameters()).device
    batches = [network(batch.to(device).float() / 127.5 - 1) for batch in images.split(batch_size)]
    return sampling.joined(batches)


def _mask_extent(masks, centers):
    """Mean distance of each mask's mass from its centre along an axis: (B, K)."""
    grid = geometry.pixel_grid(masks.shape[-1], device=masks.device)
    distance = (grid - centers[:, :, None, None]).abs().mean(dim=-1)  # (B, K, H, W)
    return (masks * distance).sum(dim=(2, 3)) / (masks.sum(dim=(2, 3)) + geometry.EPS)
