import csv
import errno
import io
import os
import unicodedata
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ganseg import cli, config, runs, segment
from ganseg.errors import UserError
from ganseg.model import loading


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    return make_run("x")


def make_run(name, **overrides):
    settings = {"image_size": 32, "n_parts": 3, "segmenter": "unet", "segmenter_width": 4, **overrides}
    run = runs.open_run("creatures", name, **settings)
    run.start("cpu")
    torch.manual_seed(0)
    run.save("segmenter", 10, {"segmenter": loading.build_segmenter(run.cfg).state_dict()})
    return run


def photo(width=60, height=40, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def rows_of(out):
    return list(csv.DictReader((out / "parts.csv").open()))


def test_it_says_how_far_its_run_can_be_trusted(run, tmp_path, capsys):
    photo().save(tmp_path / "a.png")
    segment.segment_photos(tmp_path / "a.png", run, tmp_path / "out")
    assert "creatures/x:" not in capsys.readouterr().out  # it was not evaluated
    run.log("evaluate", 10, equivariance=0.9)
    segment.segment_photos(tmp_path / "a.png", run, tmp_path / "out")
    assert "creatures/x: Parts are stable: when a photo is" in capsys.readouterr().out


def test_the_table_says_how_sure_it_is_of_each_part(tmp_path):
    class Halves(torch.nn.Module):
        """Part 1 with probability 0.9 on the left, part 2 with 0.6 on the right, part 3 nowhere."""

        def forward(self, images):
            left = torch.tensor([0.05, 0.9, 0.04, 0.01]).log()[:, None, None].expand(4, 32, 16)
            right = torch.tensor([0.3, 0.05, 0.6, 0.05]).log()[:, None, None].expand(4, 32, 16)
            return torch.cat([left, right], dim=2).expand(len(images), 4, 32, 32)

    cfg = config.load("folder", n_parts=3, preset="small", image_size=32, discriminator_channels=[4])
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    model = segment.PhotoSegmenter(cfg, Halves(), torch.device("cpu"))
    segment.segment_photos(tmp_path / "a.png", model, tmp_path / "out")
    assert [row["confidence"] for row in rows_of(tmp_path / "out")] == ["0.9000", "0.6000", ""]


def test_a_path_its_bytes_and_its_picture_give_the_same_labels_at_the_photos_size(run, tmp_path):
    photo().save(tmp_path / "a.png")
    model = segment.load("creatures/x", device="cpu")
    labels = model.segment(tmp_path / "a.png")
    assert labels.shape == (40, 60) and labels.dtype == np.uint8 and labels.max() <= 3
    assert (labels == model.segment((tmp_path / "a.png").read_bytes())).all()
    assert (labels == model.segment(photo())).all()


@pytest.fixture
def by_grey(run):
    """A segmenter whose labels say how bright a pixel is: 0 black, 3 white."""
    model = segment.load("creatures/x", device="cpu")
    model.logits = lambda squares: torch.stack(
        [-(torch.tensor(squares).float().mean(dim=-1) - level).square() for level in (0, 85, 170, 255)], dim=1)
    return model


def test_a_picture_gives_the_labels_of_its_file_whatever_its_mode(by_grey, tmp_path):
    model = by_grey
    color, alpha = photo(), Image.linear_gradient("L").resize((60, 40))
    deep = np.asarray(color.convert("L"), np.uint16) * 40  # at most 10,200 of 65,535
    half = color.convert("RGBA")
    half.putalpha(alpha)
    palette = color.quantize(16)
    palette.info["transparency"] = 3
    modes = {"16.png": Image.fromarray(deep), "32.tif": Image.fromarray(deep.astype(np.int32)),
             "float.tif": Image.fromarray(deep.astype(np.float32) / 9000), "half.png": half,
             "grey.png": half.convert("LA"), "palette.png": palette, "bits.png": color.convert("1"),
             "ink.tif": color.convert("CMYK")}
    for name, picture in modes.items():
        picture.save(tmp_path / name)
        of_file = model.segment(tmp_path / name)
        with Image.open(tmp_path / name) as opened:
            assert (model.segment(opened) == of_file).all() and of_file.shape == (40, 60), name
    assert (model.segment(modes["16.png"]) == model.segment(tmp_path / "16.png")).all()
    assert (model.segment(half) == model.segment(tmp_path / "half.png")).all()


def test_arrays_are_taken_or_refused_in_a_sentence(by_grey, tmp_path):
    model = by_grey
    rgb = np.asarray(photo())
    grey, rgba = np.asarray(photo().convert("L")), np.dstack([rgb, rgb[..., 0]])
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(grey * np.uint16(257)).save(tmp_path / "deep.png")
    for array, same in (
        (rgb, photo()), (rgb / 255, photo()), (rgb.astype(np.float32) / 255, photo()), (grey, photo().convert("L")),
        (grey[..., None], photo().convert("L")), (grey / 255, photo().convert("L")), (rgba, tmp_path / "rgba.png"),
        (rgba / 255, tmp_path / "rgba.png"), (grey * np.uint16(257), tmp_path / "deep.png"),
        (bytearray(encoded(photo())), photo()), (memoryview(encoded(photo())), photo()),
    ):
        assert (model.segment(array) == model.segment(same)).all() and model.segment(same).max() > 1
    wanted = r"an array is \(H, W\), \(H, W, 1\), \(H, W, 3\) or \(H, W, 4\), uint8, uint16 or float from 0 to 1\.$"
    for array in (rgb.transpose(2, 0, 1), rgb.astype(int), rgb[None], rgb.astype(float), rgb / 127.5 - 1, rgb > 9,
                  rgb[..., :2], rgb[:0], np.array(3), np.full((4, 4), np.nan), np.full((4, 4), None)):
        with pytest.raises(UserError, match=rf"the given ndarray cannot be read: it is .* of shape .*; {wanted}"):
            model.segment(array)
    for thing, name in ((torch.zeros(3, 40, 60), "Tensor"), (None, "NoneType"), ([[1]], "list"), (7, "int")):
        with pytest.raises(UserError, match=f"the given {name} cannot be read: it is no path, no bytes of a file, no"):
            model.segment(thing)


def test_labels_are_the_argmax_of_bilinearly_resized_logits(monkeypatch):
    monkeypatch.setattr(segment, "BAND_PX", 200)  # several bands
    logits = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits[None], size=(45, 61), mode="bilinear")[0].argmax(dim=0).numpy()
    assert np.mean(segment._resized_labels(logits, 61, 45) == expected) > 0.999
    assert segment._resized_labels(logits, 3, 5).shape == (5, 3)


