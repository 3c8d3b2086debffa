"""The readers of CelebA and Flowers-102, on tiny sets of their layouts."""

import io
import shutil
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.io import savemat

from ganseg import config, prepare, runs
from ganseg.datasets import celeba, flowers
from ganseg.datasets.source import Source
from ganseg.errors import UserError

WHERE = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))  # of the landmarks in the face's box
BLUE = (0, 0, 254)


def write_celeba(folder, n=12):
    """CelebA in the wild: 000001 to n-4 train, n-3 has a small face, the last three test; MAFL trains on 1 to 3."""
    draw = np.random.default_rng(0)
    boxes, landmarks, sizes = {}, {}, {}
    for i in range(1, n + 1):
        name, size = f"{i:06d}.jpg", (60, 100) if i % 2 else (110, 70)
        share = 0.3 if i == n - 3 else 0.65  # of each side: 9 % or 42 % of the picture
        sides = [round(share * side + 4 * draw.random()) for side in size]
        corner = [int(draw.integers(side - of_box)) for side, of_box in zip(size, sides, strict=True)]
        sizes[name], boxes[name] = size, [*corner, *sides]
        landmarks[name] = _landmarks(boxes[name])
    _write_lists(folder, "list_landmarks_celeba.txt", landmarks)
    _write_list(folder / "Anno" / "list_bbox_celeba.txt", boxes, "image_id x_1 y_1 width height")
    for name, box in boxes.items():
        _save(folder / "Img" / "img_celeba" / name, _face(sizes[name], box, landmarks[name]))


def write_celeba_aligned(folder, n=12):
    """CelebA aligned, in its zip: 000001 to n-3 train, the last three test; MAFL trains on 1 to 3 and n-3."""
    draw = np.random.default_rng(0)
    boxes = {f"{i:06d}.jpg": [40 + draw.integers(20), 60 + draw.integers(30), 90, 110] for i in range(1, n + 1)}
    landmarks = {name: _landmarks(box) for name, box in boxes.items()}
    _write_lists(folder, "list_landmarks_align_celeba.txt", landmarks)
    (folder / "Img").mkdir()
    with zipfile.ZipFile(folder / "Img" / "img_align_celeba.zip", "w") as archive:
        for name, box in boxes.items():
            archive.writestr(f"img_align_celeba/{name}", _encoded(_face((178, 218), box, landmarks[name])))


def write_flowers(folder, n=12):
    """Flowers-102: the published test part, 1 to n-4, trains; n-3 is for validation; the last three test."""
    draw = np.random.default_rng(0)
    for i in range(1, n + 1):
        width, height = (90, 60) if i % 2 else (64, 96)
        x, y = draw.integers(5, 20, 2)
        petal = (x, y, width - x, height - y)
        picture, mask = Image.new("RGB", (width, height), (30, 120, 40)), Image.new("RGB", (width, height), BLUE)
        for image in (picture, mask):
            ImageDraw.Draw(image).ellipse(petal, fill=(230, 170 + 5 * i % 60, 90))
        _save(folder / "jpg" / f"image_{i:05d}.jpg", picture)
        _save(folder / "segmim" / f"segmim_{i:05d}.jpg", mask)
    ids = {"tstid": np.arange(1, n - 3), "valid": np.array([n - 3]), "trnid": np.arange(n - 2, n + 1)}
    savemat(folder / "setid.mat", {key: numbers.astype(np.float64)[None] for key, numbers in ids.items()})


def _landmarks(box):
    x, y, width, height = box
    return [round(value) for u, v in WHERE for value in (x + u * width, y + v * height)]


def _face(size, box, landmarks):
    x, y, width, height = box
    picture = Image.new("RGB", size, (40, 60 + x, 200 - y))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((x, y, x + width, y + height), fill=(220, 180, 150))
    for u, v in zip(landmarks[::2], landmarks[1::2], strict=True):
        draw.ellipse((u - 3, v - 3, u + 3, v + 3), fill=(90, 20, 30))
    return picture


def _encoded(picture):
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=92)
    return stream.getvalue()


def _save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encoded(picture))


