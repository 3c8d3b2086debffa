"""Self-training: what the discriminant finds, what teaches the segmenter when, and going on where it stopped."""

import shutil

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ganseg import config, distill, evaluate, runs
from ganseg.datasets.base import Pictures
from ganseg.devices import rng
from ganseg.errors import UserError
from ganseg.model import clusters, features
from ganseg.model.geometry import to_float
from ganseg.training import self_training

WISHES = {"segmenter": "unet", "segmenter_width": 4, "distill_batch_size": 4, "distill_steps": 5, "self_training": 0.4}


@pytest.fixture(autouse=True)
def no_pretrained_weights(monkeypatch):
    """Random features in place of ImageNet's, and small pictures of photos."""
    load = features.load_lite0
    monkeypatch.setattr(features, "load_lite0", lambda weights: load("none"))
    monkeypatch.setattr(clusters, "CELLS", 4)
    monkeypatch.setattr(self_training, "CELLS", 4)


def test_with_whole_weights_the_discriminant_is_the_library_s():
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, 300)
    z = random.normal(size=(300, 4)) @ random.normal(size=(4, 4)) + np.eye(3, 4)[classes] * 2
    share = np.bincount(classes) / 300
    priors = [share[0], (1 - share[0]) / 2, (1 - share[0]) / 2]
    known = LinearDiscriminantAnalysis(solver="lsqr").fit(z, classes).predict_proba(z) * priors / share
    known /= known.sum(axis=1, keepdims=True)
    found = self_training.discriminant(torch.tensor(z), torch.eye(3, dtype=torch.double)[classes])
    assert np.allclose(found, known, atol=1e-4) and known.max(axis=1).min() < 0.7


def test_a_weight_counts_as_so_many_features():
    z = torch.randn(30, 3, generator=rng(0), dtype=torch.double)
    weights = torch.eye(2, dtype=torch.double)[torch.arange(30) % 2]
    twice = self_training.discriminant(torch.cat([z, z[:5]]), torch.cat([weights, weights[:5]]))[:30]
    weighted = self_training.discriminant(z, weights * (1 + (torch.arange(30) < 5))[:, None])
    assert torch.allclose(twice, weighted)
    assert not torch.allclose(twice, self_training.discriminant(z, weights), atol=1e-3)


def test_a_part_that_nobody_sees_and_features_in_a_plane_give_numbers():
    z = torch.randn(20, 3, generator=rng(0)) * torch.tensor([1.0, 1.0, 0.0])
    weights = torch.eye(4)[torch.arange(20) % 3]
    assert self_training.discriminant(z, weights).isfinite().all()


