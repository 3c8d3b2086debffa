"""The training step of the released code, as something to compare with."""

from ganseg.training import losses


def reference_step(G, D, optimizer_G, optimizer_D, real, random, cfg, step):
    """A GAN step as the released code makes it: the discriminator's loss goes back through the generator too."""
    generated = G(G.sample_latents(cfg.batch_size, random))
    loss_D = losses.discriminator_loss(D(real), D(generated.image))
    if step % cfg.gradient_penalty_every_steps == 0:
        loss_D = loss_D + cfg.gradient_penalty * losses.gradient_penalty(D.forward, real)
    optimizer_D.zero_grad()
    loss_D.backward()
    optimizer_D.step()

    generated = G(G.sample_latents(cfg.batch_size, random))
    loss_G = losses.generator_loss(D(generated.image))
    if step % cfg.penalty_every_steps == 0:
        masks = generated.masks[:, 1:]
        area = losses.area_loss(masks, losses.area_targets(generated, cfg.area_target))
        loss_G = loss_G + cfg.lambda_con * losses.concentration_loss(masks, generated.centers) + cfg.lambda_area * area
    optimizer_G.zero_grad()
    loss_G.backward()
    optimizer_G.step()