def test_a_photo_turned_by_its_exif_is_labelled_upright(run):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo(60, 40), "JPEG", exif=exif)
    assert segment.load(run.folder, device="cpu").segment(data).shape == (60, 40)


def test_with_center_crop_all_outside_the_middle_square_is_background(run):
    make_run("cropped", crop="center")
    model = segment.load("cropped", device="cpu")
    model.logits = lambda squares: torch.eye(4)[1].expand(len(squares), 32, 32, 4).permute(0, 3, 1, 2)
    labels = model.segment(photo(60, 40))
    assert (labels[:, 10:50] == 1).all() and labels.sum() == 40 * 40


def test_a_run_without_segmenter_names_the_command_that_makes_one(run):
    run.newest("segmenter").unlink()
    with pytest.raises(UserError, match="ganseg distill"):
        segment.load("x")


def test_a_photo_that_cannot_be_read_is_a_users_error(run):
    with pytest.raises(UserError, match="nowhere.jpg"):
        segment.load("x", device="cpu").segment("nowhere.jpg")


def test_folders_keep_their_structure_and_names_that_differ_in_extension_stay_apart(run, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "sub").mkdir(parents=True)
    for i, name in enumerate(["a.jpg", "a.png", "sub/a.png"]):
        photo(seed=i).save(photos / name)
    (photos / "broken.jpg").write_bytes(b"no picture")
    skipped = segment.segment_photos(photos, "x", out, device="cpu", batch_size=2)
    assert [name for name, _ in skipped] == ["broken.jpg"]
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    stems = ("a", "a.png", "sub/a")
    assert files == sorted(["parts.csv", *(s + end for s in stems for end in ("_parts.png", "_overlay.jpg"))])
    assert len(rows_of(out)) == 9
    model = segment.load("x", device="cpu")
    for stem, name in zip(stems, ("a.jpg", "a.png", "sub/a.png"), strict=True):
        parts = Image.open(out / f"{stem}_parts.png")
        assert parts.mode == "P" and (np.asarray(parts) == model.segment(photos / name)).all()


