"""Tables of runs: what they hold, what they set beside each other, and what they leave apart."""

import argparse
import shlex

import pytest

from ganseg import arguments, config, records
from ganseg.errors import UserError
from ganseg.experiments import compare, contenders, trust
from ganseg.figures import plots
from ganseg.metrics import protocols


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
        run.log("evaluate", 2, foreground_iou=iou, untrained_foreground_iou=0.1, left_out={}, notes={"GAN steps": 20})
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
    assert table.empty and compare.best_pair(table, "nmi") == [] and trust.correlations(table, ["nmi"]).empty
    assert compare.beside_published([]).empty and not plots.scatter(table, "minutes", "nmi", "t").data


def test_a_damaged_run_is_left_out_by_name(three, capsys):
    (three[0].folder / "config.yaml").write_text("n_parts: eight")
    assert len(compare.all_runs()) == 2 and "r0" in capsys.readouterr().out
    saved = three[1].folder / "config.yaml"
    saved.write_text(saved.read_text().replace("dataset: creatures", "dataset: of_another_clone"))
    assert len(compare.all_runs()) == 1 and "r1: dataset: there is no 'of_another_clone'" in capsys.readouterr().out


def test_the_best_two_or_the_named_two_are_compared(three):
    table = compare.runs_table(three)
    assert [run.label for run in compare.best_pair(table, "foreground_iou")] == ["creatures/r2", "creatures/r1"]
    table["landmark_error"] = [1.0, 3.0, 2.0]
    assert [run.label for run in compare.best_pair(table, "landmark_error")] == ["creatures/r0", "creatures/r2"]
    assert compare.best_pair(table, "foreground_iou", "creatures/r0")[0].label == "creatures/r0"


@pytest.mark.parametrize("name", ["r2", "creatures/r2", "folder"])
def test_a_run_is_not_compared_with_itself_whatever_it_is_called(three, name):
    name = str(three[2].folder) if name == "folder" else name
    pair = compare.best_pair(compare.runs_table(three), "foreground_iou", name)
    assert [run.label for run in pair] == ["creatures/r2", "creatures/r1"]


def test_differences_name_settings_first(three):
    frame = compare.differences(three[0], three[2])
    assert list(frame.index)[0] == ("setting", "n_per") and list(frame.loc[("setting", "n_per")]) == ["3", "5"]
    assert list(frame.loc[("metric", "foreground_iou")]) == ["0.5", "0.7"]
    assert ("setting", "n_parts") not in frame.index


def test_contenders_are_the_best_of_each_kind_their_controls_and_published_numbers(tiny_run):
    fields = {"nmi_foreground": 0.5, "foreground_iou": 0.6, "foreground_iou_center_box": 0.55}
    made = {"plain": ({}, {}, 0.5), "better": ({}, {}, 0.7), "rival": ({}, {records.CLUSTERED: "vit"}, 0.9),
            "colours": ({}, {records.CLUSTERED: "colors"}, 0.1), "theirs": ({}, {records.MASKS: "x.zip"}, 0.2),
            "hybrid": ({"segmenter": "unet_lite0", "backbone_weights": "imagenet"}, {}, 0.6),
            "taught": ({}, {"league": "ImageNet labels, supervised part masks"}, 0.8)}
    of_runs = []
    for name, (settings, notes, nmi) in made.items():
        of_runs.append(run := tiny_run(name, **{"segmenter": "unet", **settings}))
        run.start("cpu")
        run.log("evaluate", 2, **{**fields, "nmi_foreground": nmi}, left_out={}, notes=notes)
    table = contenders.contenders(of_runs).loc["creatures"]
    assert table["run or system"].to_dict() == {
        "GAN": "creatures/better", "GAN with pretrained networks": "creatures/hybrid",
        "GAN with corrected masks": "creatures/taught", "clusters of features": "creatures/rival",
        "clusters of colours": "creatures/colours",
        "masks": "creatures/theirs", "control": "the best box in the middle"}
    assert table.loc["GAN", "league"] == "nothing" and table.loc["control", "foreground_iou"] == 0.55
    assert table.loc["GAN with pretrained networks", "league"] == "ImageNet labels"
    few = tiny_run("few", segmenter="unet")
    few.start("cpu")
    few.log("evaluate", 2, **{**fields, "nmi_foreground": 0.8}, left_out={}, notes={},
            settings=few.cfg.model_copy(update={"max_test_pictures": 10}).model_dump(include=records.SETTINGS))
    shown = contenders.contenders([*of_runs, few]).loc["creatures"].loc["GAN"].dropna()
    assert shown["run or system"] == "creatures/few" and "nmi_foreground" not in shown
    (apart,) = [name for name in shown.index if name.startswith("nmi_foreground (")]
    assert "max_test_pictures 10" in apart and shown[apart] == 0.8
    run = tiny_run("wild")
    run.cfg = config.load("celeba", source="/faces")
    run.folder.mkdir(parents=True)
    run.log("evaluate", 2, landmark_error=9.0, left_out={}, notes={})
    both = contenders.contenders([*of_runs, run])
    published = both.loc["celeba /faces"].loc["published"].set_index("run or system")
    assert published.loc["GANSeg (n_parts 4)", "landmark_error"] == 12.26
    assert published.loc["AutoLink (n_parts 8)", "league"] == "ImageNet labels" and len(both.loc["creatures"]) == 7
    assert contenders.contenders([tiny_run("fresh")]).empty


