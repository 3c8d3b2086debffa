"""Each data set in its distributed layout, from prepare to evaluation; the readers' tests make the tiny sets."""

import zipfile

import pytest
import torchvision
from PIL import Image
from test_readers_celeba_flowers import write_celeba, write_celeba_aligned, write_flowers
from test_readers_cub_taichi import write_cub, write_taichi

from ganseg import distill, evaluate, prepare, runs, train
from ganseg.datasets.folder import BY_HASH
from ganseg.datasets.loading import READERS, load_pictures, wanted_files
from ganseg.errors import UserError
from ganseg.figures import report

LANDMARKS = {"landmark_error", "landmark_error_with_bias", "landmark_error_mean_landmarks", "landmark_error_unit",
             "landmark_error_centered", "landmark_error_standardized"}
BOXES = {"keypoint_error_box", "keypoint_error_box_with_bias", "keypoint_error_box_mean_keypoints", "pck10_box"}
KEYPOINTS = {"keypoint_error_percent", "keypoint_error_percent_mean_keypoints"}
UNDER = {"nmi_keypoints", "ari_keypoints", "nmi_keypoints_parts", "ari_keypoints_parts"}
MASKS = {"foreground_iou", "foreground_iou_pooled", "foreground_iou_center_box"}
LABEL_FREE = {"stability", "parts_effective", "places_held", "colors_held"}  # untrained parts may all be in one place
PARTS = {"nmi", "ari", "nmi_foreground", "ari_foreground", "part_miou", "part_iou_min", "part_iou_median"}


def write_labelled_folder(folder):
    for i in range(24):
        photo, mask = Image.new("RGB", (60, 40), (10 * i, 90, 0)), Image.new("L", (60, 40))
        mask.paste(3, (20, 10, 40, 30))
        for name, picture in (("images", photo), ("masks", mask)):
            (folder / name / "sub").mkdir(parents=True, exist_ok=True)
            picture.save(folder / name / "sub" / f"{i:02}.png")


SETS = {  # name: what writes it, the metrics it must have and those it must leave out
    "celeba": (write_celeba, LANDMARKS | UNDER, MASKS | PARTS | KEYPOINTS | BOXES | {"taichi_mae"}),
    "celeba_aligned": (write_celeba_aligned, LANDMARKS | UNDER, MASKS | {"taichi_mae"} | PARTS | KEYPOINTS | BOXES),
    "flowers": (write_flowers, MASKS, PARTS | BOXES | KEYPOINTS | LANDMARKS | UNDER | {"taichi_mae"}),
    "cub": (write_cub, MASKS | UNDER | KEYPOINTS | BOXES, PARTS | LANDMARKS | {"taichi_mae"}),
    "taichi": (write_taichi, MASKS | {"taichi_mae"} | UNDER | KEYPOINTS, PARTS | LANDMARKS | BOXES),
    "folder": (write_labelled_folder, MASKS | PARTS, BOXES | LANDMARKS | KEYPOINTS | UNDER | {"taichi_mae"}),
}


@pytest.fixture
def small(tmp_path, monkeypatch, tiny, quick):
    """Opens a tiny run of a data set written anew; outputs lie in tmp_path."""
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    kept = ("resolutions", "margin", "n_parts", "point_divisor", "channels", "mask_channels", "spade_hidden", "device",
            "embedding_dim", "z_dim", "mlp_width", "discriminator_channels", "batch_size", "max_steps", "image_size")
    fields = {name: getattr(tiny(), name) for name in kept}
    fields |= {"segmenter": "unet", "segmenter_width": 4, "distill_steps": 2, "distill_batch_size": 2, "n_blocks": 3}
    return lambda dataset, **more: runs.open_run(dataset, "run", **{**fields, **more})


