"""Ways to make a step are compared: the reference makes the same step with more work, and every row has numbers."""

import gc
import math

import pytest
import torch

from ganseg import train
from ganseg.devices import rng
from ganseg.experiments import benchmark, reference
from ganseg.model import loading
from ganseg.model.discriminator import Discriminator

CPU = torch.device("cpu")


def test_the_reference_makes_the_same_step_with_more_work(tiny):
    cfg = tiny(margin=3, batch_size=4, share_fakes=False)
    real, weights = torch.rand(4, 3, 32, 32, generator=rng(1)), []
    for make in (train.gan_step, reference.reference_step):
        G, D = loading.build_generator(cfg).train(), seeded_discriminator(cfg)
        make(G, D, *train.optimizers(G, D, cfg), real, rng(0), cfg, 0)
        weights.append(torch.cat([p.detach().flatten() for net in (G, D) for p in net.parameters()]))
    # Adam's first step is the learning rate times the gradient's sign: rounding turns a few that are nearly 0
    assert (weights[0] - weights[1]).abs().gt(1e-6).float().mean() < 0.02
    way = benchmark.Way()
    assert benchmark.flops(cfg, benchmark.REFERENCE, CPU) > 1.4 * benchmark.flops(cfg, way, CPU)


def test_every_change_is_compared_with_numbers(tiny):
    cfg = tiny(batch_size=2)
    records = list(benchmark.compare_ways(cfg, CPU, n_steps=1))
    assert [r["change"] for r in records] == list(benchmark.changes(CPU, compiled=False))
    numbers = [value for r in records for name, value in r.items() if name not in ("change",) and "peak" not in name]
    assert all(value > 0 and math.isfinite(value) for value in numbers)
    (sustained,) = benchmark.sustained(cfg, CPU, n_steps=2)
    assert sustained["minutes_30000"] == pytest.approx(500 / sustained["steps_per_s"])


def test_a_machine_that_is_slow_in_a_type_is_not_asked_for_large_products(monkeypatch):
    asked = []

    def seconds(device, function, *args):
        asked.append(2 * args[0].numel() * (args[0].shape[-1] if function is torch.matmul else 256 * 9))
        return asked[-1] / 1e8  # 0.1 GFLOPS, as of bf16 without instructions for it

    monkeypatch.setattr(reference, "seconds", seconds)
    assert reference.matrix_rate(CPU, torch.float32) == pytest.approx(1e8)
    assert sum(asked) / 1e8 < 10  # seconds; the largest convolution alone would take 97
    asked.clear()
    monkeypatch.setattr(reference, "SLOW_S", 1e9)
    reference.matrix_rate(CPU, torch.float32)
    assert max(asked) == 2 * 2048**3


@pytest.mark.parametrize("ratios, said", [
    ([1.4, 1.5, 1.5, 1.6, 1.5], "1.50 times as fast"),
    ([0.8, 0.8, 0.9, 0.8, 0.8], "0.80 times as fast"),
    ([0.95, 1.0, 1.05, 1.1, 0.9, 1.0], "no difference of 6 pairs"),
    ([1.4, 1.6], "nothing: of 2 pairs chance decides"),
    ([0.5, 3.0, 1.2, 2.0, 1.5, 1.0], "nothing: half of the pairs lie between 1.05 and 1.88, the machine was busy"),
])  # fmt: skip
def test_what_a_comparison_shows_is_said_and_nothing_where_pairs_are_few_or_differ(ratios, said):
    assert reference.conclusion(reference.spread(ratios)).startswith(said)


def test_a_measurement_says_how_far_it_is_and_keeps_what_it_found(tiny_run, tiny, capsys):
    run = tiny_run()
    run.start("cpu")
    rows = benchmark.logged(run, "benchmark", benchmark.compare_ways(tiny(batch_size=2), CPU, n_steps=1))
    first = next(rows)
    n_ways = len({way for pair in benchmark.changes(CPU, compiled=False).values() for way in pair})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(";")[0] for line in printed[:-1]] == [
        f"memory and operations of {i} of {n_ways} ways" for i in range(1, n_ways + 1)]
    assert first["change"] in printed[-1] and first["pairs"] == 1
    assert run.records("benchmark") == [{"stage": "benchmark", "step": 0, **first}]


def test_no_trainer_of_a_row_is_left_in_memory_for_the_next(tiny):
    rows = benchmark.compare_ways(tiny(batch_size=2), CPU, n_steps=1)
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
