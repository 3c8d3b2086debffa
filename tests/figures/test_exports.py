"""Exports for other tools, each read back by the tool's own reader."""

import csv
import errno
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage
from torchvision.datasets import VOCDetection, VOCSegmentation

from ganseg import part_names, runs, segment
from ganseg.errors import UserError
from ganseg.figures import exports, pictures
from ganseg.model import loading

NAMED = {1: {"name": "head, <b>&\"left\"", "color": "#ff0000"}, 2: {"merge": 1}, 3: {"hidden": True},
         4: {"name": "Blüte: '=1'"}}
PARTS = part_names.make_parts(NAMED, 4)
SIZES = {"a": (48, 64), "sub/b": (37, 21), "sub/deep/c d": (40, 40)}  # (H, W) by stem


def blobs(H, W, seed):
    """Labels 0, 1, 4 in lumps with holes, as smooth as a segmenter's."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(3, H, W)), (0, 2, 2))
    return np.array([0, 1, 4], np.uint8)[values.argmax(axis=0)]


@pytest.fixture
def labels():
    made = {stem: blobs(*size, seed) for seed, (stem, size) in enumerate(SIZES.items())}
    made["sub/deep/c d"][:] = 0
    return made


@pytest.fixture
def out(labels, tmp_path):
    photos = [(f"{stem}.jpg", stem) for stem in labels]
    with exports.exporting(tmp_path / "out", exports.FORMATS, photos, PARTS, "creatures/x") as add:
        for i, one in enumerate(labels.values()):
            add(i, one)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(exports.FORMATS)
    return tmp_path / "out"


def put_photos(folder):
    for stem, (H, W) in SIZES.items():
        (folder / stem).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (W, H)).save(folder / f"{stem}.jpg")


def test_pycocotools_reads_the_masks_at_each_photos_size(out, labels):
    read = COCO(out / "coco" / "annotations.json")
    assert {k: cat["name"] for k, cat in read.cats.items()} == {1: NAMED[1]["name"], 4: NAMED[4]["name"]}
    assert [read.imgs[i]["file_name"] for i in (1, 2, 3)] == [f"{stem}.jpg" for stem in labels]
    for image in read.imgs.values():
        decoded = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in read.loadAnns(read.getAnnIds(imgIds=[image["id"]])):
            decoded[read.annToMask(annotation) == 1] = annotation["category_id"]
        np.testing.assert_array_equal(decoded, labels[image["file_name"].removesuffix(".jpg")])
    assert not read.getAnnIds(imgIds=[3])


def test_torchvision_reads_boxes_and_masks_of_pascal_voc(out, labels, tmp_path):
    put_photos(out / "voc" / "JPEGImages")
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "VOCdevkit" / "VOC2012").symlink_to(out / "voc")
    (out / "voc" / "ImageSets" / "Main").symlink_to(out / "voc" / "ImageSets" / "Segmentation")
    options = {"root": tmp_path, "year": "2012", "image_set": "trainval", "download": False}
    masks, boxes = VOCSegmentation(**options), VOCDetection(**options)
    for i, (stem, (H, W)) in enumerate(SIZES.items()):
        np.testing.assert_array_equal(np.asarray(masks[i][1]), labels[stem])
        read = boxes[i][1]["annotation"]
        assert read["filename"] == f"{stem}.jpg" and read["size"] == {"width": str(W), "height": str(H), "depth": "3"}
        nth = np.asarray(Image.open(out / "voc" / "SegmentationObject" / f"{stem}.png"))
        for n, one in enumerate(read.get("object", []), start=1):
            k = {NAMED[1]["name"]: 1, NAMED[4]["name"]: 4}[one["name"]]
            np.testing.assert_array_equal(nth == n, labels[stem] == k)
            rows, columns = np.nonzero(labels[stem] == k)
            ends = {"xmin": columns.min(), "ymin": rows.min(), "xmax": columns.max(), "ymax": rows.max()}
            assert one["bndbox"] == {side: str(px + 1) for side, px in ends.items()}
    yellow = "{},{},{}".format(*pictures.part_colors(4)[3])
    assert (out / "voc" / "labelmap.txt").read_text(encoding="utf-8").splitlines() == [
        "# label:color_rgb:parts:actions", "background:0,0,0::", 'head, <b>&"left":255,0,0::',
        f"Blüte  '=1':{yellow}::"]


@pytest.mark.parametrize("stem", ["a", "sub/b"])
def test_supervision_reads_the_polygons_of_yolo(out, labels, stem):
    supervision = pytest.importorskip("supervision", reason="pip install supervision")
    put_photos(out / "yolo" / "images")
    folder = Path(stem).parent
    read = supervision.DetectionDataset.from_yolo(
        out / "yolo" / "images" / folder, out / "yolo" / "labels" / folder, out / "yolo" / "data.yaml", True)
    assert read.classes == [NAMED[1]["name"], NAMED[4]["name"]]
    found = {Path(path).stem: detections for path, _, detections in read}[Path(stem).name]
    decoded = np.zeros_like(labels[stem])
    for mask, i in zip(found.mask, found.class_id, strict=True):
        assert (decoded[mask] == 0).all() and ndimage.label(mask)[1] == 1  # pieces overlap nowhere
        decoded[mask] = (1, 4)[i]
    np.testing.assert_array_equal(decoded, labels[stem])


def test_label_studios_own_converter_decodes_the_brush(out, labels):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="pip install label-studio-sdk")
    tasks = json.loads((out / "labelstudio" / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        "/data/local-files/?d=a.jpg", "/data/local-files/?d=sub/b.jpg", "/data/local-files/?d=sub/deep/c%20d.jpg"]
    for task, one in zip(tasks, labels.values(), strict=True):
        decoded = np.zeros_like(one)
        for result in task["predictions"][0]["result"]:
            value, (H, W) = result["value"], one.shape
            assert (result["original_width"], result["original_height"]) == (W, H)
            layers = brush.decode_from_annotation("parts", [{**result, **value}])
            (mask,) = layers.values()
            decoded[mask == 255] = {NAMED[1]["name"]: 1, NAMED[4]["name"]: 4}[value["brushlabels"][0]]
        np.testing.assert_array_equal(decoded, one)
    xml = ElementTree.parse(out / "labelstudio" / "config.xml")
    labels_xml = [(label.get("value"), label.get("background")) for label in xml.iter("Label")]
    assert labels_xml[0] == (NAMED[1]["name"], "#ff0000") and labels_xml[1][0] == NAMED[4]["name"]


def test_a_brush_is_the_bits_of_its_runs():
    header = f"{4 * 70000:032b}" + "00111" + 4 * "1111"
    first = "1" + "11" + f"{4 * 10 - 1:016b}" + "11111111"
    rest, whole = 4 * 69990, 2**16  # the second run is longer than 16 bits hold
    others = ["1" + "11" + f"{n - 1:016b}" + "00000000" for n in [whole] * (rest // whole) + [rest % whole]]
    bits = header + first + "".join(others)
    bits += "0" * (-len(bits) % 8)
    mask = np.zeros((1, 70000), bool)
    mask[0, :10] = True
    assert exports.brush(mask) == [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_polygons_go_through_edge_pixels_and_join_holes():
    mask = np.zeros((7, 9), bool)
    mask[1:6, 1:6] = True
    mask[3, 3] = False  # a hole
    mask[0, 8] = mask[3:5, 7] = True  # a pixel, and a line
    pixel, line, ring = sorted((points.tolist() for points in exports.polygons(mask)), key=len)[:3]
    assert pixel == [[8, 0]] * 3 or line == [[8, 0]] * 3
    assert {tuple(p) for p in pixel + line} == {(8, 0), (7, 3), (7, 4)}
    corners, hole = {(1, 1), (5, 1), (5, 5), (1, 5)}, {(3, 2), (4, 3), (3, 4), (2, 3)}
    assert corners | hole <= {tuple(p) for p in ring} and len(pixel) == len(line) == 3


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with an untrained segmenter of four parts that NAMED is said of, and photos with sub-folders."""
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    run = runs.open_run("creatures", "x", image_size=32, n_parts=4, segmenter="unet", segmenter_width=4)
    run.start("cpu")
    torch.manual_seed(0)
    run.save("segmenter", 10, {"segmenter": loading.build_segmenter(run.cfg).state_dict()})
    part_names.change_parts(run, NAMED)
    for i, (stem, (H, W)) in enumerate(SIZES.items()):
        path = tmp_path / "photos" / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (H, W, 3), np.uint8)).save(path)
    return run


