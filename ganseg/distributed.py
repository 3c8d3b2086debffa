"""One training in several processes, started by torchrun: each works on its slice of every batch.

All draw the random numbers of the whole batch and make the same decisions. So N processes compute what one does, up
to rounding. Only the first one writes.
"""

import atexit
import os
import sys

import torch
import torch.distributed as dist
from torch import nn

from ganseg.errors import UserError


def size():
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank():
    """The number of this one; 0 writes checkpoints and logs."""
    return int(os.environ.get("RANK", 0))


def start(cfg, device):
    """Join the other processes, if there are any; returns this one's device.

    Raises UserError where the batch cannot be divided.
    """
    if size() == 1:
        return device
    if cfg.batch_size % size():
        raise UserError(f"batch_size: {cfg.batch_size} pictures cannot be divided among {size()} processes; "
                        f"choose a multiple of {size()}.")
    if rank():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # only the first one prints
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)  # threads left running may abort a process at its end
    return device


def wait_for_all():
    """Wait until every process is here."""
    if size() > 1:
        dist.barrier()


def mine(batch):
    """This process's slice of a tensor or Latents of the whole batch."""
    if size() == 1:
        return batch
    n = len(batch[0]) if isinstance(batch, tuple) else len(batch)
    return batch[rank() * n // size() : (rank() + 1) * n // size()]


def mean(value):
    """The mean of a tensor over the processes, without its gradient."""
    return _MeanOfAll.apply(value.detach()) if size() > 1 else value


def any_of(condition, device):
    """Whether a condition holds in any process. All of them must ask."""
    if size() == 1:
        return condition
    flag = torch.tensor(float(condition), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def of_the_first(thing):
    """The first process's value, in every process."""
    if size() == 1:
        return thing
    things = [thing]
    dist.broadcast_object_list(things)
    return things[0]


def average_gradients(network):
    """Replace the gradients of a network by their means over the processes."""
    if size() == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= size()
    for g, averaged in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        g.copy_(averaged.view_as(g))


class _MeanOfAll(torch.autograd.Function):
    """The mean over the processes; its gradient is the mean of theirs."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        dist.all_reduce(total)
        return total / size()

    @staticmethod
    def backward(ctx, gradient):
        return _MeanOfAll.apply(gradient.contiguous())


class _SyncedBatchNorm(nn.BatchNorm2d):
    """BatchNorm with the statistics of all processes' slices together. Unlike torch's it works on the CPU too."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        x32 = x.float()
        mean = _MeanOfAll.apply(x32.mean(dim=(0, 2, 3)))
        centered = x32 - mean[:, None, None]
        var = _MeanOfAll.apply(centered.square().mean(dim=(0, 2, 3)))
        with torch.no_grad():
            self.num_batches_tracked += 1
            n = size() * x[:, 0].numel()
            momentum = self.momentum or 1 / self.num_batches_tracked.item()
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var * n / (n - 1), momentum)
        normed = centered * (var + self.eps).rsqrt()[:, None, None]
        return normed.to(x.dtype)


def synchronise(network):
    """Let a network's BatchNorms use the statistics of all processes. Names and weights stay as they are."""
    if size() > 1:
        for module in network.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = _SyncedBatchNorm
    return network


