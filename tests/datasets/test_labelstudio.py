"""Corrections out of Label Studio: its own encoder's masks must come back as drawn, and others be refused by name."""

import json

import numpy as np
import pytest
from PIL import Image

from ganseg.datasets import labelstudio
from ganseg.errors import UserError
from ganseg.figures.exports import brush

NUMBERS = {"head": 1, "part 2": 2, "left, wing": 3}


def region(mask, label, kind="brushlabels", **fields):
    H, W = mask.shape
    value = {"format": "rle", "rle": brush(mask), "brushlabels": [label]}
    return {"type": kind, "original_width": W, "original_height": H, "image_rotation": 0, "value": value, **fields}


def task(image, *results, **fields):
    annotations = [{"result": list(result), "updated_at": f"2026-01-0{i}"} for i, result in enumerate(results, 1)]
    return {"data": {"image": image}, "annotations": annotations, **fields}


def unpacked(tmp_path, tasks, numbers=NUMBERS):
    (tmp_path / "tasks.json").write_text(tasks if isinstance(tasks, str) else json.dumps(tasks))
    return labelstudio.unpack(tmp_path / "tasks.json", tmp_path / "photos", numbers, tmp_path / "out")


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos" / "b sub").mkdir(parents=True)
    for name in ("a.jpg", "b sub/a.jpg", "c.png", "ä.jpg"):
        Image.new("RGB", (30, 20)).save(tmp_path / "photos" / name)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side in the file
    Image.new("RGB", (30, 20)).save(tmp_path / "photos" / "turned.jpg", exif=exif)
    return tmp_path / "photos"


def test_masks_come_back_as_drawn_with_the_newest_annotation_and_the_last_region(photos, tmp_path):
    head, wing = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    head[2:9, 3:20] = wing[5:15, 10:28] = True
    old, new = [region(~head, "part 2")], [region(head, "head"), region(wing, "left, wing")]
    skipped = task("/data/local-files/?d=c.png", [region(head, "head")])
    skipped["annotations"][0]["was_cancelled"] = True
    n = unpacked(tmp_path, [
        task("/data/local-files/?d=photos/b%20sub/a.jpg", old, new), task("/data/upload/7/0a1b2c3d-c.png", old),
        task("https://host/x/%C3%A4.jpg", []), task("turned.jpg", []), skipped | {"data": {"image": "d"}},
        {"data": {"image": "e"}, "annotations": []}])
    assert n == 4
    out = {str(p.relative_to(tmp_path / "out")): p for p in (tmp_path / "out").rglob("*.*")}
    assert sorted(out) == sorted(["images/b sub/a.jpg", "masks/b sub/a.png", "images/c.png", "masks/c.png",
                                  "images/ä.jpg", "masks/ä.png", "images/turned.jpg", "masks/turned.png"])
    np.testing.assert_array_equal(Image.open(out["masks/b sub/a.png"]), np.where(wing, 3, head))
    np.testing.assert_array_equal(Image.open(out["masks/c.png"]), np.where(head, 0, 2))
    assert not np.any(Image.open(out["masks/ä.png"])) and Image.open(out["masks/turned.png"]).size == (20, 30)
    assert out["images/b sub/a.jpg"].read_bytes() == (photos / "b sub/a.jpg").read_bytes()


def test_label_studios_own_brush_is_decoded():
    encode = pytest.importorskip("label_studio_sdk.converter.brush", reason="pip install label-studio-sdk").encode_rle
    random = np.random.default_rng(0)
    for size in ((1, 1), (7, 30), (64, 48)):
        for mask in (random.random(size) < 0.5, np.zeros(size, bool), np.ones(size, bool), np.tri(*size, dtype=bool)):
            code = encode(np.repeat(255 * mask.astype(np.uint8).ravel(), 4))
            np.testing.assert_array_equal(labelstudio.decode_brush(code, size), mask)
            np.testing.assert_array_equal(labelstudio.decode_brush(brush(mask), size), mask)


def test_values_that_are_written_one_by_one_are_decoded():
    """A chunk without runs: 32 bits 4 values, 5 bits 8 - 1, four sizes of 3 bits, then 0, size 0, 4 - 1, the values."""
    bits = f"{4:032b}{7:05b}{2:04b}{2:04b}{2:04b}{2:04b}" + "0" + "00" + f"{3:03b}" + "".join(
        f"{value:08b}" for value in (1, 2, 3, 200))
    code = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert labelstudio.decode_brush(code, (1, 1)).tolist() == [[True]]


@pytest.mark.parametrize("tasks, said", [
    ("{", "is not the export named JSON"), ("[1]", "is not the export named JSON"), ('{"a": 1}', "is not the export"),
    ([{"image": "a.jpg", "parts": []}], "is not the export named JSON of a project with brush labels"),  # JSON-MIN
    ([task("none.jpg", [])], "annotates none.jpg, which is no photo of .*photos"),
    ([task("x/a.jpg", [region(np.ones((20, 30), bool), "tail")])],
     "annotation of a.jpg that cannot be used: it has the label 'tail'; the run's parts are head, part 2, left, wing"),
    ([task("a.jpg", [region(np.ones((20, 30), bool), "head", "polygonlabels")])], "it holds polygonlabels"),
    ([task("a.jpg", [region(np.ones((20, 30), bool), "head", image_rotation=90)])], "turned by 90 degrees"),
    ([task("a.jpg", [region(np.ones((20, 30), bool), "head", original_width=31)])], "a brush holds 2400 values"),
    ([task("a.jpg", [region(np.ones((20, 30), bool), "head", value={"rle": [0, 0], "brushlabels": ["head"]})])],
     "end too early"),
    ([task("a.jpg", [region(np.ones((20, 30), bool), "head"), region(np.ones((2, 3), bool), "head")])],
     "different sizes"),
    ([task("a.jpg", [{"type": "brushlabels"}])], "annotation of a.jpg that cannot be used"),
])
def test_what_cannot_be_used_is_one_sentence_and_leaves_nothing(photos, tmp_path, tasks, said):
    with pytest.raises(UserError, match=said):
        unpacked(tmp_path, tasks)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
