"""The readers of CUB and Taichi, on tiny sets in their layouts."""

import copyreg
import io
import os
import pickle
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from ganseg import config
from ganseg.datasets import cub, taichi
from ganseg.datasets.loading import load_pictures, published_counts
from ganseg.datasets.source import Source
from ganseg.errors import UserError

PARTS = ["back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape",
         "right eye", "right leg", "right wing", "tail", "throat"]  # fmt: skip
CUB_TEST_IDS = (3, 6, 9)  # the official split of write_cub
FIT_FRAMES = [f"taichi/train/person#{i}.png" for i in range(3)]
TEST_FRAMES = [f"taichi/test/person#{i}.png" for i in range(3, 6)]


def write_cub(folder, n=12):
    """CUB-200-2011 with n pictures, some grey, in folder/CUB_200_2011, its masks inside.

    Pictures 3, 6 and 9 are the test split. The part j of the picture i lies at (2 i + j, 20 + j), where j counts
    from 0; of the picture i the part i (from 0) is not visible.
    """
    root = Path(folder, "CUB_200_2011")
    names = {i: f"{1 + i % 2:03d}.Some_bird/Some_Bird_{i:04d}_{100 + i}.jpg" for i in range(1, n + 1)}
    for i, name in names.items():
        size, blob = (60 + i, 48), (10 + i, 10, 40 + i, 36)
        picture, mask = Image.new("L" if i % 4 == 0 else "RGB", size, "gray"), Image.new("L", size)
        ImageDraw.Draw(picture).ellipse(blob, "white")
        ImageDraw.Draw(mask).ellipse(blob, 255)
        _save(picture, root / "images" / name)
        _save(mask, (root / "segmentations" / name).with_suffix(".png"))
    locations = [f"{i} {j + 1} 0.0 0.0 0" if j == i else f"{i} {j + 1} {2 * i + j}.0 {20 + j}.5 1"
                 for i in names for j in range(len(PARTS))]  # fmt: skip
    lists = {
        "images.txt": [f"{i} {name}" for i, name in names.items()],
        "train_test_split.txt": [f"{i} {int(i not in CUB_TEST_IDS)}" for i in names],
        "classes.txt": ["1 001.Some_bird", "2 002.Some_bird"],
        "image_class_labels.txt": [f"{i} {1 + i % 2}" for i in names],
        "bounding_boxes.txt": [f"{i} {10 + i}.0 10.0 30.0 26.0" for i in names],
        "parts/parts.txt": [f"{j} {name}" for j, name in enumerate(PARTS, 1)],
        "parts/part_locs.txt": locations,
    }
    (root / "parts").mkdir()
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n")


def write_taichi(folder):
    """Taichi with 8 frames to train on, 3 to fit on and 3 to test on, 64 pixels wide to be quick.

    The joint j of the picture i lies at (2 j + i, 3 j); of each picture the joint i is missing.
    """
    folder = Path(folder)
    for i in range(8):
        _save(_frame(i), folder / f"train/video{i % 2}.mp4/{i:07d}.{'jpg' if i % 2 else 'png'}")
    for i, name in enumerate(FIT_FRAMES + TEST_FRAMES):
        _save(_frame(i), folder / "eval_images" / name)
    for i, name in enumerate(TEST_FRAMES, 3):
        mask = Image.new("RGB", (64, 64))
        ImageDraw.Draw(mask).ellipse((10 + i, 10, 40 + i, 50), (0, 0, 1))
        _save(mask, folder / "taichi-test-masks" / Path(name).name)
    for name, frames, first in [("train", FIT_FRAMES, 0), ("test", TEST_FRAMES, 3)]:
        values = [joints(i) for i in range(first, first + 3)]
        write_table(folder / f"taichi_{name}_gt.pkl", frames, values)


def joints(i):
    """(18, 2) as in the tables."""
    values = np.stack([2.0 * np.arange(18) + i, 3.0 * np.arange(18)], axis=1)
    values[i, i % 2] = -1
    return values


def write_table(path, files, values, protocol=4, dtype=object):
    table = pd.DataFrame({"file_name": pd.Series(files, dtype=dtype), "value": pd.Series(values, dtype=object)})
    path.write_bytes(pickle.dumps(table, protocol=protocol))