def test_the_commands_of_contenders_make_their_runs_again(tiny_run, capsys):
    made = {"plain": {}, "rival": {records.CLUSTERED: "colors"}, "theirs": {records.MASKS: "my masks.zip"}}
    for name, notes in made.items():
        run = tiny_run(name, segmenter="unet", split_list=None, lambda_con=7.0)
        run.start("cpu")
        run.log("evaluate", 2, nmi_foreground=0.5, left_out={}, notes=notes)
    found = contenders.contenders(compare.all_runs("creatures"))
    lines = dict(line.split(": ", 1) for line in contenders.commands(found))
    assert list(lines) == ["creatures/plain", "creatures/rival", "creatures/theirs"]
    train, distill, evaluate = lines["creatures/plain"].split("; ")
    words = shlex.split(train)
    assert words[:2] == ["ganseg", "train"] and words[-2:] == ["--run", "plain"]
    assert (distill, evaluate) == tuple(f"ganseg {stage} -p dataset creatures --run plain" for stage in
                                        ("distill", "evaluate"))
    args = arguments.add_parameters(argparse.ArgumentParser()).parse_args(words[2:])
    values = arguments.parameters(args, {*arguments.DEFAULTS, *config.Config.model_fields})
    assert arguments.open_run(values | {"run": "again"}, None).cfg == compare.runs.find("creatures/plain").cfg
    assert lines["creatures/rival"].startswith("ganseg features -p dataset creatures") and "-p network colors" in lines[
        "creatures/rival"]
    assert lines["creatures/theirs"].startswith("ganseg score 'my masks.zip' -p dataset creatures")
    assert contenders.commands(contenders.contenders([])) == []


def test_signals_are_ranked_against_metrics(three):
    ranks = trust.correlations(compare.runs_table(three), ["foreground_iou"])
    assert ranks.loc["concentration_loss", "foreground_iou"] == pytest.approx(-1) and set(ranks.runs) == {3}
    assert trust.correlations(compare.runs_table(three[:2]), ["foreground_iou"]).empty


def test_label_free_metrics_and_their_score_are_signals(three):
    for run, (iou, stable, used) in zip(three, [(0.5, 0.6, 0.9), (0.6, 0.9, 0.2), (0.7, 0.7, 0.95)], strict=True):
        run.log("evaluate", 2, foreground_iou=iou, equivariance=stable, parts_effective=used, left_out={},
                notes={"GAN steps": 20})
    ranks = trust.correlations(compare.runs_table(three), ["foreground_iou"]).foreground_iou
    assert ranks["equivariance"] == ranks["parts_effective"] == pytest.approx(0.5)
    assert ranks[trust.SCORE] == pytest.approx(0.5)  # 0.73, 0.42, 0.82
    assert "equivariance" not in trust.correlations(compare.runs_table(three), ["equivariance"]).index


def test_a_signal_rests_on_the_runs_that_have_it(three, tiny_run):
    fourth = tiny_run("r3")
    fourth.start("cpu")
    fourth.log("evaluate", 2, foreground_iou=0.4, left_out={}, notes={"GAN steps": 20})
    for run, fid in zip(three, (9.0, 8.0, 7.0), strict=True):
        run.log("fidelity", 20, fid_1k=fid, **({"fid_2k": fid} if run is not three[0] else {}))
    ranks = trust.correlations(compare.runs_table([*three, fourth]), ["foreground_iou"])
    assert ranks.runs.to_dict() == dict.fromkeys(
        ["concentration_loss", "smallest part", "generated background", "fid_1k"], 3)  # two runs have fid_2k


def test_steps_carry_penalties_and_part_usage(three):
    frame = compare.over_steps(three[0])
    assert list(frame.index) == [10, 20] and frame.loc[10, "concentration_loss"] == 1.0
    assert frame.loc[20, "smallest part"] == 0.1 and "steps_per_s" not in frame


