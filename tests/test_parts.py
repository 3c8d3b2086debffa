"""From a folder of photos to a report by one command, with a limit of time or of steps."""

import re

import pytest
import torch
from conftest import TINY
from PIL import Image

from ganseg import cli, distill, evaluate, parts, runs, train
from ganseg.errors import UserError
from ganseg.training import loop

SETTINGS = {name: value for name, value in TINY.items() if name != "max_train_pictures"} | {
    "preset": "small", "distill_steps": 2, "distill_batch_size": 4, "log_every_steps": 1}

STAGES = train.train, distill.distill, evaluate.evaluate


@pytest.fixture
def photos(tmp_path, monkeypatch, quick):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "birds").mkdir()
    for i in range(12):
        Image.new("RGB", (40, 32), (20 * i, 90, 0)).save(tmp_path / "birds" / f"{i}.png")
    return str(tmp_path / "birds")


def test_one_call_goes_from_photos_to_a_report_and_again_has_nothing_to_do(photos, capsys):
    page = parts.find_parts(parts.open_parts(photos, "first", **SETTINGS), STAGES)
    said = capsys.readouterr().out
    assert re.findall(r"^ *(\d+)%  (\w+), step (\d)", said, re.M) == [
        ("38", "train", "1"), ("75", "train", "2"), ("85", "distill", "1"), ("95", "distill", "2")]
    assert page == runs.find("folder/first").folder / "report.html" and page.exists()
    assert f"100 %: look at {page}" in said and "ganseg segment PHOTOS --run folder/first" in said
    parts.find_parts(parts.open_parts(photos, "first"), STAGES)
    assert capsys.readouterr().out.count("nothing to do") == 2


def test_lines_between_log_lines_are_of_the_whole_too(photos, capsys, monkeypatch):
    monkeypatch.setattr(loop, "SPEAK_EVERY_S", 0)
    settings = SETTINGS | {"log_every_steps": 100, "max_steps": 3, "distill_steps": 3}
    parts.find_parts(parts.open_parts(photos, "first", **settings), STAGES)
    said = capsys.readouterr().out
    assert re.findall(r"^ *(\d+)%  (\w+), step (\d)", said, re.M) == [
        ("25", "train", "1"), ("50", "train", "2"), ("75", "train", "3"),
        ("82", "distill", "1"), ("88", "distill", "2"), ("95", "distill", "3")]
    assert "step 1/3" not in said


def test_a_limit_of_time_ends_each_stage_and_the_next_call_only_reports(photos, capsys, monkeypatch):
    monkeypatch.setattr(parts, "LEAST_MINUTES", 0)
    settings = SETTINGS | {"max_steps": 1000, "distill_steps": 1000}
    run = parts.open_parts(photos, "first", 1e-6, **settings)
    parts.find_parts(run, STAGES, 1e-6)
    steps = [run.load_state(name)["step"] for name in ("gan", "segmenter")]
    assert all(0 < step < 1000 for step in steps) and len(run.records("evaluate")) == 1
    parts.find_parts(parts.open_parts(photos, "first", 1e-6), STAGES, 1e-6)
    assert [run.load_state(name)["step"] for name in ("gan", "segmenter")] == steps
    assert len(run.records("evaluate")) == 2 and "100 %" in capsys.readouterr().out


def test_the_preset_is_chosen_by_the_machine_unless_it_is_given(photos):
    assert parts.open_parts(photos, "first", device="cpu").cfg.preset == "modern"
    assert parts.open_parts(photos, "first", preset="small").cfg.preset == "small"
    run = parts.open_parts(photos, "first", preset="small")
    run.start("cpu")
    assert parts.open_parts(photos, "first").cfg.preset == "small"


def test_the_command_prepares_too_and_wrong_words_are_one_sentence(photos, capsys):
    with pytest.raises(UserError, match="minutes: 1 is not allowed; give 2 or more, such as 40"):
        parts.open_parts(photos, "first", 1)
    cli.main(["parts", photos, "--run", "first", *(word for name, value in SETTINGS.items() if name != "share_fakes"
                                                   for word in ("-p", name, str(value)))])
    assert "train: 12 pictures, no landmarks or masks" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="n_partz: there is no such parameter .did you mean n_parts"):
        cli.main(["parts", photos, "-p", "n_partz", "3"])
    with pytest.raises(SystemExit, match="minutes: 'soon' is not allowed; it should be"):
        cli.main(["parts", photos, "-p", "minutes", "soon"])


def test_of_several_seeds_the_best_is_chosen_first(photos, monkeypatch):
    asked = []

    def choose(argv):
        asked.append(argv)
        parts.open_parts(photos, "best", **SETTINGS).start("cpu")

    monkeypatch.setattr(cli, "_notebook", choose)
    words = ["parts", photos, "--run", "best", "-p", "seeds", "[0, 1]", "-p", "n_parts", "3"]
    with pytest.raises(SystemExit, match="seeds: a choice among them has no limit of minutes; leave minutes out"):
        cli.main([*words, "-p", "minutes", "40"])
    cli.main(words)
    cli.main(words)  # goes on with the one that was chosen
    (argv,) = asked
    assert argv[0] == "choose" and dict(zip(argv[2::3], argv[3::3], strict=True)) == {
        "seeds": "[0, 1]", "n_parts": "[3]", "dataset": "folder", "source": photos, "run": "best",
        "preset": "modern"}
    assert (runs.find("folder/best").folder / "report.html").exists()


def test_where_minutes_are_few_pictures_are_half_as_large(photos, capsys):
    def opened(name, minutes, seconds, **settings):
        return parts.open_parts(photos, name, minutes, lambda cfg: seconds, **settings).cfg

    assert opened("slow", 40, 3.0, device="cpu").image_size == 32  # 600 steps
    assert "40 minutes give about 600 steps with pictures of 64 pixels here" in capsys.readouterr().out
    assert opened("fast", 40, 2.5, device="cpu").image_size == 64  # 720 steps
    assert opened("sized", 40, 3.0, device="cpu", image_size=64).image_size == 64
    assert opened("preset", 40, 3.0, preset="modern").image_size == 64
    assert parts.open_parts(photos, "whole", None, lambda cfg: 3.0, device="cpu").cfg.image_size == 64
    run = parts.open_parts(photos, "slow", 40, lambda cfg: 3.0, device="cpu")
    run.start("cpu")
    assert opened("slow", 90, 0.1).image_size == 32 and capsys.readouterr().out.count("give about") == 1


def test_a_step_is_timed_without_a_trace(tiny, tmp_path):
    before = torch.random.get_rng_state()
    cfg = tiny(batch_size=4)
    assert 0 < train.seconds_per_step(cfg, 1) < 60
    assert torch.equal(torch.random.get_rng_state(), before) and not any(tmp_path.iterdir())