def _frame(i):
    frame = Image.new("RGB", (64, 64), "gray")
    ImageDraw.Draw(frame).ellipse((10 + i, 10, 40 + i, 50), "white")
    return frame


def _save(picture, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def read(reader, path, split="train", split_list=None, classes=None):
    with Source(path, archives=reader.ARCHIVES) as source:
        cfg = SimpleNamespace(split_list=split_list and str(split_list), classes=classes)
        return reader.list_split(source, split, cfg)


def refusal(reader, path, *args, **options):
    """The sentence that a user reads."""
    with pytest.raises(UserError) as error:
        read(reader, path, *args, **options)
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".")
    assert sentence.startswith(("source: ", "split_list: ", "classes: "))
    return sentence


def ids(listing):
    """Of CUB's pictures, which write_cub numbers in their names."""
    return [int(name.split("_")[-2]) for name in listing.names]


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def squeeze(image, resample):
    return image.resize((8, 8), resample)


def pack(path, folder):
    """A tgz of a folder, which is removed."""
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    folder.rmdir()


@pytest.fixture
def birds(tmp_path):
    write_cub(tmp_path)
    return tmp_path / "CUB_200_2011"


@pytest.fixture
def people(tmp_path):
    write_taichi(tmp_path)
    return tmp_path


# --- CUB ---


def test_cub_reads_the_official_split_by_id(birds):
    train, test = read(cub, birds), read(cub, birds, "test")
    assert ids(train) == [1, 2, 4, 5, 7, 8, 10, 11, 12] and ids(test) == [3, 6, 9]
    assert test.names[0] == "images/002.Some_bird/Some_Bird_0003_103.jpg"
    assert train.fit is None and train.eyes is None and train.frame_px is None


def test_cub_orders_pictures_by_number_where_the_list_does_not(birds):
    lines = (birds / "images.txt").read_text().splitlines()
    (birds / "images.txt").write_text("\n\n".join(reversed(lines)))
    assert ids(read(cub, birds, "test")) == [3, 6, 9]


def test_cub_names_are_files_of_the_source_whether_it_is_the_folder_or_its_parent(birds):
    for path in (birds, birds.parent):
        listing = read(cub, path, "test")
        assert all((path / name).is_file() for name in listing.names + listing.masks)


def test_cub_parts_are_landmarks_and_missing_where_not_visible(birds):
    listing = read(cub, birds, "test")
    assert listing.landmark_names == tuple(PARTS) and "left eye" in PARTS
    expected = [[[2 * i + j, 20.5 + j] if j != i else [np.nan] * 2 for j in range(15)] for i in (3, 6, 9)]
    np.testing.assert_array_equal(listing.landmarks, expected)


def test_cub_has_no_landmarks_without_part_locations(birds):
    (birds / "parts/part_locs.txt").unlink()
    listing = read(cub, birds)
    assert listing.landmarks is None and listing.landmark_names == ()


def test_cub_keeps_the_edges_of_the_birds_boxes(birds):
    replace(birds / "bounding_boxes.txt", "6 16.0 10.0 30.0 26.0", "6 16.0 10.0 31.5 20.0")
    assert read(cub, birds, "test").box_px.tolist() == [[30, 26], [31.5, 20], [30, 26]]
    (birds / "bounding_boxes.txt").unlink()
    assert read(cub, birds, "test").box_px is None


def test_a_subset_by_class_holds_for_training_and_test(birds):
    assert ids(read(cub, birds, classes=[1])) == [2, 4, 8, 10, 12]
    assert ids(read(cub, birds, "test", classes=[1])) == [6]
    listing = read(cub, birds, "test", classes=[2])
    assert ids(listing) == [3, 9] and len(listing.box_px) == len(listing.landmarks) == len(listing.masks) == 2
    assert ids(read(cub, birds, "test", classes=[2, 1])) == [3, 6, 9]


