"""How other people lay out their pictures, masks, tables and splits."""

import pytest
from test_datasets import cfg, encoded, halves, outputs, zipped  # noqa: F401, the first is a fixture

from ganseg import config, prepare
from ganseg.datasets.loading import load_pictures
from ganseg.errors import UserError

PHOTO, MASK, GREY = encoded(halves(), "JPEG"), encoded(halves(0, 7, "L")), encoded(halves(40, 200, "L"))
PNG = encoded(halves())
TABLE = b"file,nose_x,nose_y\n%s,5,6\n"


def tree(root, files):
    """Write files: a list of names, a jpg being a photo and a png a mask, or {name: bytes}."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(files[name] if isinstance(files, dict) else MASK if name[-3:] == "png" else PHOTO)
    return root


def read(source):
    """{split: its names}, and the names that have a mask."""
    splits = {split: load_pictures(cfg(source=source), split) for split in ("train", "test")}
    masked = {name for p in splits.values() if p.labels is not None for name, mask in
              zip(p.names, p.masked, strict=True) if mask}
    assert all(int(p.labels.max()) == 7 for p in splits.values() if p.labels is not None and len(p) and p.masked.any())
    return {split: list(p.names) for split, p in splits.items()}, masked


@pytest.mark.parametrize("files", [
    ["Masks/a.png", "Masks/b.png", "a.jpg", "b.jpg"],
    ["a/masks/0.png", "b/masks/0.png", "a/0.jpg", "b/0.jpg"],
    ["a/masks/0.png", "b/masks/0.png", "a/images/0.jpg", "b/images/0.jpg"],
    ["JPEGImages/a.jpg", "JPEGImages/b.jpg", "SegmentationClass/a.png", "SegmentationClass/b.png",
     "SegmentationObject/a.png", "SegmentationObject/b.png"],
    ["p0.jpg", "p0_mask.png", "p1.jpg", "p1-MASK.png"],
    ["x/p0.jpg", "x/p0_mask.png", "y/p0.jpg", "y/p0_mask.png"],
    ["p0_image.jpg", "p0_mask.png", "p1_image.jpg", "p1_mask.png"],
    ["images/p0.jpg", "masks/p0_mask.png", "images/p1.jpg", "masks/mask_p1.png"],
    ["images/a.jpg", "images/b.jpg", "annotations/trimaps/a.png", "annotations/trimaps/b.png"],
    ["imgs/a.jpg", "imgs/b.jpg", "Labels/a.png", "Labels/b.png"],
    ["images1/a.jpg", "images2/a.jpg", "masks1/a.png", "masks2/a.png"],
    ["images/\u00e9.jpg", "images/b.jpg", "masks/e\u0301.png", "masks/b.png"],
])
def test_masks_are_found_and_never_trained_on_as_pictures(tmp_path, files):
    source = tree(tmp_path / "own", files)
    splits, masked = read(source)
    photos = {name for name in files if name.endswith("jpg")}
    assert {*splits["train"], *splits["test"]} == photos == masked
    assert read(zipped(source, tmp_path / "own.zip")) == (splits, masked)


@pytest.mark.parametrize("pattern", ["{split}/images/{n}.jpg {split}/masks/{n}.png",
                                     "images/{split}/{n}.jpg masks/{split}/{n}.png",
                                     "{split}/{n}.jpg {split}_masks/{n}_mask.png",
                                     "data_{split}/{n}.jpg masks/data_{split}/{n}.png",
                                     "{split}set/{n}.jpg {split}set/masks/{n}.png",
                                     "{split}-set/{n}.jpg {split}-set/masks/{n}.png",
                                     "{split}2017/{n}.jpg annotations/{split}2017/{n}.png"])
def test_folders_of_a_split_are_honoured(tmp_path, pattern, capsys):
    files = [name.format(split=split, n=n) for split, count in (("train", 3), ("Test", 1), ("VAL", 2))
             for n in range(count) for name in pattern.split()]
    splits, masked = read(tree(tmp_path / "own", files))
    photos = {split: [name for name in files if split in name and name.endswith("jpg")] for split in ("train", "Test")}
    assert splits == {"train": photos["train"], "test": photos["Test"]}
    assert masked == {*photos["train"], *photos["Test"]}
    printed = capsys.readouterr().out
    assert printed.count("2 pictures in folders of validation pictures are neither trained nor tested on") == 1
    assert load_pictures(cfg(source=tmp_path / "own"), "test").split_by == "their folders"


def test_validation_pictures_are_tested_on_where_no_others_are(tmp_path, capsys):
    splits, _ = read(tree(tmp_path, ["training/a.jpg", "validation/b.jpg", "more/c.jpg"]))
    assert splits == {"train": ["more/c.jpg", "training/a.jpg"], "test": ["validation/b.jpg"]}
    printed = capsys.readouterr().out
    assert "1 pictures in folders of validation pictures are tested on" in printed
    assert "1 pictures lie in no folder of a split and are trained on, the first is more/c.jpg" in printed


@pytest.mark.parametrize("folder", ["train", "test"])
def test_a_folder_of_one_split_alone_divides_nothing(tmp_path, folder):
    splits, _ = read(tree(tmp_path, [f"{folder}/{n}.jpg" for n in "abc"]))
    assert splits["train"] == splits["test"] == [f"{folder}/{n}.jpg" for n in "abc"]


@pytest.mark.parametrize("files", [["with_mask/a.jpg", "without_mask/a.jpg"], ["labels/a.jpg", "wine/b.jpg"],
                                   ["man_mask.jpg", "woman.jpg"]])
def test_photos_of_masks_and_of_labels_are_photos(tmp_path, files):
    assert read(tree(tmp_path, files))[0]["train"] == files


def test_each_split_may_have_its_table_in_any_letter_case(tmp_path):
    source = tree(tmp_path / "own", {"train/a.jpg": PHOTO, "train/Landmarks.csv": TABLE % b"a.jpg",
                                     "test/a.jpg": PHOTO, "test/landmarks.CSV": TABLE % b"a.jpg"})
    for split in ("train", "test"):
        pictures = load_pictures(cfg(source=source), split)
        assert list(pictures.names) == [f"{split}/a.jpg"] and not pictures.landmarks.isnan().any()


def test_the_split_of_a_table_goes_before_that_of_a_folder(tmp_path):
    table = b"file,split,nose_x,nose_y\ntrain/a.jpg,test,5,6\ntrain/b.jpg,train,5,6\ntest/a.jpg,train,5,6\n"
    source = tree(tmp_path / "own", dict.fromkeys(["train/a.jpg", "train/b.jpg", "test/a.jpg", "test/c.jpg"], PHOTO))
    (source / "landmarks.csv").write_bytes(table)
    assert read(source)[0] == {"train": ["test/a.jpg", "train/b.jpg"], "test": ["test/c.jpg", "train/a.jpg"]}


@pytest.mark.parametrize(("files", "message"), [
    (["masks/a.png", "masks/b.jpg", "a.jpg", "b.jpg"], "holds masks/b.jpg where masks lie .*(other formats change"),
    (["p0.jpg", "p0_mask.jpg"], "holds p0_mask.jpg where masks lie or as masks are named"),
    (["images/a.jpg", "labels/a.jpg"], "holds labels/a.jpg where masks lie"),
    (["masks/a.png"], "holds 1 masks and no pictures of them"),
    (["a.jpg", "masks/a.png", "SegmentationClass/a.png"], "holds two masks for a.jpg: SegmentationClass/a.png and "),
    (["x/a.jpg", "y/a.jpg", "masks/a.png"], "holds the mask masks/a.png, which could be of several pictures: x/a.jpg"),
    (["a.jpg", "a.png"], "holds a.png, which looks like a mask .* among pictures that do not"),
    ({"0.png": PNG, "0mask.png": MASK, "1.png": PNG, "1mask.png": MASK}, "holds 0mask.png, which looks like a mask"),
    (["img/0.jpg", "mask-anno/00000_hair.png"], "holds mask-anno/00000_hair.png, which looks like a mask"),
    ({"a.jpg": PHOTO, "landmarks.csv": TABLE % b"a.jpg", "old/landmarks.csv": TABLE % b"a.jpg"},
     r"several tables with landmarks of a.jpg: landmarks.csv, old/landmarks.csv"),
    ({"x/a.jpg": PHOTO, "x/landmarks.csv": TABLE % b"a.jpg", "y/b.jpg": PHOTO,
      "y/landmarks.csv": b"file,ear_x,ear_y\nb.jpg,5,6\n"}, "the landmarks ear in y/landmarks.csv, but nose in x/land"),
])
def test_what_can_be_understood_in_two_ways_is_refused_by_name(tmp_path, files, message):
    with pytest.raises(UserError, match=f"^source: .*{message.replace('(', '[(]')}"):
        load_pictures(cfg(source=tree(tmp_path, files)), "train")


def test_pictures_that_all_look_like_masks_are_pictures(tmp_path):
    assert read(tree(tmp_path, {"a.png": GREY, "b.png": GREY}))[0]["train"] == ["a.png", "b.png"]


def test_masks_that_belong_to_no_picture_are_counted_once(tmp_path, capsys):
    read(tree(tmp_path, ["a.jpg", "b.jpg", "masks/a.png", "masks/c.png"]))
    assert capsys.readouterr().out.count("1 of 2 masks are named as no picture, the first is masks/c.png") == 1


@pytest.mark.parametrize("name", ["annotations.csv", "x/landmarks.xlsx", "Landmarks.txt", "ImageSets/trainval.txt",
                                  "a.json"])
def test_a_table_or_list_that_is_not_read_is_named_once(tmp_path, name, capsys):
    read(tree(tmp_path, {"a.jpg": PHOTO, "b.jpg": PHOTO, "landmarks.csv": TABLE % b"a.jpg", "notes.txt": b"1",
                         name: b"1"}))
    assert capsys.readouterr().out.count(f"1 tables or lists are not read, the first is {name}: landmarks are") == 1


def test_prepare_says_what_is_there_wherever_it_lies(tmp_path):
    source = tree(tmp_path / "own", ["train/a.jpg", "train/Masks/a.png"])
    there = {row["file"]: row["there"] for row in prepare.list_layout(config.load("folder", source=str(source)))}
    assert there == {"masks/": True, "landmarks.csv": False}
