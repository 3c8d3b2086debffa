"""Devices, seeds and sampling: what training, distillation and evaluation share."""

import contextlib
import copy
import ctypes
import hashlib

import torch
from torch.optim.swa_utils import update_bn

from ganseg import runs
from ganseg.errors import UserError
from ganseg.generator import Generated, Generator


def choose_device(name):
    """torch.device of auto (cuda, mps, cpu in this order), cuda, mps or cpu; UserError if it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    if not there[name]:
        raise UserError(f"device: {name} is not available here; use auto or cpu.")
    if name == "cpu":
        keep_freed_memory()
    return torch.device(name)


def keep_freed_memory(keep=True):
    """Let glibc keep large freed blocks (or not, its default): given back, they return as pages to be zeroed first."""
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    largest = 2**30 if keep else 2**25  # bytes; the latter is what glibc arrives at by itself
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, largest)
        libc.mallopt(M_TRIM_THRESHOLD, min(2 * largest, 2**31 - 1))
        if not keep:
            libc.malloc_trim(0)


def rng(*key):
    """A CPU random generator that depends on the key alone, e.g. (seed, "train", step).

    Each step draws from its own one, so that a resumed run continues without a stored random state.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def autocast(cfg, device):
    """Run in bfloat16 where the config says so and it is safe, else do nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=cfg.precision == "bf16")


def memory_format(cfg, device):
    """channels_last where the config asks for it, on CUDA only: on the CPU a backward pass can hang in it."""
    wanted = cfg.channels_last and device.type == "cuda"
    return torch.channels_last if wanted else torch.contiguous_format


def average(averaged, model, decay, step):
    """Move an averaged copy towards the model; the first steps count more, so that it forgets its start."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for a, b in zip(averaged.parameters(), model.parameters(), strict=True):
            a.lerp_(b, 1 - decay)


def recalibrate(G, cfg, n_batches=16):
    """Measure BatchNorm statistics anew for the weights as they are, and leave G in evaluation mode.

    Averaged weights have no statistics of their own; those of the trained weights give grey pictures.
    """
    device = G.w_const.device
    latents = (G.sample_latents(cfg.batch_size, rng(cfg.seed, "recalibrate", i)) for i in range(n_batches))
    with autocast(cfg, device):
        update_bn(([z] for z in latents), G)
    return G.eval()


def load_generator(run, weights="raw", device="cpu"):
    """The run's generator in evaluation mode; weights raw | ema | untrained (a fresh one, as a control)."""
    cfg = run.cfg
    if weights == "untrained":
        return recalibrate(new_generator(cfg).to(device), cfg)
    path, state = run.intact("gan")
    if path is None:
        raise runs.missing(run.folder, "gan")
    return generator_of(cfg, state, weights, path).to(device)


def generator_of(cfg, state, weights, path):
    """The raw or ema generator of a checkpoint's content in evaluation mode; path is for messages."""
    if cfg.architecture != "gan":
        raise UserError(f"{path}: is of an auto-encoder, which paints no pictures of its own; name a GAN's run.")
    key = "ema" if weights == "ema" else "generator"
    if key not in state:
        raise UserError(f"{path}: holds no {weights} generator; name other weights.")
    return runs.load_weights(new_generator(cfg), state[key], path).eval()


def new_generator(cfg):
    """A generator as seeded by the config, without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        return Generator(cfg)


def averaged_copy(G):
    return copy.deepcopy(G).requires_grad_(False)


@torch.no_grad()
def sample(G, n, seed, batch_size=32):
    """n generated pictures with all that belongs to them, on the CPU; features are left out (None)."""
    latents = G.sample_latents(n, rng(seed, "samples"))
    return joined([G(latents[i : i + batch_size]) for i in range(0, n, batch_size)])


def joined(batches):
    """Several Generated as one on the CPU, without features and heatmaps."""
    fields = {
        name: torch.cat([getattr(out, name).float().cpu() for out in batches])
        for name in Generated._fields
        if name not in ("foreground", "background", "heatmaps")
    }
    return Generated(**fields, foreground=None, background=None, heatmaps=None)