def test_a_class_that_is_not_there_and_a_missing_list_of_classes_are_named(birds):
    found = refusal(cub, birds, classes=[1, 7])
    assert found == "classes: 7 is no class of image_class_labels.txt, which has 1 to 2."
    (birds / "image_class_labels.txt").unlink()
    assert read(cub, birds) and "lacks image_class_labels.txt" in refusal(cub, birds, classes=[1])


@pytest.mark.parametrize(("crop", "expected"), [
    ("squeeze", [30 * 32 / 63, 26 * 32 / 48]),  # picture 3 is 63 x 48
    ("center", [30 * 32 / 48, 26 * 32 / 48]), ("pad", [30 * 32 / 63, 26 * 24 / 48]),
])  # fmt: skip
def test_the_edges_of_boxes_are_in_pixels_of_the_square(birds, tmp_path, monkeypatch, crop, expected):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    cfg = config.load("cub", source=str(birds), image_size=32, crop=crop)
    assert load_pictures(cfg, "test").box_px[0] == pytest.approx(expected, rel=1e-6)
    of_a_class = load_pictures(cfg.model_copy(update={"classes": [1]}), "test")  # a cache of its own
    assert ids(of_a_class) == [6] and len(load_pictures(cfg, "test")) == 3


def test_cub_has_no_masks_without_segmentations(birds):
    (birds / "segmentations").rename(birds.parent / "elsewhere")
    listing = read(cub, birds)
    assert listing.masks is None and listing.to_labels is None and not listing.only_foreground


def test_cub_finds_segmentations_inside_and_beside(birds):
    inside = read(cub, birds.parent, "test")
    (birds / "segmentations").rename(birds.parent / "segmentations")
    beside = read(cub, birds.parent, "test")
    assert inside.masks[0] == "CUB_200_2011/segmentations/002.Some_bird/Some_Bird_0003_103.png"
    assert beside.masks[0] == "segmentations/002.Some_bird/Some_Bird_0003_103.png"
    assert inside.only_foreground and beside.only_foreground


def test_cub_reads_its_two_archives_as_downloaded(birds):
    pack(birds.parent / "segmentations.tgz", birds / "segmentations")
    pack(birds.parent / "CUB_200_2011.tgz", birds)
    with Source(birds.parent, archives=cub.ARCHIVES) as source:
        listing = cub.list_split(source, "test", SimpleNamespace(split_list=None, classes=None))
        assert ids(listing) == [3, 6, 9] and np.isfinite(listing.landmarks).sum() == 3 * 14 * 2
        sizes = [Image.open(io.BytesIO(source.read(name))).size for name in (listing.names[0], listing.masks[0])]
    assert sizes == [(63, 48), (63, 48)]
    assert ids(read(cub, birds.parent / "CUB_200_2011.tgz", "test")) == [3, 6, 9]


def test_cub_masks_are_resized_before_they_are_thresholded():
    mask = Image.fromarray(np.tile(np.repeat(np.uint8([0, 255, 120]), [6, 4, 6]), (16, 1)))  # 16 x 16
    labels = cub.to_labels(mask, squeeze)
    assert labels.dtype == np.uint8 and labels.shape == (8, 8)
    # At half the size a bilinear pixel is 1/8, 3/8, 3/8, 1/8 of four: an edge from 120 to 255 moves, from 0 not.
    assert labels[4].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(("value", "label"), [(127, 0), (128, 1)])
def test_cub_foreground_is_over_half(value, label):
    for mask in (Image.new("L", (16, 16), value), Image.new("RGBA", (16, 16), (value, value, value, 0))):
        assert (cub.to_labels(mask, squeeze) == label).all()


def test_a_users_split_list_goes_before_the_official_split(birds, tmp_path):
    split_list = tmp_path / "mine.txt"
    split_list.write_text("1 0\n2 2\n3 0\n4 1\n5 2\n")  # of the others nothing is said: they are left out
    assert ids(read(cub, birds, "train", split_list)) == [1, 3]
    assert ids(read(cub, birds, "test", split_list)) == [2, 5]


