"""Sweeps: what their files may say, which trials they make, and that they run, fail and go on."""

import json
import os
import shutil
import signal
import time

import pandas as pd
import pytest
import yaml

from ganseg import config, files, records, runs, train
from ganseg.errors import UserError
from ganseg.experiments import ablations, findings, trials
from ganseg.model import averaging

QUICK = {"max_steps": 2, "distill_steps": 2, "max_train_pictures": 16, "max_test_pictures": 4, "fit_pictures": 4}


def sweep_file(tmp_path, **sweep):
    path = tmp_path / "sweeps.yaml"
    path.write_text(yaml.safe_dump({"mine": sweep}, sort_keys=False))
    return path


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def test_the_papers_sweeps_are_what_the_supplement_lists():
    of = {name: [t.setting for t in trials.make_trials(trials.load_sweep(name), "celeba", "a", [0])]
          for name in ("sigma", "n_per", "n_parts", "autoencoder")}
    assert of["n_per"] == [{"n_per": n} for n in (2, 3, 4, 6, 8)]
    assert of["n_parts"] == [{"n_parts": k} for k in (1, 4, 8, 12, 16, 32)]
    assert of["sigma"] == [{"heatmap": "paper"}, {"heatmap": "fixed"}] and len(of["autoencoder"]) == 3


@pytest.mark.parametrize("dataset, per_part", [("celeba", 1.25), ("taichi", 3.0), ("cub", 1.25), ("flowers", 3.75)])
def test_lambda_con_grows_with_the_parts(dataset, per_part):
    for trial in trials.make_trials(trials.load_sweep("n_parts"), dataset, "a", [0]):
        assert trial.overrides["lambda_con"] == pytest.approx(per_part * trial.setting["n_parts"])


def test_equal_trials_share_a_run_and_names_say_what_differs():
    names = [trial.name for trial in trials.make_trials(trials.load_sweep("n_per"), "creatures", "a", [0, 1])]
    assert "a-base-seed0" in names and "a-n_per-2-seed1" in names and len(set(names)) == 10
    base = trials.base_trials(trials.load_sweep("n_per"), "creatures", "a", [0])
    assert [(trial.name, trial.setting) for trial in base] == [("a-base-seed0", {})]
    shared = trials.base_trials(trials.Sweep(grid={"n_per": [3]}, base={"lambda_con": 30.0}), "creatures", "a", [0])
    assert shared[0].cfg.lambda_con == 30


def test_settings_are_trials_of_their_own_and_no_grid(tmp_path):
    listed = [{}, {"n_per": 3, "max_steps": 7}, {"share_fakes": False}]
    sweep = trials.load_sweep("mine", sweep_file(tmp_path, settings=listed, base={"lambda_con": 5.0}))
    made = trials.make_trials(sweep, "creatures", "a", [0])
    assert [trial.setting for trial in made] == listed and {trial.cfg.lambda_con for trial in made} == {5.0}
    assert [trial.name for trial in made] == ["a-base-seed0", "a-n_per-3-max_steps-7-seed0",
                                              "a-share_fakes-False-seed0"]
    assert [trial.cfg.max_steps == 7 for trial in made] == [False, True, False]
    assert [trial.label for trial in made] == ["the base", "n_per 3, max_steps 7", "share_fakes False"]
    with pytest.raises(UserError, match="max_steps: .* the sweep itself sets it"):
        trials.make_trials(sweep, "creatures", "a", [0], max_steps=3)


def test_a_fixed_sigma_waits_for_the_trial_that_measures_it():
    fixed = trials.make_trials(trials.Sweep(grid={"heatmap": ["fixed"]}), "creatures", "a", [3])
    assert [trial.name for trial in fixed] == ["a-heatmap-paper-seed3", "a-heatmap-fixed-seed3"]
    assert fixed[1].after == fixed[0]
    sweep = trials.Sweep(grid={"heatmap": ["fixed"]}, base={"fixed_sigma2": 0.01})
    known = trials.make_trials(sweep, "creatures", "a", [3])
    assert [(trial.name, trial.after) for trial in known] == [("a-heatmap-fixed-seed3", None)]