def _write_lists(folder, landmark_list, landmarks):
    names = list(landmarks)
    parts_of_face = "lefteye", "righteye", "nose", "leftmouth", "rightmouth"
    columns = " ".join(f"{name}_{axis}" for name in parts_of_face for axis in "xy")
    _write_list(folder / "Anno" / landmark_list, landmarks, columns)
    parts = [0] * (len(names) - 3) + [0, 1, 2]  # MAFL's test pictures are of all three parts
    _write_list(folder / "Eval" / "list_eval_partition.txt", {n: [p] for n, p in zip(names, parts, strict=True)})
    _write_list(folder / "MAFL" / "training.txt", {name: [] for name in [names[2], *names[:2], names[-4]]})
    _write_list(folder / "MAFL" / "testing.txt", {name: [] for name in names[-3:]})


def _write_list(path, rows, columns=None):
    lines = [name + "".join(f"{value:>5}" for value in values) for name, values in rows.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    header = [str(len(rows)), columns + " "] if columns else []
    path.write_text("\n".join(header + lines) + "\n")


def find(folder, name):
    return next(folder.rglob(name))


def set_row(folder, name, picture, line):
    """Put another line in the place of a picture's; None: none."""
    path = find(folder, name)
    lines = [line if old.startswith(picture) else old for old in path.read_text().splitlines()]
    path.write_text("\n".join(kept for kept in lines if kept is not None))


def read(folder, split="train", reader="celeba"):
    module = flowers if reader == "flowers" else celeba
    with Source(folder, archives=module.ARCHIVES) as source:
        return module.list_split(source, split, SimpleNamespace(reader=reader, image_size=32, crop="squeeze"))


def numbers(listing):
    return [int("".join(filter(str.isdigit, name.rsplit("/")[-1]))) for name in listing.names]


def message(folder, split="train", reader="celeba"):
    with pytest.raises(UserError) as error:
        read(folder, split, reader)
    text, beginning = str(error.value), f"source: {folder} "
    assert text.startswith(beginning)
    return text.removeprefix(beginning)


@pytest.fixture
def wild(tmp_path):
    write_celeba(tmp_path)
    return tmp_path


@pytest.fixture
def aligned(tmp_path):
    write_celeba_aligned(tmp_path)
    return tmp_path


@pytest.fixture
def garden(tmp_path):
    write_flowers(tmp_path)
    return tmp_path


# CelebA


def test_celeba_trains_on_its_training_part_without_mafls_test_pictures(wild):
    listing = read(wild)
    assert listing.names == [f"Img/img_celeba/00000{i}.jpg" for i in range(1, 9)]  # 9: small face, 10: MAFL's test
    assert listing.masks is None and listing.frame_px is None


def test_celeba_tests_on_mafls_test_pictures_of_any_part_in_their_order(wild):
    find(wild, "testing.txt").write_text("000012.jpg\n000009.jpg\n000010.jpg\n000011.jpg\n")
    listing = read(wild, "test")
    assert numbers(listing) == [12, 10, 11] and listing.fit is None


def test_celeba_fits_on_training_pictures_that_mafl_trains_on(wild):
    assert read(wild).fit.tolist() == [True] * 3 + [False] * 5


def test_a_mafl_training_picture_of_another_part_is_fitted_on_and_not_trained_on(wild, monkeypatch):
    set_row(wild, "list_eval_partition.txt", "000002.jpg", "000002.jpg 1")
    listing = read(wild)
    assert numbers(listing) == list(range(1, 9)) and listing.fit.tolist() == [True] * 3 + [False] * 5
    assert listing.train.tolist() == [True, False] + [True] * 6

    monkeypatch.setenv("GANSEG_OUTPUTS", str(wild / "outputs"))
    run = runs.open_run("celeba", "look", source=str(wild), image_size=32)
    splits = prepare.build_cache(run)
    of = {split: [int(name[-10:-4]) for name in pictures.names] for split, pictures in splits.items()}
    assert of == {"train": [1, 3, 4, 5, 6, 7, 8], "fit": [1, 3, 2], "test": [10, 11, 12]}
    assert [row["pictures"] for row in prepare.count_pictures(run.cfg, splits)] == [7, 3, 3]


@pytest.mark.parametrize("size", [(60, 100), (100, 60)])
@pytest.mark.parametrize("split, i", [("train", 1), ("test", 11)])
def test_a_face_box_of_30_percent_of_the_picture_is_large_enough_and_a_smaller_one_is_not(wild, size, split, i):
    name = f"{i:06d}.jpg"
    _save(find(wild, name), Image.new("RGB", size))
    set_row(wild, "list_bbox_celeba.txt", name, f"{name} 3 5 45 40")  # 1800 of 6000 pixels
    assert i in numbers(read(wild, split))
    set_row(wild, "list_bbox_celeba.txt", name, f"{name} 3 5 45 39")
    assert i not in numbers(read(wild, split))


def test_landmarks_are_x_and_y_in_pixels_of_their_own_picture(wild):
    set_row(wild, "list_bbox_celeba.txt", "000001.jpg", "000001.jpg 1 1 9 9")  # left out: the rows below move up
    set_row(wild, "list_landmarks_celeba.txt", "000002.jpg", "000002.jpg  71 20  99 22  85 31  75 45  95.5 -1")
    listing = read(wild)
    assert numbers(listing)[0] == 2
    assert listing.landmarks.shape == (7, 5, 2) and listing.landmarks.dtype == np.float64
    assert listing.landmarks[0].tolist() == [[71, 20], [99, 22], [85, 31], [75, 45], [95.5, -1]]
    assert listing.landmark_names == ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    assert listing.eyes == (0, 1)


def test_header_lines_and_the_order_of_lines_do_not_matter(wild):
    before = read(wild)
    for path in wild.rglob("list_*.txt"):
        rows = [line for line in path.read_text().splitlines() if ".jpg" in line]
        if path.name == "list_eval_partition.txt":
            path.write_text("\n".join(["12", "image_id partition", *rows]))
        else:
            path.write_text("\r\n".join(reversed(rows)) + "\r\n\r\n")
    after = read(wild)
    assert after.names == before.names and (after.landmarks == before.landmarks).all()


def test_a_zip_of_everything_is_read_like_the_folder(wild, tmp_path_factory):
    archive = shutil.make_archive(str(tmp_path_factory.mktemp("zip") / "celeba"), "zip", wild)
    for split in ("train", "test"):
        assert read(archive, split).names == read(wild, split).names


def test_sizes_come_from_the_headers_and_a_picture_without_one_is_left_to_the_decoding(wild):
    small, damaged = find(wild, "000009.jpg"), find(wild, "000004.jpg")
    small.write_bytes(small.read_bytes()[:700])  # cut off after the header
    damaged.write_bytes(b"not a picture")
    assert numbers(read(wild)) == list(range(1, 9))


def test_aligned_celeba_is_read_from_its_zip_and_no_face_is_too_small(aligned):
    listing = read(aligned, reader="celeba_aligned")
    assert listing.names == [f"Img/img_align_celeba/00000{i}.jpg" for i in range(1, 10)]
    assert listing.fit.tolist() == [True] * 3 + [False] * 5 + [True]
    assert numbers(read(aligned, "test", "celeba_aligned")) == [10, 11, 12]
    assert listing.landmarks.shape == (9, 5, 2) and listing.eyes == (0, 1)


def test_aligned_celeba_unpacked_is_the_same(aligned):
    packed = read(aligned, reader="celeba_aligned")
    archive = aligned / "Img" / "img_align_celeba.zip"
    shutil.unpack_archive(archive, aligned / "Img")
    archive.unlink()
    unpacked = read(aligned, reader="celeba_aligned")
    assert unpacked.names == packed.names and (unpacked.landmarks == packed.landmarks).all()


def test_each_reader_finds_its_own_landmarks_and_pictures_where_both_sets_lie_together(tmp_path):
    write_celeba(tmp_path)
    shutil.move(tmp_path / "Img", tmp_path / "wild")
    write_celeba_aligned(tmp_path)
    wild, aligned = read(tmp_path), read(tmp_path, reader="celeba_aligned")
    assert wild.names[0] == "wild/img_celeba/000001.jpg" and aligned.names[0] == "Img/img_align_celeba/000001.jpg"
    assert (wild.landmarks[:, 4, 1] < 100).all() and (aligned.landmarks[:, 4, 1] > 125).all()


@pytest.mark.parametrize("wanted", celeba.WANTED, ids=lambda wanted: wanted.name)
def test_each_missing_part_of_celeba_is_named(wild, wanted):
    path = find(wild, wanted.name.rstrip("/"))
    path.rename(path.with_name("away"))
    assert message(wild).startswith(f"lacks {wanted.name}")


@pytest.mark.parametrize("wanted", celeba.WANTED_ALIGNED, ids=lambda wanted: wanted.name)
def test_each_missing_part_of_aligned_celeba_is_named(aligned, wanted):
    path = find(aligned, wanted.name.replace("/", ".zip"))
    path.rename(path.with_name("away"))
    assert message(aligned, reader="celeba_aligned").startswith(f"lacks {wanted.name}")


@pytest.mark.parametrize("split, i, name", [("train", 4, "list_eval_partition.txt"), ("train", 11, "training.txt"),
                                            ("test", 11, "testing.txt")])
def test_absent_pictures_are_counted_and_the_first_is_named(wild, split, i, name):
    find(wild, "training.txt").write_text("000001.jpg\n000011.jpg\n")
    find(wild, f"{i:06d}.jpg").unlink()
    n = {"list_eval_partition.txt": 9, "training.txt": 2, "testing.txt": 3}[name]
    assert message(wild, split) == f"lacks 1 of {n} pictures of {name} in img_celeba/, the first is {i:06d}.jpg."


@pytest.mark.parametrize("name", ["list_bbox_celeba.txt", "list_landmarks_celeba.txt"])
def test_pictures_without_a_line_are_counted_and_the_first_is_named(wild, name):
    for i in (5, 7):
        set_row(wild, name, f"00000{i}.jpg", None)
    of = 9 if "bbox" in name else 8
    expected = f"lacks 2 of {of} pictures of list_eval_partition.txt in {name}, the first is 000005.jpg."
    assert message(wild) == expected


@pytest.mark.parametrize("name, line, number, expected", [
    ("list_bbox_celeba.txt", "000002.jpg 1 2 3", 4, 4 * " number"),
    ("list_bbox_celeba.txt", "000002.jpg 1 2 3 x", 4, 4 * " number"),
    ("list_landmarks_celeba.txt", "000002 1 2 3 4 5 6 7 8 9 0", 4, 10 * " number"),
    ("list_eval_partition.txt", "000002.jpg", 2, " number"),
    ("training.txt", "000002.jpg 1", 3, ""),
])  # fmt: skip
def test_a_malformed_line_is_shown_with_its_number(wild, name, line, number, expected):
    set_row(wild, name, "000002.jpg", line)
    path = find(wild, name).relative_to(wild)
    with pytest.raises(UserError) as error:
        read(wild)
    assert str(error.value) == f"source: {path} of {wild}, line {number}: '{line}' is not 'picture{expected}'."


def test_an_empty_list_is_an_error(wild):
    find(wild, "testing.txt").write_text("0\n")
    assert message(wild) == "has no picture in MAFL/testing.txt."


# Flowers


def test_flowers_swap_the_published_split(garden):
    train, test = read(garden, "train", "flowers"), read(garden, "test", "flowers")
    assert train.names == [f"jpg/image_0000{i}.jpg" for i in range(1, 9)] and numbers(test) == [10, 11, 12]
    assert test.masks == [f"segmim/segmim_000{i}.jpg" for i in (10, 11, 12)] and len(train.masks) == 8
    assert train.only_foreground and test.only_foreground and train.fit is None and test.landmarks is None


def test_flowers_are_read_from_their_archives(garden):
    unpacked = read(garden, "test", "flowers")
    for folder, archive in [("jpg", "102flowers.tgz"), ("segmim", "102segmentations.tgz")]:
        with tarfile.open(garden / archive, "w:gz") as tar:
            tar.add(garden / folder, folder)
        shutil.rmtree(garden / folder)
    packed = read(garden, "test", "flowers")
    assert packed.names == unpacked.names and packed.masks == unpacked.masks


def test_flowers_background_is_red_0_or_green_0_or_blue_254():
    colors = [BLUE, (0, 5, 5), (5, 0, 5), (5, 5, 254), (5, 5, 255), (1, 1, 253), (5, 5, 0), (255, 255, 255)]
    mask = Image.fromarray(np.array([colors], np.uint8))
    labels = flowers.to_labels(mask, lambda image, resample: image)
    assert labels.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] and labels.dtype == np.uint8


