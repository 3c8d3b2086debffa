"""What other programs get of a run: they must come to the same labels, and to the same pairs."""

import errno
import json
import re
import sys

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from ganseg import cli, config, export, files, part_names, runs, segment
from ganseg.datasets.loading import load_pictures
from ganseg.devices import rng
from ganseg.errors import UserError
from ganseg.model import exported, loading
from ganseg.model.geometry import to_float

KINDS = {
    "unet": {}, "unet_lite0": {"segmenter": "unet_lite0"}, "deeplab": {"segmenter": "deeplabv3_resnet50"},
    "members": {}, "autoencoder_points": {"architecture": "autoencoder_points"},
    "autoencoder_masks": {"architecture": "autoencoder_masks"},
}  # fmt: skip


def segmenter(tiny_run, kind="unet"):
    """A run with a segmenter of random weights, whose labels differ by what it has seen: a batch of creatures."""
    run = tiny_run(kind, **{"segmenter": "unet", "segmenter_width": 4, **KINDS[kind]})
    run.start("cpu")
    torch.manual_seed(0)
    network = loading.build_segmenter(run.cfg).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    network(to_float(load_pictures(config.load("creatures"), "test", 8).images))
    state = {"segmenter": network.state_dict(), "gan_step": 7, "backbone_weights": "none"}
    if kind == "members":
        orders = torch.tensor([[0, 1, 2, 3], [0, 2, 3, 1]])
        both = {f"members.{i}.{name}": value + 0.01 * i for i in range(2) for name, value in state["segmenter"].items()
                if value.is_floating_point()}
        both |= {f"members.{i}.{name}": value for i in range(2) for name, value in state["segmenter"].items()
                 if not value.is_floating_point()}
        state |= {"segmenter": both | {"orders": orders}, "members": 2, "league": "ImageNet labels"}
    run.save("segmenter", 10, state)
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_travelled_gives_the_labels_of_its_run(tiny_run, tmp_path, kind):
    run = segmenter(tiny_run, kind)
    part_names.change_parts(run, {1: {"name": "head"}, 3: {"name": "legs", "color": "#102030"}})
    cli.main(["export", "model", "--run", run.label, "--out", str(tmp_path / "a" / "model")])
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    expected = segment.load(run, "cpu").segment(photo)
    run.newest("segmenter").unlink()
    (tmp_path / "a").rename(tmp_path / "b")
    model = segment.load(tmp_path / "b" / "model", "cpu")
    np.testing.assert_array_equal(model.segment(photo), expected)
    assert part_names.part_labels(model.run) == ["1: head", "part 2", "3: legs"]
    assert part_names.read_parts(model.run).colors[2].tolist() == [16, 32, 48]
    known = json.loads((tmp_path / "b" / "model" / "config.json").read_text())
    assert known["labels"] == ["background", "1: head", "part 2", "3: legs"] and known["image_size"] == 32
    assert known["league"] == ("ImageNet labels" if kind == "members" else "nothing")
    assert str(tmp_path) not in (tmp_path / "b" / "model" / "config.json").read_text()


def test_the_card_says_what_was_measured_of_which_segmenter(tiny_run, tmp_path):
    run = segmenter(tiny_run)
    run.log("evaluate", 10, foreground_iou=0.81234, notes={"test pictures": 44}, left_out={})
    export.export_model(run.folder, out=tmp_path / "card")
    card = (tmp_path / "card" / "README.md").read_text()
    assert re.search(r"foreground_iou +0\.8123 .*IoU", card) and "- test pictures: 44" in card
    assert "league, what it was taught with beside the photos: nothing" in card and "GAN step 7, 10 steps" in card
    assert "not of this segmenter" not in card
    run.save("segmenter", 20, run.load_state("segmenter") | {"step": 20})
    export.export_model(run.folder, out=tmp_path / "later")
    assert "Measured after 10 steps of distillation, not of this" in (tmp_path / "later" / "README.md").read_text()


def test_a_model_of_the_hub_is_fetched_by_its_name(tiny_run, tmp_path, monkeypatch):
    run = segmenter(tiny_run)
    folder = export.export_model(run.label)
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **kw: asked.append(name) or str(folder))
    squares = np.zeros((1, 32, 32, 3), np.uint8)
    assert torch.equal(segment.load("hf:me/parts", "cpu").logits(squares), segment.load(run, "cpu").logits(squares))
    assert asked == ["me/parts"]

    def unreachable(name, **options):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match="run: hf:me/parts cannot be fetched from the hub: no network"):
        segment.load("hf:me/parts")


@pytest.mark.parametrize("name, content, said", [
    ("config.json", "{", "config.json: is damaged"), ("config.json", "[1]", "config.json: is damaged"),
    ("model.safetensors", "x" * 50, "model.safetensors: cannot be read"),
    ("model.safetensors", None, "holds no model.safetensors; export the model with --format torch"),
])
def test_a_damaged_folder_is_one_sentence(tiny_run, name, content, said):
    folder = export.export_model(segmenter(tiny_run).label)
    (folder / name).write_text(content) if content else (folder / name).unlink()
    with pytest.raises(UserError, match=said):
        segment.load(folder)


