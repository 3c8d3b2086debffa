"""The GAN loop. Run as a module it trains without any notebook library."""

import time

import torch
import torch.nn.functional as F

from ganseg import config, datasets, losses, pictures, runs, sampling
from ganseg.discriminator import Discriminator
from ganseg.errors import UserError
from ganseg.sampling import rng

N_SAMPLES = 30  # pictures in each file of samples/


def train(run):
    """Train the run's GAN up to cfg.max_steps, from its newest checkpoint where there is one.

    run  from runs.open_run; its folder is made here
    Yields one record (dict) per log line: losses are means since the line before, time_s is the time spent
    so far, left_s the time left. Raises UserError when a loss is not finite.
    """
    cfg = run.cfg
    device = sampling.choose_device(cfg.device)
    photos = _load_pictures(run)
    images = photos.images.to(device)
    run.start(device)
    _list_skipped(run, photos)

    # Load
    G, D, G_ema = (net.to(device, memory_format=sampling.memory_format(cfg)) for net in _networks(cfg))
    optimizer_G = torch.optim.Adam(G.parameters(), lr=cfg.lr_generator, betas=(0.5, 0.9))
    optimizer_D = torch.optim.Adam(D.parameters(), lr=cfg.lr_discriminator, betas=(0.5, 0.9))
    parts = {"generator": G, "discriminator": D, "ema": G_ema}
    parts |= {"optimizer_generator": optimizer_G, "optimizer_discriminator": optimizer_D}
    first_step, window = _resume(run, parts)
    clock = _Clock(run, first_step, cfg.max_steps)
    G.train()
    D.train()

    for step in range(first_step, cfg.max_steps):
        random = rng(cfg.seed, "train", step)
        real = _real_batch(images, step, cfg, random)
        latents = G.sample_latents(cfg.batch_size, random)

        # Generate, with the generator's graph only where it will be used
        with sampling.autocast(cfg, device), torch.set_grad_enabled(cfg.share_fakes):
            generated = G(latents)

        # Discriminator step
        with sampling.autocast(cfg, device):
            scores = D(torch.cat([real, generated.image.detach()]))
        loss_D = losses.discriminator_loss(*scores.chunk(2))
        window.setdefault("discriminator_loss", []).append(loss_D.detach())
        if step % cfg.gradient_penalty_every_steps == 0 and cfg.gradient_penalty > 0:
            penalty = losses.gradient_penalty(D, real)
            loss_D = loss_D + cfg.gradient_penalty * penalty
            window.setdefault("gradient_penalty", []).append(penalty.detach())
        optimizer_D.zero_grad()
        loss_D.backward()
        optimizer_D.step()

        # Generator step
        D.requires_grad_(False)
        with sampling.autocast(cfg, device):
            if not cfg.share_fakes:
                generated = G(G.sample_latents(cfg.batch_size, random))
            loss_G = losses.generator_loss(D(generated.image))
        window.setdefault("generator_loss", []).append(loss_G.detach())
        if step % cfg.penalty_every_steps == 0:
            parts_masks = generated.masks[:, 1:]
            concentration = losses.concentration_loss(parts_masks, generated.centers)
            area = losses.area_loss(parts_masks, losses.area_targets(generated, cfg.area_target))
            loss_G = loss_G + cfg.lambda_con * concentration + cfg.lambda_area * area
            window.setdefault("concentration_loss", []).append(concentration.detach())
            window.setdefault("area_loss", []).append(area.detach())
        optimizer_G.zero_grad()
        loss_G.backward()
        optimizer_G.step()
        D.requires_grad_(True)
        sampling.average(G_ema, G, cfg.ema_decay, step)

        # Log, sample, save
        done = step + 1
        is_last = done == cfg.max_steps
        due = {kind: is_last or done % getattr(cfg, f"{kind}_every_steps") == 0 for kind in ("log", "sample", "save")}
        if any(due.values()):
            _check_finite(run, window, done, G, D)
        if due["log"]:
            record = run.log("train", done, **_means(window), **clock.read(done))
            window = {}
            yield record
        if due["sample"] or due["save"]:
            sampling.recalibrate(G_ema, cfg)
        if due["sample"]:
            _save_samples(run, G_ema, done)
        if due["save"]:
            state = {name: part.state_dict() for name, part in parts.items()}
            run.save("gan", done, {**state, "window": {name: torch.stack(v) for name, v in window.items()}})


def progress(record, max_steps):
    """A log record as one line for people."""
    left = time.strftime("%H:%M:%S", time.gmtime(record["left_s"]))
    values = {k: v for k, v in record.items() if k.endswith(("loss", "penalty", "accuracy"))}
    numbers = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items())
    return f"step {record['step']}/{max_steps}  {record['steps_per_s']:.2f} steps/s  {left} left  {numbers}"


def _load_pictures(run):
    photos = datasets.load(run.cfg, "train")
    if len(photos) < run.cfg.batch_size:
        names = ", ".join(name for name, _ in photos.skipped[:10])
        unread = f" ({len(photos.skipped)} could not be read: {names})" if photos.skipped else ""
        raise UserError(
            f"source: {len(photos)} pictures can be read{unread}, fewer than batch_size = {run.cfg.batch_size}; "
            "add pictures or choose a smaller batch_size."
        )
    return photos