def evaluated(run, cfg, metric, **changes):
    """Log an evaluation of a run that was made as published, but for changes of its settings, notes or step."""
    settings = {name: changes.pop(name, getattr(cfg, name)) for name in records.SETTINGS}
    published = 283 if cfg.reader == "celeba" else 1_000
    notes = {"GAN steps": changes.pop("gan_step", 30_000), "test pictures": changes.pop("test_pictures", published),
             "test pictures told from training pictures by": changes.pop("told_by", "as published"),
             "test pictures that were trained on": changes.pop("seen", 0)}
    run.log("evaluate", changes.pop("step", 10_000), **metric, notes=notes, settings=settings, **changes)


def test_published_numbers_stand_beside_ours_only_where_the_setting_agrees(tiny_run):
    cfg = config.load("celeba", n_parts=4)
    run = tiny_run("k4")
    run.cfg = cfg
    run.folder.mkdir(parents=True)
    evaluated(run, cfg, {"landmark_error": 13.0})
    beside = compare.beside_published([run])
    assert set(beside.published) == {12.26, 46.62, 21.76, 15.39, 25.81, 12.1, 6.11} and set(beside.ours) == {13.0}
    assert all(beside.source.str.len() > 10) and set(beside.league) == {"nothing"}
    assert beside.set_index("published")["its league"][15.39] == "not known"
    assert set(compare.beside_published([run], "ImageNet labels").published) == {12.26, 46.62, 21.76, 6.11}
    for field, value in {"image_size": 64, "crop": "center", "n_per": 7}.items():
        run.cfg = cfg.model_copy(update={field: value})
        (run.folder / "metrics.jsonl").unlink()
        evaluated(run, run.cfg, {"landmark_error": 13.0})
        assert compare.beside_published([run]).empty


@pytest.mark.parametrize(("changes", "why"), [
    ({"max_test_pictures": 12}, "max_test_pictures 12 instead of None"),
    ({"max_train_pictures": 100}, "max_train_pictures 100 instead of None"),
    ({"fit_pictures": 50}, "fit_pictures 50 instead of None"),
    ({"distill_generator": "ema"}, "distill_generator ema instead of raw"),
    ({"gan_step": 50}, "max_steps 50 instead of 30000"),
    ({"step": 60}, "distill_steps 60 instead of 10000"),
    ({"test_pictures": 788}, "788 test pictures instead of 1000"),
    ({"seen": 3}, "3 of its test pictures were trained on"),
    ({"told_by": "the official train_test_split.txt"}, "told from training pictures by the official train_test_split"),
])
def test_a_run_of_another_protocol_stands_beside_no_published_number_and_it_is_said_why(
        tiny_run, capsys, changes, why):
    cfg = config.load("cub", split_list="list.txt")
    run = tiny_run("birds")
    run.cfg = cfg
    run.folder.mkdir(parents=True)
    evaluated(run, cfg, {"foreground_iou": 0.6}, **{"told_by": "the user's split_list", **changes})
    assert compare.beside_published([run]).empty
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("creatures/birds does not stand beside published foreground_iou: ") and why in said
    evaluated(run, cfg, {"foreground_iou": 0.6}, told_by="the user's split_list")
    assert list(compare.beside_published([run]).published) == [0.629] and not capsys.readouterr().out


def test_an_evaluation_of_unknown_settings_stands_beside_no_published_number(tiny_run, capsys):
    run = tiny_run("old")
    run.cfg = config.load("flowers")
    run.folder.mkdir(parents=True)
    run.log("evaluate", 10_000, foreground_iou=0.7, notes={"GAN steps": 30_000})
    assert compare.beside_published([run]).empty and "evaluate it again" in capsys.readouterr().out


def test_published_fid_asks_for_all_steps_and_training_pictures(tiny_run, capsys):
    run = tiny_run("fid")
    run.cfg = config.load("celeba")
    run.folder.mkdir(parents=True)
    run.log("fidelity", 20, fid_50k=30.0)
    assert compare.beside_published([run]).empty and "max_steps 20 instead of 30000" in capsys.readouterr().out
    run.log("fidelity", 30_000, fid_50k=25.0, kid_50k=0.1)
    beside = compare.beside_published([run])
    assert list(beside.published) == [21.42] and list(beside.ours) == [25.0]


