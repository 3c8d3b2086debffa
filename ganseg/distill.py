"""Distillation: a segmenter learns from an endless stream of generated (image, label) pairs."""

import zlib
from pathlib import Path

import torch
import torch.nn.functional as F

from ganseg import arguments, checkpoints, devices, part_names, records, runs
from ganseg.datasets import labelstudio
from ganseg.datasets.loading import load_pictures
from ganseg.datasets.source import locate
from ganseg.devices import rng
from ganseg.errors import UserError
from ganseg.model import loading
from ganseg.model.geometry import to_float
from ganseg.training import autoencoding, losses, self_training, trained_on
from ganseg.training.loop import Loop, progress

MOVES = 0.3  # of photos, see augment


def distill(run, control=False, corrected=None):
    """Train the run's segmenter up to cfg.distill_steps, from its newest checkpoint where there is one.

    run        from runs.open_run(..., needs="gan")
    control    pairs from an untrained generator instead: what the segmenter would learn without the GAN
    corrected  Pictures of read_corrected, which are half of each batch of cfg.finetune_steps further steps
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
    outdated = _outdated(run, name, taught_by)
    before = (None if outdated else run.load_state(name)) or {"step": 0}
    last_step, of_masks = _finetuning(run, None if control else before, corrected)
    facts |= {"self_training": before["self_training"]} if "self_training" in before else {}
    trains_itself = self_training.n_photos(cfg) and not corrected and before["step"] < last_step
    own = self_training.SelfTraining(cfg, *_own_photos(cfg), before.get("self_training")) if trains_itself else None
    S.train()
    with run.held():  # what could be a user's mistake has been read by now
        run.start(device)
        if corrected:
            trained_on.add_corrected(run, corrected)
        loop = Loop(run, stage, name, parts, last_step, outdated, **facts, **of_masks)
        for step in loop.steps():
            labelled = own.photos_at(step, S) if own else corrected
            if own and own.labels is not None:
                loop.facts["self_training"] = own.labels
            loop.add(**distill_step(G, S, optimizer, cfg, step, labelled))
            if record := loop.finish_step():
                yield record


def _own_photos(cfg):
    """The photos of self-training: Pictures, and the same ones larger, (N, 3, L, L) uint8."""
    n = self_training.n_photos(cfg)
    few = {"image_size": max(cfg.image_size, self_training.SEEN_PX), "max_train_pictures": cfg.max_train_pictures or n}
    larger, photos = load_pictures(cfg.model_copy(update=few), "train", n), load_pictures(cfg, "train")
    row_of = {str(name): row for row, name in enumerate(photos.names)}
    return photos.take([row_of[str(name)] for name in larger.names]), larger.images


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


def read_corrected(run):
    """The corrected photos of cfg.finetune_on that are for training, as Pictures with labels 0..K, below 0 not known.

    They are read as the data set `folder` is: half of them are held out by a hash, unless folders train/ and test/ or a
    table say otherwise. Label Studio's JSON becomes such a folder first, corrections/ of the run. Raises UserError for
    masks that cannot be of this run.
    """
    cfg, path = run.cfg, str(locate(run.cfg.finetune_on, "corrected masks", "finetune_on"))
    if path.lower().endswith(".json"):
        photos, path = locate(cfg.source, "the photos that were corrected"), run.folder / "corrections"
        parts = part_names.read_parts(run)
        with run.held():
            labelstudio.unpack(Path(cfg.finetune_on), photos, {parts.names[k - 1]: k for k in parts.numbers}, path)
    own = {"reader": "folder", "source": str(path), "max_train_pictures": None, "split_list": None, "classes": None}
    try:
        photos = load_pictures(cfg.model_copy(update=own), "fit")
    except UserError as error:
        raise UserError(str(error).replace("source:", "finetune_on:", 1)) from None
    if photos.labels is None or not len(photos):
        raise UserError(f"finetune_on: {path} holds no masks to learn from; it should hold images/ and masks/.")
    tops = photos.labels.flatten(1).amax(dim=1)
    if tops.max() > cfg.n_parts:
        raise UserError(f"finetune_on: the mask of {photos.names[int(tops.argmax())]} holds label {int(tops.max())}; "
                        f"{run.label} has the parts 1 to {cfg.n_parts}, and 0 is background.")
    print(f"Fine-tuning on {len(photos):,} corrected photos; held out are others by {photos.split_by}.", flush=True)
    return photos


def _finetuning(run, state, corrected):
    """The last step of a distillation that goes on from a segmenter's state, if any, and facts on corrected masks."""
    if not corrected:
        known = {"league": state["league"]} if state and "league" in state else {}
        return run.cfg.distill_steps, known
    digest = zlib.crc32(corrected.labels.numpy().tobytes(), zlib.crc32(corrected.images.numpy().tobytes()))
    since = state["finetuned_from"] if state.get("corrected") == digest else state["step"]
    league = records.joined([records.league(run.cfg, state), "supervised part masks"])
    return since + run.cfg.finetune_steps, {"corrected": digest, "finetuned_from": since, "league": league}


def distill_all(run):
    """Distil the run's generator and, where the config asks for it, an untrained one as control.

    Where it names corrected masks, the segmenter is fine-tuned on them then.
    """
    if "autoencoder" in (run.load_state("gan") or {}):
        if run.cfg.finetune_on:
            raise UserError(f"finetune_on: {run.label} is an auto-encoder, which learns from no masks; leave it out.")
        print(f"{run.label} is an auto-encoder: it segments photos itself, nothing is distilled.", flush=True)
        autoencoding.keep_as_segmenter(run)
        return
    corrected = read_corrected(run) if run.cfg.finetune_on else None  # refused before hours of distillation
    yield from distill(run)
    if corrected and run.load_state("segmenter")["step"] >= run.cfg.distill_steps:
        yield from distill(run, corrected=corrected)
    if run.cfg.untrained_control:
        print("Control: the same distillation from an untrained generator")
        yield from distill(run, control=True)


def distill_step(G, S, optimizer, cfg, step, labelled=None):
    """One update of the segmenter S with fresh pairs of G; returns the loss and the accuracy as scalar tensors.

    labelled  Pictures of which half of the batch is taken, moved a little and not mirrored; None: pairs alone
    """
    images, labels = generate_pairs(G, cfg, step)
    if labelled:
        n, random = len(images) // 2, rng(cfg.seed, "corrected", step)
        rows = torch.randint(len(labelled), (n,), generator=random)
        photos, masks = (part[rows].to(images.device) for part in (labelled.images, labelled.labels.clamp(min=-1)))
        photos, masks = augment(to_float(photos), masks, random, MOVES)
        images, labels = torch.cat([photos, images[n:]]), torch.cat([masks, labels[n:]])
    torch.manual_seed(cfg.seed * 1_000_003 + step)  # DeepLab's dropout
    with devices.autocast(cfg, images.device):
        logits = S(images)
    loss = losses.segmentation_loss(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"segmentation_loss": loss, "pixel_accuracy": (logits.argmax(dim=1) == labels)[labels >= 0].float().mean()}


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