def test_masks_table_and_exports_of_a_run_are_of_its_named_parts(run, tmp_path):
    out = tmp_path / "out"
    segment.segment_photos(tmp_path / "photos", run, out, "cpu", formats=["coco", "yolo"])
    read, model = COCO(out / "coco" / "annotations.json"), segment.load(run, "cpu")
    for image in read.imgs.values():
        raw = model.segment(tmp_path / "photos" / image["file_name"])
        mask = np.asarray(Image.open(out / f"{image['file_name'].removesuffix('.png')}_parts.png"))
        np.testing.assert_array_equal(mask, np.array([0, 1, 1, 0, 4])[raw])
        areas = {a["category_id"]: a["area"] for a in read.loadAnns(read.getAnnIds(imgIds=[image["id"]]))}
        assert areas == {k: (mask == k).sum() for k in (1, 4) if (mask == k).any()}
    with open(out / "parts.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["part"], row["name"]) for row in rows[:2]] == [("1", NAMED[1]["name"]), ("4", NAMED[4]["name"])]
    assert len(rows) == 2 * len(SIZES) and (out / "yolo" / "labels" / "sub" / "deep" / "c d.txt").exists()


def test_an_overlay_has_a_white_line_around_its_parts():
    labels = np.zeros((20, 20), np.uint8)
    labels[5:15, 5:15] = 1
    yellow = Image.new("RGB", (20, 20), (240, 228, 66))
    drawn = np.asarray(pictures.outlined(yellow, labels))
    assert (drawn[5, 5:15] == 255).all() and (drawn[4, 5:15] == 0).all()
    assert (drawn[6:14, 6:14] == (240, 228, 66)).all() and (drawn[:3] == (240, 228, 66)).all()


@pytest.mark.parametrize("there", ["coco", "labelstudio"])
def test_an_export_that_is_there_is_kept_and_refused_before_anything_is_written(run, tmp_path, there):
    (tmp_path / "out" / there).mkdir(parents=True)
    (tmp_path / "out" / there / "kept").write_text("of another run")
    with pytest.raises(UserError, match=f"out: .*{there} is there already, or .*; move it away, or name another"):
        segment.segment_photos(tmp_path / "photos", run, tmp_path / "out", "cpu", formats=["voc", there])
    assert [str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")] == [
        there, f"{there}/kept"]


def test_formats_and_photos_that_cannot_be_are_a_sentence(run, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    with pytest.raises(UserError, match=r"format: there is no 'coc' \(did you mean coco\?\); known are coco, yolo"):
        segment.segment_photos(photos, run, out, "cpu", formats=["coc"])
    Image.new("RGB", (9, 9)).save(photos / "a.jpg")
    with pytest.raises(UserError, match=r"format: yolo and voc tell photos apart .* another one has that of a.png; "):
        segment.segment_photos(photos, run, out, "cpu", formats=["yolo"])
    (photos / "a.jpg").rename(photos / "sub" / "x.jpg")
    (photos / "sub").rename(photos / "coco")
    with pytest.raises(UserError, match="or a folder of the photos has its name"):
        segment.segment_photos(photos, run, out, "cpu", formats=["coco"])
    assert not list(out.iterdir())


@pytest.mark.parametrize("where", ["labels", "data.yaml"])
def test_where_no_room_is_left_no_export_stays_half_written(run, tmp_path, monkeypatch, where):
    write = exports._write

    def full(path, content):
        if where in path.parts and path.name != "a.txt":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(exports, "_write", full)
    with pytest.raises(UserError, match="1 of 3 photos only, and no export, for those of .* cannot be written: no room"
                       if where == "labels" else "yolo: cannot be written, no room is left"):
        segment.segment_photos(tmp_path / "photos", run, tmp_path / "out", "cpu", formats=["coco", "yolo"])
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "parts.csv" in left and "a_parts.png" in left and not {"yolo", "yolo.partial"} & left
    assert "coco" not in left and not list((tmp_path / "out").rglob("*.partial"))
