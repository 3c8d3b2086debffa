"""A segmenter on real photos: what is shown, ranked, cut out and named."""


import numpy as np
import pytest
import torch
from PIL import Image

from ganseg import metrics, part_names, runs, segment
from ganseg.datasets.loading import load_pictures
from ganseg.errors import UserError
from ganseg.figures import pictures
from ganseg.metrics import landmarks, masks
from ganseg.model import loading, prediction
from ganseg.viewer.photos import CROP_PX, Photos, view_file

N = 12
SMALL = {"image_size": 32, "n_parts": 3, "segmenter": "unet", "segmenter_width": 4, "device": "cpu"}


def save_segmenter(run):
    """Keep random weights as the run's segmenter."""
    run.start("cpu")
    torch.manual_seed(0)
    run.save("segmenter", 10, {"segmenter": loading.build_segmenter(run.cfg).state_dict()})
    return run


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    limits = {"max_test_pictures": N, "max_train_pictures": 20, "fit_pictures": 20}
    return save_segmenter(runs.open_run("creatures", "x", **SMALL, **limits))


@pytest.fixture
def photos(run):
    return Photos(run, segment.load(run, "cpu"))


class Reds(torch.nn.Module):
    """Red pixels are part 2, with a probability that grows with the red; all else is background; part 1 and 3 never."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        red = images[:, 0] - images[:, 1]  # 2 for pure red, 0 for grey
        never = torch.full_like(red, -50)
        return torch.stack([torch.full_like(red, 0.5), never, 2 * red, never], dim=1)


@pytest.fixture
def red_photos(tmp_path, monkeypatch):
    """Six grey photos of 32 pixels: photo i has a red square of 2 i pixels, its middle at (20, 12); the first none."""
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    for i in range(6):
        picture = np.full((32, 32, 3), 90, np.uint8)
        picture[12 - i : 12 + i, 20 - i : 20 + i] = (255, 0, 0)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "photos" / f"{i}.png")
    run = save_segmenter(runs.open_run("folder", "reds", source=str(tmp_path / "photos"), **SMALL))
    model = segment.load(run, "cpu")
    model.network = Reds()
    return Photos(run, model, "train")


def test_area_confidence_and_centroid_are_those_of_the_pixels_a_part_wins():
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1, 0, 0], logits[0, 1, 0, 1], logits[0, 0, 1] = 2.0, 1.0, 3.0  # part 1 wins the upper row
    found = prediction.predict(Fixed(logits), torch.zeros(1, 3, 2, 2, dtype=torch.uint8)).numpy()
    p = logits.softmax(dim=1)[0].numpy()
    assert found.labels.tolist() == [[[1, 1], [0, 0]]] and found.labels.dtype == np.uint8
    np.testing.assert_allclose(found.area, [[0.5, 0]])
    np.testing.assert_allclose(found.confidence, [[p[1, 0].mean(), np.nan]], rtol=1e-6)
    np.testing.assert_allclose(found.certainty, [p.max(axis=0).mean()], rtol=1e-6)
    x = (p[1, :, 1].sum() - p[1, :, 0].sum()) / p[1].sum()
    np.testing.assert_allclose(found.centroids[0, 0, 0], x, rtol=1e-4)


class Fixed(torch.nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, images):
        return self.logits


def test_a_view_paints_the_parts_and_beside_them_the_truth(photos):
    test = load_pictures(photos.run.cfg, "test")
    view = photos.view(3, strength=1.0)
    palette = np.array([[0, 0, 0], *pictures.part_colors(5)], np.uint8)
    small = photos.predicted.labels[3], test.labels[3].numpy()
    labels, truth = (array.repeat(8, axis=0).repeat(8, axis=1) for array in small)
    assert (view.parts[labels > 0] == palette[labels[labels > 0]]).all()
    plain = pictures.enlarge(pictures.to_uint8(test.images[3:4]), 256)[0]
    np.testing.assert_array_equal(view.parts[labels == 0], plain[labels == 0])
    as_true = np.abs(view.truth - (0.1 * plain + 0.9 * palette[truth])).max(axis=-1) < 2
    assert as_true[truth > 0].mean() > 0.9  # the rest lies under the dots of the keypoints
    assert view.photo.shape == (256, 256, 3) and (view.photo != plain).any()


def test_a_part_can_be_shown_alone_and_the_table_always_has_all(photos):
    view = photos.view(0, part=2, strength=1.0)
    changed = (view.parts != photos.view(0, strength=0.0).parts).any(axis=-1)
    wins = photos.predicted.labels[0].repeat(8, axis=0).repeat(8, axis=1) == 2
    np.testing.assert_array_equal(changed, wins)
    assert [row["part"] for row in view.rows] == [1, 2, 3]
    background = (photos.predicted.labels[0] == 0).mean()
    assert sum(row["area_share"] for row in view.rows) == pytest.approx(1 - background)


def test_a_part_that_is_absent_has_no_confidence_and_no_centroid(red_photos):
    absent, present, _ = red_photos.view(5).rows
    assert (absent["area_share"], absent["confidence"], absent["x_px"]) == (0, None, None)
    assert present["area_share"] == pytest.approx(100 / 1024)
    assert present["confidence"] == pytest.approx(1 / (1 + np.exp(0.5 - 4)), abs=1e-4)
    assert red_photos.view(5).truth is None


def test_the_worst_by_a_metric_come_first_and_their_mean_is_the_metric(photos):
    test = load_pictures(photos.run.cfg, "test")
    iou = photos.values("foreground_iou")
    assert iou.mean() == pytest.approx(masks.foreground_iou(photos.predicted.labels, test.labels.numpy() != 0))
    order = photos.ranked("foreground_iou")
    assert sorted(order) == list(range(N)) and (np.diff(iou[order]) >= 0).all()
    assert (np.diff(iou[photos.ranked("foreground_iou", best_first=True)]) <= 0).all()
    background = photos.values("background_share")
    assert background[photos.ranked("background_share")[0]] == background.max()


def test_the_keypoint_error_of_all_photos_is_the_metric(photos):
    cfg = photos.run.cfg
    test, fit = load_pictures(cfg, "test"), load_pictures(cfg, "fit", cfg.fit_pictures)
    found = [prediction.predict(photos.model.network, p.images).centroids.numpy() for p in (test, fit)]
    value = landmarks.keypoint_error_percent(found[0], test.landmarks.numpy(), found[1], fit.landmarks.numpy(), 32)
    errors = photos.values("keypoint_error_percent")
    assert errors.shape == (N,) and errors.mean() == pytest.approx(value, rel=1e-4)


def test_photos_whose_measure_is_unknown_come_last(photos, monkeypatch):
    monkeypatch.setattr(photos, "values", lambda measure: np.array([0.5, np.nan, 0.2]))
    assert list(photos.ranked("foreground_iou")) == [2, 0, 1]
    assert list(photos.ranked("foreground_iou", best_first=True)) == [0, 2, 1]


def test_only_measures_that_the_photos_allow_are_offered(photos, red_photos):
    assert photos.measures()[:2] == ["foreground_iou", "keypoint_error_percent"]
    assert red_photos.measures() == ["background_share", "confidence", "parts_missing"]
    assert set(photos.measures()) - set(metrics.protocols()) == {"confidence", "parts_missing"}
    assert red_photos.ranked("parts_missing")[0] == 0  # the one without red
    assert red_photos.values("parts_missing").tolist() == [3, 2, 2, 2, 2, 2]


def test_crops_show_where_a_part_is_largest_and_surest(red_photos):
    crops, chosen = red_photos.crops(2, n=3)
    assert list(chosen) == [5, 4, 3]
    assert crops.shape[0] == 3 and crops.shape[1] == crops.shape[2] >= CROP_PX
    pure = (crops[0] == (255, 0, 0)).all(axis=-1)
    y, x = np.argwhere(pure).mean(axis=0) / len(pure)
    assert abs(x - 0.5) < 0.1 and abs(y - 0.5) < 0.1 and 0.05 < pure.mean() < 0.5
    assert (crops[0] == pictures.part_colors(2)[1]).all(axis=-1).any()  # the outline


def test_of_two_pieces_the_larger_is_in_the_middle_of_its_crop(red_photos):
    red_photos.predicted.labels[5, 28:31, 2:5] = 2  # far from the square of 10 pixels
    crop = red_photos.crops(2, n=1)[0][0]
    y, x = np.argwhere((crop == (255, 0, 0)).all(axis=-1)).mean(axis=0) / len(crop)
    assert abs(x - 0.5) < 0.05 and abs(y - 0.5) < 0.05


def test_a_part_that_wins_no_pixel_has_no_crops(red_photos):
    crops, chosen = red_photos.crops(1)
    assert len(crops) == len(chosen) == 0


def test_at_most_so_many_photos_are_looked_at(run):
    assert len(Photos(run, segment.load(run, "cpu"), limit=5).predicted.labels) == 5


def test_ones_own_photo_is_read_from_a_path_or_bytes(red_photos, tmp_path):
    path = tmp_path / "photos" / "5.png"
    with Image.open(path) as picture:
        sources = path, path.read_bytes(), memoryview(path.read_bytes()), picture, np.asarray(picture.convert("RGB"))
        views = [view_file(red_photos.run, red_photos.model, source) for source in sources]
    of_set = red_photos.view(5)
    for view in views:
        np.testing.assert_array_equal(view.parts, of_set.parts)
        assert [row["area_share"] for row in view.rows] == [row["area_share"] for row in of_set.rows]
        assert view.truth is None


def test_ones_own_photo_is_shown_at_its_size_with_the_labels_of_segment(red_photos):
    model, run = red_photos.model, red_photos.run
    photo = np.repeat(np.repeat(pictures.to_uint8(red_photos.photos.images[5:6])[0], 12, axis=0), 20, axis=1)
    labels, view = model.segment(photo), view_file(run, model, photo, strength=1.0)
    assert view.parts.shape == photo.shape == (384, 640, 3)
    painted = pictures.overlay(photo[None], labels[None], part_names.read_parts(run).colors, 1.0)[0]
    np.testing.assert_array_equal(view.parts, painted)
    for row in view.rows:
        rows, columns = np.nonzero(labels == row["part"])
        assert row["area_share"] == len(rows) / labels.size
        if len(rows):
            assert (row["x_px"], row["y_px"]) == pytest.approx((columns.mean(), rows.mean()), abs=0.01)
    wide = view_file(run, model, np.repeat(np.repeat(photo, 4, axis=0), 4, axis=1))
    assert wide.parts.shape == (720, 1200, 3)


def test_a_photo_that_cannot_be_read_is_a_sentence(red_photos, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    for source, name in ((tmp_path / "notes.png", "notes.png"), (b"no picture", "the uploaded file"),
                         (tmp_path / "none.png", "none.png"), (np.zeros((3, 9, 9)), "the uploaded file")):
        with pytest.raises(UserError, match=rf"{name} cannot be read \(.+\); choose a JPEG"):
            view_file(red_photos.run, red_photos.model, source)


def test_a_run_without_segmenter_names_the_command(tiny_run):
    with pytest.raises(UserError, match="ganseg distill -p dataset creatures --run bare"):
        segment.load(tiny_run("bare"), "cpu")


def test_rows_of_a_photo_are_those_of_the_parts_that_are_left(run, photos):
    part_names.change_parts(run, {1: {"name": "head"}, 2: {"merge": 1}, 3: {"name": "tail"}})
    photos.predicted.area[0], photos.predicted.confidence[0] = [0.3, 0.1, 0.2], [0.8, 0.4, 0.5]
    one, tail = photos.view(0).rows
    assert one["label"] == "1: head" and one["area_share"] == pytest.approx(0.4)
    assert one["confidence"] == pytest.approx((0.3 * 0.8 + 0.1 * 0.4) / 0.4)
    assert tail["part"] == 3 and tail["label"] == "3: tail"