def _list_skipped(run, photos):
    """Write the pictures that could not be read, by name, into the run."""
    if photos.skipped:
        lines = [f"{name}\t{reason}\n" for name, reason in photos.skipped]
        (run.folder / "skipped_pictures.txt").write_text("".join(lines))
        print(f"{len(lines)} pictures could not be read: see {run.folder / 'skipped_pictures.txt'}")


def _networks(cfg):
    """Generator, discriminator and averaged generator, seeded, or from the warm start's checkpoint."""
    G = sampling.new_generator(cfg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed + 1)
        D = Discriminator(cfg)
    G_ema = sampling.averaged_copy(G)
    if cfg.warm_start:
        state = runs.load_checkpoint(cfg.warm_start)
        for name, net in (("generator", G), ("discriminator", D), ("ema", G_ema)):
            if name not in state:
                raise UserError(f"warm_start: {cfg.warm_start} has no {name}; name a checkpoint gan-*.pt of a run.")
            runs.load_weights(net, state[name], cfg.warm_start)
    return G, D, G_ema


def _resume(run, parts):
    """Load the newest checkpoint into the parts; the step to go on from and the values not yet logged."""
    state = run.load("gan")
    if state is None:
        run.rewind({"train", "samples"}, 0)
        return 0, {}
    for name, part in parts.items():
        if name in state:  # released weights come without optimisers
            runs.load_weights(part, state[name], run.newest("gan"))
    run.rewind({"train", "samples"}, state["step"])
    return state["step"], {name: list(values) for name, values in state.get("window", {}).items()}


def _real_batch(images, step, cfg, random):
    """Batch number `step` of an endless pass over the shuffled pictures: (B, 3, S, S) in [-1, 1]."""
    B = cfg.batch_size
    epoch, i = divmod(step, len(images) // B)
    order = torch.randperm(len(images), generator=rng(cfg.seed, "order", epoch))
    batch = images[order[i * B : (i + 1) * B].to(images.device)].float() / 127.5 - 1
    if cfg.random_resized_crop:
        batch = _resized_crop(batch, random)
    if cfg.flip:
        flipped = (torch.rand(B, 1, 1, 1, generator=random) < 0.5).to(images.device)
        batch = torch.where(flipped, batch.flip(-1), batch)
    return batch.contiguous(memory_format=sampling.memory_format(cfg))


def _resized_crop(batch, random):
    """A crop of 0.9-1 of the area and an aspect ratio of 0.9-1.1 from each picture, at its old size."""
    B = len(batch)
    area, ratio, x, y = torch.rand(4, B, generator=random)
    area, ratio = 0.9 + 0.1 * area, torch.exp((2 * ratio - 1) * torch.tensor(1.1).log())
    w, h = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(B, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = w, h
    theta[:, 0, 2], theta[:, 1, 2] = (2 * x - 1) * (1 - w), (2 * y - 1) * (1 - h)
    window = F.affine_grid(theta, list(batch.shape), align_corners=False).to(batch.device)
    return F.grid_sample(batch, window, mode="bilinear", padding_mode="reflection", align_corners=False)


def _means(window):
    return {name: torch.stack(values).mean().item() for name, values in window.items()}


def _check_finite(run, window, done, G, D):
    """Raise UserError naming the first step whose loss is not finite."""
    n = len(window["generator_loss"])
    for name, values in window.items():
        finite = torch.stack(values).isfinite()
        if not finite.all():
            at = done - n + int((~finite).nonzero()[0]) * (n // len(values)) + 1
            raise _not_finite(run, f"the {name} at step {at}")
    if not all(p.isfinite().all() for net in (G, D) for p in net.parameters()):
        raise _not_finite(run, f"a weight after step {done}")


def _not_finite(run, what):
    last = run.newest("gan")
    return UserError(
        f"{run.label}: {what} is not finite, training stopped; the last good checkpoint is {last or 'none'}. "
        "Try a lower lr_generator or lr_discriminator, or another seed."
    )


@torch.no_grad()
def _save_samples(run, G, done):
    """Write samples/<step>.png, of the same latents every time, and log how its parts are used."""
    out = sampling.sample(G, N_SAMPLES, run.cfg.seed)
    pictures.save(pictures.samples_sheet(out, n_columns=5), run.folder / "samples" / f"{done:08d}.png")
    shares = out.masks.mean(dim=(0, 2, 3)).tolist()
    run.log("samples", done, background_share=shares[0], **{f"part_{k}_share": s for k, s in enumerate(shares) if k})


class _Clock:
    """Time spent in a run over all its pieces, speed, and time left."""

    def __init__(self, run, first_step, max_steps, stage="train"):
        self.spent_s = max((r["time_s"] for r in run.records(stage)), default=0.0)
        self.start, self.last = time.monotonic(), (time.monotonic(), first_step)
        self.max_steps = max_steps

    def read(self, done):
        now = time.monotonic()
        before, step_before = self.last
        rate = (done - step_before) / max(now - before, 1e-9)
        self.last = (now, done)
        spent_s = self.spent_s + now - self.start
        left_s = (self.max_steps - done) / rate
        return {"time_s": round(spent_s, 3), "steps_per_s": round(rate, 4), "left_s": round(left_s, 1)}


def main(argv=None):
    from ganseg import cli

    cli.run_stage("train", argv)


if __name__ == "__main__":
    main()