def test_without_a_split_every_tenth_bird_is_tested_on_and_a_sentence_says_so(birds, capsys):
    (birds / "train_test_split.txt").unlink()
    assert ids(read(cub, birds, "test")) == [1, 11]
    assert ids(read(cub, birds)) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 12]
    assert f"{birds} lacks train_test_split.txt: pictures whose id ends in 1 are tested on" in capsys.readouterr().out


def test_cub_says_that_images_txt_is_missing(birds):
    (birds / "images.txt").unlink()
    assert refusal(cub, birds) == f"source: {birds} lacks images.txt."


def test_cub_says_which_listed_pictures_are_not_there(birds):
    for i in (5, 7):
        (birds / f"images/002.Some_bird/Some_Bird_{i:04d}_{100 + i}.jpg").unlink()
    assert refusal(cub, birds, "test") == (f"source: {birds} lacks 2 of 12 pictures of images.txt, the first is "
                                           "images/002.Some_bird/Some_Bird_0005_105.jpg.")


def test_cub_says_which_masks_are_not_there(birds):
    (birds / "segmentations/001.Some_bird/Some_Bird_0006_106.png").unlink()
    assert refusal(cub, birds, "test") == (f"source: {birds} lacks 1 of 3 masks of the split test, the first is "
                                           "segmentations/001.Some_bird/Some_Bird_0006_106.png.")


@pytest.mark.parametrize(("name", "old", "new", "sentence"), [
    ("images.txt", "2 001.Some_bird/Some_Bird_0002_102.jpg", "2", "line 2: '2' is not 'id path'"),
    ("images.txt", "2 001.S", "x 001.S", "line 2: 'x 001.Some_bird/Some_Bird_0002_102.jpg' is not 'id path'"),
    ("images.txt", "2 001.S", "1 001.S", "line 2: '1 001.Some_bird/Some_Bird_0002_102.jpg' has the id of an earlier"),
    ("train_test_split.txt", "4 1", "4 2", "line 4: '4 2' is not 'id is_train'"),
    ("train_test_split.txt", "12 1\n", "", "lacks 1 of 12 ids of images.txt in train_test_split.txt, the first is 12."),
    ("train_test_split.txt", "12 1\n", "12 1\n13 1\n", "lacks 1 of 13 ids of train_test_split.txt in images.txt, the"),
    ("parts/parts.txt", "15 throat\n", "", "lacks 12 of 180 parts of parts/part_locs.txt in parts/parts.txt, the"),
    ("parts/part_locs.txt", "3 2 7.0 21.5 1", "3 2 7.0 x 1", "line 32: '3 2 7.0 x 1' is not 'image_id part_id"),
    ("parts/part_locs.txt", "3 2 7.0 21.5 1", "3 2 7.0 1", "line 32: '3 2 7.0 1' is not 'image_id part_id"),
    ("bounding_boxes.txt", "4 14.0 10.0 30.0", "4 14.0 10.0", "line 4: '4 14.0 10.0 26.0' is not 'id x y width"),
    ("bounding_boxes.txt", "12 22.0 10.0 30.0 26.0\n", "", "lacks 1 of 9 ids of images.txt in bounding_boxes.txt, the"),
    ("parts/part_locs.txt", "3 2 7.0 21.5 1", "33 2 7 2 1", "lacks 1 of 180 ids of parts/part_locs.txt in images.txt"),
])  # fmt: skip
def test_cub_says_what_is_wrong_with_which_list(birds, name, old, new, sentence):
    replace(birds / name, old, new)
    found = refusal(cub, birds)
    assert found.startswith((f"source: {name} of {birds}", f"source: {birds} lacks")) and sentence in found


@pytest.mark.parametrize(("text", "sentence"), [
    (None, "split_list: there is no {}"),
    ("1 0\n2 3\n", "split_list: {}, line 2: '2 3' is not 'id split'."),
    ("1 0\n13 0\n14 2\n", "source: {birds} lacks 2 of 3 ids of {} in images.txt, the first is 13."),
])  # fmt: skip
def test_mistakes_in_a_users_split_list_are_named(birds, tmp_path, text, sentence):
    path = tmp_path / "mine.txt"
    if text is not None:
        path.write_text(text)
    assert refusal(cub, birds, split_list=path).startswith(sentence.format(path, birds=birds))


