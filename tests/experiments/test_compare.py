"""Tables of runs: what they hold, what they set beside each other, and what they leave apart."""

import pytest

from ganseg import config
from ganseg.experiments import compare
from ganseg.figures import plots


@pytest.fixture
def three(tiny_run):
    """Runs with a training record and an evaluation each."""
    made = []
    for i, (con, iou) in enumerate([(0.3, 0.5), (0.2, 0.6), (0.1, 0.7)]):
        run = tiny_run(f"r{i}", n_per=3 + i)
        run.start("cpu")
        run.log("train", 10, concentration_loss=1.0, time_s=60.0, steps_per_s=1.0, left_s=0.0)
        run.log("train", 20, concentration_loss=con, time_s=120.0, steps_per_s=1.0, left_s=0.0)
        run.log("train_samples", 20, background_share=0.6, part_1_share=0.3, part_2_share=0.1)
        run.log("evaluate", 2, foreground_iou=iou, untrained_foreground_iou=0.1, left_out={}, notes={})
        made.append(run)
    return made


def test_the_table_holds_settings_cost_signals_and_metrics(three):
    table = compare.runs_table(compare.all_runs("creatures"))
    assert list(table.index) == ["creatures/r0", "creatures/r1", "creatures/r2"]
    row = table.loc["creatures/r1"]
    assert (row.n_per, row["GAN steps"], row.minutes, row.foreground_iou) == (4, 20, 2.0, 0.6)
    assert (row.concentration_loss, row["smallest part"], row["generated background"]) == (0.2, 0.1, 0.6)


def test_no_runs_make_empty_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    table = compare.runs_table(compare.all_runs())
    assert table.empty and compare.best_pair(table, "nmi") == [] and compare.correlations([], ["nmi"]).empty
    assert compare.beside_published([]).empty and not plots.scatter(table, "minutes", "nmi", "t").data


def test_a_damaged_run_is_left_out_by_name(three, capsys):
    (three[0].folder / "config.yaml").write_text("n_parts: eight")
    assert len(compare.all_runs()) == 2 and "r0" in capsys.readouterr().out


def test_the_best_two_or_the_named_two_are_compared(three):
    table = compare.runs_table(three)
    assert [run.label for run in compare.best_pair(table, "foreground_iou")] == ["creatures/r2", "creatures/r1"]
    table["landmark_error"] = [1.0, 3.0, 2.0]
    assert [run.label for run in compare.best_pair(table, "landmark_error")] == ["creatures/r0", "creatures/r2"]
    assert compare.best_pair(table, "foreground_iou", "creatures/r0")[0].label == "creatures/r0"


def test_differences_name_settings_first(three):
    frame = compare.differences(three[0], three[2])
    assert list(frame.index)[0] == ("setting", "n_per") and list(frame.loc[("setting", "n_per")]) == ["3", "5"]
    assert list(frame.loc[("metric", "foreground_iou")]) == ["0.5", "0.7"]
    assert ("setting", "n_parts") not in frame.index


def test_signals_are_ranked_against_metrics(three):
    ranks = compare.correlations(three, ["foreground_iou"])
    assert ranks.loc["concentration_loss", "foreground_iou"] == pytest.approx(-1) and set(ranks.runs) == {3}
    assert compare.correlations(three[:2], ["foreground_iou"]).empty


def test_steps_carry_penalties_and_part_usage(three):
    frame = compare.over_steps(three[0])
    assert list(frame.index) == [10, 20] and frame.loc[10, "concentration_loss"] == 1.0
    assert frame.loc[20, "smallest part"] == 0.1 and "steps_per_s" not in frame


def test_published_numbers_stand_beside_ours_only_where_the_protocol_agrees(tiny_run, monkeypatch):
    cfg = config.load("celeba", n_parts=4)
    run = tiny_run("k4")
    run.cfg = cfg
    run.folder.mkdir(parents=True)
    run.log("evaluate", 1, landmark_error=13.0)
    beside = compare.beside_published([run])
    assert set(beside.published) == {12.26, 46.62, 21.76, 15.39, 25.81, 12.1, 6.11} and set(beside.ours) == {13.0}
    assert all(beside.source.str.len() > 10)
    for field, value in {"image_size": 64, "crop": "center", "n_per": 7}.items():
        run.cfg = cfg.model_copy(update={field: value})
        assert compare.beside_published([run]).empty


def test_published_numbers_belong_to_known_data_sets_and_settings():
    numbers = compare.load_published()
    assert set(numbers.dataset) <= set(config.datasets()) and len(numbers) == 5 * 11 + 4 + 14
    for setting in numbers.setting:
        assert set(setting) <= set(config.Config.model_fields)
