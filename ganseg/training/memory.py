"""Estimates how much memory a GAN training takes, before it starts."""

import os
from pathlib import Path

import torch

from ganseg import distributed
from ganseg.errors import UserError
from ganseg.model import fast
from ganseg.model.discriminator import Discriminator


def gan_step(cfg):
    """What a GAN's step makes of two pictures: (networks that learn, their averaged copies, output)."""
    G, D = fast.build(cfg), Discriminator(cfg)
    image = G(G.sample_latents(2)).image
    scores = D.requires_grad_(False)(image)
    return [G, D], [G], torch.cat([scores[:, None], D.features(image)], dim=1) if D.features else scores


def check(cfg, device, step=gan_step):
    """Raise UserError, naming what to change, where a config's training cannot fit into a device's memory.

    step  as gan_step, of what is to be trained
    """
    room = _room(device)
    fixed, per_picture = estimate(cfg, step)
    n = max(distributed.size(), cfg.devices)
    here = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", n))  # processes that share the room
    if room is None or here * (fixed + cfg.batch_size / n * per_picture) <= room:
        return
    fitting = int((room / here - fixed) / per_picture) * n
    raise UserError(too_little(cfg, device, f", and there are {room / 1e9:.1f} GB", fitting, step))


def too_little(cfg, device, there="", fitting=1, step=gan_step):
    """The sentence for a training that does not fit; fitting is the largest batch size that does."""
    fixed, per_picture = estimate(cfg, step)
    advice = f"choose batch_size {fitting} or less" if fitting >= 2 else "choose a smaller image_size or channels"
    advice += "" if cfg.precision == "bf16" else ", or precision bf16"
    advice += "" if cfg.preset else ", or in a new run preset modern or small, which are for computers without a GPU"
    needed = (fixed + cfg.batch_size * per_picture) / 1e9
    pictures = f"{cfg.batch_size} pictures of {cfg.image_size} pixels"
    return f"batch_size: {pictures} need about {needed:.1f} GB on the {device.type}{there}; {advice}."


def estimate(cfg, step=gan_step):
    """Bytes that a training takes at least: (weights and optimisers, each picture of the batch).

    Counted on PyTorch's meta device, which computes nothing: what the generator's step keeps for its backward pass.
    """
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        networks, averaged, out = step(cfg)  # kept alive, so that no storage is counted twice
    weights = [p for net in networks for p in net.parameters()]
    of_weights = {p.untyped_storage()._cdata for p in weights}
    activations = sum(size for storage, size in kept.items() if storage not in of_weights) / len(out)
    fixed = 4 * 4 * sum(p.numel() for p in weights)  # weights, gradients, two moments of Adam
    fixed += 4 * sum(p.numel() for net in averaged for p in net.parameters())
    return fixed, activations * (0.6 if cfg.precision == "bf16" else 1)  # float32 where it matters


def _room(device):
    """Bytes of memory of a device that this process may take, or None where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and "SC_PHYS_PAGES" in os.sysconf_names:
        return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limits()])
    return None


def _limits(root=Path("/")):
    """Bytes that the control groups of this process allow on Linux: of a container, or of a scheduler's job."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.exists() else []:
        _, kinds, own = line.split(":", 2)
        if kinds in ("", "memory"):  # version 2 has one tree, version 1 one for each kind
            top = root / "sys/fs/cgroup" / kinds
            # Inside a container the own group may be mounted as the top
            for folder in (top, *(top / part for part in Path(own.lstrip("/")).parents), top / own.lstrip("/")):
                for name in ("memory.max", "memory.limit_in_bytes"):
                    text = (folder / name).read_text(encoding="utf-8").strip() if (folder / name).exists() else "max"
                    if text.isdigit():  # else the word max
                        yield int(text)
