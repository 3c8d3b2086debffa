"""What a run remembers of the pictures that it was trained on."""

import csv
import shutil
import zipfile

import pytest
import torch
from conftest import TINY
from PIL import Image

from ganseg import config, distill, evaluate, runs, train
from ganseg.errors import UserError
from ganseg.training import trained_on

SMALL = {"segmenter": "unet", "segmenter_width": 4, "distill_steps": 2, "distill_batch_size": 4, "fit_pictures": 8}


def draw(folder, shade, n=8):
    """n pictures of n colours in a folder."""
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (32, 32), (20 * i, shade, 0)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def folder_run(tmp_path, monkeypatch, quick):
    """Makes a tiny run of own pictures, or opens it again; fields can be given."""
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    fields = {**TINY, **SMALL, "max_train_pictures": None}

    def opened(source, name="run", **more):
        return runs.open_run("folder", name, source=str(source), **{**fields, **more})

    return opened


def trained_through(run):
    list(train.train(run))
    return run


def saved_source(run):
    return config.read(run.folder / "config.yaml").source


@pytest.mark.parametrize("steps", [2, 3])
def test_a_run_name_used_again_with_other_pictures_is_refused_and_keeps_what_it_says(folder_run, tmp_path, steps):
    red, blue = draw(tmp_path / "red", 0), draw(tmp_path / "blue", 200)
    run = trained_through(folder_run(red))
    sentence = "trained on other pictures than those of .*blue, of which 8 of 8 are new .*--run.* warm_start .*gan-"
    with pytest.raises(UserError, match=sentence):
        trained_through(folder_run(blue, max_steps=steps))
    assert saved_source(run) == str(red) and run.load_state("gan")["step"] == 2


@pytest.mark.parametrize("change, new", [
    (lambda red: Image.new("RGB", (32, 32), "white").save(red / "3.png"), 1), (lambda red: (red / "3.png").unlink(), 0),
    (lambda red: Image.new("RGB", (32, 32), "white").save(red / "8.png"), 1),
])
def test_pictures_changed_in_place_are_refused(folder_run, tmp_path, change, new):
    red = draw(tmp_path / "red", 0)
    trained_through(folder_run(red))
    change(red)
    with pytest.raises(UserError, match=f"of which {new} of . are new to it"):
        trained_through(folder_run(red, max_steps=4))


def test_the_checkpoint_tells_where_the_table_is_gone(folder_run, tmp_path):
    run = trained_through(folder_run(draw(tmp_path / "red", 0)))
    (run.folder / trained_on.TABLE).unlink()
    with pytest.raises(UserError, match="trained on other pictures"):
        trained_through(folder_run(draw(tmp_path / "blue", 200)))
    trained_through(folder_run(tmp_path / "red"))
    assert (run.folder / trained_on.TABLE).exists()


def test_equal_pictures_elsewhere_under_other_names_or_in_a_zip_go_on(folder_run, tmp_path):
    red = draw(tmp_path / "red", 0)
    trained_through(folder_run(red))
    moved = shutil.move(red, tmp_path / "moved")
    run = trained_through(folder_run(moved, max_steps=3))
    assert run.load_state("gan")["step"] == 3 and saved_source(run) == str(moved)
    with zipfile.ZipFile(tmp_path / "red.zip", "w") as archive:
        for path in moved.iterdir():
            archive.write(path, f"photos/p{path.name}")
    trained_through(folder_run(tmp_path / "red.zip", max_steps=4))
    with open(run.folder / trained_on.TABLE, newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [f"photos/p{i}.png" for i in range(8)]


def test_a_run_of_older_code_goes_on_and_says_that_its_pictures_are_not_known(folder_run, tmp_path, capsys):
    run = trained_through(folder_run(draw(tmp_path / "red", 0)))
    list(distill.distill(run))
    path, state = run.intact("gan")
    torch.save({name: value for name, value in state.items() if name != "trained_on"}, path)
    (run.folder / trained_on.TABLE).unlink()
    assert evaluate.evaluate(run)["notes"][trained_on.NOTE] == "not known"
    trained_through(folder_run(tmp_path / "red", max_steps=3))
    assert "not known what folder/run was trained on so far" in capsys.readouterr().out


def test_a_distillation_does_not_change_which_source_a_run_names(folder_run, tmp_path):
    run = trained_through(folder_run(draw(tmp_path / "red", 0)))
    list(distill.distill(folder_run(draw(tmp_path / "blue", 200))))
    assert saved_source(run) == str(tmp_path / "red")
    assert run.load_state("segmenter")["config"]["source"] == str(tmp_path / "red")


def test_an_evaluation_says_how_many_test_pictures_were_trained_on(folder_run, tmp_path, capsys):
    red, blue = draw(tmp_path / "red", 0), draw(tmp_path / "blue", 200)
    run = trained_through(folder_run(red))
    list(distill.distill(run))
    assert evaluate.evaluate(run)["notes"][trained_on.NOTE] == 8 and "8 of 8 test" in capsys.readouterr().out
    shutil.copy(red / "1.png", blue / "8.png")
    notes = evaluate.evaluate(folder_run(blue))["notes"]
    assert notes[trained_on.NOTE] == 1
    assert notes["test pictures named as a training picture, with other content"] == 8


def test_what_a_warm_start_was_trained_on_counts_too(folder_run, tmp_path):
    first = trained_through(folder_run(draw(tmp_path / "red", 0), "first"))
    blue = draw(tmp_path / "blue", 200)
    warm = trained_through(folder_run(blue, "warm", warm_start=str(first.newest("gan"))))
    list(distill.distill(warm))
    assert evaluate.evaluate(folder_run(tmp_path / "red", "warm"))["notes"][trained_on.NOTE] == 8
    trained_through(folder_run(blue, "warm", max_steps=3))  # its own pictures are those of the first training


def test_an_autoencoder_remembers_too(folder_run, tmp_path):
    fields = {"architecture": "autoencoder_points", "max_steps": 1}
    run = trained_through(folder_run(draw(tmp_path / "red", 0), **fields))
    assert run.load_state("gan")["trained_on"] == trained_on.digest(trained_on_checksums(run))
    with pytest.raises(UserError, match="trained on other pictures"):
        trained_through(folder_run(draw(tmp_path / "blue", 200), **fields))


def trained_on_checksums(run):
    with open(run.folder / trained_on.TABLE, newline="") as file:
        return [int(row["checksum"]) for row in csv.DictReader(file)]


def test_a_damaged_table_is_one_sentence(folder_run, tmp_path):
    run = trained_through(folder_run(draw(tmp_path / "red", 0)))
    (run.folder / trained_on.TABLE).write_text("name,checksum,by\n1.png,x\n")
    with pytest.raises(UserError, match="trained_on.csv: cannot be read: .*; delete it"):
        trained_through(folder_run(tmp_path / "red"))


def test_drawn_pictures_need_no_table(trained):
    assert not (trained.folder / trained_on.TABLE).exists() and trained.load_state("gan")["trained_on"] is None


def test_a_finished_stage_says_so(trained, tiny_run, capsys):
    list(train.train(trained))
    assert "creatures/trained: train is already at step 2 of 2, nothing to do." in capsys.readouterr().out
    for steps in (2, 1):
        list(distill.distill(tiny_run("trained", **{**SMALL, "distill_steps": steps})))
    said = capsys.readouterr().out
    assert "distill is already at step 2 of 1, nothing to do" in said and "step 2 of 2" not in said