class Wrong(torch.nn.Module):
    """A segmenter that takes every fourth red picture half for background, and sees nothing else."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        red = images[:, 0] > images[:, 1] + 0.5
        logits = torch.stack([~red, red], dim=1) * 4.0
        logits[::4, :, :, :16] = torch.tensor([4.0, 0.0])[:, None, None]
        return logits + self.weight


class Colors(torch.nn.Module):
    """The mean colours of 4 x 4 cells in place of features."""

    feature_info = type("Info", (), {"channels": lambda self: [3], "reduction": lambda self: [8]})()
    seen_px, colors = 32, ((0.5,) * 3, (0.5,) * 3)

    def forward(self, images):
        return [torch.nn.functional.adaptive_avg_pool2d(images, 4)]


@pytest.mark.parametrize("boxed", [False, True])
def test_errors_that_features_do_not_explain_are_mended(boxed):
    images = torch.randint(0, 60, (16, 3, 32, 32), dtype=torch.uint8, generator=rng(0))
    images[:, 0, 8:24, 8:24] += 150
    images[:, 1, :8] += 150
    boxes = np.tile([4, 0, 28, 32], (16, 1)) if boxed else None
    photos, S, truth = Pictures(images, [str(i) for i in range(16)], boxes=boxes), Wrong().train(), torch.zeros(32, 32)
    truth[8:24, 8:24] = 1
    labels = self_training.relabel(S, photos, images, clusters.Clusters(Colors(), 1))
    assert labels.shape == (16, 32, 32) and labels.dtype == torch.int16 and S.training
    if boxed:
        assert (labels[:, :, :4] == -1).all() and (labels[:, :, 4:] >= 0).all()
        truth[:, :4] = -1
    middles = (slice(None), slice(4, None, 8), slice(4, None, 8))  # of the cells
    before = S(to_float(images)).argmax(dim=1)[middles]
    assert (labels[middles] == truth[middles[1:]]).all() and not (before == truth[middles[1:]])[::4].all()


class Undecided(Wrong):
    """A segmenter of two parts to which all labels look alike."""

    def forward(self, images):
        return self.weight.expand(len(images), 3, *images.shape[2:])


@pytest.mark.parametrize("background, share, label", [(0.34, 0.51, 2), (0.36, 0.9, 0)])  # of all labels, 0 and 2 lead
def test_what_is_foreground_does_not_depend_on_how_parts_share_it(monkeypatch, background, share, label):
    posterior = torch.tensor([background, (1 - share) * (1 - background), share * (1 - background)])
    monkeypatch.setattr(self_training, "discriminant", lambda z, weights: posterior.expand(len(z), 3))
    images = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8, generator=rng(0))
    labels = self_training.relabel(Undecided(), Pictures(images, ["a", "b"]), images, clusters.Clusters(Colors(), 2))
    assert (labels == label).all()


def test_photos_are_half_of_the_batches_of_the_last_steps(trained, tiny_run, monkeypatch, capsys):
    seen, step = [], distill.distill_step
    monkeypatch.setattr(distill, "distill_step", lambda *args: seen.append(args[5]) or step(*args))
    monkeypatch.setattr(self_training, "LEAST_FOREGROUND", 0)  # whatever these networks say
    run = tiny_run("trained", **WISHES)
    list(distill.distill_all(run))
    assert [bool(photos) for photos in seen] == [False, False, False, True, True]
    assert "Self-training on 4 photos from step 3 on." in capsys.readouterr().out  # two steps of two take no more
    assert torch.equal(seen[3].labels, seen[4].labels) and len(seen[3]) == 4
    assert torch.equal(run.load_state("segmenter")["self_training"], seen[4].labels)
    notes = evaluate.evaluate(run)["notes"]
    assert notes["league"] == "ImageNet labels" and notes["photos of self-training"] == 4
    assert list(distill.distill_all(run)) == []
    list(distill.distill_all(tiny_run("trained", distill_steps=20)))  # another last part, and more photos for it
    assert [bool(photos) for photos in seen] == [False] * 3 + [True] * 2 + [False] * 7 + [True] * 8
    assert len(seen[-1]) == 16


def test_where_minutes_end_it_photos_come_after_a_share_of_these(trained, tiny_run, monkeypatch):
    seen, step = [], distill.distill_step
    monkeypatch.setattr(distill, "distill_step", lambda *args: seen.append(args[5]) or step(*args))
    monkeypatch.setattr(self_training, "LEAST_FOREGROUND", 0)  # whatever these networks say
    wishes = {**WISHES, "distill_steps": 50, "max_minutes": 1e-6}
    list(distill.distill_all(tiny_run("trained", **wishes)))  # one step, then the time is over
    list(distill.distill_all(tiny_run("trained", distill_steps=50, max_minutes=None)))
    assert all(seen) and len(seen) == 50
    assert torch.equal(seen[0].labels, seen[29].labels) and not torch.equal(seen[29].labels, seen[30].labels)


@pytest.mark.parametrize("step", [2, 3, 4])  # before, at and after the first one with photos
def test_a_self_training_that_was_broken_off_ends_as_an_undisturbed_one(trained, tiny_run, monkeypatch, step):
    wishes = {**WISHES, "distill_steps": 6, "self_training": 0.5, "save_every_steps": 1, "log_every_steps": 1}
    shutil.copytree(trained.folder, trained.folder.with_name("broken"))
    list(distill.distill_all(tiny_run("trained", **wishes)))
    for record in distill.distill_all(tiny_run("broken", **wishes)):
        if record["step"] == step:
            break
    if step > 3:
        monkeypatch.setattr(self_training, "relabel", None)  # labels are not made again
    list(distill.distill_all(tiny_run("broken")))
    whole, broken = (tiny_run(name).load_state("segmenter") for name in ("trained", "broken"))
    assert whole["step"] == 6 and torch.equal(whole["self_training"], broken["self_training"])
    assert all(torch.equal(value, broken["segmenter"][name]) for name, value in whole["segmenter"].items())


def test_where_next_to_nothing_is_found_pairs_alone_go_on_teaching(trained, tiny_run, monkeypatch, capsys):
    seen, found, step = [], [], distill.distill_step
    monkeypatch.setattr(distill, "distill_step", lambda *args: seen.append(args[5]) or step(*args))

    def relabel(S, photos, larger, C):
        found.append(torch.zeros(len(photos), 32, 32, dtype=torch.int16))
        found[-1].view(-1)[: len(photos) * 1024 // 51] = 1  # less than two in a hundred
        return found[-1]

    monkeypatch.setattr(self_training, "relabel", relabel)
    for record in distill.distill_all(tiny_run("trained", **WISHES, save_every_steps=1, log_every_steps=1)):
        if record["step"] == 4:
            break
    list(distill.distill_all(tiny_run("trained")))
    assert seen == [None] * 5 and len(found) == 1
    assert evaluate.evaluate(tiny_run("trained"))["notes"]["photos of self-training"] == 0
    assert "Self-training is left out: the segmenter finds next to nothing in photos." in capsys.readouterr().out


def test_a_share_of_less_than_a_step_is_none(trained, tiny_run):
    run = tiny_run("trained", **{**WISHES, "self_training": 0.1})
    list(distill.distill_all(run))
    assert "self_training" not in run.load_state("segmenter")


def test_the_control_trains_itself_too_and_a_new_segmenter_may_do_without(trained, tiny_run):
    run = tiny_run("trained", **WISHES)
    run.start("cpu")  # as a training with the preset modern leaves it
    run = tiny_run("trained", self_training=0, distill_steps=2, untrained_control=True)
    shutil.copytree(trained.folder, trained.folder.with_name("other"))
    for opened, wanted in ((run, False), (tiny_run("other", **WISHES, untrained_control=True), True)):
        list(distill.distill_all(opened))
        assert [("self_training" in opened.load_state(name)) for name in ("segmenter", "control")] == [wanted] * 2


def test_missing_photos_are_said_before_the_first_step(trained, tiny_run, monkeypatch):
    def gone(*args):
        raise UserError("source: is gone.")

    monkeypatch.setattr(distill, "load_pictures", gone)
    with pytest.raises(UserError, match="source: is gone"):
        list(distill.distill_all(tiny_run("trained", **WISHES)))
    assert runs.find(trained.folder).load_state("segmenter") is None


def test_photos_and_their_larger_copies_are_the_same(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "photos").mkdir()
    for i in range(40):
        Image.new("RGB", (150, 150), (6 * i, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
    for most in (None, 30):
        cfg = config.load("folder", source=str(tmp_path / "photos"), image_size=32, max_train_pictures=most,
                          self_training=0.5, distill_steps=4, distill_batch_size=8)
        photos, larger = distill._own_photos(cfg)
        assert larger.shape == (8, 3, 128, 128) and photos.images.shape == (8, 3, 32, 32)
        assert torch.equal(photos.images[:, 0, 5, 5], larger[:, 0, 50, 50])


def test_unknown_shares_are_refused_and_the_preset_has_one():
    with pytest.raises(UserError, match="self_training: 1.0 is not allowed"):
        config.load("folder", self_training=1.0)
    assert 0 < config.load("folder", preset="modern").self_training < 1
    assert config.load("folder", preset="small").self_training == 0 == config.load("celeba").self_training
