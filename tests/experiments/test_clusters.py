"""Parts as clusters of frozen features: what is found, that it is a run like any, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from torch import nn

from ganseg import evaluate, runs, segment, train
from ganseg.datasets.base import Pictures
from ganseg.errors import UserError
from ganseg.experiments import compare, contenders, features
from ganseg.figures import report
from ganseg.model import clusters, loading
from ganseg.model.geometry import to_float
from ganseg.viewer import photos_widget

SMALL = "test_resnet"  # of timm, with 50,000 weights
FEW = {"max_test_pictures": 8, "fit_pictures": 8}


class Colors(nn.Module):
    """In place of a network: the mean colour of each cell, and of 2 x 2 cells."""

    feature_info = SimpleNamespace(channels=lambda: [3, 3], reduction=lambda: [2, 4])
    seen_px, colors = 32, ((0.5,) * 3, (0.5,) * 3)

    def forward(self, x):
        return [nn.functional.avg_pool2d(x, 2), nn.functional.avg_pool2d(x, 4)]


@pytest.fixture
def weights(tmp_path):
    """A file of random weights for SMALL, and what is in it."""
    torch.manual_seed(0)
    state = timm.create_model(SMALL).state_dict()
    torch.save(state, tmp_path / "small.pt")
    return str(tmp_path / "small.pt"), state


def photos_of_squares(n=12, boxes=None):
    """Grey photos with a square in the middle, red above and green below, and the true labels of 32 x 32 pixels."""
    images = torch.full((n, 3, 32, 32), 90.0)
    images[:, 0, 8:16, 8:24], images[:, 1, 16:24, 8:24] = 220, 220
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * 8
    truth = np.zeros((32, 32), int)
    truth[8:16, 8:24], truth[16:24, 8:24] = 1, 2
    return Pictures((images + noise).clamp(0, 255).byte(), [str(i) for i in range(n)], boxes=boxes), truth


def labels_of(S, images):
    return S(to_float(images)).argmax(dim=1).numpy()


@pytest.mark.parametrize("boxed", [False, True])
def test_what_keeps_away_from_the_border_is_foreground_and_its_clusters_are_parts(boxed):
    boxes = None
    if boxed:  # a photo of 20 columns in its square: what lies beside it is a part's colour, and does not count
        boxes = np.tile([6, 0, 20, 32], (12, 1))
    photos, truth = photos_of_squares(boxes=boxes)
    if boxed:
        photos.images[:, 0, :, :6], photos.images[:, 0, :, 26:] = 220, 220
    S = clusters.Clusters(Colors(), 2)
    share = features.fit(S, photos, seed=0)
    assert share == pytest.approx(256 / (640 if boxed else 1024), abs=0.1)
    found = labels_of(S, photos.images)[:, 2:-2, 8:24]  # away from the box's sides
    truth = truth[2:-2, 8:24]
    numbers = [np.bincount(found[:, truth == part].ravel()).argmax() for part in (1, 2)]
    assert sorted(numbers) == [1, 2]
    of_truth = np.array([0, *numbers])[truth]
    assert (found == of_truth).mean() > 0.9  # cells of two pixels, and maps of four


def test_two_fits_with_a_seed_give_equal_logits(weights, tiny_run):
    made = [tiny_run(name, **FEW) for name in ("a", "b")]
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    for run in made:
        features.make_run(run, SMALL, weights[0])
    first, second = (loading.load_segmenter(run)(to_float(images)) for run in made)
    assert torch.equal(first, second) and first.shape == (2, 4, 32, 32) and first.isfinite().all()
    features.make_run(made[0], SMALL, weights[0])  # again, in its own run
    assert torch.equal(loading.load_segmenter(made[0])(to_float(images)), first)


def test_labels_are_those_of_the_nearest_centroids(weights):
    """At the size of the maps, where nothing is enlarged, and without the module's own arithmetic."""
    photos, _ = photos_of_squares(8)
    S = clusters.Clusters(clusters.load_backbone(SMALL, weights[0]), 3).eval()
    features.fit(S, photos, seed=1)
    images = nn.functional.interpolate(to_float(photos.images), 16, mode="bilinear")
    maps = S.maps(images).permute(0, 2, 3, 1)
    cells = (maps - S.center) / S.scale
    z = cells / cells.norm(dim=-1, keepdim=True) @ S.axes - S.offset
    to_parts, to_clusters = ((z[..., None, :] - of).square().sum(-1) for of in (S.parts, S.clusters))
    expected = (to_parts.argmin(-1) + 1) * S.is_foreground[to_clusters.argmin(-1)]
    assert (S(images).argmax(dim=1) == expected).float().mean() > 0.999


def test_it_is_a_run_like_any(tiny_run, weights):
    run = tiny_run("rival", max_test_pictures=20, fit_pictures=8)
    features.make_run(run, SMALL, weights[0], league="class labels")
    record = evaluate.evaluate(run)
    assert 0 <= record["foreground_iou"] <= 1 and record["left_out"]["extent_px"] == (
        "clusters of features have no generator")
    notes = record["notes"]
    assert notes["features that are clustered"] == SMALL and notes["weights of the features"] == weights[0]
    assert notes["league"] == "class labels" and notes["training pictures that were clustered"] == 16
    assert "distillation steps" not in notes
    with pytest.raises(UserError, match="run: creatures/rival holds parts that no GAN of its own taught; give another"):
        list(train.train(run))
    page = report.write_report(run).read_text().split("<details>")[0]
    assert "n_parts: 3" in page and "distill_steps" not in page and "segmenter:" not in page
    photo = np.zeros((40, 50, 3), np.uint8)
    assert segment.load("creatures/rival").segment(photo).shape == (40, 50)
    assert record["foreground_iou"] in compare.runs_table([run]).loc["creatures/rival"].values
    assert hasattr(photos_widget.photo_browser(run), "split")


