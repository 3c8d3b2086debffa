"""Crop pad: the whole photo in its square, edges repeated around it, which count nowhere."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_datasets import BLUE, RED, cfg, encoded, halves, near, outputs  # noqa: F401, the last is a fixture

from ganseg import config, evaluate, metrics, runs, segment
from ganseg.datasets import decode
from ganseg.datasets.loading import load_pictures
from ganseg.figures import coco
from ganseg.model import prediction
from ganseg.viewer import photos

INSIDE = np.zeros((32, 32), bool)
INSIDE[8:24] = True  # a photo twice as wide as high


@pytest.mark.parametrize("size", [(48, 24), (24, 48), (1, 32), (30, 30), (2000, 1000)])
def test_the_edges_of_the_photo_are_repeated_to_a_square(size):
    content = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    square, found = decode.read_square(encoded(Image.fromarray(content)), 32, "pad")
    left, top, w, h = decode.photo_box(found, 32, "pad")
    assert square.shape == (32, 32, 3) and max(w, h) == 32 and abs(w / h - size[0] / size[1]) < 0.1
    small = Image.fromarray(content).resize((w, h), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(square[top : top + h, left : left + w], small)
    assert (square[: top + 1] == square[top]).all() and (square[top + h - 1 :] == square[top + h - 1]).all()
    assert (square[:, : left + 1] == square[:, left : left + 1]).all()
    assert abs(left - (32 - left - w)) <= 1 and abs(top - (32 - top - h)) <= 1


def test_a_jpeg_that_is_decoded_smaller_lies_where_its_own_size_says():
    picture = Image.new("RGB", (1030, 259), RED)
    square, size = decode.read_square(encoded(picture, "JPEG"), 64, "pad")
    assert size == (1030, 259) and decode.photo_box(size, 64, "pad") == (0, 24, 64, 16) and near(square, RED, 5)


def own(root):
    """A wide and a tall photo with a mask whose right half is 7, and landmarks on their outer pixels."""
    (root / "masks").mkdir(parents=True)
    for name, size in (("tall", (24, 48)), ("wide", (48, 24))):
        (root / f"{name}.png").write_bytes(encoded(halves(size=size)))
        (root / "masks" / f"{name}.png").write_bytes(encoded(halves(0, 7, "L", size)))
    lines = ["file,split,a_x,a_y,b_x,b_y", "tall.png,train,0,0,23,47", "wide.png,test,0,0,47,23"]
    (root / "landmarks.csv").write_text("\n".join(lines))
    return root


def test_the_padding_is_no_label_and_landmarks_go_with_the_photo(tmp_path):
    source = own(tmp_path / "own")
    train, test = (load_pictures(cfg(source=source, crop="pad", ignore_label=None), s) for s in ("train", "test"))
    assert train.boxes.tolist() == [[8, 0, 16, 32]] and test.boxes.tolist() == [[0, 8, 32, 16]]
    expected = np.where(INSIDE, np.where(np.arange(32) < 16, 0, 7), -1)
    np.testing.assert_array_equal(test.labels[0], expected)
    np.testing.assert_array_equal(train.labels[0] >= 0, INSIDE.T)
    pixels = (test.landmarks[0].numpy() + 1) / 2 * 31
    assert pixels == pytest.approx(np.array([[0, 8], [47 * 32 / 48, 8 + 23 * 16 / 24]]), abs=1e-5)
    pixels = (train.landmarks[0].numpy() + 1) / 2 * 31
    assert pixels == pytest.approx(np.array([[8, 0], [8 + 23 * 16 / 24, 47 * 32 / 48]]), abs=1e-5)
    assert load_pictures(cfg(source=source, ignore_label=None), "test").boxes is None
    assert load_pictures(cfg(source=source, crop="pad", ignore_label=None), "fit").boxes.tolist() == [[8, 0, 16, 32]]


class Network(torch.nn.Module):
    """Part 1 on the right half of photos, part 2 on their padding; 3 logits."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, images):
        labels = torch.zeros(32, 32, dtype=torch.long)
        labels[:, 16:], labels[torch.from_numpy(~INSIDE)] = 1, 2
        one_hot = torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1)
        return 20.0 * one_hot.expand(len(images), 3, 32, 32)