def test_names_of_photos_are_no_formulas_in_the_table(run, tmp_path):
    names = ["=HYPERLINK(A1).png", "+1.png", "-1.png", "@a.png", "a=1.png"]
    (tmp_path / "photos").mkdir()
    for name in names:
        photo().save(tmp_path / "photos" / name)
    segment.segment_photos(tmp_path / "photos", "x", tmp_path / "out", device="cpu")
    assert {row["photo"] for row in rows_of(tmp_path / "out")} == {*(f"'{name}" for name in names[:4]), names[4]}
    assert (tmp_path / "out" / "-1_parts.png").exists()  # files keep their names


def test_parts_are_measured_in_pixels_of_the_photo():
    labels = np.zeros((4, 10), np.uint8)
    labels[1, 2:5] = 1
    assert segment.measure_parts(labels, 2) == [[1, 3, "0.075000", "3.00", "1.00"], [2, 0, "0.000000", "", ""]]


def test_a_zip_whose_paths_lead_outside_is_refused_and_nothing_is_written(run, tmp_path):
    for i, name in enumerate(("../up.png", f"{tmp_path}/root.png")):
        with zipfile.ZipFile(tmp_path / f"{i}.zip", "w") as archive:
            archive.writestr(name, encoded(photo()))
            archive.writestr("in/a.png", encoded(photo()))
        with pytest.raises(UserError, match="photos: .*a path that leads out of the archive"):
            segment.segment_photos(tmp_path / f"{i}.zip", "x", tmp_path / "out", device="cpu")
    assert not list(tmp_path.rglob("*_parts.png"))


@pytest.mark.parametrize("names", [["a.jpg", "A.png"], ["a.jpg", "a.png", "a.png.jpg"], ["a.png", "a.png"],
                                   ["\u00e9.jpg", "e\u0301.jpg"], ["../a.jpg", "/a.jpg", "//a.jpg", "b/../../a.jpg"]])
def test_output_names_are_inside_and_none_twice(names):
    outputs = segment._output_names(names)
    assert len({unicodedata.normalize("NFC", name.casefold()) for name in outputs}) == len(names)
    assert not any(name.startswith("/") or ".." in name.split("/") for name in outputs)


