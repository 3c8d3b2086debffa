"""Masks of anybody's: as they are measured, and what is said of those that cannot be."""

import inspect
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from ganseg import cli, config, evaluate, metrics, runs, score, train
from ganseg.datasets import loading as pictures_of
from ganseg.errors import UserError
from ganseg.experiments import compare
from ganseg.figures import coco, report
from ganseg.model import loading
from ganseg.model.prediction import predict

W, H, S = 40, 24, 32  # of the photos, which are squeezed into S x S


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))


@pytest.fixture
def photos(tmp_path):
    """Makes a source of 8 photos, of which 4 are tested on, all with masks of two parts and one landmark."""

    def make(landmarks=True, masks=True):
        rows = ["file,split,nose_x,nose_y"]
        for i in range(8):
            save(tmp_path / f"photos/images/{i}.png", np.full((H, W, 3), [30 * i + 5, 90, i], np.uint8))
            if masks:
                save(tmp_path / f"photos/masks/{i}.png", halves(i))
            rows.append(f"{i}.png,{('train', 'test')[i % 2]},{i + 4},{i + 5}")
        if landmarks:
            (tmp_path / "photos" / "landmarks.csv").write_text("\n".join(rows))
        return tmp_path / "photos"

    return make


def halves(i=0, width=W, height=H):
    """Part 1 on the left and part 2 on the right of a box that moves with i."""
    labels = np.zeros((height, width), np.uint8)
    labels[4:16, 4 + i : 12 + i], labels[4:16, 12 + i : 20 + i] = 1, 2
    return labels


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_masks(folder, wanted=range(8), change=lambda labels: labels, name="{}.png"):
    for i in wanted:
        save(folder / name.format(i), change(halves(i)))
    return folder


def opened(source, run="theirs", **fields):
    return runs.open_run("folder", run, source=str(source), **{"image_size": S, **fields})


def coco_of(wanted=range(8), name="{}.png", polygons=False):
    """COCO JSON of halves, with run lengths or polygons."""
    content = coco.as_coco(np.stack([halves(i) for i in wanted]), [name.format(i) for i in wanted], 2, "halves")
    for one, i in zip(content["images"], wanted, strict=True):
        for part in [part for part in content["annotations"] if polygons and part["image_id"] == one["id"]]:
            x = (4 if part["category_id"] == 1 else 12) + i
            part["segmentation"] = [[x, 4, x + 8, 4, x + 8, 16, x, 16]]
    return content


def test_our_own_masks_score_as_our_segmenter_is_evaluated(tmp_path):
    """To the last digit, all that depends on labels alone."""
    run = runs.open_run("tiny", "shipped", "segmenter")
    ours, network = evaluate.evaluate(run), loading.read_segmenter(run, device="cpu")[0]
    for split in (pictures_of.load_pictures(run.cfg, "test"), pictures_of.load_fit(run.cfg)):
        for name, labels in zip(split.names, predict(network, split.images).labels.numpy(), strict=True):
            save(tmp_path / "masks" / f"{name}.png", labels)
    theirs = score.score(runs.open_run("tiny", "theirs"), tmp_path / "masks")
    of_labels = {name for name, (function, _) in metrics.registry._METRICS.items()
                 if not {"centroids", *score.REASONS} - {"train_labels", "train_centroids"}
                 & inspect.signature(function).parameters.keys()} | {"collapse"}
    same = of_labels & ours.keys()
    assert {"nmi", "ari", "part_miou", "foreground_iou", "nmi_keypoints", "colors_explained", "places_held", "collapse",
            "parts_effective"} <= same
    assert {name: theirs[name] for name in same} == {name: ours[name] for name in same}
    # Landmarks are regressed from the masks' pixels instead of probabilities
    assert theirs["keypoint_error_percent"] == pytest.approx(ours["keypoint_error_percent"], rel=0.1)
    assert set(ours) - set(theirs) == {"extent_px", "center_spread_px", "mask_entropy", "equivariance", "certainty",
                                       "certainty_gap", "nmi_keypoints_parts", "ari_keypoints_parts"}
    assert theirs["left_out"]["equivariance"] == "it needs the network, and masks alone are given"