def test_a_row_belongs_to_one_step_of_the_gan(three, capsys):
    run = three[0]
    run.log("fidelity", 20, fid_1k=9.0)
    run.log("train", 40, concentration_loss=7.0, time_s=999.0, steps_per_s=1.0, left_s=0.0)
    run.log("train_samples", 40, background_share=0.9, part_1_share=0.1)
    run.log("fidelity", 40, fid_1k=5.0)
    row = compare.runs_table([run]).loc["creatures/r0"]
    assert (row["GAN steps"], row.minutes, row.concentration_loss, row.fid_1k) == (20, 2.0, 0.3, 9.0)
    assert (row["smallest part"], row["generated background"], row.foreground_iou) == (0.1, 0.6, 0.5)
    run.log("evaluate", 2, foreground_iou=0.8, notes={"GAN steps": 30})
    row = compare.runs_table([run]).loc["creatures/r0"]
    assert (row["GAN steps"], row.foreground_iou) == (30, 0.8)
    assert not {"fid_1k", "untrained_foreground_iou"} & set(row.index)
    assert "stands at GAN step 30: its fidelity, of step 40, is left out" in capsys.readouterr().out


def test_counts_of_pictures_are_no_metrics(three):
    three[0].log("fidelity", 20, fid_1k=9.0, n_generated=1000, n_training=16, weights="raw")
    assert not {"n_generated", "n_training"} & set(compare.runs_table(three))


def test_metrics_of_another_protocol_have_another_name(three, capsys):
    few = {"max_test_pictures": 12, "fit_pictures": 1000, "split_list": "/data/list.txt"}
    three[2].log("evaluate", 2, foreground_iou=0.9, notes={"GAN steps": 20}, settings=few)
    table = compare.runs_table(three)
    name = "foreground_iou (max_test_pictures 12 instead of None, split_list list.txt)"
    assert table.loc["creatures/r2", name] == 0.9 and table[name].isna().sum() == 2
    assert table.foreground_iou.isna().tolist() == [False, False, True]
    assert [run.label for run in compare.best_pair(table, "foreground_iou")] == ["creatures/r1", "creatures/r0"]
    assert trust.correlations(compare.runs_table(three), ["foreground_iou"]).empty  # two comparable runs
    capsys.readouterr()
    compare.best_pair(compare.runs_table(three[2:]), "foreground_iou")
    assert f"no run has foreground_iou, but there are {name}" in capsys.readouterr().out


def test_published_numbers_belong_to_known_data_sets_and_settings():
    numbers = compare.load_published()
    assert set(numbers.dataset) <= set(config.datasets()) and len(numbers) == 5 * 11 + 4 + 14 + 4 + 3 * 2
    assert set(numbers.metric) <= {*protocols(), "fid_50k"}
    assert all(set(league.split(", ")) <= set(records.LEAGUES) for league in numbers.league)
    for setting in numbers.setting:
        assert set(setting) <= set(config.Config.model_fields)


def test_runs_are_filtered_and_grouped_by_what_they_were_taught_with(three, tiny_run):
    fourth = tiny_run("r3", features="efficientnet_lite0")
    fourth.start("cpu")
    fourth.log("evaluate", 2, foreground_iou=0.9, left_out={}, notes={"GAN steps": 20})
    three[0].log("evaluate", 2, foreground_iou=0.8, left_out={},
                 notes={"GAN steps": 20, "league": "self-supervised features, supervised foreground masks"})
    table = compare.by_league(compare.runs_table(compare.all_runs("creatures")), "foreground_iou")
    assert list(table.index.str[-2:]) == ["r3", "r2", "r1", "r0"]
    assert list(table.league) == ["ImageNet labels", "nothing", "nothing",
                                  "self-supervised features, supervised foreground masks"]
    assert [run.label[-2:] for run in compare.all_runs("creatures", "nothing")] == ["r1", "r2"]
    assert [run.label[-2:] for run in compare.all_runs("creatures", "supervised foreground masks")] == ["r0"]
    with pytest.raises(UserError, match="league: 'imagenet' is none .*there are nothing, ImageNet labels"):
        compare.all_runs("creatures", "imagenet")


def test_numbers_of_the_official_split_and_of_classes_stand_beside_runs_of_these_alone(tiny_run, monkeypatch):
    numbers = [{"system": "A", "dataset": "cub", "metric": "keypoint_error_box", "value": 20.2, "source": "a paper",
                "setting": {"classes": [1]}, "league": "nothing", "split": "the official train_test_split.txt"}]
    monkeypatch.setattr(compare, "load_published", lambda: compare.pd.DataFrame(numbers))
    run = tiny_run("birds")
    run.folder.mkdir(parents=True)
    for classes, told_by, n in (([1], "the official train_test_split.txt", 1), ([1], "the user's split_list", 0),
                                ([2], "the official train_test_split.txt", 0),
                                (None, "the official train_test_split.txt", 0)):
        run.cfg = config.load("cub", classes=classes)
        evaluated(run, run.cfg, {"keypoint_error_box": 30.0}, told_by=told_by)
        assert len(compare.beside_published([run])) == n
    run.cfg = config.load("cub", classes=[1])
    assert "keypoint_error_box (classes [1] instead of None)" in compare.runs_table([run])
