"""What a step is compared with (the released code's, the machine's rate), what that shows; the clock."""

import time

import numpy as np
import torch

from ganseg.training import losses

# Fewer pairs than this, or quartiles further apart than this share of the median, show nothing
FEWEST_PAIRS, WIDEST = 5, 0.25
SLOW_S = 0.2


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


def matrix_rate(device, dtype):
    """Floating-point operations a second that the machine reaches: the best of matrix products and convolutions.

    They grow until one takes SLOW_S, for a CPU without instructions for bf16 takes a thousand times as long.
    """
    kernel, best = torch.randn(256, 256, 3, 3, device=device, dtype=dtype), 0.0
    for n in (128, 512, 2048, 8192) if device.type == "cuda" else (128, 512, 2048):
        a = torch.randn(n, n, device=device, dtype=dtype)
        x = torch.randn(1, 256, n // 32, n // 32, device=device, dtype=dtype)
        for work, function, args in ((2 * n**3, torch.matmul, (a, a)),
                                     (2 * x.numel() * 256 * 9, torch.conv2d, (x, kernel, None, 1, 1))):  # padding 1
            taken = seconds(device, function, *args)
            if taken < SLOW_S:
                taken = min(seconds(device, function, *args) for _ in range(5))
            best = max(best, work / taken)
            if taken > SLOW_S:
                return best
    return best


def spread(ratios):
    """The median of ratios, their quartiles and how many they are, as a dict."""
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    return {"ratio": middle, "ratio_low": low, "ratio_high": high, "pairs": len(ratios)}


def conclusion(record):
    """What a record of compare_ways shows, in words: nothing where there are few pairs or they differ much."""
    ratio, low, high, n = (record[name] for name in ("ratio", "ratio_low", "ratio_high", "pairs"))
    if n < FEWEST_PAIRS:
        return f"nothing: of {n} pairs chance decides, take n_steps {FEWEST_PAIRS} or more"
    if high - low > WIDEST * ratio:
        return f"nothing: half of the pairs lie between {low:.2f} and {high:.2f}, the machine was busy; repeat it"
    return f"no difference of {n} pairs" if low <= 1 <= high else f"{ratio:.2f} times as fast"


def seconds(device, function, *args):
    """How long a call takes, the work on the device included."""
    start = now(device)
    function(*args)
    return now(device) - start


def now(device):
    """Seconds of a clock, read once the device has done its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()
