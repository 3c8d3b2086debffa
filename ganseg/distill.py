"""Distillation: a segmenter learns from an endless stream of generated (image, label) pairs."""

import torch
import torch.nn.functional as F

from ganseg import arguments, checkpoints, devices, runs
from ganseg.devices import rng
from ganseg.model import loading
from ganseg.training import autoencoding, losses
from ganseg.training.loop import Loop, progress


def distill(run, control=False):
    """Train the run's segmenter up to cfg.distill_steps, from its newest checkpoint where there is one.

    run      from runs.open_run(..., needs="gan")
    control  pairs from an untrained generator instead: what the segmenter would learn without the GAN
    Each pair is made for its step and then dropped, so that memory does not grow with their number.
    Yields one record (dict) per log line, as ganseg.train.train does.
    """
    cfg = run.cfg
    device = devices.choose_device(cfg.device)
    stage, weights = ("control", "untrained") if control else ("distill", cfg.distill_generator)
    name = "control" if control else "segmenter"
    G, taught_by = _teacher(run, weights, device)
    G.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        S = loading.build_segmenter(cfg).to(device, memory_format=devices.memory_format(cfg, device))
    optimizer = torch.optim.Adam(S.parameters(), lr=cfg.lr_segmenter)
    parts = {"segmenter": S, "optimizer": optimizer}
    facts = {"generator_weights": weights, "backbone_weights": cfg.backbone_weights, **taught_by}
    S.train()
    with run.held():  # what could be a user's mistake has been read by now
        run.start(device)
        loop = Loop(run, stage, name, parts, cfg.distill_steps, _outdated(run, name, taught_by), **facts)
        for step in loop.steps():
            loop.add(**distill_step(G, S, optimizer, cfg, step))
            if record := loop.finish_step():
                yield record


def _teacher(run, weights, device):
    """The generator that paints the pairs and which one it is, from one and the same checkpoint."""
    if weights == "untrained":
        return loading.load_generator(run, weights, device), {"gan_step": 0}
    path, state = run.intact("gan")
    if path is None:
        raise runs.missing(run.folder, "gan")
    return loading.generator_of(run.cfg, state, weights, path).to(device), checkpoints.which_gan(state)


def _outdated(run, name, taught_by):
    """The checkpoints of a segmenter that learned from another step, or another attempt at it, of the GAN."""
    before = taught_by | (run.load_state(name) or {})  # older code kept no attempt
    if all(before[fact] == value for fact, value in taught_by.items()):
        return []
    print(f"The GAN has gone from step {before['gan_step']} to {taught_by['gan_step']} since its segmenter was "
          "distilled: distilled anew.")
    return run.checkpoints(name)


def distill_all(run):
    """Distil the run's generator and, where the config asks for it, an untrained one as control."""
    if "autoencoder" in (run.load_state("gan") or {}):
        print(f"{run.label} is an auto-encoder: it segments photos itself, nothing is distilled.", flush=True)
        autoencoding.keep_as_segmenter(run)
        return
    yield from distill(run)
    if run.cfg.untrained_control:
        print("Control: the same distillation from an untrained generator")
        yield from distill(run, control=True)


def distill_step(G, S, optimizer, cfg, step):
    """One update of the segmenter S with fresh pairs of G; returns the loss and the accuracy as scalar tensors."""
    images, labels = generate_pairs(G, cfg, step)
    torch.manual_seed(cfg.seed * 1_000_003 + step)  # DeepLab's dropout
    with devices.autocast(cfg, images.device):
        logits = S(images)
    loss = losses.segmentation_loss(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"segmentation_loss": loss, "pixel_accuracy": (logits.argmax(dim=1) == labels).float().mean()}


@torch.no_grad()
def generate_pairs(G, cfg, step):
    """The pairs of one step: images (B, 3, H, W) in [-1, 1] and labels (B, H, W), the argmax of the masks."""
    latents = G.sample_latents(cfg.distill_batch_size, rng(cfg.seed, "distill", step))
    with devices.autocast(cfg, latents.points.device):
        generated = G(latents)
    images, labels = generated.image, generated.masks.argmax(dim=1)
    if cfg.distill_augment:
        return augment(images, labels, rng(cfg.seed, "augment", step), cfg.distill_moves)
    return images, labels


def first_pairs(run, photos, n=30):
    """Images (N, 3, H, W) and labels (N, H, W), N <= n, that a run's segmenter learns from first.

    photos  (M, 3, H, W) uint8: an auto-encoder, which learns from no pairs, shows what it makes of them
    """
    path, state = run.intact("gan")
    if path is None or "autoencoder" in state:
        painted = loading.paint(run, n, photos)
        return painted.image, painted.masks.argmax(dim=1)
    G = loading.generator_of(run.cfg, state, run.cfg.distill_generator, path)
    return tuple(part[:n] for part in generate_pairs(G, run.cfg, step=0))


def augment(images, labels, random, moves=1.0):
    """Turn, scale, move and recolour each pair by random amounts of its own.

    images (B, 3, H, W) in [-1, 1], labels (B, H, W); random  a CPU generator
    Up to `moves` times 20 degrees, a factor of 1.25, an eighth of the width; contrast, brightness, tint and noise.
    """
    B = len(images)
    uniform = (2 * torch.rand(B, 5, generator=random) - 1).to(images.device)
    turn, grow, right, down = moves * uniform[:, :4].T
    angle, scale = turn * torch.pi / 9, 1.25**grow
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack([cos, -sin, right / 4, sin, cos, down / 4], dim=1).view(B, 2, 3)
    window = F.affine_grid(theta, list(images.shape), align_corners=False)
    reflect = {"padding_mode": "reflection", "align_corners": False}
    images = F.grid_sample(images, window, mode="bilinear", **reflect)
    labels = F.grid_sample(labels[:, None].float(), window, mode="nearest", **reflect)[:, 0].long()

    tint, noise = (torch.randn(B, 3, *size, generator=random).to(images.device) for size in ((1, 1), images.shape[2:]))
    contrast, brightness = 1.4 ** uniform[:, 4, None, None, None], 0.2 * tint.mean(dim=1, keepdim=True)
    recoloured = contrast * images + brightness + 0.1 * tint + 0.05 * noise
    return recoloured.clamp(-1, 1), labels


def _print_progress(run):
    for record in distill_all(run):
        print(progress(record, run.cfg.distill_steps), flush=True)


def main(argv=None):
    """The command `python -m ganseg.distill`."""
    arguments.main("distill", _print_progress, "gan", argv)


if __name__ == "__main__":
    main()
