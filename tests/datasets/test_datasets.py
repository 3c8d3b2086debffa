"""The readers, on small pictures made here."""

import contextlib
import errno
import gc
import io
import os
import shutil
import socket
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ganseg import config, prepare, runs
from ganseg.datasets import decode
from ganseg.datasets import source as files
from ganseg.datasets.folder import HELD_OUT, _choose
from ganseg.datasets.loading import load_pictures
from ganseg.errors import UserError
from ganseg.metrics import clustering

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def cfg(reader="folder", source=None, image_size=32, **fields):
    unset = dict.fromkeys(("split_list", "classes", "ignore_label", "max_train_pictures", "max_test_pictures"))
    fields = {"dataset": reader, "crop": "squeeze", **unset, **fields}
    return SimpleNamespace(reader=reader, source=source and str(source), image_size=image_size, **fields)


def halves(left=RED, right=BLUE, mode="RGB", size=(48, 24)):
    """A picture of two colours; non-square."""
    picture = Image.new(mode, size, right)
    picture.paste(left, (0, 0, size[0] // 2, size[1]))
    return picture


def encoded(picture, format="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def grey(values, format="PNG"):
    """A 40 x 20 picture whose left and right halves are the two values."""
    return encoded(Image.fromarray(np.repeat(np.repeat(values[None], 20, axis=1), 20, axis=0)), format)


def left_and_right(data, **options):
    """Colours in the middle of the left and the right half."""
    square = decode.read_square(data, 32, options.get("crop", "squeeze"))[0]
    assert square.shape == (32, 32, 3) and square.dtype == np.uint8
    return square[16, 7].tolist(), square[16, 24].tolist()


def near(found, expected, tolerance=3):
    return np.abs(np.subtract(found, expected)).max() <= tolerance


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """Caches go into a folder of each test's own."""
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path.parent / f"{tmp_path.name}-outputs"))


@pytest.fixture
def photos(tmp_path):
    """Seven pictures of every extension, nested, among files to leave out."""
    root = tmp_path / "photos"
    formats = {"a.jpg": "JPEG", "b.JPEG": "JPEG", "sub/c.Png": "PNG", "sub/d.webp": "WEBP",
               "sub/deep/e.BMP": "BMP", "sub/f.tif": "TIFF", "g.TIFF": "TIFF"}
    clutter = [".hidden.png", "._a.jpg", "__MACOSX/a.jpg", ".cache/b.png", "sub/@eaDir/c.png", "notes.txt"]
    for i, (name, format) in enumerate(formats.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(halves(left=(30 * i, 0, 0)), format))
    for name in clutter:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(halves()))
    return root


def zipped(root, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(root))
    return path


# --- one picture ---


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_every_format_keeps_its_colours(format):
    left, right = left_and_right(encoded(halves(), format))
    assert near(left, RED, 5) and near(right, BLUE, 5)


@pytest.mark.parametrize(("picture", "format", "left", "right"), [
    (halves(40, 200, "L"), "PNG", (40,) * 3, (200,) * 3),
    (halves(0, 1, "1"), "PNG", (0,) * 3, WHITE),
    (halves(0, 1, "1"), "TIFF", (0,) * 3, WHITE),
    (halves((100, 255), (0, 0), "LA"), "PNG", (100,) * 3, WHITE),
    (halves((255, 0, 0, 255), (0, 0, 0, 0), "RGBA"), "PNG", RED, WHITE),
    (halves((255, 0, 0, 255), (0, 0, 0, 128), "RGBA"), "TIFF", RED, (127,) * 3),
    (halves((0, 255, 255, 0), (255, 255, 0, 0), "CMYK"), "JPEG", RED, BLUE),
    (halves((0, 255, 255, 0), (255, 255, 0, 0), "CMYK"), "TIFF", RED, BLUE),
    (halves().convert("YCbCr"), "TIFF", RED, BLUE),
    (halves().convert("P", palette=Image.Palette.ADAPTIVE), "PNG", RED, BLUE),
])
def test_every_mode_becomes_rgb_and_transparent_becomes_white(picture, format, left, right):
    found = left_and_right(encoded(picture, format))
    assert near(found[0], left) and near(found[1], right)


def test_a_transparent_palette_colour_becomes_white():
    picture = halves(0, 1, "P")
    picture.putpalette([*RED, *BLUE])
    assert left_and_right(encoded(picture, transparency=1)) == ([*RED], [*WHITE])


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_of_16_bits_keeps_its_full_range(format):
    left, right = left_and_right(grey(np.array([257 * 50, 257 * 180], np.uint16), format))
    assert left == [50] * 3 and right == [180] * 3
    left, right = left_and_right(grey(np.array([0, 200], np.uint16), format))  # dark stays dark
    assert left == [0] * 3 and right == [1] * 3


