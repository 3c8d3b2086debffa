"""Lab opens copies of the notebooks, so that running and saving them leaves git as it was."""

import os
import shutil
import subprocess

from ganseg import config


def test_lab_works_on_copies_that_follow_the_originals_and_loses_no_edit(tmp_path):
    shutil.copyfile(config.ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "notebooks").mkdir()
    original, copy = tmp_path / "notebooks" / "train.ipynb", tmp_path / "outputs" / "lab" / "train.ipynb"

    def make():
        subprocess.run(["make", "outputs/lab/train.ipynb"], cwd=tmp_path, check=True, capture_output=True)

    original.write_text("first")
    os.utime(original, (1_000, 1_000))
    make()
    copy.write_text("edited")
    os.utime(copy, (2_000, 2_000))
    make()
    assert original.read_text() == "first" and copy.read_text() == "edited"
    original.write_text("second")
    os.utime(original, (3_000, 3_000))
    make()
    assert copy.read_text() == "second" and copy.with_name("train-old.ipynb").read_text() == "edited"
    assert "outputs/*" in (config.ROOT / ".gitignore").read_text().splitlines()  # where git does not look


def test_the_page_that_lab_starts_with_links_every_notebook():
    page = (config.ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert [path.stem for path in (config.ROOT / "notebooks").glob("*.ipynb") if f"]({path.name})" not in page] == []