@pytest.mark.parametrize("sweep, message", [
    ({"grid": {"n_pert": [1]}}, "n_pert: there is no such setting.*n_per"),
    ({"grid": {"seed": [1]}}, "seeds are a parameter"),
    ({"grid": {"dataset": ["tiny"]}}, "the data set is a parameter"),
    ({"grid": {"n_per": []}}, "n_per: the list of values is empty"),
    ({"grid": {}}, "a grid or a list of settings"),
    ({"grid": {"n_per": [4]}, "settings": [{}]}, "and not both"),
    ({"settings": [{}, {"n_pert": 1}]}, "n_pert: there is no such setting.*n_per"),
    ({"settings": [{}, 1]}, "settings.1"),
    ({"settings": [{"lambda_con": 1.0}], "per_part": ["lambda_con"]}, "lambda_con is in the settings and in per_part"),
    ({"grid": {"n_per": 4}}, "grid.n_per"),
    ({"gird": {"n_per": [4]}}, "mine: gird"),
    ({"grid": {"n_per": [4]}, "per_part": ["heatmap"]}, "per_part: heatmap is not a number"),
    ({"grid": {"lambda_con": [1.0]}, "per_part": ["lambda_con"]}, "lambda_con is in the grid and in per_part"),
    ({"grid": {"n_per": [4]}, "findings": [{"claim": "bad", "trial": {"n_per": 3}}]}, "n_per 3 is in none"),
])
def test_a_sweep_that_cannot_be_is_refused(tmp_path, sweep, message):
    with pytest.raises(UserError, match=message):
        trials.load_sweep("mine", sweep_file(tmp_path, **sweep))


def test_bad_names_files_seeds_and_values_are_refused(tmp_path):
    with pytest.raises(UserError, match="did you mean n_per"):
        trials.load_sweep("nper")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        trials.load_sweep("mine", tmp_path / "none.yaml")
    for seeds in ([], 1, "01", [0.5], [True], None):
        with pytest.raises(UserError, match=r"seeds: .* a list of whole numbers, such as \[0, 1\]"):
            trials.make_trials(trials.load_sweep("n_per"), "creatures", "a", seeds)
    for grid, per_part in (({"n_per": [0]}, []), ({"n_parts": ["many"]}, ["lambda_con"])):
        with pytest.raises(UserError, match=r"n_per: 0|n_parts: 'many'"):
            trials.make_trials(trials.Sweep(grid=grid, per_part=per_part), "creatures", "a", [0])
    with pytest.raises(UserError, match="workers: 0"):
        list(ablations.run_all("creatures", [], workers=0))


@pytest.mark.parametrize("given, message", [({"seed": 3}, r"seed: .* give -p seeds \"\[3\]\""),
                                            ({"n_per": 6}, "n_per: .* the sweep itself sets it")])
def test_a_setting_that_the_sweep_itself_sets_is_refused_and_not_passed_over(given, message):
    with pytest.raises(UserError, match=message):
        trials.make_trials(trials.load_sweep("n_per"), "creatures", "a", [0], **given)


def test_a_run_of_settings_that_all_trials_had_once_is_no_trial_without_them(outputs):
    sweep = trials.Sweep(grid={"n_per": [3]})
    once, now = (trials.make_trials(sweep, "tiny", "a", [0], **given)[0] for given in ({"lambda_con": 5.0}, {}))
    assert once.name == now.name
    run = trials.start_trial("tiny", once)
    run.start("cpu")
    assert trials.start_trial("tiny", now).cfg == now.cfg  # nothing is trained yet
    run.save("gan", 1, {})
    with pytest.raises(UserError, match="lambda_con: the run tiny/a-n_per-3-seed0 was made with 5.0"):
        trials.evaluations("tiny", [now])