def test_photos_of_several_folders_are_told_apart(run, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        photo().save(tmp_path / name / "a.png")
    segment.segment_photos([tmp_path / "one", tmp_path / "two"], "x", tmp_path / "out", device="cpu")
    assert {row["photo"] for row in rows_of(tmp_path / "out")} == {"one/a.png", "two/a.png"}


def test_one_result_that_cannot_be_written_costs_no_other_and_is_named(run, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    long = "l" * 248 + ".png"  # 252 letters, and the results' names have more
    for name in ("a.png", "b.png", "c.png", long, "z.png"):
        photo().save(photos / name)
    (out / "a_parts.png" / "kept").mkdir(parents=True)
    (out / "b_overlay.jpg").mkdir()
    with pytest.raises(SystemExit) as caught:
        cli.main(["segment", str(photos), "--run", "x", "--out", str(out), "--device", "cpu"])
    assert caught.value.code == (f"ganseg: out: {out} holds the parts of 2 of 5 photos only, for those of a.png cannot "
                                 "be written: a folder is where the file should be.")
    said = capsys.readouterr().out
    assert "left out, cannot be written: b.png: a folder is where the file should be" in said
    assert f"left out, cannot be written: {long}: its name is too long" in said and "segmented 2 of 5 photos" in said
    assert [row["photo"] for row in rows_of(out)] == ["c.png"] * 3 + ["z.png"] * 3
    assert {path.name for path in out.iterdir()} == {"a_parts.png", "b_overlay.jpg", "c_parts.png", "c_overlay.jpg",
                                                     "z_parts.png", "z_overlay.jpg", "parts.csv"}


def test_where_no_room_is_left_segmenting_ends_with_the_table_of_what_is_there(run, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for name in "abc":
        photo().save(tmp_path / "photos" / f"{name}.png")
    save = Image.Image.save

    def full(image, path, **options):
        if "b_overlay" in str(path) or "c_" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"1 of 3 photos only, for those of b.png cannot be written: no room is left\."):
        segment.segment_photos(tmp_path / "photos", "x", tmp_path / "out", device="cpu")
    assert {row["mask"] for row in rows_of(tmp_path / "out")} == {"a_parts.png"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_overlay.jpg", "a_parts.png", "parts.csv"]


@pytest.mark.parametrize("given, out, sentence", [
    (["~nosuchuser/x"], "out", "photos: there is no .*/~nosuchuser/x"),
    (["a.png"], "~nosuchuser/x", "out: ~nosuchuser/x names the folder of a user who is not there"),
    (["a.png"], "b.txt/out", "b.txt/out: cannot be written, a file is where a folder should be"),
    (["a.png"], "o" * 300, "o: cannot be written, its name is too long"),
    (["p" * 300], "out", "photos: there is no .*ppp"),
])
def test_paths_that_cannot_be_are_a_sentence(run, tmp_path, monkeypatch, given, out, sentence):
    monkeypatch.chdir(tmp_path)
    photo().save("a.png")
    (tmp_path / "b.txt").write_text("a file")
    with pytest.raises(UserError, match=sentence):
        segment.segment_photos(given, "x", out, device="cpu")
    assert not list(tmp_path.glob("~*"))


def test_photos_of_one_name_keep_their_masks_apart_and_the_table_says_whose_each_is(run, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for i, folder in enumerate(("a/photos", "b/photos")):
        os.makedirs(folder)
        for name in ("x.png", "x.jpg"):
            photo(seed=i).save(f"{folder}/{name}")
        with zipfile.ZipFile(f"{folder[0]}.zip", "w") as archive:
            archive.writestr("in/x.png", encoded(photo(seed=i)))
    model = segment.load("x", device="cpu")
    for out, given, names in (
        ("folders", ["a/photos", "b/photos"], ["a/photos/x.jpg", "a/photos/x.png", "b/photos/x.jpg", "b/photos/x.png"]),
        ("files", ["b/photos/x.png", "a/photos/x.png"], ["b/photos/x.png", "a/photos/x.png"]),
        ("zips", ["a.zip", "b.zip"], ["a.zip/in/x.png", "b.zip/in/x.png"]),
    ):
        segment.segment_photos(given, model, tmp_path / out, batch_size=3)
        rows = rows_of(tmp_path / out)
        assert [row["photo"] for row in rows[::3]] == names
        assert len({row["mask"] for row in rows}) == len(names) == len(list((tmp_path / out).rglob("*.png")))
        for row in rows if out != "zips" else []:
            with Image.open(tmp_path / out / row["mask"]) as mask:
                assert (np.asarray(mask) == model.segment(row["photo"])).all()


def test_photos_named_twice_are_segmented_once(run, tmp_path):
    (tmp_path / "in").mkdir()
    photo().save(tmp_path / "in" / "a.png")
    segment.segment_photos([tmp_path / "in", f"{tmp_path}/in/", tmp_path / "in"], run, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_overlay.jpg", "a_parts.png", "parts.csv"]
    assert len((tmp_path / "out" / "parts.csv").read_text().splitlines()) == 1 + run.cfg.n_parts


def test_photos_of_which_none_can_be_read_are_an_error_and_leave_no_table(run, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="none of 1 can be read; a.jpg: the file is empty"):
        segment.segment_photos(tmp_path / "a.jpg", "x", tmp_path / "out", device="cpu")
    assert not list((tmp_path / "out").iterdir())


def test_results_among_the_photos_are_refused(run, tmp_path):
    photo().save(tmp_path / "a.png")
    with pytest.raises(UserError, match="out: "):
        segment.segment_photos(tmp_path, "x", tmp_path / "out", device="cpu")


def test_a_photo_is_never_overwritten_by_what_another_one_gives(run, tmp_path):
    for name in ("a.png", "a_overlay.jpg"):
        photo().save(tmp_path / name)
    before = (tmp_path / "a_overlay.jpg").read_bytes()
    photos = [tmp_path / "a.png", tmp_path / "a_overlay.jpg"]
    with pytest.raises(UserError, match="a_overlay.jpg is a photo and would be overwritten"):
        segment.segment_photos(photos, "creatures/x", tmp_path, device="cpu")
    assert (tmp_path / "a_overlay.jpg").read_bytes() == before and not (tmp_path / "parts.csv").exists()
    assert segment.segment_photos(photos, "creatures/x", tmp_path / "out", device="cpu") == []
