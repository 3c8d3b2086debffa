"""The GAN's training loop. Run as a module it needs no notebook library."""

import time

import torch

from ganseg import arguments, devices, distributed, files, records
from ganseg.datasets.loading import load_pictures
from ganseg.errors import UserError
from ganseg.model import averaging, loading, sampling
from ganseg.model.discriminator import Discriminator
from ganseg.training import autoencoding, launch, losses, memory, trained_on
from ganseg.training.batches import Batches
from ganseg.training.loop import Loop, progress

N_SAMPLES = 30  # pictures in each file of samples/
N_MEASURED = 64  # photos that say how large features are


def train(run):
    """Train the run's GAN (or auto-encoder) up to cfg.max_steps, from its newest checkpoint where there is one.

    run  from runs.open_run; its folder is made here
    Yields one record (dict) per log line: losses are means since the line before, time_s is the time spent
    so far, left_s the time left. Raises UserError when a loss is not finite, and where the run was trained on other
    pictures.
    """
    of_others = [record for record in run.records("evaluate") if records.MASKS in record.get("notes", {})]
    if of_others or (run.newest("segmenter") and not run.newest("gan")):  # they would pass for the GAN's
        raise UserError(f"run: {run.label} holds parts that no GAN of its own taught; give another name with --run.")
    cfg = run.cfg
    gan = cfg.architecture == "gan"
    if not gan:
        autoencoding.check(cfg)
    to_launch = cfg.devices > 1 and distributed.size() == 1
    if to_launch:
        launch.check(cfg)
    device = distributed.start(cfg, devices.choose_device(cfg.device))
    photos = _load_photos(run)
    memory.check(cfg, device, memory.gan_step if gan else autoencoding.step)
    networks = _networks(cfg, photos.images) if gan else loading.warm_start(cfg, autoencoder=autoencoding.network(cfg))
    with run.held():  # what could be a user's mistake has been read by now
        trained_on.check(run, photos)
        run.start(device, trains=True)
        trained_on.keep(run, photos)
        distributed.wait_for_all()
        _list_skipped(run, photos)
        if not to_launch:
            real_batch = Batches(photos.images, cfg, device)
            facts = {"trained_on": trained_on.digest(photos.checksums)}
            yield from (_train_gan if gan else autoencoding.train)(run, networks, real_batch, device, **facts)
    if to_launch:
        yield from launch.launch(run)  # its first process holds the run


def _train_gan(run, networks, real_batch, device, **facts):
    """The GAN's loop: load, then for each step generate, update both networks, average, log, sample, save.

    facts  plain values kept in each checkpoint
    """
    cfg = run.cfg
    G, D, G_ema = (net.to(device, memory_format=devices.memory_format(cfg, device)) for net in networks)
    if cfg.compile:
        compile_networks(G, D)
    optimizer_G, optimizer_D = optimizers(G, D, cfg)
    distributed.synchronise(G)
    parts = {"generator": G, "discriminator": D, "ema": G_ema}
    parts |= {"optimizer_generator": optimizer_G, "optimizer_discriminator": optimizer_D}
    loop = Loop(run, "train", "gan", parts, cfg.max_steps, **facts)
    G.train()
    D.train()

    for step in loop.steps():
        random = loop.random(step)
        real = distributed.mine(real_batch(step, random))
        try:
            loop.add(**gan_step(G, D, optimizer_G, optimizer_D, real, random, cfg, step))
        except torch.OutOfMemoryError:
            raise UserError(memory.too_little(cfg, device)) from None
        averaging.update_ema(G_ema, G, cfg.ema_decay, step)
        record = loop.finish_step(
            prepare=lambda: averaging.recalibrate_batchnorm(G_ema, cfg),
            draw=lambda: sampling.sample(G_ema, N_SAMPLES, cfg.seed),
        )
        if record:
            yield record  # last, so that a caller who stops here loses nothing


def compile_networks(G, D):
    """Compile the generator's blocks and the discriminator in place. Names and weights stay as they are."""
    for block in [*G.mask_blocks, *G.foreground_blocks, *G.background_blocks]:
        block.compile()
    D.compile()


def optimizers(G, D, cfg):
    """Adam of the generator and of the discriminator."""
    return [
        torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.9), fused=True)
        for net, lr in ((G, cfg.lr_generator), (D, cfg.lr_discriminator))
    ]


def gan_step(G, D, optimizer_G, optimizer_D, real, random, cfg, step):
    """One update of the discriminator, then one of the generator.

    real    (B, 3, S, S) in [-1, 1] on the training device, of several processes this one's slice
    random  the step's CPU generator, from which latents are drawn
    Returns the losses and penalties of this step by name, as scalar tensors.
    """
    with torch.set_grad_enabled(cfg.share_fakes):  # the generator's graph is kept only where it will be used
        generated, seen = _generate(G, D, cfg, random)
    values = _discriminator_losses(D, real, generated.image.detach(), [x.detach() for x in seen], cfg, step)
    loss_D = values["discriminator_loss"] + values.get("features_discriminator_loss", 0)
    _update(D, optimizer_D, loss_D + cfg.gradient_penalty * values.get("gradient_penalty", 0))

    D.requires_grad_(False)
    if not cfg.share_fakes:
        generated, seen = _generate(G, D, cfg, random)
    values |= _generator_losses(D, generated, seen, cfg, step)
    loss_G = _image_loss(generated.image, values, cfg) + cfg.lambda_range * values.get("range_penalty", 0)
    loss_G = loss_G + losses.concentration_weight(cfg, step) * values.get("concentration_loss", 0)
    _update(G, optimizer_G, loss_G + cfg.lambda_area * values.get("area_loss", 0))
    D.requires_grad_(True)
    return values


