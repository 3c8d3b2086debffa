"""Training of the auto-encoders that the paper compares with its GAN."""

import torch
import torch.nn.functional as F

from ganseg import checkpoints, devices, distributed
from ganseg.errors import UserError
from ganseg.model.autoencoder import Autoencoder, reconstruct
from ganseg.training.loop import Loop

N_SAMPLES = 30  # pictures in each file of samples/


def check(cfg):
    """Raise UserError where several processes were to train an auto-encoder."""
    if max(distributed.size(), cfg.devices) > 1:
        raise UserError(f"devices: {cfg.architecture} is trained by one process; leave devices out.")


def network(cfg):
    """A fresh auto-encoder as seeded by the config, without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        return Autoencoder(cfg)


def step(cfg):
    """What a step makes of two pictures, as ganseg.training.memory.gan_step."""
    made = Autoencoder(cfg)
    return [made], [], made(torch.zeros(2, 3, cfg.image_size, cfg.image_size)).image


def train(run, networks, real_batch, device, **facts):
    """Train the run's auto-encoder, the one of networks, as ganseg.train.train does a GAN.

    real_batch  a Batches
    facts       plain values kept in each checkpoint
    """
    cfg, network = run.cfg, networks[0].to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=cfg.lr_generator, betas=(0.5, 0.9))
    if cfg.compile:
        network.compile()
    loop = Loop(run, "train", "gan", {"autoencoder": network, "optimizer": optimizer}, cfg.max_steps, **facts)

    for step in loop.steps():
        real = real_batch(step, loop.random(step))
        with devices.autocast(cfg, device):
            image = network(real).image
        loss = F.mse_loss(image, real)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.add(reconstruction_loss=loss)
        record = loop.finish_step(draw=lambda: _draw(network, real_batch.images[:N_SAMPLES]))
        if record:
            yield record


def _draw(network, images):
    generated = reconstruct(network.eval(), images)
    network.train()
    return generated


def keep_as_segmenter(run):
    """Save the trained auto-encoder as the run's segmenter: it needs no distillation."""
    with run.held():
        _, state = run.intact("gan")
        weights = {f"autoencoder.{name}": value for name, value in state["autoencoder"].items()}
        facts = {"generator_weights": "auto-encoder", "backbone_weights": "none", **checkpoints.which_gan(state)}
        run.save("segmenter", state["step"], {"segmenter": weights, **facts}, outdated=run.checkpoints("segmenter"))