@pytest.mark.parametrize(("values", "left", "right"), [
    (np.array([0.2, 1.0], np.float32), 51, 255),
    (np.array([51, 250], np.float32), 51, 250),
    (np.array([-3, 7], np.float32), 0, 255),
    (np.array([np.nan, 1], np.float32), 0, 255),
    (np.array([257 * 51, 65535], np.int32), 51, 255),
    (np.array([0, 2_000_000], np.int32), 0, 255),
    (np.array([-5, -5], np.int32), 0, 0),
])
def test_grey_of_32_bits_is_scaled_by_the_range_it_uses(values, left, right):
    assert left_and_right(grey(values, "TIFF")) == ([left] * 3, [right] * 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_upright(orientation, format):
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16, :32], pixels[:16, 32:], pixels[16:, :32] = RED, WHITE, BLUE  # bottom right is black
    turned = pixels.swapaxes(0, 1)  # from 5 on, stored rows are seen as columns
    stored = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
              5: turned, 6: turned[::-1], 7: turned[::-1, ::-1], 8: turned[:, ::-1]}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif, **options)
    upright = np.asarray(decode.open_upright(data))
    assert upright.shape == pixels.shape
    corners = upright[[8, 8, 24, 24], [16, 48, 16, 48]]
    assert near(corners, [RED, WHITE, BLUE, (0, 0, 0)], 5)
    assert decode.read_square(data, 32, "squeeze")[1] == (64, 32)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_lose_the_picture():
    data = encoded(halves(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert near(left_and_right(data)[0], RED, 5)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_a_moving_picture_gives_its_first_frame(format):
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(halves(), format, save_all=True, append_images=[halves(BLUE, RED)], **options)
    assert left_and_right(data) == ([*RED], [*BLUE])


def test_squeeze_shows_all_and_center_cuts_the_middle_out():
    picture = halves(RED, RED, size=(96, 32))
    picture.paste(BLUE, (32, 0, 64, 32))
    squeezed = decode.read_square(encoded(picture), 32, "squeeze")[0]
    assert squeezed[16, 3].tolist() == [*RED] and squeezed[16, 16].tolist() == [*BLUE]
    assert (decode.read_square(encoded(picture), 32, "center")[0] == BLUE).all()


def test_shrinking_averages():
    stripes = np.zeros((64, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    assert near(decode.read_square(encoded(Image.fromarray(stripes)), 32, "squeeze")[0][4:-4, 4:-4], 127)


def test_a_large_jpeg_is_like_the_same_picture_decoded_in_full():
    x, y = np.linspace(0, 255, 1200)[None], np.linspace(0, 255, 800)[:, None]
    pixels = np.stack(np.broadcast_arrays(x, y, 90), axis=2).astype(np.uint8)  # (800, 1200, 3)
    data = encoded(Image.fromarray(pixels), "JPEG", quality=95)
    full = decode.open_upright(data)
    assert full.size == (1200, 800)
    fast, size = decode.read_square(data, 32, "squeeze")
    assert size == (1200, 800) and near(fast.astype(int), np.asarray(full.resize((32, 32))), 4)


def test_a_small_jpeg_is_decoded_in_full():
    noise = np.random.default_rng(0).integers(0, 255, (127, 127, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG")
    full = decode.open_upright(data).resize((32, 32), Image.Resampling.LANCZOS)
    assert (decode.read_square(data, 32, "squeeze")[0] == np.asarray(full)).all()


def test_a_picture_smaller_than_the_square_is_enlarged():
    assert (decode.read_square(encoded(Image.new("RGB", (1, 3), RED)), 64, "center")[0] == RED).all()


def test_a_picture_is_read_from_a_path_and_the_reason_given_where_it_cannot(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(halves()))
    assert decode.read_square(tmp_path / "a.png", 32, "squeeze")[0][16, 7].tolist() == [*RED]
    with pytest.raises(ValueError, match="^the file is empty$"):
        decode.read_square(b"", 32, "squeeze")[0]


# --- folders and zips ---


def test_a_folder_lists_every_extension_sorted_without_hidden_files(photos):
    pictures = load_pictures(cfg(source=photos), "train")
    names = ["a.jpg", "b.JPEG", "g.TIFF", "sub/c.Png", "sub/d.webp", "sub/deep/e.BMP", "sub/f.tif"]
    assert list(pictures.names) == names and pictures.skipped == [] and len(pictures) == 7
    assert pictures.images.shape == (7, 3, 32, 32) and pictures.images.dtype == torch.uint8
    assert pictures.labels is None and pictures.landmarks is None and pictures.eyes is None
    reds = pictures.images[:, 0, 16, 7].tolist()
    assert near(reds, [0, 30, 180, 60, 90, 120, 150], 5)


def test_a_zip_is_read_like_its_folder(photos, tmp_path):
    from_folder = load_pictures(cfg(source=photos), "train")
    from_zip = load_pictures(cfg(source=zipped(photos, tmp_path / "photos.zip")), "train")
    assert list(from_zip.names) == list(from_folder.names)
    assert torch.equal(from_zip.images, from_folder.images)


def test_unreadable_pictures_are_skipped_and_named(photos, recwarn, capfd):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    png = encoded(noise)
    bad = {"empty.png": b"", "text.jpg": b"hello", "crc.png": png[:40] + bytes([png[40] ^ 255]) + png[41:]}
    for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        bad[f"cut.{name}"] = encoded(noise, name)[:900]
    for name, data in bad.items():
        (photos / "sub" / name).write_bytes(data)
    pictures = load_pictures(cfg(source=photos), "train")
    reasons = dict(pictures.skipped)
    assert sorted(reasons) == sorted(f"sub/{name}" for name in bad) and len(pictures) == 7
    assert reasons["sub/empty.png"] == "the file is empty"
    assert reasons["sub/text.jpg"] == "not a picture of a known format"
    assert all(reason and "\n" not in reason for reason in reasons.values())
    assert near(pictures.images[:, 0, 16, 7].tolist(), [0, 30, 180, 60, 90, 120, 150], 5)
    assert not recwarn.list and "Traceback" not in capfd.readouterr().err


def test_a_picture_of_too_many_pixels_is_skipped(photos, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (photos / "huge.png").write_bytes(encoded(halves(size=(60, 60))))
    (name, reason), = load_pictures(cfg(source=photos), "train").skipped
    assert name == "huge.png" and "3600 pixels" in reason


def test_damaged_members_of_a_zip_are_skipped(photos, tmp_path, monkeypatch):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad.png", encoded(halves()))
        archive.writestr("good.png", encoded(halves(size=(8, 8))))
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(data)
    pictures = load_pictures(cfg(source=path), "train")
    assert list(pictures.names) == ["good.png"] and "CRC" in dict(pictures.skipped)["bad.png"]
    monkeypatch.setattr(files, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="bytes are too many"):
        load_pictures(cfg(source=path, image_size=64), "train")


def test_names_with_backslashes_in_a_zip_are_paths(tmp_path):
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        archive.writestr("photos\\a.png", encoded(halves()))
    assert list(load_pictures(cfg(source=tmp_path / "windows.zip"), "train").names) == ["photos/a.png"]


def test_links_are_followed_once(photos):
    os.symlink(photos, photos / "sub" / "loop")
    assert len(files.list_pictures(photos)) == 7


@pytest.mark.parametrize("make", [
    lambda path: os.symlink(path, path), lambda path: os.symlink("nowhere", path), os.mkfifo,
    lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
])
def test_a_link_that_leads_nowhere_and_what_is_no_file_are_named_and_the_rest_is_used(photos, make, monkeypatch):
    monkeypatch.chdir(photos)  # the name of a socket must be short
    make(Path("sub/odd.png"))
    pictures = load_pictures(cfg(source=photos), "train")
    assert len(pictures) == 7 and [name for name, _ in pictures.skipped] == ["sub/odd.png"]
    assert pictures.skipped[0][1] and files.fingerprint(photos) == files.fingerprint(photos)


def test_a_link_to_a_folder_that_is_gone_is_named(photos):
    os.symlink("/nowhere/at/all", photos / "more")
    pictures = load_pictures(cfg(source=photos), "train")
    assert len(pictures) == 7 and [name for name, _ in pictures.skipped] == ["more"]


@pytest.mark.parametrize("error, words", [
    (PermissionError(errno.EACCES, "Permission denied"), "sub cannot be read: Permission denied; make it"),
    (OSError(errno.EIO, "Input/output error"), "sub cannot be read: Input/output error"),
])
@pytest.mark.parametrize("where", ["scandir", "stat"])
def test_a_folder_that_may_not_be_listed_or_entered_is_one_sentence(photos, monkeypatch, error, words, where):
    listed = os.scandir

    class Entry(SimpleNamespace):
        def stat(self, follow_symlinks=True):
            raise error

    def scandir(path):
        if Path(path).name != "sub":
            return listed(path)
        if where == "scandir":
            raise error
        return contextlib.nullcontext([Entry(name="a.png", is_dir=lambda: False)])

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=f"source: .*{words}"):
        load_pictures(cfg(source=photos), "train")


def test_limits_spread_evenly_over_the_sorted_listing(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(encoded(halves(size=(4, 2))))
    assert list(load_pictures(cfg(source=tmp_path), "train", limit=5).names) == [f"{i}.png" for i in (0, 2, 4, 6, 8)]
    assert list(load_pictures(cfg(source=tmp_path, max_train_pictures=3), "train").names) == ["0.png", "3.png", "6.png"]
    assert list(load_pictures(cfg(source=tmp_path, max_train_pictures=3), "train", limit=1).names) == ["0.png"]
    assert len(load_pictures(cfg(source=tmp_path, max_train_pictures=3), "test")) == 10
    assert len(load_pictures(cfg(source=tmp_path, max_test_pictures=99), "test", limit=99)) == 10


def test_one_picture_is_a_listing_for_detection_and_no_source(photos):
    (name, opener), = files.list_pictures(photos / "a.jpg", "PHOTOS")
    assert name == "a.jpg" and decode.open_upright(opener()).size == (48, 24)
    with pytest.raises(UserError, match="source: .* is one picture; it should be a folder or zip"):
        load_pictures(cfg(source=photos / "a.jpg"), "train")


def test_a_relative_source_is_looked_for_here_then_in_the_project(photos, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr("ganseg.files.ROOT", tmp_path)
    assert len(load_pictures(cfg(source="photos"), "train")) == 7
    (elsewhere / "photos").mkdir()
    (elsewhere / "photos" / "one.png").write_bytes(encoded(halves()))
    assert list(load_pictures(cfg(source="photos"), "train").names) == ["one.png"]


def test_what_is_wrong_with_a_source_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.zip").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "words.txt").write_text("no pictures")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"")
    wrong = {None: "source: is not set; name the folder, .* with -p source, or once .*: ganseg prepare",
             "nowhere": "source: there is no .*nowhere; name the folder, zip or tar",
             "empty": r"source: .*empty holds no pictures; looked for \.jpg, \.jpeg.* in any letter case",
             "damaged.zip": "source: .*damaged.zip cannot be opened as a zip: .*damaged or incomplete",
             "words.txt": "source: .*words.txt is neither a folder nor a zip or tar of pictures",
             "bad": "source: none of 1 pictures can be read; a.jpg: the file is empty."}
    for name, message in wrong.items():
        with pytest.raises(UserError, match=message):
            load_pictures(cfg(source=name and tmp_path / name), "train")
    with pytest.raises(UserError, match="PHOTOS: there is no file or folder .*nowhere"):
        files.list_pictures(tmp_path / "nowhere", "PHOTOS")


def test_reading_a_large_folder_prints_its_progress(photos, monkeypatch, capsys):
    monkeypatch.setattr(decode, "PROGRESS_EVERY_S", -1)
    load_pictures(cfg(source=photos), "train")
    assert "read 7 of 7 pictures in 0 s" in capsys.readouterr().out


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split is 'val'; allowed: train, fit, test"):
        load_pictures(cfg(), "val")


# --- faces ---

LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
HEADER = ",".join(["file", "split", *(f"{name}_{axis}" for name in LANDMARKS for axis in "xy")])
FACES = [HEADER, "images/A.jpg,train,0,0,127,0,63.5,63.5,0,127,127,127",
         "images/B.jpg,test,10,20,30,40,50,60,,,90,100", "images/C.jpg,train,1,1,1,1,1,1,1,1,1,1"]


def faces(path, lines=FACES, names="ABC", sizes=((128, 128),) * 3):
    with zipfile.ZipFile(path, "w") as archive:
        for name, size in zip(names, sizes, strict=False):
            archive.writestr(f"images/{name}.jpg", encoded(halves(size=size), "JPEG"))
        archive.writestr("landmarks.csv", "\n".join(lines))
    return path


def test_landmarks_of_faces_put_the_outer_pixels_at_one(tmp_path):
    source = faces(tmp_path / "lfw.zip")
    train, test = (load_pictures(cfg("folder", source, image_size=128), split) for split in ("train", "test"))
    assert list(train.names) == ["images/A.jpg", "images/C.jpg"] and list(test.names) == ["images/B.jpg"]
    assert train.landmark_names == LANDMARKS and train.eyes == (0, 1)
    assert train.landmarks.dtype == torch.float32
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [0.0, 0.0], [-1.0, 1.0], [1.0, 1.0]])
    assert train.landmarks[0].numpy() == pytest.approx(corners, abs=1e-6)
    assert test.landmarks[0, 0].tolist() == pytest.approx([2 * 10 / 127 - 1, 2 * 20 / 127 - 1], abs=1e-6)
    assert test.landmarks[0, 3].isnan().all() and not test.landmarks[0, 4].isnan().any()
    assert list(load_pictures(cfg("folder", source), "train", limit=1).names) == ["images/A.jpg"]
    assert load_pictures(cfg("folder", source, max_train_pictures=1), "train").landmarks.shape == (1, 5, 2)


def test_faces_unpacked_are_read_like_the_zip(tmp_path):
    source = faces(tmp_path / "lfw.zip")
    with zipfile.ZipFile(source) as archive:
        archive.extractall(tmp_path / "lfw")
    a, b = load_pictures(cfg("folder", source), "train"), load_pictures(cfg("folder", tmp_path / "lfw"), "train")
    assert torch.equal(a.images, b.images) and torch.equal(a.landmarks, b.landmarks)


def test_landmarks_follow_the_size_of_the_picture_and_the_crop(tmp_path):
    lines = [HEADER, "images/A.jpg,train,0,0,40,20,20,10,10,0,30,20"]
    source = faces(tmp_path / "lfw.zip", lines, sizes=((41, 21),) * 3)
    squeezed = load_pictures(cfg("folder", source), "train").landmarks[0]  # pixel x at 32 x / 41, y at 32 y / 21, of 31
    pixels = np.array([[0, 0], [40, 20], [20, 10], [10, 0], [30, 20]])
    assert squeezed.numpy() == pytest.approx(2 * pixels * [32 / 41, 32 / 21] / 31 - 1, abs=1e-6)
    # 10 pixels are cut off left and right, the landmarks on them are missing
    cropped = load_pictures(cfg("folder", source, crop="center"), "train").landmarks[0]
    expected = 2 * (pixels - [10, 0]) * 32 / 21 / 31 - 1
    expected[:2] = np.nan
    assert cropped.numpy() == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("size", [(41, 21), (21, 41)])
def test_a_landmark_counts_for_all_metrics_where_a_pixel_of_the_crop_shows_it(tmp_path, size):
    along = [9.9, 10, 30.9, 31, 40]  # pixels 10 to 30 are shown
    pairs = [(v, 5) if size[0] > size[1] else (5, v) for v in along]
    line = ",".join(["images/A.jpg,train", *(f"{x},{y}" for x, y in pairs)])
    source = faces(tmp_path / "lfw.zip", [HEADER, line], sizes=(size,) * 3)
    landmarks = load_pictures(cfg("folder", source, crop="center"), "train").landmarks.numpy()
    assert np.isfinite(landmarks[0]).all(axis=1).tolist() == [False, True, True, False, False]
    counted, _ = clustering.labels_under_keypoints(np.ones((1, 32, 32), np.uint8), landmarks)
    assert counted.tolist() == [1, 2]


def test_landmarks_stay_with_their_pictures_when_one_is_unreadable(tmp_path):
    source = tmp_path / "lfw.zip"
    with zipfile.ZipFile(faces(source, names="BC"), "a") as archive:
        archive.writestr("images/A.jpg", b"")
    pictures = load_pictures(cfg("folder", source), "train")
    assert list(pictures.names) == ["images/C.jpg"] and pictures.skipped == [("images/A.jpg", "the file is empty")]
    assert pictures.landmarks[0, 0].tolist() == pytest.approx([2 * 32 / 128 / 31 - 1] * 2, abs=1e-6)


@pytest.mark.parametrize(("lines", "names", "message"), [
    (FACES, "AB", r"lacks 1 of 3 pictures of landmarks\.csv, the first is images/C\.jpg"),
    (["file,nose_x", "images/A.jpg,1"], "ABC", r"landmarks\.csv that lacks the column file or the columns NAME_x"),
    ([], "ABC", "lacks the column file or .*; it has none"),
    ([HEADER, FACES[1].replace("train", "val")], "ABC", "line 2 has the split 'val'; allowed are train and test"),
    ([HEADER, FACES[1].replace("63.5", "x", 1)], "ABC", "line 2 cannot be read: could not convert .*: 'x'"),
    ([HEADER, FACES[2]], "B", "holds no picture of the split train"),
])
def test_what_is_wrong_with_the_table_of_faces_is_said(tmp_path, lines, names, message):
    with pytest.raises(UserError, match="^source: .*" + message):
        load_pictures(cfg("folder", faces(tmp_path / "lfw.zip", lines, names)), "train")


def annotated(root, names="abcdef", masked="abcd"):
    """Pictures of 48 x 24 whose left half is blue, masks of 0 and 7 beside them."""
    for name in names:
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "images" / f"{name}.jpg").write_bytes(encoded(halves(), "JPEG"))
    for name in masked:
        (root / "masks").mkdir(exist_ok=True)
        (root / "masks" / f"{name}.png").write_bytes(encoded(halves(0, 7, "L")))
    return root


def test_about_half_of_the_pictures_with_a_mask_are_for_testing_and_the_others_fit(tmp_path):
    source = annotated(tmp_path / "own")
    train, fit, test = (load_pictures(cfg(source=source), split) for split in ("train", "fit", "test"))
    assert [n[7] for n in train.names] == [*"bdef"] and [n[7] for n in fit.names] == [*"bd"]
    assert [n[7] for n in test.names] == [*"ac"]
    assert fit.labels.shape == (2, 32, 32) and not fit.only_foreground
    assert (test.labels[:, :, :16] == 0).all() and (test.labels[:, :, 16:] == 7).all()
    assert (load_pictures(cfg(source=source, crop="center"), "test").labels[0, :, 15:17] == torch.tensor([0, 7])).all()
    assert load_pictures(cfg(source=zipped(source, tmp_path / "own.zip")), "test").labels.equal(test.labels)


def test_one_more_annotated_picture_moves_no_other_one_into_training(tmp_path):
    names = [f"{i:02}" for i in range(10, 40)]
    source = annotated(tmp_path / "own", names, names)
    before = {split: set(load_pictures(cfg(source=source), split).names) for split in ("train", "test")}
    assert 9 < len(before["test"]) < 21
    annotated(source, ["00", "unmasked"], ["00"])  # first of all in the order of names
    after = {split: set(load_pictures(cfg(source=source), split).names) for split in ("train", "test")}
    assert before["train"] <= after["train"] and before["test"] <= after["test"]
    assert "images/unmasked.jpg" in after["train"] and not after["train"] & after["test"]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_neither_half_of_few_annotated_pictures_is_empty(n):
    for first in range(30):  # names whose hashes would put all on one side are among them
        names = [f"{first}-{i}" for i in range(n)]
        train, test = (_choose([*names, "plain"], split, names, {})[0] for split in ("train", "test"))
        assert sorted([*train, *test]) == sorted([*names, "plain"]) and test
        assert n == 1 or len(train) > 1


def test_some_photos_are_held_out_where_nothing_is_annotated():
    names = [f"{i}.jpg" for i in range(1000)]
    (train, by), (test, _) = (_choose(names, split, [], {}) for split in ("train", "test"))
    assert sorted([*train, *test]) == sorted(names) and 40 < len(test) < 90 and by == HELD_OUT
    assert set(_choose([*names, "more.jpg"], "test", [], {})[0]) - {"more.jpg"} == set(test)  # whatever else there is
    many = [f"{i}.jpg" for i in range(20_000)]
    assert len(_choose(many, "test", [], {})[0]) == 500
    few = names[:100]  # of which six or so would say nothing
    assert [_choose(few, split, [], {})[0] for split in ("train", "test")] == [few, few]


def test_a_name_from_a_mac_is_on_the_same_side():
    names = [f"\u00e9{i}" for i in range(20)]
    decomposed = [unicodedata.normalize("NFD", name) for name in names]
    sides = [_choose(listed, "test", listed, {})[0] for listed in (names, decomposed)]
    assert 0 < len(sides[0]) < 20 and sides[0] == [unicodedata.normalize("NFC", name) for name in sides[1]]


def test_a_mask_belongs_to_the_picture_of_its_path_else_of_its_name(tmp_path):
    for folder in ("images/x", "images/y", "masks/x", "masks/y"):
        (tmp_path / folder).mkdir(parents=True)
        file = tmp_path / folder / ("a.jpg" if "images" in folder else "a.png")
        file.write_bytes(encoded(halves()) if "images" in folder else encoded(halves(0, int("y" in folder) + 1, "L")))
    both = load_pictures(cfg(source=tmp_path), "fit"), load_pictures(cfg(source=tmp_path), "test")
    assert [(p.names[0], int(p.labels.max())) for p in both] == [("images/x/a.jpg", 1), ("images/y/a.jpg", 2)]
    (tmp_path / "masks" / "a.png").write_bytes((tmp_path / "masks" / "x" / "a.png").read_bytes())
    with pytest.raises(UserError, match="masks/a.png, which could be of several pictures: images/x/a.jpg, images/y/"):
        load_pictures(cfg(source=tmp_path), "test")


@pytest.mark.parametrize(("mask", "message"), [
    (encoded(halves(0, 1, "L", (24, 48))), r"the mask masks/a.png .*: it is 24 x 48 pixels, its picture 48 x 24\."),
    (encoded(halves()), r"the mask masks/a.png cannot be used: it is a RGB picture; a mask holds one number per pixel"),
    (b"words", r"the mask masks/a.png cannot be used: not a picture of a known format"),
])
def test_a_mask_that_does_not_fit_is_named_and_no_cache_is_left(tmp_path, mask, message):
    source = annotated(tmp_path / "own")
    (source / "masks" / "a.png").write_bytes(mask)
    with pytest.raises(UserError, match=message):
        load_pictures(cfg(source=source), "test")
    assert [path.suffix for path in runs.cache_folder("folder").iterdir()] == [".lock"]


def test_masks_of_other_names_than_the_pictures_are_an_error(tmp_path):
    annotated(tmp_path, masked="xyz")
    with pytest.raises(UserError, match=r"holds 3 masks, none named as a picture; the first is masks/x.png"):
        load_pictures(cfg(source=tmp_path), "train")


def test_masks_of_another_kind_are_not_taken_for_pictures(tmp_path):
    source = annotated(tmp_path / "own", masked="")
    (source / "masks").mkdir()
    (source / "masks" / "a.bmp").write_bytes(encoded(halves(0, 7, "L"), "BMP"))
    with pytest.raises(UserError, match="holds masks/a.bmp where masks lie .*; masks are grey or palette png"):
        load_pictures(cfg(source=source), "train")


def test_a_near_square_portrait_that_is_decoded_smaller_keeps_its_size(tmp_path):
    data = encoded(Image.new("RGB", (1025, 1026)), "JPEG")
    assert decode.read_square(data, 32, "squeeze")[1] == (1025, 1026)


def test_where_only_some_have_masks_the_others_are_known_to_have_none(tmp_path):
    source = annotated(tmp_path / "own")
    rows = [f"images/{name}.jpg,test,4,5" for name in "abcdef"]
    (source / "landmarks.csv").write_text("\n".join(["file,split,nose_x,nose_y", *rows]))
    test = load_pictures(cfg(source=source), "test")
    assert test.masked.tolist() == [True] * 4 + [False] * 2


def test_landmarks_outside_their_picture_count_as_missing_and_are_named(tmp_path, capsys):
    rows = [f"images/{i:03}.jpg,train,{'400' if i == 7 else '4'},5" for i in range(150)]
    lines = ["file,split,nose_x,nose_y", *rows]
    source = faces(tmp_path / "a.zip", lines, [f"{i:03}" for i in range(150)], [(48, 24)] * 150)
    landmarks = load_pictures(cfg(source=source), "train").landmarks
    assert landmarks[7].isnan().all() and not landmarks[8].isnan().any()
    assert "nose of images/007.jpg: (400, 5) in 48 x 24 pixels; they count as missing" in capsys.readouterr().out
    lines[1:] = [row.replace(",4,5", ",4,500") for row in rows]
    source = faces(tmp_path / "b.zip", lines, [f"{i:03}" for i in range(150)], [(48, 24)] * 150)
    with pytest.raises(UserError, match=r"150 landmarks lie outside .* images/000.jpg: \(4, 500\) in 48 x 24"):
        load_pictures(cfg(source=source), "train")


# --- archives ---


def test_an_archive_that_leads_outside_is_not_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../evil.png", encoded(halves()))
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        (tmp_path / "a.png").write_bytes(encoded(halves()))
        archive.add(tmp_path / "a.png", "../evil.png")
    for name in ("bad.zip", "bad.tar"):
        with pytest.raises(UserError, match=rf"{name} holds '../evil.png', .*not opened"):
            load_pictures(cfg(source=tmp_path / name), "train")
    assert not list(tmp_path.parent.rglob("evil.png"))


def test_a_tar_is_read_like_its_folder_and_a_cut_one_is_refused(photos, tmp_path):
    with tarfile.open(tmp_path / "photos.tgz", "w:gz") as archive:
        archive.add(photos, "photos")
    pictures = load_pictures(cfg(source=tmp_path / "photos.tgz"), "train")
    assert len(pictures) == 7 and torch.equal(pictures.images, load_pictures(cfg(source=photos), "train").images)
    test = load_pictures(cfg(source=tmp_path / "photos.tgz"), "test")
    assert list(test.names) == list(pictures.names) and not list(runs.cache_folder("folder").glob("unpacked-*"))
    data = (tmp_path / "photos.tgz").read_bytes()
    (tmp_path / "cut.tgz").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut.tgz cannot be unpacked: .*damaged or incomplete"):
        load_pictures(cfg(source=tmp_path / "cut.tgz"), "train")
    (tmp_path / "img_celeba.7z.001").write_bytes(b"7z\xbc\xaf\x27\x1c")
    with pytest.raises(UserError, match="7z.001 is neither a folder .*: this archive is not opened: unpack it"):
        load_pictures(cfg(source=tmp_path / "img_celeba.7z.001"), "train")


def tarred(root, path):
    with tarfile.open(path, "w:gz") as archive:
        archive.add(root, "photos")
    return path


@pytest.fixture
def opened(monkeypatch):
    """The tars that are opened, as a list that grows."""
    names, really = [], tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda path, *args, **options: (names.append(Path(path).name),
                                                                         really(path, *args, **options))[1])
    return names


def test_prepare_unpacks_a_tar_once_beside_the_cache_and_leaves_nothing(photos, tmp_path, opened, monkeypatch):
    source = tarred(photos, tmp_path / "photos.tgz")
    opened.clear()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    run, root = runs.open_run("folder", "look", source=str(source), image_size=32), runs.cache_folder("folder")
    assert len(prepare.list_layout(run.cfg)) == 2 and len(list(root.glob("unpacked-*"))) == 1
    assert len(prepare.build_cache(run)["train"]) == 7
    assert opened == ["photos.tgz"] and not list(root.glob("unpacked-*"))
    prepare.list_layout(run.cfg)  # all is decoded, so that nobody else needs it
    load_pictures(run.cfg.model_copy(update={"max_train_pictures": 3}), "train")
    assert not list(root.glob("unpacked-*"))


def test_what_a_killed_build_left_of_a_tar_is_removed_by_the_next(photos, tmp_path):
    root = runs.cache_folder("folder")
    for name in ("unpacked-0123", "unpacked-4567.partial"):
        (root / name).mkdir(parents=True)
        (root / name / "a.png").write_bytes(b"")
    source = tarred(photos, tmp_path / "photos.tgz")
    assert all(len(load_pictures(cfg(source=source), split)) == 7 for split in ("train", "test"))
    assert not list(root.glob("unpacked-*"))


def test_a_file_of_a_tar_that_is_too_large_is_left_out_and_named(photos, tmp_path, monkeypatch, capsys):
    (photos / "zeros.png").write_bytes(bytes(2**20))
    monkeypatch.setattr(files, "MAX_BYTES", 2**20 - 1)
    pictures = load_pictures(cfg(source=tarred(photos, tmp_path / "photos.tgz")), "train")
    assert len(pictures) == 7 and pictures.skipped == []
    assert "photos.tgz holds photos/zeros.png: 1,048,576 bytes are too many" in capsys.readouterr().out


def test_pictures_to_detect_in_are_unpacked_into_a_temporary_folder(photos, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    listing = files.list_pictures(tarred(photos, tmp_path / "photos.tgz"))
    assert len(listing) == 7 and near(np.asarray(decode.open_upright(listing[0][1]()))[12, 7], (0, 0, 0), 5)
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    del listing
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())
    monkeypatch.setattr(tarfile.TarFile, "extractall", no_room)
    with pytest.raises(UserError, match="where no room is left; set TMPDIR to a folder on a larger disk"):
        files.list_pictures(tmp_path / "photos.tgz")
    with pytest.raises(UserError, match="where no room is left; set GANSEG_OUTPUTS to a folder on a larger disk"):
        load_pictures(cfg(source=tmp_path / "photos.tgz"), "train")


def no_room(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


# --- outputs inside the source ---


def test_outputs_inside_the_source_are_never_read(photos, monkeypatch):
    before = files.fingerprint(photos)
    monkeypatch.setenv("GANSEG_OUTPUTS", str(photos / "sub" / "outputs"))
    first = load_pictures(cfg(source=photos), "train")
    samples = photos / "sub" / "outputs" / "folder" / "first" / "samples"
    samples.mkdir(parents=True)
    (samples / "00000001.png").write_bytes(encoded(halves()))
    os.symlink(samples.parent.parent.parent, photos / "link")
    assert list(load_pictures(cfg(source=photos), "train").names) == list(first.names) and len(first) == 7
    assert files.fingerprint(photos) == before
    assert len(list(runs.cache_folder("folder").glob("train-*[!k]"))) == 1  # one cache, with its lock
    with pytest.raises(UserError, match="outputs is the folder of all runs; name a folder of pictures"):
        load_pictures(cfg(source=photos / "sub" / "outputs"), "train")
    assert len(load_pictures(cfg(source=samples), "train")) == 1  # a folder that was named itself


# --- creatures and parameters ---


def test_creatures_come_with_labels_and_keypoints_and_stay_the_same():
    few = load_pictures(cfg("creatures"), "test", limit=3)
    assert few.images.shape == (3, 3, 32, 32) and few.labels.shape == (3, 32, 32)
    assert few.landmarks.shape == (3, len(few.landmark_names), 2) and len(few) == 3
    more = load_pictures(cfg("creatures", max_test_pictures=4), "test")
    assert len(more) == 4 and torch.equal(more.images[:3], few.images)
    assert not torch.equal(load_pictures(cfg("creatures"), "train", limit=3).images, few.images)


def test_the_parameter_files_name_their_reader():
    assert config.load("folder").reader == "folder" and config.load("lfw").reader == "folder"


def test_a_picture_of_30000_by_30000_pixels_is_passed_over_by_its_header(photos):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    (photos / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 90_001)))
    read = load_pictures(config.load("folder", source=str(photos), image_size=32), "train")
    assert "huge.png" not in read.names and dict(read.skipped)["huge.png"].startswith("Image size (900000000 pixels)")


@pytest.mark.parametrize("kind, ending", [("zip", "zip"), ("gztar", "tar.gz")])
def test_an_archive_that_was_cut_short_is_named(photos, tmp_path, monkeypatch, kind, ending):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    whole = Path(shutil.make_archive(str(tmp_path / "photos"), kind, photos))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"photos\.{ending} cannot be .*it may be damaged or incomplete"):
        load_pictures(config.load("folder", source=str(whole), image_size=32), "train")
    assert not list((tmp_path / "outputs").rglob("*.npy"))