def _generate(G, D, cfg, random):
    """A batch of fakes, of several processes this one's slice, and their features: [] where there are none."""
    latents = distributed.mine(G.sample_latents(cfg.batch_size, random))
    with devices.autocast(cfg, latents.points.device):
        generated = G(latents)
        return generated, D.features.project(generated.image) if D.features else []


def _discriminator_losses(D, real, fake, seen, cfg, step):
    """Losses and penalties of the discriminators: scalar tensors by name, not weighted.

    real, fake  images (B, 3, S, S)
    seen        the fakes' features, where the config has some
    """
    with devices.autocast(cfg, real.device):
        scores = D(torch.cat([real, fake]))
    values = {"discriminator_loss": losses.discriminator_loss(*scores.chunk(2))}
    if D.features:
        with devices.autocast(cfg, real.device), torch.no_grad():
            of_real = D.features.project(real)
        with devices.autocast(cfg, real.device):
            scores = D.features.score([torch.cat(pair) for pair in zip(of_real, seen, strict=True)])
        values["features_discriminator_loss"] = losses.hinge_loss(*scores.chunk(2))
    if step % cfg.gradient_penalty_every_steps == 0 and cfg.gradient_penalty > 0:
        # Not as compiled: torch.compile has no second derivatives
        values["gradient_penalty"] = losses.gradient_penalty(D.forward, real)
    return values


def _generator_losses(D, generated, seen, cfg, step):
    """Losses and penalties of the generator, as of _discriminator_losses."""
    with devices.autocast(cfg, generated.image.device):
        values = {"generator_loss": losses.generator_loss(D(generated.image))}
        if seen:
            values["features_generator_loss"] = -D.features.score(seen).mean()
    if cfg.lambda_range:
        values["range_penalty"] = losses.range_penalty(generated.image)
    if step % cfg.penalty_every_steps == 0:
        masks = generated.masks[:, 1:]
        values["concentration_loss"] = losses.concentration_loss(masks, generated.centers)
        values["area_loss"] = losses.area_loss(masks, losses.area_targets(generated, cfg.area_target))
    return values


def _image_loss(image, values, cfg):
    """What both discriminators want of an image, as one loss.

    The features' gradient is as large as lambda_features times the other one's, whatever their scores mean.
    """
    if "features_generator_loss" not in values:
        return values["generator_loss"]
    own, of_features = (torch.autograd.grad(values[name], image, retain_graph=True)[0]
                        for name in ("generator_loss", "features_generator_loss"))
    squares = distributed.mean(torch.stack([own.square().mean(), of_features.square().mean()]))
    ratio = (squares[0] / squares[1].clamp(min=1e-20)).sqrt()
    return (image * (own + cfg.lambda_features * ratio * of_features)).sum()


def _update(network, optimizer, loss):
    """One step of an optimiser down the gradient of a loss, averaged over the processes."""
    optimizer.zero_grad()
    loss.backward()
    distributed.average_gradients(network)
    optimizer.step()


def _load_photos(run):
    photos = load_pictures(run.cfg, "train")
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
        files.write_text(run.folder / "skipped_pictures.txt", "".join(lines))
        print(f"{len(lines)} pictures could not be read: see {run.folder / 'skipped_pictures.txt'}")


def _networks(cfg, photos):
    """Generator, discriminator and averaged generator, seeded, or from the warm start's checkpoint."""
    G = loading.build_generator(cfg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed + 1)
        D = Discriminator(cfg)
    if D.features:
        D.features.measure(photos[:N_MEASURED])
    return loading.warm_start(cfg, generator=G, discriminator=D, ema=averaging.averaged_copy(G))


def seconds_per_step(cfg, n_steps=3):
    """How long a step of the GAN takes on this machine: the mean of a few on noise, after one that is not counted."""
    device, S = devices.choose_device(cfg.device), cfg.image_size
    noise = torch.rand(N_MEASURED, 3, S, S, generator=devices.rng(cfg.seed, "noise"))
    G, D, _ = (net.to(device) for net in _networks(cfg, (255 * noise).byte()))
    both, real = optimizers(G, D, cfg), (2 * noise[torch.arange(cfg.batch_size) % N_MEASURED] - 1).to(device)
    ends = []
    for step in range(n_steps + 1):
        values = gan_step(G, D, *both, real, devices.rng(cfg.seed, "noise", step), cfg, step)
        values["generator_loss"].item()  # waits for a GPU
        ends.append(time.perf_counter())
    return (ends[-1] - ends[0]) / n_steps


def _print_progress(run):
    for record in train(run):
        print(progress(record, run.cfg.max_steps), flush=True)


def main(argv=None):
    """The command `python -m ganseg.train`."""
    arguments.main("train", _print_progress, argv=argv)


if __name__ == "__main__":
    main()