def test_predictions_look_at_the_photo_alone():
    found = prediction.predict(Network(), torch.zeros(3, 3, 32, 32, dtype=torch.uint8), [[0, 8, 32, 16]] * 3, 2)
    np.testing.assert_array_equal(found.labels[2], np.where(INSIDE, np.arange(32) >= 16, -1))
    expected = np.where(INSIDE, np.where(np.arange(32) >= 16, 1, found.part_labels[2]), -1)
    np.testing.assert_array_equal(found.part_labels[2], expected)
    assert set(found.part_labels[2].flatten().tolist()) == {-1, 1}
    assert found.area.tolist() == [[0.5, 0]] * 3 and found.certainty.tolist() == pytest.approx([1, 1, 1])
    assert found.centroids[0, 0].tolist() == pytest.approx([2 * 23.5 / 31 - 1, 0], abs=1e-5)
    assert found.confidence[:, 0].tolist() == pytest.approx([1, 1, 1])
    plain = prediction.predict(Network(), torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert plain.area.tolist() == [[0.25, 0.5]] and plain.labels.min() == 0


def test_each_metric_is_that_of_the_photos_without_their_padding():
    random = np.random.default_rng(0)
    labels, truth = (random.integers(0, n, (6, 16, 32)).astype(np.int16) for n in (4, 3))

    def values(labels, true, **fields):
        return metrics.compute(metrics.Predictions(
            n_parts=3, image_size=32, labels=labels, true_labels=true, train_labels=labels, train_true_labels=true,
            **fields))[0]

    padded = [np.pad(a, [(0, 0), (8, 8), (0, 0)], constant_values=-1) for a in (labels, truth)]
    plain, found = values(labels, truth), values(*padded)
    assert len(plain) >= 10 and {name: found[name] for name in plain} == pytest.approx(plain)
    landmarks = random.uniform(-0.4, 0.4, (6, 4, 2))
    landmarks[0, 0] = 0, -0.6  # beyond the photo, where nothing is predicted
    expected = values(np.pad(labels, [(0, 0), (8, 8), (0, 0)]), padded[1], landmarks=landmarks)["nmi_keypoints"]
    assert values(*padded, landmarks=landmarks)["nmi_keypoints"] == expected
    assert np.isfinite(values(padded[0], None, landmarks=landmarks)["nmi_keypoints"])


def test_no_part_of_the_padding_is_exported_for_other_tools():
    labels = np.where(INSIDE, 1, -1)[None]
    (annotation,) = coco.as_coco(labels, ["a"], 2, "x")["annotations"]
    assert annotation["category_id"] == 1 and annotation["area"] == 512


@pytest.fixture
def model():
    network = Network()
    cfg = config.check({"dataset": "creatures", "reader": "creatures", "image_size": 32, "n_parts": 2, "crop": "pad",
                        "resolutions": [8, 16, 32], "channels": [8, 8, 4, 4], "mask_channels": [8, 4, 4]})
    return segment.PhotoSegmenter(cfg, network, torch.device("cpu"))


def test_labels_are_cut_back_to_the_photo(model, tmp_path):
    labels = model.segment(halves(size=(200, 100)))
    assert labels.shape == (100, 200)
    np.testing.assert_array_equal(labels, np.broadcast_to(np.arange(200) >= 100, (100, 200)))
    halves(size=(200, 100)).save(tmp_path / "a.png")
    segment.segment_photos(tmp_path / "a.png", model, tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a_parts.png")), labels)
    assert "a.png,a_parts.png,1,part 1,10000,0.500000," in (tmp_path / "out" / "parts.csv").read_text()


def test_a_photo_of_ones_own_is_viewed_at_its_size_without_padding(model, monkeypatch):
    monkeypatch.setattr(photos.part_names, "read_parts", lambda run: photos.part_names.make_parts({}, 2))
    view = photos.view_file(model, model, encoded(halves(BLUE, BLUE)), strength=1.0)
    assert [row["area_share"] for row in view.rows] == [0.5, 0]
    painted = (view.parts != BLUE).any(axis=-1)
    H, W = painted.shape
    assert W == 2 * H
    np.testing.assert_array_equal(painted, np.broadcast_to(np.arange(W) >= W / 2, (H, W)))


def test_a_run_of_padded_photos_is_evaluated_on_the_photos_alone(tmp_path, monkeypatch):
    run = runs.open_run("folder", "x", source=str(own(tmp_path / "own")), crop="pad", image_size=32, n_parts=2)
    run.start("cpu")
    monkeypatch.setattr(evaluate.loading, "read_segmenter", lambda run, *kind, device: (Network(), {"step": 1}))
    record = evaluate.evaluate(run)
    assert record["foreground_iou"] == 1 and record["part_miou"] == 1
    assert record["background_share"] == 0.5 and record["parts_used"] == 1
