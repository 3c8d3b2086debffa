"""A run read while another process trains it: progress, samples, and warnings with what to change."""

import os
import re

import numpy as np
import pytest
from conftest import LOGGED

from ganseg.errors import UserError
from ganseg.figures import pictures
from ganseg.viewer import progress

USED = {"background_share": 0.7, "part_1_share": 0.1, "part_2_share": 0.1, "part_3_share": 0.1}


def line(step, **values):
    healthy = {"discriminator_loss": 0.9, "generator_loss": 1.2, "concentration_loss": 0.05, "area_loss": 0.1}
    return {"stage": "train", "step": step, **healthy, "time_s": step / 10, **values}


@pytest.fixture
def state(tiny):
    """Makes a Progress of a run of 3 parts; fields can be given."""

    def make(**fields):
        healthy = {"records": [line(50 * i) for i in range(1, 11)], "shares": [{"step": 500, **USED}]}
        rest = {"sample_steps": [500], "silent_s": 1.0, "at_end": False, "passed": False}
        return progress.Progress(cfg=tiny(max_steps=1000, lambda_con=12.0, seed=7), **{**healthy, **rest, **fields})

    return make


def test_a_healthy_training_is_warned_of_nothing(state):
    assert progress.warnings(state()) == []
    assert progress.warnings(state(records=[], shares=[], silent_s=None)) == []


@pytest.mark.parametrize("fields, says", [
    ({"shares": [{"step": 500, **USED, "part_2_share": 0.001}]}, r"part 2 \(0.3%\). Lower lambda_con \(now 12\)"),
    ({"shares": [{"step": 500, **USED, "background_share": 0.97}]}, r"takes 97% .*raise lambda_area \(now 1\).*seed"),
    ({"shares": [{"step": 500, **USED, "background_share": 0.01}]}, r"vanished .*raise lambda_con .*seed \(now 7\)"),
    ({"records": [line(i, discriminator_loss=0.02) for i in range(5)]}, "discriminator is winning.*lr_discriminator"),
    ({"records": [line(i, concentration_loss=0.4) for i in range(5)]}, "scattered.*raise lambda_con"),
    ({"records": [line(1, area_loss=float("nan"))]}, "not finite: lower lr_generator.*seed"),
    ({"silent_s": 900.0}, "Nothing was written for 15 minutes, usual are 5 s between lines: .*the same command"),
])  # fmt: skip
def test_each_fault_is_named_with_what_to_change(state, fields, says):
    (warning,) = progress.warnings(state(**fields))
    assert re.search(says, warning)


def test_what_passes_within_a_few_lines_is_no_fault(state):
    won = [line(i, discriminator_loss=0.02) for i in range(4)]
    assert progress.warnings(state(records=won)) == []  # too few lines
    assert progress.warnings(state(records=[*won, line(5)])) == []
    slow = [line(i, time_s=60.0 * i) for i in range(5)]
    assert progress.warnings(state(records=slow, silent_s=250.0)) == []  # not long for this run
    assert progress.warnings(state(silent_s=900.0, at_end=True)) == []
    assert progress.warnings(state(silent_s=900.0, passed=True)) == []


def test_progress_passes_over_a_line_that_is_being_written(tiny_run):
    run = tiny_run()
    assert progress.read_progress(run)[1:] == ([], [], [], False, False, None)
    run.start("cpu")
    run.log("train", 1, generator_loss=1.0, **LOGGED)
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"stage": "train", "step": 2, "generator_lo')
    now = progress.read_progress(run)
    assert [record["step"] for record in now.records] == [1] and not now.finished and now.silent_s < 60
    os.utime(run.folder / "metrics.jsonl", (0, 0))
    assert progress.read_progress(run).silent_s > 1e9


def test_a_stage_is_finished_at_its_last_step_or_when_the_next_begins(tiny_run):
    run = tiny_run(max_steps=2)
    run.start("cpu")
    run.log("train", 1, generator_loss=1.0, **LOGGED)
    assert not progress.read_progress(run).finished
    run.log("distill", 1, segmentation_loss=1.0, **LOGGED)
    assert progress.read_progress(run).finished and not progress.read_progress(run, "distill").finished
    run.log("train", 2, generator_loss=1.0, **LOGGED)
    assert progress.read_progress(run).finished


def test_a_followed_run_may_be_of_another_data_set_and_a_wrong_name_is_follows_fault(tiny_run):
    run, other = tiny_run(), tiny_run("other")
    assert progress.open_followed(run) is run
    with pytest.raises(UserError, match="^follow: there is no 'creatures/other'"):
        progress.open_followed(run, "other")
    other.start("cpu")
    for name in ("other", "creatures/other", str(other.folder)):
        assert progress.open_followed(run, name).label == "creatures/other"
    with pytest.raises(UserError, match="^follow: there is no 'lfw/othr'.*known are creatures/other"):
        progress.open_followed(run, "lfw/othr")


def test_a_later_stage_of_an_earlier_training_finishes_nothing(tiny_run):
    run = tiny_run(max_steps=9)
    run.start("cpu")
    for stage, step in (("train", 2), ("distill", 9), ("control", 9), ("evaluate", 9)):
        run.log(stage, step, **LOGGED)
    assert progress.read_progress(run).passed and not progress.read_progress(run).at_end
    run.log("train", 3, **LOGGED)  # the same run, trained on
    assert not progress.read_progress(run).finished
    run.log("distill", 1, **LOGGED)
    assert progress.read_progress(run).finished and not progress.read_progress(run, "distill").finished
    run.log("evaluate", 1)
    assert progress.read_progress(run, "distill").finished


def test_the_settings_are_those_of_the_process_that_trains(tiny_run):
    here = tiny_run(max_steps=2)
    tiny_run(max_steps=9).start("cpu")
    assert progress.read_progress(here).cfg.max_steps == 9


def test_a_half_written_sample_is_a_sentence_and_a_whole_one_a_picture(tiny_run):
    run = tiny_run()
    run.start("cpu")
    sheet = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = run.folder / "samples" / "00000500.png"
    pictures.save(sheet, path)
    assert progress.read_progress(run).sample_steps == [500]
    np.testing.assert_array_equal(progress.read_sample_sheet(run, 500), sheet)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match="00000500.png: cannot be read .*refresh"):
        progress.read_sample_sheet(run, 500)
    with pytest.raises(UserError, match="00000999.png"):
        progress.read_sample_sheet(run, 999)