@pytest.mark.parametrize("dataset", SETS)
def test_each_data_set_goes_from_prepare_to_evaluation_and_says_what_it_leaves_out(dataset, small, tmp_path):
    write, given, left_out = SETS[dataset]
    write(tmp_path / "data")
    run = small(dataset, source=str(tmp_path / "data"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert all(row["there"] or row["file"] == "landmarks.csv" for row in prepare.list_layout(run.cfg))
    splits = prepare.build_cache(run)
    rows = {row["split"]: row for row in prepare.count_pictures(run.cfg, splits)}
    assert rows["train"]["pictures"] >= 8 and rows["test"]["pictures"] >= 3 and rows["fit"]["pictures"] >= 3
    assert prepare.draw_annotations(run, splits).stat().st_size > 1000

    run = small(dataset)  # the source is remembered
    list(train.train(run))
    list(distill.distill(run))
    record = evaluate.evaluate(run)
    assert given <= record.keys() and left_out == set(record["left_out"]) - LABEL_FREE
    assert "equivariance" in record
    assert all(record["left_out"].values())
    expected = {"cub": "the official train_test_split.txt", "folder": BY_HASH}
    assert record["notes"]["league"] == "nothing"
    told_by = record["notes"]["test pictures told from training pictures by"]
    assert told_by == expected.get(dataset, "as published")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert "Training pictures" in report.write_report(run).read_text()


def test_a_drawn_data_set_has_nothing_to_prepare_but_is_shown(small):
    run = small("tiny")
    splits = prepare.build_cache(run)
    assert prepare.list_layout(run.cfg) == []
    assert [row["pictures"] for row in prepare.count_pictures(run.cfg, splits)] == [200, 200, 50]
    assert prepare.draw_annotations(run, splits).exists()
    assert not (runs.outputs_root() / "tiny" / "sources.json").exists()


def test_a_limit_leaves_pictures_to_fit_on_where_they_are_few(small, tmp_path):
    write_taichi(tmp_path / "data")
    run = small("taichi", source=str(tmp_path / "data"), max_train_pictures=2)
    train, fit = load_pictures(run.cfg, "train"), load_pictures(run.cfg, "fit")
    assert len(train) == len(fit) == 2
    assert train.landmarks.isnan().all() and not fit.landmarks.isnan().all()  # the first of train/, those of the table
    assert len({*train.names, *fit.names}) == 4


def test_an_archive_is_left_alone_where_it_is_unpacked_already(small, tmp_path):
    write_cub(tmp_path / "data")
    (tmp_path / "data" / "CUB_200_2011.tgz").write_bytes(b"damaged")
    (tmp_path / "data" / "._segmentations.tgz").write_bytes(b"clutter")
    assert len(load_pictures(small("cub", source=str(tmp_path / "data")).cfg, "test")) == 3


def test_every_missing_file_is_named_with_where_the_set_is_obtained(small, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "readme.txt").write_text("nothing")
    for dataset in SETS.keys() - {"folder"}:
        with pytest.raises(UserError) as error:
            prepare.list_layout(small(dataset, source=str(tmp_path / "data")).cfg)
        for wanted in wanted_files(dataset):
            lacks = str(error.value).split(";")[0]
            assert (wanted.name in lacks) == wanted.required, lacks
        assert READERS[dataset].OBTAIN in str(error.value)
    assert not (tmp_path / "outputs").exists()


def test_a_source_inside_a_zip_is_read_as_if_unpacked(small, tmp_path):
    write_cub(tmp_path / "data")
    with zipfile.ZipFile(tmp_path / "cub.zip", "w") as archive:
        for path in (tmp_path / "data").rglob("*"):
            archive.write(path, path.relative_to(tmp_path / "data"))
    cfgs = [small("cub", source=str(tmp_path / name)).cfg for name in ("data", "cub.zip")]
    unpacked, zipped = (load_pictures(cfg, "test") for cfg in cfgs)
    assert (unpacked.images == zipped.images).all() and (unpacked.labels == zipped.labels).all()


def test_what_torchvision_offers_is_fetched_into_the_source(small, tmp_path, monkeypatch):
    run = small("flowers", source=str(tmp_path / "data"))
    fetched = []
    monkeypatch.setattr(torchvision.datasets, "Flowers102", lambda root, download: fetched.append((root, download)))
    fetch = lambda url, root: fetched.append(url)  # noqa: E731
    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fetch)
    prepare.download(run.cfg)
    assert fetched[0] == (str(tmp_path / "data"), True) and fetched[1].endswith("102segmentations.tgz")

    def fails(root, download):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets, "Flowers102", fails)
    with pytest.raises(UserError, match="flowers could not be downloaded into .*: no network"):
        prepare.download(run.cfg)
    with pytest.raises(UserError, match="torchvision does not offer cub"):
        prepare.download(small("cub", source=str(tmp_path)).cfg)
    with pytest.raises(UserError, match="name the folder to download into with -p source"):
        prepare.download(small("flowers").cfg)


def test_prepare_says_what_is_tested_on_and_what_a_picture_is_called(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    for i in range(3):
        path = tmp_path / "own" / "images" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (i, 0, 0)).save(path)
    run = runs.open_run("folder", "x", source=str(tmp_path / "own"), image_size=32)
    prepare.say_what_is_there(run.cfg, prepare.build_cache(run))
    said = capsys.readouterr().out
    assert "train: 3 pictures, no landmarks or masks" in said
    assert "told from training pictures by nothing" in said
    assert "3 of 3 test pictures are among the training pictures" in said
    assert "In landmarks.csv the first picture is called images/0.png; its mask is masks/0.png." in said
    (tmp_path / "own" / "masks").mkdir()
    for i in (0, 1):
        Image.new("L", (32, 32), 1).save(tmp_path / "own" / "masks" / f"{i}.png")
    prepare.say_what_is_there(run.cfg, prepare.build_cache(run))
    said = capsys.readouterr().out
    assert "test: 1 pictures, 1 with masks" in said and "among the training" not in said
