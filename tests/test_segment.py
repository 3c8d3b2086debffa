import csv
import io
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ganseg import runs, segment
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


def test_a_path_its_bytes_and_its_picture_give_the_same_labels_at_the_photos_size(run, tmp_path):
    photo().save(tmp_path / "a.png")
    model = segment.load("creatures/x", device="cpu")
    labels = model.segment(tmp_path / "a.png")
    assert labels.shape == (40, 60) and labels.dtype == np.uint8 and labels.max() <= 3
    assert (labels == model.segment((tmp_path / "a.png").read_bytes())).all()
    assert (labels == model.segment(photo())).all()


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
                                   ["../a.jpg", "/a.jpg", "//a.jpg", "b/../../a.jpg"]])
def test_output_names_are_inside_and_none_twice(names):
    outputs = segment._output_names(names)
    assert len({name.casefold() for name in outputs}) == len(names)
    assert not any(name.startswith("/") or ".." in name.split("/") for name in outputs)


def test_photos_of_several_folders_are_told_apart(run, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        photo().save(tmp_path / name / "a.png")
    segment.segment_photos([tmp_path / "one", tmp_path / "two"], "x", tmp_path / "out", device="cpu")
    assert {row["photo"] for row in rows_of(tmp_path / "out")} == {"one/a.png", "two/a.png"}


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