def test_edge_colors_of_a_jpeg_count_as_they_are(garden):
    path = garden / "segmim" / "segmim_00010.jpg"
    drawn = Image.new("L", (64, 96), 0)
    ImageDraw.Draw(drawn).rectangle((21, 33, 50, 70), fill=255)
    mask = Image.new("RGB", drawn.size, BLUE)
    mask.paste((230, 170, 90), mask=drawn)
    _save(path, mask)
    with Image.open(path) as mask:
        labels = flowers.to_labels(mask, lambda image, resample: image)
        pixels = np.asarray(mask).reshape(-1, 3).tolist()
    literally = np.array([r != 0 and g != 0 and b != 254 for r, g, b in pixels]).reshape(96, 64)
    assert (labels == literally).all()
    inside = np.asarray(drawn) > 0
    assert labels[inside].mean() > 0.98 and labels[~inside].mean() < 0.2
    assert labels[~inside].any()  # blurred edges beyond what was drawn


def test_foreground_is_decided_at_the_masks_own_size_and_then_resized_by_area():
    petal = (200, 10, 10)
    quarters = [[petal, petal, BLUE, BLUE], [petal, BLUE, petal, BLUE]]  # 3 of 4 pixels, 1 of 4
    used = []

    def resize(image, resample):
        used.append((image.mode, resample))
        return image.resize((2, 1), resample)

    assert flowers.to_labels(Image.fromarray(np.array(quarters, np.uint8)), resize).tolist() == [[1, 0]]
    assert used == [("L", Image.Resampling.BOX)]