@pytest.mark.parametrize("network, file, league", [
    ("efficientnet_lite0", None, "ImageNet labels"), ("efficientnet_lite0", "a.pt", "not known"),
    ("vit_small_patch14_dinov2.lvd142m", None, "self-supervised features"), ("resnet18", None, "not known"),
])  # fmt: skip
def test_the_league_is_what_the_name_says(network, file, league):
    assert features._league(network, file) == league


@pytest.mark.parametrize("name, channels, seen_px", [
    ("efficientnet_lite0", [112, 320], 256), ("test_vit", [64], 256), ("vit_tiny_patch16_224", [192], 256),
    ("vit_small_patch14_dinov2", [384], 224), (SMALL, [192, 96], 256),
])  # fmt: skip
def test_maps_have_16_cells_a_side_whatever_the_network(name, channels, seen_px):
    backbone = clusters.load_backbone(name, pretrained=False)
    assert backbone.feature_info.channels() == channels and backbone.seen_px == seen_px
    S = clusters.Clusters(backbone, 2).eval()
    assert S.maps(torch.zeros(1, 3, 32, 32)).shape == (1, sum(channels), 16, 16)


def test_a_file_gives_the_weights_also_as_safetensors(weights, tmp_path):
    from safetensors.torch import save_file

    path, state = weights
    save_file(state, tmp_path / "small.safetensors")
    for file in (path, tmp_path / "small.safetensors"):
        own = clusters.load_backbone(SMALL, file).state_dict()
        assert own.keys() <= state.keys() and all(torch.equal(value, state[name]) for name, value in own.items())


def test_weights_of_another_network_or_none_are_refused(weights, tmp_path):
    path, state = weights
    with pytest.raises(UserError, match=r"weights: .*small.pt lacks cls_token of test_vit; give the file"):
        clusters.load_backbone("test_vit", path)
    torch.save({**state, "conv1.0.weight": torch.zeros(1)}, tmp_path / "shape.pt")
    with pytest.raises(UserError, match="weights: .*shape.pt is not of test_resnet: .*conv1"):
        clusters.load_backbone(SMALL, tmp_path / "shape.pt")
    with pytest.raises(UserError, match="nowhere.pt: there is no such checkpoint"):
        clusters.load_backbone(SMALL, tmp_path / "nowhere.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"not one")
    with pytest.raises(UserError, match="weights: .*cut.safetensors cannot be read"):
        clusters.load_backbone(SMALL, tmp_path / "cut.safetensors")


def test_a_network_that_cannot_be_had_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"network: timm knows no 'resnet1' \(did you mean resnet\w+\?\); name one of"):
        clusters.load_backbone("resnet1")
    with pytest.raises(UserError, match="network: resnet18.no_such_tag gives no maps of features: .*; name another"):
        clusters.load_backbone("resnet18.no_such_tag")
    create = timm.create_model

    def offline(name, pretrained=False, **given):
        if pretrained:
            raise OSError("Name or service not known")
        return create(name, **given)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match="those of resnet18 cannot be downloaded: .*not known; give them as a file with "
                                        "-p weights FILE"):
        clusters.load_backbone("resnet18")


def test_too_few_photos_or_features_are_refused(tiny_run):
    with pytest.raises(UserError, match="n_parts: there are 2 training photos for 3 parts; give more photos"):
        features.make_run(tiny_run("few", max_train_pictures=2))
    photos, _ = photos_of_squares(1)
    with pytest.raises(UserError, match=r"n_parts: there are \d+ foreground features for 200 clusters; give more"):
        features.fit(clusters.Clusters(Colors(), 200), photos, seed=0)


def test_photos_without_background_have_half_of_the_clusters_as_foreground(capsys):
    noise = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    S = clusters.Clusters(Colors(), 2)
    features.fit(S, Pictures(noise, list("abcdefgh")), seed=0)
    assert "No cluster of features keeps away from the photos' borders" in capsys.readouterr().out
    assert S.is_foreground.sum() == clusters.N_CLUSTERS / 2


def test_a_trained_run_is_left_as_it_is(tiny_run, quick, weights):
    run = tiny_run("trained")
    list(train.train(run))
    with pytest.raises(UserError, match="run: creatures/trained holds a trained model; give another name"):
        features.make_run(run, SMALL, weights[0])
    run.newest("gan").unlink()
    run.save("segmenter", 2, {"segmenter": {}})
    with pytest.raises(UserError, match="run: creatures/trained holds a trained model; give another name"):
        features.make_run(runs.find("creatures/trained"), SMALL, weights[0])


def test_colours_are_a_control_that_nothing_taught(tiny_run):
    run = tiny_run("colours", **FEW)
    features.make_run(run, "colors")
    record = evaluate.evaluate(run)
    assert record["notes"]["league"] == "nothing" and record["notes"]["features that are clustered"] == "colors"
    S = loading.load_segmenter(run)
    black, grey = (S.embed(S.center + S.scale * torch.tensor([[x] * 3])) for x in (-1.0, -0.5))
    assert not black.allclose(grey)  # brightness counts: at unit length the two would be one
    table = contenders.contenders([run]).loc["creatures"]
    assert table.loc["clusters of colours", "run or system"] == "creatures/colours"


def test_a_league_that_is_none_is_refused(tiny_run):
    with pytest.raises(UserError, match="league: 'dreams' is none; there are nothing, ImageNet labels"):
        features.make_run(tiny_run(**FEW), "colors", league="ImageNet labels, dreams")