def test_what_cannot_be_exported_is_one_sentence(tiny_run, tmp_path, monkeypatch):
    run = segmenter(tiny_run)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("mine")
    for verb in (["model"], ["pairs", "-p", "n", "1"]):
        with pytest.raises(SystemExit, match="run: there is no 'other'"):
            cli.main(["export", *verb, "--run", "other"])
    with pytest.raises(SystemExit, match="has no trained gan; make it with: ganseg train"):
        cli.main(["export", "pairs", "--run", run.label])
    with pytest.raises(SystemExit, match="out: .*full holds something already"):
        cli.main(["export", "model", "--run", run.label, "--out", str(tmp_path / "full")])
    assert (tmp_path / "full" / "config.json").read_text() == "mine"
    with pytest.raises(SystemExit, match="n: 0 is not allowed"):
        cli.main(["export", "pairs", "--run", run.label, "-p", "n", "0"])
    for seed in ("soon", "-1", "1.5"):
        with pytest.raises(SystemExit, match=f"seed: '?{seed}'? is not allowed; it should be a whole number"):
            cli.main(["export", "pairs", "--run", run.label, "-p", "seed", seed])
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SystemExit, match="needs the package onnx.*; install it with pip install onnx onnxscript"):
        cli.main(["export", "model", "--run", run.label, "--format", "onnx"])
    with pytest.raises(SystemExit, match="an auto-encoder of points cannot be exported as onnx"):
        cli.main(["export", "model", "--run", segmenter(tiny_run, "autoencoder_points").label, "--format", "onnx"])
    assert not any(run.folder.glob("export*"))


def test_a_full_disk_leaves_nothing_half_exported(tiny_run, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = segmenter(tiny_run)
    monkeypatch.setattr(files, "write_text", full)
    with pytest.raises(UserError, match="model: cannot be written, no room is left"):
        export.export_model(run.label, out=tmp_path / "model")
    assert not any(tmp_path.glob("model*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unet", "unet_lite0", "members", "autoencoder_masks"])
def test_onnxruntime_gives_the_same_labels(tiny_run, tmp_path, kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = segmenter(tiny_run, kind)
    folder = export.export_model(run.label, "onnx", tmp_path / "model")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.onnx", "parts.yaml"]
    squares = load_pictures(config.load("creatures"), "test", 20).images.permute(0, 2, 3, 1).numpy()
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"squares": squares})  # of another batch size than it was traced with
    expected = segment.load(run, "cpu").logits(squares)
    assert logits.shape == (20, 4, 32, 32) and len(np.unique(logits.argmax(axis=1))) > 1
    assert (logits.argmax(axis=1) != expected.argmax(dim=1).numpy()).mean() <= 1e-4


def test_exported_pairs_are_what_the_generator_paints_and_can_be_read_again(trained, tmp_path):
    folder = export.export_pairs(trained.label, 70, tmp_path / "pairs")  # more than a batch, and not a whole number
    G, cfg = loading.load_generator(trained, trained.cfg.distill_generator), trained.cfg
    with torch.no_grad():
        painted = G(G.sample_latents(cfg.distill_batch_size, rng(cfg.seed, "distill", 69 // cfg.distill_batch_size)))
    i = 69 % cfg.distill_batch_size
    image, mask = (Image.open(folder / kind / "000069.png") for kind in ("images", "masks"))
    difference = to_float(torch.from_numpy(np.array(image))).permute(2, 0, 1) - painted.image[i]
    assert difference.abs().max() < 1 / 127 and mask.mode == "P"
    np.testing.assert_array_equal(np.asarray(mask), painted.masks[i].argmax(dim=0))
    known = json.loads((folder / "manifest.json").read_text())
    assert known["command"].startswith(f"ganseg export pairs --run {trained.label} -p n 70 -p seed 0")
    wanted = {"n": 70, "gan_step": 2, "weights": cfg.distill_generator, "league": "nothing", "image_size": 32}
    assert wanted.items() <= known.items() and known["labels"][1:] == ["part 1", "part 2", "part 3"]
    read = config.load("folder", source=str(folder), image_size=32)
    photos = [load_pictures(read, split) for split in ("train", "test")]
    assert sum(map(len, photos)) == 70
    for found in photos:
        j = int(str(found.names[0]).split("/")[-1][:6])
        np.testing.assert_array_equal(found.labels[0], np.asarray(Image.open(folder / "masks" / f"{j:06}.png")))
    other = export.export_pairs(trained.label, 1, tmp_path / "other", seed=5)
    assert (other / "images/000000.png").read_bytes() != (folder / "images/000000.png").read_bytes()


def test_the_hub_and_folders_are_told_from_names_of_runs(tiny_run, tmp_path):
    run = segmenter(tiny_run)
    assert exported.find(run.label) is None and exported.find(run.folder) is None
    assert segment.load(run.label, "cpu").run.folder == runs.find(run.label).folder