def test_flowers_without_segmentations_have_no_masks(garden):
    shutil.rmtree(garden / "segmim")
    for split in ("train", "test"):
        assert read(garden, split, "flowers").masks is None


def test_flowers_may_lack_masks_of_training_pictures_and_not_of_test_pictures(garden):
    for i in ("02", "11", "12"):
        (garden / "segmim" / f"segmim_000{i}.jpg").unlink()
    masks = read(garden, "train", "flowers").masks
    assert masks[1] is None and masks[0] == "segmim/segmim_00001.jpg" and masks.count(None) == 1
    expected = "lacks 2 of 3 masks of trnid in setid.mat, the first is segmim/segmim_00011.jpg."
    assert message(garden, "test", "flowers") == expected


def test_absent_flowers_are_counted_and_the_first_is_named(garden):
    for i in (3, 5):
        (garden / "jpg" / f"image_0000{i}.jpg").unlink()
    expected = "lacks 2 of 8 pictures of tstid in setid.mat, the first is jpg/image_00003.jpg."
    assert message(garden, "train", "flowers") == expected


@pytest.mark.parametrize("name", ["jpg", "setid.mat"])
def test_each_missing_part_of_flowers_is_named(garden, name):
    (garden / name).rename(garden / "away")
    assert message(garden, "train", "flowers").startswith(f"lacks {name}")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"<html>not found</html>" * 20,
                                    lambda data: data[: len(data) // 2]])
def test_a_damaged_setid_is_one_sentence(garden, damage):
    path = garden / "setid.mat"
    path.write_bytes(damage(path.read_bytes()))
    text = message(garden, "train", "flowers")
    assert text.startswith("has a setid.mat that cannot be read: ") and text.endswith(" download it again.")
    assert "\n" not in text


# Both


@pytest.mark.parametrize("write, wanted", [(write_celeba, celeba.WANTED), (write_flowers, flowers.WANTED),
                                           (write_celeba_aligned, celeba.WANTED_ALIGNED)])
def test_all_that_is_wanted_is_found_in_a_whole_set(tmp_path, write, wanted):
    write(tmp_path)
    with Source(tmp_path, archives=celeba.ARCHIVES) as source:
        assert all(source.find(w.name) for w in wanted)


def test_parameters_of_celeba_are_the_defaults_and_of_flowers_the_papers():
    cfg = config.load("celeba")
    assert cfg.model_dump() == config.check({"dataset": "celeba", "reader": "celeba"}).model_dump()
    assert config.load("celeba_aligned").reader == "celeba_aligned"
    cfg = config.load("flowers")
    assert (cfg.reader, cfg.n_blocks, cfg.rgb_head, cfg.lambda_con) == ("flowers", 6, "conv1x1", 30.0)
    assert cfg.random_resized_crop and cfg.area_target == "extent" and not config.load("celeba").random_resized_crop


def test_prepare_compares_the_counts_of_celeba_in_the_wild_with_the_published_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    write_celeba(tmp_path / "data")
    run = runs.open_run("celeba", "x", source=str(tmp_path / "data"), image_size=32)
    rows = prepare.count_pictures(run.cfg, prepare.build_cache(run))
    assert {row["split"]: row["published"] for row in rows} == {"train": 45_609, "fit": 5_379, "test": 283}