def test_none_in_a_sweep_is_none_and_not_what_the_data_set_says():
    sweep = trials.Sweep(grid={"max_train_pictures": [None, 8]}, base={"fit_pictures": None})
    made = trials.make_trials(sweep, "tiny", "a", [0])
    assert [trial.cfg.max_train_pictures for trial in made] == [None, 8]
    assert {trial.cfg.fit_pictures for trial in made} == {None}


def test_lists_and_paths_in_a_grid_give_names_that_a_run_may_have(outputs):
    grid = {"channels": [[8, 8, 8, 4], [8, 8, 4, 4]], "warm_start": ["/a b/gan-1.pt"]}
    wanted = trials.make_trials(trials.Sweep(grid=grid), "tiny", "a", [0])
    assert wanted[0].name == "a-channels-8_8_8_4-warm_start-a_b_gan-1.pt-seed0"
    assert trials.evaluations("tiny", wanted) == {}
    same = trials.Sweep(grid={"warm_start": ["a/b.pt", "a_b.pt"]})
    with pytest.raises(UserError, match="differ in warm_start are both called a-warm_start-a_b.pt-seed0"):
        trials.make_trials(same, "tiny", "a", [0])


def test_a_name_that_no_run_may_have_is_refused_before_the_first_trial(outputs):
    wanted = trials.make_trials(trials.Sweep(grid={"n_per": [3]}), "tiny", "../up", [0])
    with pytest.raises(UserError, match="run: '../up-n_per-3-seed0' is not allowed"):
        next(ablations.run_all("tiny", wanted))
    assert not outputs.exists()


def test_the_table_averages_seeds_and_tells_what_is_missing(outputs):
    wanted = trials.make_trials(trials.Sweep(grid={"n_per": [3, 4]}), "creatures", "a", [0, 1])
    done = evaluated({"a-n_per-3-seed0": 0.2, "a-n_per-3-seed1": 0.4, "a-base-seed0": 0.5})
    table = findings.sweep_table("creatures", wanted, done)
    assert table.loc["n_per 3", "nmi_foreground"] == pytest.approx(0.3)
    assert table.loc["n_per 3", "nmi_foreground_std"] == pytest.approx(0.02**0.5)
    assert list(table.index) == ["n_per 3", "n_per 4"]
    assert list(table.status) == ["finished", "missing: 1 of 2"] and list(table.seeds) == [2, 1]
    texts = findings.formatted_table(table, ["nmi_foreground", "landmark_error"])
    assert list(texts.nmi_foreground) == ["0.300 ± 0.141", "0.500"] and "landmark_error" not in texts
    assert list(findings.sweep_table("creatures", wanted, {}).seeds) == [0, 0]


def evaluated(values):
    """Evaluations of finished trials with these values of nmi_foreground; collapse is 1 where it is below 0.1."""
    return {name: {"nmi_foreground": v, "collapse": float(v < 0.1)} for name, v in values.items()}


def test_findings_compare_seed_by_seed_and_claim_nothing_undertrained():
    sweep = trials.load_sweep("n_per")
    wanted = trials.make_trials(sweep, "creatures", "a", [0, 1])
    base = trials.base_trials(sweep, "creatures", "a", [0, 1])
    values = {"a-base-seed0": 0.5, "a-base-seed1": 0.6, "a-n_per-2-seed0": 0.0, "a-n_per-2-seed1": 0.0,
              "a-n_per-3-seed0": 0.4, "a-n_per-3-seed1": 0.7, "a-n_per-8-seed0": 0.8, "a-n_per-8-seed1": 0.9}
    found = findings.checked_claims(sweep, wanted, base, evaluated(values))
    assert list(found.result) == ["reproduced (2 of 2 seeds)", "mixed (1 of 2 seeds)", "not reproduced (0 of 2 seeds)"]
    assert found.numbers[1] == "nmi_foreground 0.400 against 0.500, 0.700 against 0.600"
    found = findings.checked_claims(sweep, wanted, base, evaluated({**values, "a-base-seed1": 0.39}))
    assert found.result[1] == "reproduced (1 of 1 seeds, seed 1 undertrained)"
    short = evaluated({**values, "a-base-seed0": 0.39, "a-base-seed1": 0.39})
    assert all("undertrained" in result for result in findings.checked_claims(sweep, wanted, base, short).result)


