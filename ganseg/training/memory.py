"""Estimates how much memory a GAN training takes, before it starts."""

import os
import resource
import sys

import torch

from ganseg import distributed
from ganseg.errors import UserError
from ganseg.model import fast
from ganseg.model.discriminator import Discriminator


def check(cfg, device):
    """Raise UserError, naming what to change, where a config's training cannot fit into a device's memory."""
    room = _room(device)
    fixed, per_picture = estimate(cfg)
    if room is None or fixed + cfg.batch_size / distributed.size() * per_picture <= room:
        return
    fitting = int((room - fixed) / per_picture) * distributed.size()
    raise UserError(too_little(cfg, device, f", and there are {room / 1e9:.1f} GB", fitting))


def too_little(cfg, device, there="", fitting=1):
    """The sentence for a training that does not fit; fitting is the largest batch size that does."""
    fixed, per_picture = estimate(cfg)
    advice = f"choose batch_size {fitting} or less" if fitting >= 2 else "choose a smaller image_size or channels"
    advice += "" if cfg.precision == "bf16" else ", or precision bf16"
    needed = (fixed + cfg.batch_size * per_picture) / 1e9
    pictures = f"{cfg.batch_size} pictures of {cfg.image_size} pixels"
    return f"batch_size: {pictures} need about {needed:.1f} GB on the {device.type}{there}; {advice}."


def estimate(cfg):
    """Bytes that a training takes at least: (weights and optimisers, each picture of the batch).

    Counted on PyTorch's meta device, which computes nothing: what the generator's step keeps for its backward pass.
    """
    with torch.device("meta"):
        G, D = fast.build(cfg), Discriminator(cfg)
        latents = G.sample_latents(2)
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    of_weights = {p.untyped_storage()._cdata for net in (G, D) for p in net.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = D.requires_grad_(False)(G(latents).image)  # kept alive, so that no storage is counted twice
    activations = sum(size for storage, size in kept.items() if storage not in of_weights) / len(scores)
    count = {net: sum(p.numel() for p in net.parameters()) for net in (G, D)}
    fixed = 4 * (5 * count[G] + 4 * count[D])  # weights, gradients, two moments of Adam, the averaged generator
    return fixed, activations * (0.6 if cfg.precision == "bf16" else 1)  # float32 where it matters


def peak_gb():
    """The most GB that this process has taken: of CUDA tensors where CUDA is in use, else of all memory."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _room(device):
    """Bytes of memory of a device, or None where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
