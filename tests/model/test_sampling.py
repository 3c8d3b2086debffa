"""Random numbers by key, BatchNorm statistics of averaged weights, loading generators."""

import pytest
import torch

from ganseg import devices, train
from ganseg.errors import UserError
from ganseg.model import averaging, loading, sampling


def test_random_numbers_depend_on_the_key_alone():
    draw = lambda *key: torch.rand(4, generator=devices.rng(*key)).tolist()  # noqa: E731
    torch.manual_seed(1)
    first = draw(0, "train", 5)
    torch.manual_seed(2)
    assert draw(0, "train", 5) == first
    others = [draw(0, "train", 6), draw(1, "train", 5), draw(0, "order", 5), draw("0", "train", 5)]
    assert first not in others and len({tuple(other) for other in others}) == len(others)


def test_the_averaged_generators_pictures_look_alike_in_evaluation_and_in_training_mode(tiny_run):
    run = tiny_run(max_steps=15, lr_generator=2e-3)
    list(train.train(run))
    recalibrated = loading.load_generator(run, "ema")
    not_recalibrated = loading.build_generator(run.cfg)  # its own weights, but statistics of the start
    not_recalibrated.load_state_dict({**recalibrated.state_dict(), **buffers(not_recalibrated)})
    latents = recalibrated.sample_latents(128, devices.rng("compare"))
    expected = statistics(averaging.averaged_copy(recalibrated).train(), latents)
    good, bad = (
        (statistics(G, latents) - expected).abs().mean() for G in (recalibrated, not_recalibrated.eval())
    )
    # measured over three seeds: 0.15 to 0.21 and 0.65 to 1.12; two draws of latents differ by about 0.1
    assert good < 0.35 and bad > 0.5, (good, bad)


@torch.no_grad()
def statistics(G, latents):
    """Mean and log deviation of each foreground, background and colour channel."""
    out = G(latents)
    channels = torch.cat([out.foreground, out.background, out.image], dim=1).transpose(0, 1).flatten(1)
    return torch.cat([channels.mean(1) / channels.std(1), channels.std(1).log()])


def buffers(module):
    return dict(module.named_buffers())


def test_raw_averaged_and_untrained_generators_are_loaded_in_evaluation_mode(trained):
    state = trained.load_state("gan")
    loaded = {kind: loading.load_generator(trained, kind) for kind in ("raw", "ema", "untrained")}
    assert not any(G.training for G in loaded.values())
    fresh = loading.build_generator(trained.cfg)
    for kind, expected in (("raw", state["generator"]), ("ema", state["ema"]), ("untrained", fresh.state_dict())):
        for name, p in loaded[kind].named_parameters():
            assert torch.equal(p, expected[name]), (kind, name)
    assert not torch.equal(loaded["raw"].rgb[3].weight, loaded["untrained"].rgb[3].weight)
    assert any((value != 0).any() for name, value in loaded["untrained"].named_buffers() if "mean" in name)


def test_samples_depend_on_the_seed_and_not_on_the_batch_size(trained):
    G = loading.load_generator(trained)
    out = sampling.sample(G, 5, seed=1)
    assert out.image.shape == (5, 3, 32, 32) and out.masks.shape == (5, 4, 32, 32) and out.foreground is None
    torch.testing.assert_close(sampling.sample(G, 5, seed=1, batch_size=2).image, out.image, atol=1e-3, rtol=0)
    assert not torch.allclose(sampling.sample(G, 5, seed=2).image, out.image)


def test_the_average_moves_by_one_minus_its_decay_and_early_steps_count_more(tiny):
    a, b = loading.build_generator(tiny()), loading.build_generator(tiny(seed=1))
    start, target = a.w_const.detach().clone(), b.w_const.detach()
    averaging.update_ema(a, b, decay=0.999, step=0)
    torch.testing.assert_close(a.w_const.detach(), start + 0.9 * (target - start))
    start = a.w_const.detach().clone()
    averaging.update_ema(a, b, decay=0.75, step=10_000)
    torch.testing.assert_close(a.w_const.detach(), start + 0.25 * (target - start))


def test_a_fresh_generator_leaves_the_global_random_state_alone(tiny):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    loading.build_generator(tiny())
    assert torch.equal(torch.rand(3), expected)


def test_auto_is_the_best_device_there_is(monkeypatch):
    there = {"cuda": False, "mps": False}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there["mps"])
    chosen = [devices.choose_device("auto").type]
    for kind in ("mps", "cuda"):
        there[kind] = True
        chosen.append(devices.choose_device("auto").type)
    assert chosen == ["cpu", "mps", "cuda"]


@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_a_generator_that_was_never_trained_is_refused(tiny_run, weights):
    with pytest.raises(UserError, match="ganseg train"):
        loading.load_generator(tiny_run(), weights)
