"""The networks of a run: fresh from its config, or from its checkpoints."""

import torch

from ganseg import checkpoints, runs
from ganseg.errors import UserError
from ganseg.model import autoencoder, fast, sampling, segmenter
from ganseg.model.averaging import recalibrate_batchnorm
from ganseg.model.clusters import Clusters, load_backbone
from ganseg.model.consensus import Consensus


def build_generator(cfg):
    """A generator as seeded by the config, without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        return fast.build(cfg)


def warm_start(cfg, **networks):
    """Networks, in a list, with the weights that the checkpoint cfg.warm_start, if there is one, holds for their names.

    Raises UserError where it lacks one, or has one of another shape.
    """
    state = checkpoints.load_checkpoint(cfg.warm_start) if cfg.warm_start else {}
    for name, network in networks.items() if cfg.warm_start else ():
        if name not in state:
            raise UserError(f"warm_start: {cfg.warm_start} has no {name}; name a run's checkpoint gan-*.pt.")
        checkpoints.load_weights(network, state[name], cfg.warm_start)
    return list(networks.values())


def load_generator(run, weights="raw", device="cpu"):
    """The run's generator in evaluation mode.

    weights  raw, ema, or untrained: a fresh one, as a control
    Raises UserError where the run has none, or one of another shape.
    """
    cfg = run.cfg
    if weights == "untrained":
        return recalibrate_batchnorm(build_generator(cfg).to(device), cfg)
    path, state = run.intact("gan")
    if path is None:
        raise runs.missing(run.folder, "gan")
    return generator_of(cfg, state, weights, path).to(device)


def paint(run, n, images, weights=None, seed=None, device="cpu", checkpoint=None):
    """n pictures that a run paints, as Generated on the CPU: from random latents, or of what an auto-encoder sees.

    images      (N, 3, H, W) uint8: an auto-encoder paints the first n again
    weights     raw or ema; None: those that the run distils
    seed        of the latents; None: the run's
    checkpoint  (path, content) of a GAN; None: the newest
    Raises UserError where the run has none.
    """
    path, state = checkpoint or run.intact("gan")
    if path is None:
        raise runs.missing(run.folder, "gan")
    if "autoencoder" in state:
        network = checkpoints.load_weights(autoencoder.Autoencoder(run.cfg), state["autoencoder"], path)
        return autoencoder.reconstruct(network.to(device).eval(), images[:n])
    G = generator_of(run.cfg, state, weights or run.cfg.distill_generator, path).to(device)
    return sampling.sample(G, n, run.cfg.seed if seed is None else seed)


def generator_of(cfg, state, weights, path):
    """The raw or ema generator of a checkpoint's content in evaluation mode; path is for messages."""
    if "autoencoder" in state:
        raise UserError(f"{path}: is of an auto-encoder, which paints no pictures of its own; name a GAN's run.")
    key = "ema" if weights == "ema" else "generator"
    if key not in state:
        raise UserError(f"{path}: holds no {weights} generator; name other weights.")
    return checkpoints.load_weights(build_generator(cfg), state[key], path).eval()


def build_segmenter(cfg):
    """A fresh segmenter of a config; an auto-encoder segments by itself."""
    return segmenter.build(cfg) if cfg.architecture == "gan" else autoencoder.AsSegmenter(cfg)


def load_segmenter(run, device="cpu"):
    """The network of read_segmenter alone. Says so where the GAN has trained on since."""
    network, state = read_segmenter(run, device=device)
    newest = run.newest("gan")
    if newest and state.get("gan_step", checkpoints.step_of(newest)) != checkpoints.step_of(newest):
        print(f"Note: the segmenter of {run.label} learned from step {state['gan_step']} of the GAN, which is at "
              f"{checkpoints.step_of(newest)} now; learn from that with: {run.command('distill')}", flush=True)
    return network


def read_segmenter(run, name="segmenter", device="cpu", step=None):
    """A run's newest segmenter (or control, or that of a step) in evaluation mode, and the content of its checkpoint.

    Raises UserError where the run has none, or one of another shape.
    """
    path, state = run.intact(name, step)
    if path is None:
        raise runs.missing(run.folder, "segmenter")
    return ready(segmenter_of(run.cfg, state, path), device), state


def ready(network, device):
    """A network in evaluation mode on a device, on the CPU in channels_last, in which convolutions take less time."""
    on_cpu = torch.device(device).type == "cpu"
    return network.to(device, memory_format=torch.channels_last if on_cpu else torch.preserve_format).eval()


def segmenter_of(cfg, state, path):
    """The segmenter of a checkpoint's content, which may be a consensus; path is for messages."""
    cfg = cfg.model_copy(update={"backbone_weights": "none"})  # the checkpoint holds it
    if state.get("members"):
        members = [build_segmenter(cfg) for _ in range(state["members"])]
        network = Consensus(members, torch.zeros(len(members), cfg.n_parts + 1))
    elif "network" in state:
        network = Clusters(load_backbone(state["network"], pretrained=False), cfg.n_parts)
    else:
        network = build_segmenter(cfg)
    return checkpoints.load_weights(network, state.get("segmenter"), path)
