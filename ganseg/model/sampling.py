"""Generated images by seed: the same seed gives every caller the same images."""

import torch

from ganseg.devices import rng
from ganseg.model.generator import Generated


@torch.no_grad()
def sample(G, n, seed, batch_size=32):
    """n generated images as Generated on the CPU, without features and heatmaps (None)."""
    latents = G.sample_latents(n, rng(seed, "samples"))
    return joined([G(latents[i : i + batch_size]) for i in range(0, n, batch_size)])


def joined(batches):
    """Several Generated joined into one on the CPU, without features and heatmaps."""
    fields = {
        name: torch.cat([getattr(out, name).float().cpu() for out in batches])
        for name in Generated._fields
        if name not in ("foreground", "background", "heatmaps")
    }
    return Generated(**fields, foreground=None, background=None, heatmaps=None)
