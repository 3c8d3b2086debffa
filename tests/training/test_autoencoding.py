"""The auto-encoder variants go through training, distillation and evaluation like the GAN."""

import pytest
import torch
from PIL import Image

from ganseg import config, distill, evaluate, runs, segment, train
from ganseg.errors import UserError
from ganseg.model import autoencoder, loading
from ganseg.training import memory

KINDS = ["autoencoder_points", "autoencoder_masks"]
SMALL = {"segmenter": "unet", "segmenter_width": 4, "max_test_pictures": 4}


def make(cfg):
    torch.manual_seed(0)
    return autoencoder.Autoencoder(cfg)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_becomes_points_masks_and_a_picture(tiny, kind):
    cfg = tiny(architecture=kind, **SMALL)
    out = make(cfg)(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert out.image.shape == (2, 3, 32, 32) and out.image.abs().max() <= 1
    torch.testing.assert_close(out.masks.sum(dim=1), torch.ones(2, 32, 32))
    n_per = cfg.n_per if kind == "autoencoder_points" else 1
    assert out.points.shape == (2, 3, n_per, 2) and out.points.abs().max() <= 1
    torch.testing.assert_close(out.points.mean(dim=2), out.centers)


@pytest.mark.parametrize("kind", KINDS)
def test_every_network_learns_from_the_reconstruction(tiny, kind):
    network = make(tiny(architecture=kind, **SMALL))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    (network(images).image - images).square().mean().backward()
    own = ["encoder", "appearance", "background", "generator.w_const", "generator.foreground_blocks"]
    own += ["generator.mask_blocks"] if kind == "autoencoder_points" else []
    for name in own:
        gradients = [p.grad for key, p in network.named_parameters() if key.startswith(name)]
        assert gradients and any(g is not None and g.abs().max() > 0 for g in gradients), name


def test_the_extent_of_a_box_is_a_quarter_of_its_width():
    masks = torch.zeros(1, 1, 64, 64)
    masks[..., 16:48, 16:48] = 1  # 32 pixels: distances to the middle are 0.5 to 15.5, 8 on average
    extent = autoencoder._mask_extent(masks, torch.zeros(1, 1, 2))
    assert extent.item() * 63 / 2 == pytest.approx(8, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_trained_evaluated_and_segments_photos(tiny_run, tmp_path, kind):
    run = tiny_run(kind, architecture=kind, distill_steps=2, fit_pictures=4, **SMALL)
    assert [r["step"] for r in train.train(run)] == [2]
    list(distill.distill_all(run))
    record = evaluate.evaluate(runs.find(f"creatures/{kind}"))
    assert {"nmi_foreground", "foreground_iou", "center_spread_px", "extent_px", "mask_entropy"} <= record.keys()
    assert 0 <= record["mask_entropy"] <= 1
    list(train.train(tiny_run(kind, architecture=kind, max_steps=3, **SMALL)))
    again = evaluate.evaluate(runs.find(f"creatures/{kind}"))  # of what was kept as the segmenter
    assert again["notes"]["GAN steps"] == 2 and again["extent_px"] == pytest.approx(record["extent_px"])
    assert (run.folder / "samples" / "00000002.png").exists()
    Image.new("RGB", (30, 40), "white").save(tmp_path / "photo.png")
    assert segment.load(f"creatures/{kind}").segment(tmp_path / "photo.png").shape == (40, 30)
    with pytest.raises(UserError, match="auto-encoder"):
        loading.load_generator(run)


def test_an_autoencoder_is_evaluated_where_there_is_nothing_to_fit(tiny_run, tmp_path):
    for i in range(8):
        Image.new("RGB", (32, 32), (20 * i, 90, 0)).save(tmp_path / f"{i}.png")
    fields = {"reader": "folder", "source": str(tmp_path), "max_train_pictures": None}
    run = tiny_run("photos", architecture="autoencoder_points", **fields, **SMALL)
    list(train.train(run))
    list(distill.distill_all(run))
    record = evaluate.evaluate(run)
    assert "parts_used" in record and record["notes"]["training pictures that fit regressions and matching"] == 0


@pytest.mark.slow
def test_stopped_and_resumed_equals_straight_through(tiny_run):
    fields = {"architecture": "autoencoder_points", "save_every_steps": 2, **SMALL}
    straight, halted = tiny_run("straight", max_steps=4, **fields), tiny_run("halted", max_steps=2, **fields)
    list(train.train(straight))
    list(train.train(halted))
    list(train.train(tiny_run("halted", max_steps=4, **fields)))
    a, b = (run.load_state("gan")["autoencoder"] for run in (straight, halted))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_its_settings_count_as_for_the_gan(tiny_run, quick, monkeypatch):
    own = {"architecture": "autoencoder_points", **SMALL}
    first = tiny_run("first", **own)
    list(train.train(first))
    path, state = first.intact("gan")
    warm = tiny_run("warm", **own, warm_start=str(path), lr_generator=1e-12)
    list(train.train(warm))
    after = warm.load_state("gan")["autoencoder"]
    assert all(torch.allclose(after[name], value, atol=1e-6) for name, value in state["autoencoder"].items()
               if "running" not in name and "num_batches" not in name)
    list(train.train(rounded := tiny_run("rounded", **own, precision="bf16")))
    assert rounded.records("train")[-1]["reconstruction_loss"] != first.records("train")[-1]["reconstruction_loss"]
    monkeypatch.setattr(memory, "_room", lambda device: 1000)
    with pytest.raises(UserError, match="batch_size: 4 pictures of 32 pixels need about"):
        list(train.train(tiny_run("large", **own)))
    with pytest.raises(UserError, match="devices: autoencoder_points is trained by one process"):
        list(train.train(tiny_run("many", **own, devices=2)))
    with pytest.raises(UserError, match="segmenter_width: the run creatures/first was made with 4, not 5"):
        tiny_run("first", **{**own, "segmenter_width": 5})  # it is part of the auto-encoder


def test_its_segmenter_names_the_attempt_that_it_was_trained_in(tiny_run, quick):
    run = tiny_run(architecture="autoencoder_points", **SMALL)
    list(train.train(run))
    path, state = run.intact("gan")
    torch.save({**state, "attempt": 1, "since": 1}, path)  # as after a roll-back to step 1
    list(distill.distill_all(run))
    assert run.load_state("segmenter")["gan_attempt"] == 1
    torch.save({**state, "attempt": 2, "since": 1}, path)
    assert "extent_px" in evaluate.evaluate(run)["left_out"]


def test_an_unknown_architecture_is_refused():
    with pytest.raises(UserError, match="architecture"):
        config.load("creatures", architecture="vae")