def test_a_folder_is_no_split_list(birds):
    assert refusal(cub, birds, split_list=birds).startswith(f"split_list: {birds} cannot be read: ")


# --- Taichi ---


def test_taichi_trains_on_the_videos_and_fits_on_the_frames_of_the_training_table(people):
    listing = read(taichi, people)
    assert listing.names[:2] == ["train/video0.mp4/0000000.png", "train/video0.mp4/0000002.png"]
    assert len(listing.names) == 11 and all((people / name).is_file() for name in listing.names)
    assert listing.names[8:] == [f"eval_images/{name}" for name in FIT_FRAMES]
    assert listing.fit.tolist() == [False] * 8 + [True] * 3
    assert listing.masks is None and listing.frame_px == 256 and listing.eyes is None


def test_taichi_tests_on_the_frames_of_the_test_table_with_their_masks(people):
    listing = read(taichi, people, "test")
    assert listing.names == [f"eval_images/{name}" for name in TEST_FRAMES] and listing.fit is None
    assert listing.masks == [f"taichi-test-masks/{Path(name).name}" for name in TEST_FRAMES]
    assert listing.only_foreground and listing.to_labels is taichi.to_labels


def test_taichi_joints_are_missing_where_a_coordinate_is_minus_one(people):
    train, test = read(taichi, people), read(taichi, people, "test")
    assert train.landmark_names[0] == "joint_00" and train.landmark_names[17] == "joint_17"
    assert train.landmarks.shape == (11, 18, 2) and np.isnan(train.landmarks[:8]).all()
    for i, points in enumerate([*train.landmarks[8:], *test.landmarks]):
        expected = [[2 * j + i, 3 * j] if j != i else [np.nan] * 2 for j in range(18)]
        np.testing.assert_array_equal(points, expected)


