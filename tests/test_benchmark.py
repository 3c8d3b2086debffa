"""The saved work changes no result: the plain layers of the reference compute the same; the comparisons run."""

import gc
import math

import pytest
import torch

from ganseg import benchmark, layers, sampling, train
from ganseg.discriminator import Discriminator
from ganseg.sampling import rng

CPU = torch.device("cpu")
MARGINS = [0, 1, 2, 3, 6, 12]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("point_divisor", [1.0, 10.0, 100.0])  # parts everywhere, in the middle, nowhere
@pytest.mark.parametrize("margin", MARGINS)
def test_what_is_not_computed_changes_no_pixel_and_no_statistic(tiny, margin, point_divisor, training):
    cfg = tiny(margin=margin, point_divisor=point_divisor)
    ours, plain = sampling.new_generator(cfg), sampling.new_generator(cfg)
    benchmark._make_plain(plain)
    latents = ours.sample_latents(4, rng(0))
    pairs = zip(ours.train(training)(latents), plain.train(training)(latents), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    for (name, a), b in zip(ours.named_buffers(), plain.buffers(), strict=True):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("margin, point_divisor", [(3, 2.0), (12, 2.0), (6, 10.0), (12, 100.0)])
def test_gradients_are_those_of_the_plain_layers(tiny, margin, point_divisor):
    cfg = tiny(margin=margin, point_divisor=point_divisor)
    gradients = []
    for make_plain in (False, True):
        G = sampling.new_generator(cfg)
        if make_plain:
            benchmark._make_plain(G)
        out = G(G.sample_latents(4, rng(0)))
        (out.image.square().mean() + out.masks[:, 1].square().mean()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in G.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-4 * gradients[1].abs().max().item(), rtol=1e-3)


def test_equal_lines_are_counted_up_to_the_middle():
    weights = torch.zeros(2, 3, 20, 24)
    assert layers.n_alike(weights) == [10, 10, 12, 12]
    weights[1, 2, 4, 17] = 1  # rows 0 to 3 are alike, columns 18 to 23
    assert layers.n_alike(weights) == [4, 10, 12, 6]
    weights[0, 0, 19] = 1
    weights[0, 1, :, 0] = 1
    assert layers.n_alike(weights) == [4, 1, 1, 6]
    style = layers.style_map(weights, torch.ones(2, 3, 4), [4, 1, 1, 6])
    assert style.patches.shape == (2, 27, 20, 23) and style.left_out == (0, 0, 0, 1)


def test_the_reference_makes_the_same_step_with_more_work(tiny):
    cfg = tiny(margin=3, batch_size=4, share_fakes=False)
    real, weights = torch.rand(4, 3, 32, 32, generator=rng(1)), []
    for make in (train.gan_step, benchmark.reference_step):
        G, D = sampling.new_generator(cfg).train(), seeded_discriminator(cfg)
        make(G, D, *train.optimizers(G, D, cfg), real, rng(0), cfg, 0)
        weights.append(torch.cat([p.detach().flatten() for net in (G, D) for p in net.parameters()]))
    # Adam's first step is the learning rate times the gradient's sign: rounding turns a few that are nearly 0
    assert (weights[0] - weights[1]).abs().gt(1e-6).float().mean() < 0.02
    way = benchmark.Way()
    assert benchmark.flops(cfg, benchmark.REFERENCE, CPU) > 1.4 * benchmark.flops(cfg, way, CPU)


def test_every_change_is_compared_with_numbers(tiny):
    cfg = tiny(batch_size=2)
    records = list(benchmark.compare(cfg, CPU, n_steps=1))
    assert [r["change"] for r in records] == list(benchmark.changes(CPU, compiled=False))
    numbers = [value for r in records for name, value in r.items() if name not in ("change",) and "peak" not in name]
    assert all(value > 0 and math.isfinite(value) for value in numbers)
    sustained = benchmark.sustained(cfg, CPU, n_steps=2)
    assert sustained["minutes_30000"] == pytest.approx(500 / sustained["steps_per_s"])


def test_no_trainer_of_a_row_is_left_in_memory_for_the_next(tiny):
    rows = benchmark.compare(tiny(batch_size=2), CPU, n_steps=1)
    next(rows)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, benchmark.Trainer)]


def test_the_other_stages_are_timed(tiny):
    cfg = tiny(segmenter="unet", segmenter_width=4, distill_batch_size=2)
    records = {r["what"]: r for r in benchmark.other_stages(cfg, CPU, n_steps=1, n_photos=3)}
    assert list(records) == ["distillation", "evaluation", "segmentation of photos"]
    assert all(r["pictures_per_s"] > 0 for r in records.values()) and records["distillation"]["without_saving"] > 0


def test_cost_grows_with_the_number_of_parts(tiny):
    rows = list(benchmark.growth(tiny(batch_size=2), CPU, "n_parts", [2, 16], n_steps=1))
    assert [r["value"] for r in rows] == [2, 16] and rows[1]["gflop"] > rows[0]["gflop"] > 0


def seeded_discriminator(cfg):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Discriminator(cfg).train()