def test_claims_on_a_data_set_without_a_metric_for_them_are_not_measured():
    sweep = trials.load_sweep("n_per")
    wanted = trials.make_trials(sweep, "folder", "a", [0])
    done = {trial.name: {"mask_entropy": 0.1} for trial in wanted}
    found = findings.checked_claims(sweep, wanted, trials.base_trials(sweep, "folder", "a", [0]), done)
    assert list(found.result) == ["not measured"] * 3 and list(found.numbers) == [""] * 3


def test_a_trial_that_fails_is_marked_and_not_finished(outputs):
    (trial,) = trials.make_trials(trials.Sweep(grid={"n_per": [3]}), "folder", "a", [0])  # no source
    reason = ablations.run_trial("folder", trial, str(outputs), 1)
    assert "source" in reason and reason in (outputs / "folder" / trial.name / "error.txt").read_text()
    assert trials.evaluations("folder", [trial]) == {}
    assert findings.sweep_table("folder", [trial], {}).status.iloc[0].startswith("error: source")


def paper_and_fixed(**settings):
    """Two trials, the second of which takes sigma^2 from the first."""
    return trials.make_trials(trials.Sweep(grid={"heatmap": ["paper", "fixed"]}), "tiny", "a", [0],
                              **{**QUICK, "save_every_steps": 1, **settings})


