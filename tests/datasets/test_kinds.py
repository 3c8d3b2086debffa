"""Files that are pictures though their ending does not say so, and those that nobody can read: none vanishes."""

import shutil
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from test_datasets import BLUE, RED, cfg, encoded, halves, near, outputs, zipped  # noqa: F401, outputs is a fixture

from ganseg.datasets import decode, source
from ganseg.datasets.loading import load_pictures
from ganseg.errors import UserError

HEIC = struct.pack(">I", 24) + b"ftypheic" + b"\0\0\0\0mif1heic" + bytes(range(200))
HEIC_OF_SAMSUNG = struct.pack(">I", 28) + b"ftypmif1" + b"\0\0\0\0mif1heicmiaf" + bytes(range(200))
JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(range(200))
VIDEO = struct.pack(">I", 24) + b"ftypqt  " + bytes(range(200))


def raw():
    """A raw file as cameras write it: a TIFF that begins with a preview."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    return encoded(halves(), "TIFF", tiffinfo=tags)


UNREADABLE = {"a.heic": (HEIC, "HEIC cannot be read: convert it to JPEG"),
              "iphone.jpg": (HEIC, "HEIC cannot be read: convert it to JPEG"),
              "samsung.heif": (HEIC_OF_SAMSUNG, "HEIC cannot be read: convert it to JPEG"),
              "c.jxl": (JXL, "JPEG XL cannot be read: convert it to JPEG"),
              "d.mov": (VIDEO, "a video is no picture: save its frames as JPEG"),
              "more.zip": (b"PK\3\4" + bytes(200), "this archive is not opened: unpack it"),
              "e.nef": (raw(), "it shows a preview only, as raw files of cameras do: convert it to JPEG"),
              "f.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture of a known format"),
              "f.eps": (b"%!PS-Adobe-3.0 EPSF-3.0", "not a picture of a known format"),
              "noise": (b"\x93\0\xff\xfe" * 50, "not a picture of a known format")}


@pytest.fixture
def mixed(tmp_path):
    """One picture of each format and ending that is read, what cannot be read, and files that need no word."""
    root = tmp_path / "mixed"
    root.mkdir()
    kinds = ["JPEG", "JPEG", "JPEG", "GIF", "AVIF", "PNG", "JPEG2000", "PPM", "WEBP", "JPEG"]
    for name, kind in zip(READABLE, kinds, strict=True):
        (root / name).write_bytes(encoded(halves(), kind))
    for name, (content, _) in UNREADABLE.items():
        (root / name).write_bytes(content)
    for name, content in (("README", "words äöü".encode()), ("LICENSE", b"x" * 511 + "ä".encode() * 9), ("a.csv", b"1"),
                          ("Thumbs.db", bytes(99)), ("w.npy", bytes(99)), ("x.xmp", b"<x:xmpmeta/>"),
                          ("y.json", b"{}")):
        (root / name).write_bytes(content)
    return root


READABLE = ["0123abcd", "a.jfif", "b.jpe", "c.gif", "d.AVIF", "e.pic", "f.jp2", "g.ppm", "h.jpg!large", "i.insp"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_pictures_are_known_by_content_and_what_cannot_be_read_is_named(mixed, tmp_path, kind, capsys):
    pictures = load_pictures(cfg(source=mixed if kind == "folder" else zipped(mixed, tmp_path / "mixed.zip")), "train")
    assert list(pictures.names) == READABLE
    for image in pictures.images.numpy():
        assert near(image[:, 16, 7], RED, 12) and near(image[:, 16, 24], BLUE, 12)
    assert dict(pictures.skipped) == {name: why for name, (_, why) in UNREADABLE.items()}
    printed = capsys.readouterr().out
    assert "1 of 20 files are left out (.heic): HEIC cannot be read: convert it to JPEG." in printed
    assert printed.count("are left out") == len(UNREADABLE)


@pytest.mark.parametrize("name", ["a.pbm", "a.PNM"])
def test_a_picture_written_as_text_is_one(tmp_path, name):
    (tmp_path / name).write_bytes(b"P1\n2 2\n1 0\n1 0\n")
    image = load_pictures(cfg(source=tmp_path), "train").images[0]
    assert image[:, :, 0].unique().tolist() == [0] and image[:, :, -1].unique().tolist() == [255]


def test_a_raw_file_of_a_camera_is_no_video():
    assert decode.kinds.why_no_picture(struct.pack(">I", 24) + b"ftypcrx \0\0\0\1crx isom") == decode.kinds.UNKNOWN


def test_many_of_a_kind_are_one_line(tmp_path, capsys):
    for i in range(30):
        (tmp_path / f"{i}.HEIC").write_bytes(HEIC)
    (tmp_path / "a.png").write_bytes(encoded(halves()))
    assert len(load_pictures(cfg(source=tmp_path), "train").skipped) == 30
    printed = capsys.readouterr().out
    assert printed.count("left out") == 1 and "30 of 31 files are left out (.heic): HEIC cannot be read" in printed


def test_a_source_of_nothing_that_can_be_read_says_why(tmp_path):
    (tmp_path / "a.heic").write_bytes(HEIC)
    with pytest.raises(UserError, match="none of 1 pictures can be read; a.heic: HEIC cannot be read: convert it"):
        load_pictures(cfg(source=tmp_path), "train")
    with pytest.raises(UserError, match="a.heic is neither a folder .*: HEIC cannot be read: convert it to JPEG"):
        source.list_pictures(tmp_path / "a.heic", "photos")


def test_photos_to_segment_are_sniffed_too(mixed):
    found = dict(source.list_pictures(mixed))
    assert sorted(found) == sorted([*READABLE, *UNREADABLE])
    with pytest.raises(ValueError, match="JPEG XL cannot be read"):
        decode.open_upright(found["c.jxl"]())
    shutil.copy(mixed / "0123abcd", mixed.parent / "alone")
    (_, opener), = source.list_pictures(mixed.parent / "alone")
    assert near(np.asarray(decode.open_upright(opener()))[12, 7], RED, 5)


def test_only_files_of_unknown_endings_are_looked_into_and_only_their_beginning(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    for name in ("a.jpg", "b.PNG", "c.csv", "d.npz", "e"):
        (tmp_path / "own" / name).write_bytes(encoded(Image.effect_noise((90, 90), 80)))
    opened, really = [], source.Source.open
    monkeypatch.setattr(source.Source, "open", lambda self, name, size=-1: (opened.append((name, size)),
                                                                           really(self, name, size))[1])
    with source.Source(zipped(tmp_path / "own", tmp_path / "own.zip")) as one:
        assert one.pictures() == ["a.jpg", "b.PNG", "e"]
        assert opened == [("e", 512)]
        assert len(one.open("e", 512).read()) == 512 and len(one.read("e")) > 5000


def test_a_video_is_not_read_whole_to_say_that_it_is_none(tmp_path):
    (tmp_path / "a.mp4").write_bytes(VIDEO)
    (tmp_path / "a.png").write_bytes(encoded(halves()))
    with source.Source(tmp_path) as one:
        assert one.pictures() == ["a.mp4", "a.png"]
        with pytest.raises(ValueError, match="a video is no picture"):
            one.open("a.mp4")


def test_a_damaged_member_of_no_ending_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("bad", encoded(halves()))
        archive.writestr("good", encoded(halves(size=(8, 8))))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[60] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    pictures = load_pictures(cfg(source=tmp_path / "a.zip"), "train")
    assert list(pictures.names) == ["good"] and "CRC" in dict(pictures.skipped)["bad"]
