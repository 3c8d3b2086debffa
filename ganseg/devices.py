"""Devices, precision and random numbers: what every stage needs before it computes."""

import contextlib
import ctypes
import hashlib
import sys

import torch

from ganseg.errors import UserError


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
    """Let glibc keep large freed blocks, or give them back (its default), after which each must be zeroed anew."""
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    largest = 2**30 if keep else 2**25  # bytes; the smaller one is where glibc ends by itself
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, largest)
        libc.mallopt(M_TRIM_THRESHOLD, min(2 * largest, 2**31 - 1))
        if not keep:
            libc.malloc_trim(0)


def peak_gb():
    """The most GB that this process has taken: of CUDA tensors where CUDA is in use, else of all memory."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def rng(*key):
    """A CPU random generator that depends on the key alone, e.g. (seed, "train", step).

    Each step draws from one of its own, so that a resumed run needs no stored random state.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def autocast(cfg, device):
    """Run in bfloat16 where the config says so and it is safe, else do nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=cfg.precision == "bf16")


def memory_format(cfg, device):
    """channels_last where the config asks for it, on CUDA only. On the CPU a backward pass in it can hang."""
    wanted = cfg.channels_last and device.type == "cuda"
    return torch.channels_last if wanted else torch.contiguous_format