def finished(outputs, wanted):
    """Which trials are finished after those that are not were run one after another."""
    for trial in wanted:
        if not trials.evaluations("tiny", [trial]):
            ablations.run_trial("tiny", trial, str(outputs), 1)
    return [trial.name in trials.evaluations("tiny", wanted) for trial in wanted]


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    """Outputs that hold the two trials, finished."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANSEG_OUTPUTS", str(tmp_path_factory.mktemp("finished")))
        patch.setattr(averaging.recalibrate_batchnorm, "__defaults__", (2,))
        assert finished(runs.outputs_root(), paper_and_fixed()) == [True, True]
        return runs.outputs_root()


@pytest.fixture
def done(finished_once, outputs, quick):
    """The two trials, finished."""
    shutil.copytree(finished_once / "tiny", outputs / "tiny")
    return paper_and_fixed()


@pytest.mark.parametrize("stage", ["gan", "segmenter"])
def test_a_trial_whose_newest_checkpoint_is_damaged_is_not_finished(outputs, done, stage):
    path = runs.find(f"tiny/{done[0].name}").newest(stage)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert trials.evaluations("tiny", done) == {}  # the second takes its sigma^2 from the first
    path.unlink()
    assert trials.evaluations("tiny", done) == {}
    path.write_bytes(whole)
    assert list(trials.evaluations("tiny", done)) == [trial.name for trial in done]


def test_a_fixed_sigma_is_not_taken_from_a_trial_that_is_not_finished(outputs, quick):
    paper, fixed = wanted = paper_and_fixed()
    list(train.train(runs.open_run("tiny", paper.name, **{**paper.overrides, "max_steps": 1})))
    reason = ablations.run_trial("tiny", fixed, str(outputs), 1)
    assert f"comes from {paper.name}, which is not finished" in reason
    assert not (outputs / "tiny" / fixed.name / "config.yaml").exists()
    assert finished(outputs, wanted) == [True, True]
    cfg = config.read(outputs / "tiny" / fixed.name / "config.yaml")
    assert cfg.fixed_sigma2 == trials.mean_sigma2(runs.find(f"tiny/{paper.name}"))


def test_a_fixed_sigma_of_an_earlier_state_is_noticed(outputs, done):
    longer = paper_and_fixed(max_steps=3)
    assert finished(outputs, longer[:1]) == [True]
    reason = ablations.run_trial("tiny", longer[1], str(outputs), 1)
    assert f"but {done[0].name} now gives" in reason and "delete the folder" in reason
    assert list(trials.evaluations("tiny", longer)) == [longer[0].name]
    shutil.rmtree(outputs / "tiny" / done[1].name)
    assert finished(outputs, longer) == [True, True]


@pytest.mark.parametrize("settings", [{"max_test_pictures": 3}, {"fit_pictures": 3}, {"untrained_control": True}])
def test_a_trial_that_was_evaluated_in_another_way_is_evaluated_again(outputs, done, settings):
    wanted = paper_and_fixed(**settings)
    assert trials.evaluations("tiny", wanted) == {}
    assert finished(outputs, wanted) == [True, True]
    record = trials.evaluations("tiny", wanted)[wanted[0].name]
    assert settings.items() <= record["settings"].items()
    assert len(runs.find(f"tiny/{wanted[0].name}").records("train")) == 1  # nothing was trained again
    again = trials.evaluations("tiny", done)  # the first evaluations are still there, and are what is asked for here
    assert len(again) == 2 and not settings.items() <= again[wanted[0].name]["settings"].items()


def test_what_a_run_was_saved_with_does_not_stand_for_what_is_asked(outputs, done):
    few = {name: value for name, value in QUICK.items() if name != "max_test_pictures"}
    wanted = trials.make_trials(trials.Sweep(grid={"heatmap": ["paper"]}), "tiny", "a", [0], **few)
    assert wanted[0].cfg.max_test_pictures == 50 and trials.evaluations("tiny", wanted) == {}


def test_a_record_without_settings_does_not_count(outputs, done):
    path = outputs / "tiny" / done[0].name / "metrics.jsonl"
    before = [{k: v for k, v in record.items() if k != "settings"} for record in records.read(path)]
    files.write_text(path, "".join(json.dumps(record) + "\n" for record in before))
    assert trials.evaluations("tiny", done[:1]) == {}


@pytest.mark.parametrize("field", ["max_steps", "distill_steps"])
def test_fewer_steps_than_were_made_are_refused_before_the_first_trial(outputs, done, field):
    wanted = paper_and_fixed(**{field: 1})
    with pytest.raises(UserError, match=f"{field}: tiny/{done[0].name} has made 2 steps, more than 1"):
        next(ablations.run_all("tiny", wanted))


def test_an_autoencoder_is_finished_at_its_own_last_step(outputs, quick):
    sweep = trials.Sweep(grid={"architecture": ["autoencoder_points"]})
    wanted = trials.make_trials(sweep, "tiny", "a", [0], **{**QUICK, "distill_steps": 1})
    assert finished(outputs, wanted) == [True]


def test_two_data_sets_on_one_scheduler_do_not_share_their_trials(outputs):
    from dask.distributed import Client, LocalCluster

    sweep, failing = trials.Sweep(grid={"n_per": [3]}), {**QUICK, "warm_start": "none.pt"}
    local = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)
    with local as cluster, Client(cluster) as first, Client(cluster) as second:
        kept = []  # a result that somebody holds is given to whoever asks for the same key
        for client, dataset in ((first, "tiny"), (second, "creatures")):
            (trial,) = trials.make_trials(sweep, dataset, "a", [0], **failing)
            kept += ablations._submit(client, dataset, [trial], 1)
            assert "none.pt" in kept[-1].result(timeout=300)
            assert (outputs / dataset / trial.name / "error.txt").exists()


@pytest.mark.slow
def test_a_sweep_survives_a_killed_worker_and_runs_only_what_is_missing(outputs, tmp_path):
    """Two processes; the first one to train is killed in the middle, and one trial cannot be."""
    path = sweep_file(tmp_path, grid={"heatmap": ["paper", "fixed"]})
    sweep = trials.load_sweep("mine", path)
    quick = {**QUICK, "max_steps": 40, "save_every_steps": 5, "log_every_steps": 5}
    wanted = trials.make_trials(sweep, "tiny", "a", [0], **quick)
    key = f"{outputs}/tiny/{wanted[0].name}"
    wanted += trials.make_trials(trials.Sweep(grid={"n_per": [3]}), "tiny", "a", [0], **quick, warm_start="none.pt")
    from dask.distributed import Client, LocalCluster

    local = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    with local as cluster, Client(cluster) as client:
        workers = [info["pid"] for info in client.run(lambda dask_worker: {"pid": os.getpid()}).values()]
        killed, results = [], {}

        def kill_the_trainer():
            checkpoint = outputs / "tiny" / wanted[0].name / "checkpoints"
            until = time.monotonic() + 300
            while not any(checkpoint.glob("gan-*.pt")) and time.monotonic() < until:
                time.sleep(0.05)
            (worker,) = [address for address, tasks in client.processing().items() if key in tasks]
            pid = client.run(os.getpid, workers=[worker])[worker]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        import threading

        killer = threading.Thread(target=kill_the_trainer)
        killer.start()
        for trial, error in ablations.run_all("tiny", wanted, scheduler=cluster.scheduler_address):
            results[trial.name] = error
        killer.join()
        begun = [finish for _, _, finish, *_ in cluster.scheduler.story(key) if finish == "processing"]
    assert len(begun) == 2  # once more after the worker was killed
    assert killed and killed[0] in workers
    assert results["a-heatmap-paper-seed0"] is None and results["a-heatmap-fixed-seed0"] is None
    assert "none.pt" in results["a-n_per-3-seed0"]
    steps = [r["step"] for r in runs.find("tiny/a-heatmap-paper-seed0").records("train")]
    assert steps == list(range(5, 41, 5))  # it went on from its checkpoint: each step once
    measured = trials.mean_sigma2(runs.find("tiny/a-heatmap-paper-seed0"))
    assert config.read(outputs / "tiny" / "a-heatmap-fixed-seed0" / "config.yaml").fixed_sigma2 == measured
    assert list(ablations.run_all("tiny", wanted[:2], workers=1)) == []  # nothing is missing: no cluster is started


def test_a_scheduler_that_does_not_answer_is_named(outputs):
    wanted = trials.make_trials(trials.Sweep(grid={"n_per": [3]}), "tiny", "a", [0], **QUICK)
    with pytest.raises(UserError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        list(ablations.run_all("tiny", wanted, scheduler="tcp://127.0.0.1:9", timeout_s=1))
    with pytest.raises(UserError, match="no Dask scheduler answers at 8786"):
        list(ablations.run_all("tiny", wanted, scheduler=8786, timeout_s=1))


@pytest.mark.slow
def test_a_cluster_without_workers_ends_with_a_sentence(outputs, monkeypatch):
    from dask.distributed import LocalCluster

    monkeypatch.setattr(ablations, "NO_WORKERS_S", 1)
    wanted = trials.make_trials(trials.Sweep(grid={"n_per": [3]}), "tiny", "a", [0], **QUICK)
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        with pytest.raises(UserError, match="no worker for 1 s, 1 trials are not finished"):
            list(ablations.run_all("tiny", wanted, scheduler=cluster.scheduler_address))


def test_formatted_leaves_empty_what_is_not_known():
    frame = pd.DataFrame({"seeds": [0], "status": ["missing"], "nmi": [float("nan")], "nmi_std": [float("nan")]})
    assert findings.formatted_table(frame, ["nmi"]).nmi.iloc[0] == ""


def test_the_paths_of_a_trial_mean_the_same_to_a_worker_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "red").mkdir()
    monkeypatch.chdir(tmp_path)
    (trial,) = trials.make_trials(trials.Sweep(grid={"warm_start": ["gan.pt"]}), "folder", "a", [0], source="red")
    wanted = {"source": str(tmp_path / "red"), "warm_start": str(tmp_path / "gan.pt")}
    assert trial.overrides.items() >= wanted.items() and trial.name == "a-warm_start-gan.pt-seed0"
