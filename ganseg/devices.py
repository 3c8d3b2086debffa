"""Devices, precision and random numbers: what every stage needs before it computes."""

import contextlib
import ctypes
import hashlib
import math
import sys
import time

import psutil
import torch

from ganseg.errors import UserError

SMALL_PX, FEW_CORES = 64, 2  # see few_threads


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


class SharedCores:
    """As a context: a training's threads on the CPU, fewer while other programs are busy.

    Threads wait for each other at each layer: two that share their cores with one busy program take three times as
    long as one thread does. So each look leaves the cores to others that they have used since the last one.
    wanted  how many threads, whatever else runs; None: at most as many as torch has now
    """

    def __init__(self, wanted, device):
        self.before = torch.get_num_threads()
        self.most = wanted or self.before
        self.looks = wanted is None and self.most > 1 and device.type == "cpu"

    def __enter__(self):
        torch.set_num_threads(self.most)
        self.seen_s = _cpu_s()
        if self.looks:
            time.sleep(0.5)
            self.look(0.1)
        return self

    def __exit__(self, *_):
        torch.set_num_threads(self.before)

    def look(self, least_s=1.0):
        """Choose the threads anew, unless the last look was less than so many seconds ago; what is new is printed."""
        now_s = _cpu_s()
        past_s, all_s, own_s = (now - then for now, then in zip(now_s, self.seen_s, strict=True))
        if not self.looks or past_s < least_s:
            return
        self.seen_s, others = now_s, max(all_s - own_s, 0) / past_s
        threads, old = free_threads(self.most, psutil.cpu_count(), others), torch.get_num_threads()
        if threads != old:
            torch.set_num_threads(threads)
            print(f"Other programs use {others:.1f} of {psutil.cpu_count()} cores; "
                  f"threads: {threads} instead of {old}.", flush=True)


def free_threads(most, cores, others):
    """How many of `most` threads have a core each, where other programs use `others` (a fraction) of the cores."""
    return min(most, max(1, math.floor(cores - others + 0.25)))


def _cpu_s():
    """Seconds by the clock, of the cores' work for all programs together, and of this one's."""
    times = psutil.cpu_times()  # a guest's time is in the user's
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    return time.monotonic(), sum(getattr(times, kind, 0) for kind in kinds), time.process_time()


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


def has_bf16(device):
    """Whether a device computes in bfloat16 by instructions of its own; without, it takes several times as long."""
    mkldnn = torch.backends.mkldnn.is_available()
    return device.type != "cpu" or (mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def memory_format(cfg, device):
    """channels_last where the config asks for it, on CUDA only. On the CPU a backward pass in it can hang."""
    wanted = cfg.channels_last and device.type == "cuda"
    return torch.channels_last if wanted else torch.contiguous_format


@contextlib.contextmanager
def few_threads(image_size):
    """One thread inside the block where pictures are small or cores are few.

    Of two threads that paint for a browser, one that waits for the browser's core stops both.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if image_size <= SMALL_PX or before <= FEW_CORES else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