def test_taichi_has_no_masks_without_their_folder(people):
    (people / "taichi-test-masks").rename(people / "elsewhere")
    listing = read(taichi, people, "test")
    assert listing.masks is None and not listing.only_foreground


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA"])
def test_taichi_foreground_is_what_is_not_black(mode):
    colors = {"L": 1, "1": 1, "P": 3, "RGB": (0, 0, 1), "RGBA": (0, 9, 0, 255)}
    mask = Image.new(mode, (16, 16), (0, 0, 0, 255) if mode == "RGBA" else 0)
    if mode == "P":
        mask.putpalette([0, 0, 0] * 256)  # an index counts, whatever its colour
    mask.paste(colors[mode], (0, 0, 6, 16))
    labels = taichi.to_labels(mask, squeeze)
    assert labels.dtype == np.uint8 and labels[0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("value", [lambda v: v.ravel(), lambda v: v.tolist(), lambda v: v.astype(np.float32)])
def test_taichi_joints_may_be_flat_or_lists(people, value):
    write_table(people / "taichi_test_gt.pkl", TEST_FRAMES, [value(joints(i)) for i in (3, 4, 5)])
    assert read(taichi, people, "test").landmarks[1, 6].tolist() == [16, 18]


@pytest.mark.parametrize("files", [
    [Path(name).name for name in TEST_FRAMES],
    [Path(name).stem + ".jpg" for name in TEST_FRAMES],
    [f"test/{Path(name).stem}" for name in TEST_FRAMES],
    [f"/data/eval_images/{name}" for name in TEST_FRAMES],
    [name.replace("/", "\\") for name in TEST_FRAMES],
], ids=["names", "another extension", "end of the path", "longer path", "backslashes"])  # fmt: skip
def test_taichi_frames_are_found_by_what_the_table_calls_them(people, files):
    write_table(people / "taichi_test_gt.pkl", files, [joints(i) for i in (3, 4, 5)])
    assert read(taichi, people, "test").names == [f"eval_images/{name}" for name in TEST_FRAMES]


def test_taichi_frames_called_alike_are_told_apart_by_the_splits_folder(people):
    for folder in ("train", "test"):
        _save(_frame(0), people / f"eval_images/taichi/{folder}/0.png")
        write_table(people / f"taichi_{folder}_gt.pkl", ["0.png"], [joints(0)])
    _save(_frame(0), people / "taichi-test-masks/0.png")
    for split in ("train", "test"):
        assert read(taichi, people, split).names[-1] == f"eval_images/taichi/{split}/0.png"


def test_taichi_says_which_frames_are_not_there(people):
    files = ["a.png", "b.png", TEST_FRAMES[0]]
    write_table(people / "taichi_test_gt.pkl", files, [joints(i) for i in (3, 4, 5)])
    assert refusal(taichi, people, "test") == (
        f"source: {people} lacks 2 of 3 frames of taichi_test_gt.pkl in eval_images/, the first is a.png.")


def test_taichi_says_which_name_fits_several_frames(people):
    for folder in ("one", "two"):
        _save(_frame(0), people / f"eval_images/{folder}/x.png")
    write_table(people / "taichi_test_gt.pkl", ["x.png"], [joints(0)])
    assert refusal(taichi, people, "test") == (f"source: {people} has several files in eval_images/ for x.png of the "
                                               "frames of taichi_test_gt.pkl: eval_images/one/x.png, "
                                               "eval_images/two/x.png.")


def test_taichi_says_which_masks_are_not_there(people):
    (people / "taichi-test-masks/person#4.png").unlink()
    assert refusal(taichi, people, "test") == (f"source: {people} lacks 1 of 3 masks of test frames in "
                                               "taichi-test-masks/, the first is taichi/test/person#4.png.")


@pytest.mark.parametrize("name", ["train", "eval_images", "taichi_train_gt.pkl"])
def test_taichi_says_what_is_missing(people, name):
    (people / name).rename(people / "elsewhere")  # eval_images/taichi/train/ is not train/
    assert refusal(taichi, people).startswith(f"source: {people} lacks {name}")


# --- pickles ---


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_code_in_a_pickle_is_refused_and_not_run(people, protocol):
    witness, path = people / "witness", people / "taichi_train_gt.pkl"
    write_table(path, FIT_FRAMES, [joints(0), joints(1), Malicious(witness)], protocol)
    sentence = refusal(taichi, people)
    assert sentence == f"source: {people} holds code in {path.name}, {os.name}.system, and it is not opened."
    assert not witness.exists()
    pickle.loads(path.read_bytes())  # it would have
    assert witness.exists()


@pytest.mark.parametrize("content", [b"cbuiltins\neval\n.", b"cpandas\nread_pickle\n.", b"cnumpy\nload\n.",
                                     b"\x80\x04\x8c\x06pandas\x8c\x11DataFrame.to_json\x93."])  # fmt: skip
def test_names_that_no_table_needs_are_refused(people, content):
    (people / "taichi_train_gt.pkl").write_bytes(content)
    assert "holds code in taichi_train_gt.pkl, " in refusal(taichi, people)


@pytest.mark.parametrize("dtype", [object, "str"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tables_of_each_protocol_are_read(people, protocol, dtype):
    files = [*TEST_FRAMES, "unused.png"]
    _save(_frame(0), people / "eval_images/unused.png")
    _save(_frame(0), people / "taichi-test-masks/unused.png")
    write_table(people / "taichi_test_gt.pkl", files, [joints(i) for i in (3, 4, 5, 6)], protocol, dtype)
    listing = read(taichi, people, "test")
    assert [Path(name).name for name in listing.names] == [Path(name).name for name in files]
    assert listing.landmarks[3, 0].tolist() == [6, 0]


class OldPickler(pickle.Pickler):
    """Writes tables as pandas up to 1.0 did: an attribute _data, whose state is keyed by the version 0.14.1."""

    def reducer_override(self, value):
        if isinstance(value, pd.DataFrame):
            return copyreg.__newobj__, (type(value),), {"_data": value._mgr, "_typ": "dataframe", "_metadata": []}
        if value.__class__.__name__ == "BlockManager" and not isinstance(value, type):
            blocks = [{"values": block.values, "mgr_locs": block.mgr_locs.indexer} for block in value.blocks]
            state = ([*value.axes], [], [], {"0.14.1": {"axes": [*value.axes], "blocks": blocks}})
            return copyreg.__newobj__, (type(value),), state
        return NotImplemented


@pytest.mark.parametrize("index", [b"base\nIndex", b"numeric\nInt64Index"])
def test_tables_of_early_pandas_are_read(people, index):
    columns = pd.Index(["file_name", "value"], dtype=object)
    rows = [[name, joints(i)] for i, name in enumerate(TEST_FRAMES, 3)]
    stream = io.BytesIO()
    OldPickler(stream, protocol=2).dump(pd.DataFrame(rows, columns=columns, dtype=object))
    old_names = {b"cpandas\nDataFrame\n": b"cpandas.core.frame\nDataFrame\n", b"numpy._core": b"numpy.core",
                 b"cpandas\nIndex\n": b"cpandas.core.indexes." + index + b"\n",
                 b"cpandas.core.internals.managers\n": b"cpandas.core.internals\n",
                 b"cpandas\nRangeIndex\n": b"cpandas.core.indexes.range\nRangeIndex\n"}  # fmt: skip
    written = stream.getvalue()
    for name, old in old_names.items():
        written = written.replace(name, old)
    assert b"_data" in written and b"_unpickle_block" not in written and b"managers" not in written
    (people / "taichi_test_gt.pkl").write_bytes(written)
    assert read(taichi, people, "test").landmarks[1, 6].tolist() == [16, 18]


def test_a_truncated_pickle_is_named(people):
    path = people / "taichi_train_gt.pkl"
    path.write_bytes(path.read_bytes()[:200])
    assert refusal(taichi, people).startswith(
        f"source: {people} has a taichi_train_gt.pkl that cannot be read: ")


@pytest.mark.parametrize("content", [b"", b"no pickle at all", b"\x80\x04", b"cpandas\nDataFrame\n)\x81."])
def test_what_is_no_pickled_table_is_named(people, content):
    (people / "taichi_train_gt.pkl").write_bytes(content)
    assert "taichi_train_gt.pkl that cannot be read: " in refusal(taichi, people)


def test_a_pickle_of_something_else_is_named(people):
    (people / "taichi_train_gt.pkl").write_bytes(pickle.dumps({"file_name": [], "value": []}))
    assert "cannot be read: it holds a dict, not a table of pandas; " in refusal(taichi, people)


def test_missing_columns_are_named(people):
    table = pd.DataFrame({"file": FIT_FRAMES, "value": 1})
    table.to_pickle(people / "taichi_train_gt.pkl")
    assert refusal(taichi, people) == (f"source: {people} has the columns file, value in taichi_train_gt.pkl; it "
                                       "should have file_name and value.")


@pytest.mark.parametrize("value", [np.zeros((17, 2)), np.zeros((2, 18)), "text", None, {"x": 1}, [[1, 2], [3]]])
def test_values_that_are_no_joints_are_named(people, value):
    write_table(people / "taichi_train_gt.pkl", FIT_FRAMES, [joints(0), value, joints(2)])
    assert refusal(taichi, people) == (f"source: {people} has a malformed value in taichi_train_gt.pkl: that of "
                                       f"{FIT_FRAMES[1]} is not 18 joints x, y.")


# --- parameters ---


def test_the_parameters_are_the_papers():
    birds, people = config.load("cub"), config.load("taichi")
    assert (birds.n_parts, birds.lambda_con, birds.n_blocks, birds.random_resized_crop) == (8, 10, 6, True)
    assert (people.n_parts, people.lambda_con, people.n_blocks, people.random_resized_crop) == (10, 30, 4, False)


def test_classes_are_for_cub_alone_and_no_published_counts_are_of_some():
    assert config.load("cub", classes=[1, 3]).classes == [1, 3]
    for dataset, classes, said in (("celeba", [1], "none, for celeba has no numbers of classes"),
                                   ("cub", [], "classes"), ("cub", [0], "classes"), ("cub", 1, "classes")):
        with pytest.raises(UserError, match=said):
            config.load(dataset, classes=classes)
    assert published_counts(config.load("cub", split_list="list.txt")) == cub.PUBLISHED
    assert published_counts(config.load("cub", split_list="list.txt", classes=[1])) == {}
