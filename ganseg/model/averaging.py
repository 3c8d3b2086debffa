"""The averaged generator: exponential moving average of the weights, BatchNorm statistics measured anew."""

import copy

import torch
from torch.optim.swa_utils import update_bn

from ganseg.devices import autocast, rng


def update_ema(averaged, model, decay, step):
    """Move an averaged copy towards the model. The first steps count more, so that the average forgets its start."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for a, b in zip(averaged.parameters(), model.parameters(), strict=True):
            a.lerp_(b, 1 - decay)


def recalibrate_batchnorm(G, cfg, n_batches=16):
    """Measure BatchNorm statistics anew for the weights as they are, and leave G in evaluation mode.

    Averaged weights have no statistics of their own. Those of the trained weights give grey images.
    """
    device = G.w_const.device
    latents = (G.sample_latents(cfg.batch_size, rng(cfg.seed, "recalibrate", i)) for i in range(n_batches))
    with autocast(cfg, device):
        update_bn(([z] for z in latents), G)
    return G.eval()


def averaged_copy(G):
    return copy.deepcopy(G).requires_grad_(False)