@pytest.mark.parametrize("crop", ["squeeze", "center", "pad"])
def test_the_true_masks_are_perfect_under_each_crop(photos, tmp_path, crop):
    source = photos()
    record = score.score(opened(source, crop=crop), source / "masks")
    perfect = ("foreground_iou", "nmi", "ari", "nmi_foreground", "part_miou")
    assert {name: record[name] for name in perfect} == pytest.approx(dict.fromkeys(perfect, 1))
    assert record["parts_used"] == 2 and record["notes"]["test pictures"] == 4


def test_a_mask_counts_where_it_lies(photos, tmp_path):
    """Of part 1 in each photo, 8 x 12 pixels, only the left half is found, in the middle that the crop leaves."""

    def cut(labels):
        column = np.flatnonzero((labels == 1).any(axis=0))[4:]
        return np.where(np.isin(np.arange(W), column), 0, labels).astype(np.uint8)

    source = photos()
    record = score.score(opened(source, crop="center"), write_masks(tmp_path / "cut", change=cut))
    photo = pictures_of.load_pictures(opened(source, crop="center").cfg, "test")
    expected = [(one > 0).numpy() for one in photo.labels]
    ious = []
    for i, truth in zip((1, 3, 5, 7), expected, strict=True):
        middle = cut(halves(i))[:, (W - H) // 2 : (W + H) // 2]
        found = np.asarray(Image.fromarray(middle).resize((S, S), Image.Resampling.NEAREST)) > 0
        ious.append((found & truth).sum() / (found | truth).sum())
    assert record["foreground_iou"] == pytest.approx(np.mean(ious)) and np.mean(ious) < 0.9


@pytest.mark.parametrize("kind", ["folder of ganseg segment", "sub-folders", "zip", "run lengths", "packed", "polygons",
                                  "squares"])
def test_every_form_of_the_same_masks_scores_alike(photos, tmp_path, kind, capsys):
    source, path = photos(), tmp_path / "given"
    if kind == "folder of ganseg segment":
        write_masks(path, name="{}_parts.png")
        (path / "parts.csv").write_text("photo")
        Image.new("RGB", (W, H)).save(path / "0_overlay.jpg")
    elif kind == "sub-folders":
        write_masks(path / "images")
    elif kind == "zip":
        path = tmp_path / "given.zip"
        with zipfile.ZipFile(path, "w") as file:
            for i in range(8):
                buffer = io.BytesIO()
                Image.fromarray(halves(i)).save(buffer, "PNG")
                file.writestr(f"top/{i}.png", buffer.getvalue())
    elif kind == "squares":
        write_masks(path, change=lambda labels: np.asarray(Image.fromarray(labels).resize((S, S), 0)))
    else:
        content, path = coco_of(polygons=kind == "polygons"), tmp_path / "given.json"
        for one in content["annotations"] if kind == "run lengths" else []:
            pixels = (halves(one["image_id"] - 1) == one["category_id"]).ravel(order="F")
            edges = np.flatnonzero(np.diff(np.concatenate([[False], pixels, [False]])))
            one["segmentation"]["counts"] = np.diff(np.concatenate([[0], edges, [pixels.size]])).tolist()
        path.write_text(json.dumps(content))
    record = score.score(opened(source), path)
    said = capsys.readouterr().out
    assert (record["nmi"], record["part_miou"], record["parts_used"]) == (pytest.approx(1), 1, 2)
    assert ("4 masks are 32 x 32 pixels" in said) == (kind == "squares")
    assert (tmp_path / "outputs/folder/theirs/missing.txt").read_text() == ""


def test_centroids_are_means_of_pixels_and_the_middle_for_absent_parts():
    labels = np.zeros((2, 5, 5), np.int16)
    labels[0, 1, 2:5], labels[1, 4, 0] = 1, 2
    x = 2 * np.array([[3, 1], [2, 2], [2, 2], [0, 4]]).reshape(2, 2, 2) / 4 - 1
    found = score._found(labels, 2)
    np.testing.assert_allclose(found.centroids.numpy(), x, atol=1e-5)


def test_pictures_without_a_mask_are_left_out_and_named(photos, tmp_path, capsys):
    source = photos()
    masks = write_masks(tmp_path / "some", (1, 3, 5))
    save(masks / "other.png", halves())
    record = score.score(opened(source), masks)
    said = capsys.readouterr().out
    assert "1 of 4 test pictures have no mask and are left out: images/7.png" in said
    assert "1 of 4 masks belong to no picture that is read, the first is other.png" in said
    counts = ("test pictures", "test pictures without a mask", "masks of no picture that is read")
    assert [record["notes"][name] for name in counts] == [3, 1, 1]
    missing = (tmp_path / "outputs/folder/theirs/missing.txt").read_text().splitlines()
    assert missing == ["test: images/7.png", *(f"train: images/{i}.png" for i in (0, 2, 4, 6))]
    reason = "no masks of training pictures are given; missing.txt names those it needs"
    assert record["left_out"]["part_miou"] == reason == record["left_out"]["keypoint_error_percent"]
    assert record["nmi_keypoints"] >= 0 and record["foreground_iou"] == 1
    assert "foreground_iou (1 test pictures without a mask)" in compare.runs_table([runs.find("folder/theirs")])


def test_masks_of_most_test_pictures_must_be_there(photos, tmp_path):
    with pytest.raises(UserError, match=r"but none of 3 of 4 test pictures, which is more than half; the first is "
                                        r"images/3.png, and the first mask 0.png"):
        score.score(opened(photos()), write_masks(tmp_path / "some", (0, 1, 2)))
    assert not (tmp_path / "outputs/folder/theirs").exists()


def test_without_annotations_what_needs_none_is_measured(photos, tmp_path):
    record = score.score(opened(photos(landmarks=False, masks=False)), write_masks(tmp_path / "given"))
    assert {"parts_used", "places_held", "colors_explained", "collapse"} <= record.keys()
    assert record["left_out"]["foreground_iou"] == "the test pictures have no true foreground masks"
    assert record["left_out"]["keypoint_error_percent"] == "the test pictures have no landmarks"


def test_masks_of_black_and_white_are_one_part(photos, tmp_path, capsys):
    white = write_masks(tmp_path / "white", change=lambda labels: np.where(labels, 255, 0).astype(np.uint8))
    record = score.score(opened(photos()), white)
    assert (record["foreground_iou"], record["parts_used"]) == (1, 1)
    assert "255 counts as part 1" in capsys.readouterr().out


def test_masks_of_another_size_are_stretched_on_demand_alone(photos, tmp_path):
    source = photos()
    twice = write_masks(tmp_path / "twice", change=lambda labels: labels.repeat(2, axis=0).repeat(2, axis=1))
    with pytest.raises(UserError, match=r"mask 1.png, which cannot be used: it is 80 x 48 pixels, its picture 40 x 24; "
                                        "--resize stretches it"):
        score.score(opened(source, crop="pad"), twice)
    assert score.score(opened(source, crop="pad"), twice, resize=True)["part_miou"] == 1


def damaged(path):
    path.write_bytes(path.read_bytes()[:-30])


def smooth(labels):
    large = Image.fromarray(labels * 4).resize((200, 120), Image.Resampling.BILINEAR)
    return np.asarray(large.resize((W, H), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("change, sentence", [
    (lambda labels: np.stack([labels] * 3, axis=-1), "it is a RGB picture; a mask holds one number per pixel"),
    (lambda labels: labels.astype(np.uint16) * 200, "it holds labels up to 400; allowed are 0 to 255"),
    (smooth, "its edges are smoothed, with values between those of their sides; save label numbers"),
    (lambda labels: np.arange(W * H).reshape(H, W).astype(np.uint8), "it holds more than 64 different values"),
    (lambda labels: labels * 0, "background alone; parts are labels from 1 to 255"),
])
def test_masks_that_are_none_are_one_sentence(photos, tmp_path, change, sentence):
    with pytest.raises(UserError, match=f"^masks: {tmp_path / 'bad'} holds.* {sentence}"):
        score.score(opened(photos()), write_masks(tmp_path / "bad", change=change))
    assert not (tmp_path / "outputs/folder/theirs").exists()


def test_damaged_masks_and_wrong_paths_are_one_sentence(photos, tmp_path):
    source, masks = photos(), write_masks(tmp_path / "bad")
    damaged(masks / "3.png")
    (tmp_path / "empty").mkdir()
    for path, sentence in ((masks, "holds the mask 3.png, which cannot be used: .*truncated"),
                           (tmp_path / "empty", "holds no masks; they should be index PNGs, NAME.png"),
                           (tmp_path / "none", "there is no .*none; name a folder or zip of index PNGs, or COCO"),
                           (write_masks(tmp_path / "x", name="other{}.png"), "none of 4 of 4 .* mask other0.png")):
        with pytest.raises(UserError, match=f"^masks: .*{sentence}"):
            score.score(opened(source), path)


@pytest.mark.parametrize("change, sentence", [
    (lambda c: c.clear(), "is no COCO JSON with images .*: 'images'"),
    (lambda c: c.update(images=3), "is no COCO JSON"),
    (lambda c: c["annotations"][0].update(image_id=99), "is no COCO JSON with .*: 99"),
    (lambda c: c["annotations"][0].update(category_id=256), "holds the category 256; allowed are 1 to 255"),
    (lambda c: c["categories"][0].update(id=0), "holds the category 0; allowed are 1 to 255"),
    (lambda c: c["images"][1].update(file_name="0.png"), "is no COCO JSON"),
    (lambda c: c["images"][1].update(width=41), "1.png, which cannot be used: a segmentation is 40 x 24 pixels"),
    (lambda c: c["annotations"][2].update(segmentation=[[0, 0, 1e12, 0, 5, 5]]), "a polygon lies far outside"),
    (lambda c: c["annotations"][2].update(segmentation={"size": [H, W], "counts": [W * H + 1]}), "cannot be used"),
    (lambda c: c["annotations"][2].update(segmentation=None), "cannot be used"),
    (lambda c: [one.update(file_name=f"x{one['id']}.jpg") for one in c["images"]], "none of 4 of 4 test pictures"),
])
def test_bad_json_is_one_sentence(photos, tmp_path, change, sentence):
    content = coco_of()
    change(content)
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"^masks: .*bad.json .*({sentence})"):
        score.score(opened(photos()), tmp_path / "bad.json")


def test_parts_that_a_json_declares_count_though_none_shows_them(photos, tmp_path):
    content = coco_of()
    content["categories"].append({"id": 5, "name": "tail"})
    (tmp_path / "a.json").write_text(json.dumps(content))
    run = opened(photos())
    assert score.score(run, tmp_path / "a.json")["collapse"] == 1 and run.cfg.n_parts == 5


def test_a_run_keeps_its_number_of_parts_and_a_trained_one_its_metrics(photos, tmp_path):
    source, masks = photos(), write_masks(tmp_path / "given")
    with pytest.raises(UserError, match="n_parts: 1 is less than 2, the largest label of"):
        score.score(opened(source, n_parts=1), masks, n_parts=1)
    score.score(opened(source, n_parts=3), masks, n_parts=3)
    assert opened(source).cfg.n_parts == 3
    with pytest.raises(UserError, match="run: folder/theirs has 3 parts, .*given 2; give another name with --run"):
        score.score(opened(source), masks)
    assert score.score(opened(source), masks, n_parts=3)["part_share_min"] == 0
    with pytest.raises(UserError, match="run: tiny/shipped was trained; give the masks another name with --run"):
        score.score(runs.open_run("tiny", "shipped"), masks)


def test_the_command_writes_a_run_that_opens_like_others(photos, tmp_path, capsys):
    source, masks = photos(), write_masks(tmp_path / "given")
    given = ["-p", "dataset", "folder", "-p", "source", str(source), "-p", "image_size", str(S), "--run", "theirs"]
    cli.main(["score", str(masks), "--league", "class labels", *given])
    said = capsys.readouterr().out
    assert "foreground_iou " in said and "No collapse: 2 of 2 parts are in use." in said
    run = runs.find("folder/theirs")
    with pytest.raises(UserError, match="folder/theirs holds parts that no GAN of its own taught; give another name"):
        list(train.train(run))
    assert config.read(run.folder / "config.yaml").n_parts == 2
    assert (run.folder / "figures" / "detections.png").exists()
    page = (run.folder / "report.html").read_text()
    assert "n_parts: 2" in page and "lambda_con:" not in page.partition("<details>")[0] and str(masks) in page
    table = compare.runs_table([run])
    assert table.loc["folder/theirs", "foreground_iou"] == 1 and table.loc["folder/theirs", "n_parts"] == 2
    assert table.loc["folder/theirs", "league"] == "class labels" and "lambda_con" not in table
    with pytest.raises(SystemExit, match="league: 'dreams' is none; there are nothing, ImageNet labels"):
        cli.main(["score", str(masks), "--league", "dreams", *given])
    assert report.metrics_table(run) in said
    with pytest.raises(SystemExit, match="there is no such parameter"):
        cli.main(["score", str(masks), "-p", "x", "1"])
