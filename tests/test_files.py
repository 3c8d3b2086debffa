"""Whatever cannot be written is one sentence, from every function that writes."""

import errno
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY
from matplotlib.figure import Figure
from PIL import Image

from ganseg import cli, config, files, measuring, part_names, prepare, runs, sources
from ganseg.datasets import cache
from ganseg.datasets.base import Pictures
from ganseg.datasets.loading import load_pictures
from ganseg.errors import NotebookFailed, UserError
from ganseg.experiments import ablations
from ganseg.figures import coco, pages, pictures, report, tables
from ganseg.training import launch

SHEET = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.fromarray(np.full((40, 40, 3), 60 * i, np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    shutil.make_archive(tmp_path / "photos", "tar", tmp_path / "photos")
    return tmp_path


@pytest.fixture
def blocked(tmp_path, monkeypatch):
    """A run of outputs/ that a file is in the place of."""
    (tmp_path / "outputs").write_text("a file")
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    return runs.open_run("creatures", "x", **TINY)


WRITERS = {
    "folder and config": lambda run: run.start("cpu"),
    "lock": lambda run: run.held().__enter__(),
    "config": lambda run: config.write(run.cfg, run.folder / "config.yaml", {}),
    "checkpoint": lambda run: run.save("gan", 1, {}),
    "metrics": lambda run: run.log("train", 1),
    "names of parts": lambda run: part_names.change_parts(run, {1: {"name": "a"}}),
    "where a data set lies": lambda run: sources.remember("folder", source="x"),
    "shipped model": lambda run: runs.open_run("tiny", "shipped", needs="gan"),
    "report": report.write_report,
    "picture": lambda run: pictures.save(SHEET, run.folder / "figures" / "a.png"),
    "figures of an evaluation": lambda run: measuring.save_detections(
        run, Pictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a.png"]), np.zeros((1, 8, 8), np.uint8)),
    "figure of prepare": lambda run: prepare.draw_annotations(run, dict.fromkeys(("train", "fit", "test"), Pictures(
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a.png"]))),
    "page": lambda run: pages.save_page(Figure(), run.folder / "figures" / "a"),
    "detections": lambda run: coco.save_coco({}, run.folder / "a.json"),
    "table": lambda run: tables.save_csv(pd.DataFrame(), run.folder / "a.csv"),
    "error of a trial": lambda run: ablations._mark(run.folder, ValueError("no")),
    "log of workers": lambda run: next(launch.launch(run)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_says_what_cannot_be_written(name, blocked):
    sentence = r"outputs.*: cannot be written, a file is where a folder should be; "
    with pytest.raises(UserError, match=sentence) as caught:
        WRITERS[name](blocked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["photos", "photos.tar"])
def test_a_cache_that_cannot_be_written_is_a_sentence(what, blocked, source):
    cfg = config.load("folder", source=str(source / what), image_size=32, batch_size=2)
    with pytest.raises(UserError, match=r"outputs/cache.*: cannot be written, a file is where a folder should be; "):
        load_pictures(cfg, "train")


def test_a_cache_that_finds_no_room_while_it_is_made_is_a_sentence_and_leaves_nothing(source, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(source / "outputs"))
    cfg = config.load("folder", source=str(source / "photos"), image_size=32, batch_size=2)
    for module, function in ((cache.np, "savez"), (cache.os, "posix_fallocate")):
        monkeypatch.setattr(module, function, raising(errno.ENOSPC))
        with pytest.raises(UserError, match=r"outputs/cache/folder/train-\w+: cannot be written, no room is left; "):
            load_pictures(cfg, "train")
        assert [p.suffix for p in (source / "outputs" / "cache" / "folder").iterdir()] == [".lock"]
        monkeypatch.undo()
        monkeypatch.setenv("GANSEG_OUTPUTS", str(source / "outputs"))
    assert len(load_pictures(cfg, "train")) == 4


def raising(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def test_every_reason_is_said_and_what_was_there_before_stays(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.txt"
    files.write_text(path, "before")  # folders are made
    for number, reason in files.NOT_WRITABLE.items():
        monkeypatch.setattr(files.os, "fsync", raising(number))
        with pytest.raises(UserError, match=rf"a.txt: cannot be written, {reason}; make room, or choose another name"):
            files.write_text(path, "after")
        assert path.read_text() == "before" and os.listdir(path.parent) == ["a.txt"]
    monkeypatch.setattr(files.os, "fsync", raising(errno.ENOMEM))
    with pytest.raises(OSError, match="memory"):  # which is no matter of the disk
        files.write_text(path, "after")


def test_names_may_be_as_long_as_the_disk_allows_and_longer_ones_are_a_sentence(tmp_path, monkeypatch):
    files.write_text(tmp_path / ("é" * 127), "fits")
    assert (tmp_path / ("é" * 127)).read_text() == "fits"
    with pytest.raises(UserError, match="aaa: cannot be written, its name is too long; "):
        files.write_text(tmp_path / ("a" * 300), "does not")
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    with pytest.raises(UserError, match="run: 'a+' is not allowed; use up to 200 letters"):
        runs.open_run("tiny", "a" * 300)
    with pytest.raises(UserError, match="run: there is no 'a+'"):
        runs.find("a" * 300)
    for path in ("a" * 300, "a/" * 3000):
        with pytest.raises(UserError, match="source: there is no"):
            load_pictures(config.load("folder", source=path), "train")


def test_an_executed_notebook_that_cannot_be_kept_is_a_sentence_but_never_hides_why_it_failed(tmp_path, monkeypatch):
    (tmp_path / "train.ipynb").write_text("{}")
    (tmp_path / "run" / "train.ipynb").mkdir(parents=True)
    with pytest.raises(UserError, match=r"run/train.ipynb: cannot be written, a folder is where the file should be; "):
        cli._keep(tmp_path / "train.ipynb", tmp_path / "run")

    def fail(_, source, executed, values):
        executed.write_text("{}")
        raise NotebookFailed("cell 3 failed")

    monkeypatch.setattr(cli, "_execute", fail)
    monkeypatch.setattr(cli, "_run_folder", lambda *_: tmp_path / "run")
    with pytest.raises(SystemExit, match="ganseg: cell 3 failed"):
        cli.main(["train"])


def test_a_notebook_whose_process_finds_no_room_is_a_sentence(monkeypatch, tmp_path, capsys):
    import papermill

    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(papermill, "execute_notebook", raising(errno.ENOSPC))
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "-p", "dataset", "tiny"])
    assert re.fullmatch(r"ganseg: train.ipynb: cannot be run: .*No space left on device", str(caught.value))
