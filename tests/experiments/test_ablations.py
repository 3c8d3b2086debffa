"""Sweeps: what their files may say, which trials they make, and that they run, fail and go on."""

import os
import signal
import time

import pandas as pd
import pytest
import yaml

from ganseg import config, runs
from ganseg.errors import UserError
from ganseg.experiments import ablations, findings, trials

QUICK = {"max_steps": 2, "distill_steps": 2, "max_train_pictures": 16, "max_test_pictures": 4, "fit_pictures": 4}


def sweep_file(tmp_path, **sweep):
    path = tmp_path / "sweeps.yaml"
    path.write_text(yaml.safe_dump({"mine": sweep}))
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
    assert [trial.name for trial in trials.base_trials("creatures", "a", [0])] == ["a-base-seed0"]


def test_a_fixed_sigma_waits_for_the_trial_that_measures_it():
    fixed = trials.make_trials(trials.Sweep(grid={"heatmap": ["fixed"]}), "creatures", "a", [3])
    assert [trial.name for trial in fixed] == ["a-heatmap-paper-seed3", "a-heatmap-fixed-seed3"]
    assert fixed[1].after == fixed[0].name
    sweep = trials.Sweep(grid={"heatmap": ["fixed"]}, base={"fixed_sigma2": 0.01})
    known = trials.make_trials(sweep, "creatures", "a", [3])
    assert [(trial.name, trial.after) for trial in known] == [("a-heatmap-fixed-seed3", None)]


@pytest.mark.parametrize("sweep, message", [
    ({"grid": {"n_pert": [1]}}, "n_pert: there is no such setting.*n_per"),
    ({"grid": {"seed": [1]}}, "seeds are a parameter"),
    ({"grid": {"n_per": []}}, "n_per: the list of values is empty"),
    ({"grid": {}}, "grid"),
    ({"grid": {"n_per": 4}}, "grid.n_per"),
    ({"gird": {"n_per": [4]}}, "mine: grid"),
])
def test_a_sweep_that_cannot_be_is_refused(tmp_path, sweep, message):
    with pytest.raises(UserError, match=message):
        trials.load_sweep("mine", sweep_file(tmp_path, **sweep))


def test_bad_names_files_seeds_and_values_are_refused(tmp_path):
    with pytest.raises(UserError, match="did you mean n_per"):
        trials.load_sweep("nper")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        trials.load_sweep("mine", tmp_path / "none.yaml")
    with pytest.raises(UserError, match="seeds: the list is empty"):
        trials.make_trials(trials.load_sweep("n_per"), "creatures", "a", [])
    with pytest.raises(UserError, match="n_per"):
        trials.make_trials(trials.Sweep(grid={"n_per": [0]}), "creatures", "a", [0])


def test_the_table_averages_seeds_and_tells_what_is_missing(outputs, monkeypatch):
    wanted = trials.make_trials(trials.Sweep(grid={"n_per": [3, 4]}), "creatures", "a", [0, 1])
    values = {"a-n_per-3-seed0": 0.2, "a-n_per-3-seed1": 0.4, "a-base-seed0": 0.5}
    fake(monkeypatch, values)
    table = findings.sweep_table("creatures", wanted)
    assert table.loc["n_per 3", "nmi_foreground"] == pytest.approx(0.3)
    assert table.loc["n_per 3", "nmi_foreground_std"] == pytest.approx(0.02**0.5)
    assert list(table.status) == ["finished", "missing: 1 of 2"] and list(table.seeds) == [2, 1]
    texts = findings.formatted_table(table, ["nmi_foreground", "landmark_error"])
    assert list(texts.nmi_foreground) == ["0.300 ± 0.141", "0.500"] and "landmark_error" not in texts


def fake(monkeypatch, values):
    """Trials with these values of nmi_foreground are finished; collapse is 1 where it is below 0.1."""
    records = {name: {"nmi_foreground": v, "collapse": float(v < 0.1)} for name, v in values.items()}
    monkeypatch.setattr(findings, "newest_evaluation", lambda dataset, trial: records.get(trial.name))
    monkeypatch.setattr(findings, "is_finished", lambda dataset, trial: trial.name in records)


def test_findings_compare_seed_by_seed_and_claim_nothing_undertrained(monkeypatch):
    sweep = trials.load_sweep("n_per")
    wanted, base = trials.make_trials(sweep, "creatures", "a", [0, 1]), trials.base_trials("creatures", "a", [0, 1])
    values = {"a-base-seed0": 0.5, "a-base-seed1": 0.6, "a-n_per-2-seed0": 0.0, "a-n_per-2-seed1": 0.0,
              "a-n_per-3-seed0": 0.4, "a-n_per-3-seed1": 0.7, "a-n_per-8-seed0": 0.8, "a-n_per-8-seed1": 0.9}
    fake(monkeypatch, values)
    found = findings.checked_claims("creatures", sweep, wanted, base)
    assert list(found.result) == ["reproduced (2 of 2 seeds)", "mixed (1 of 2 seeds)", "not reproduced (0 of 2 seeds)"]
    assert found.numbers[1] == "nmi_foreground 0.400 against 0.500, 0.700 against 0.600"
    fake(monkeypatch, {**values, "a-base-seed1": 0.39})
    found = findings.checked_claims("creatures", sweep, wanted, base)
    assert found.result[1] == "reproduced (1 of 1 seeds, seed 1 undertrained)"
    fake(monkeypatch, {**values, "a-base-seed0": 0.39, "a-base-seed1": 0.39})
    assert all("undertrained" in result for result in findings.checked_claims("creatures", sweep, wanted, base).result)


def test_a_trial_that_fails_is_marked_and_not_finished(outputs):
    (trial,) = trials.make_trials(trials.Sweep(grid={"n_per": [3]}), "folder", "a", [0])  # no source
    reason = ablations.run_trial("folder", trial, str(outputs), 1)
    assert "source" in reason and reason in (outputs / "folder" / trial.name / "error.txt").read_text()
    assert not trials.is_finished("folder", trial)
    assert findings.sweep_table("folder", [trial]).status.iloc[0].startswith("error: source")


@pytest.mark.slow
def test_a_sweep_survives_a_killed_worker_and_runs_only_what_is_missing(outputs, tmp_path):
    """Two processes; the first one to train is killed in the middle, and one trial cannot be."""
    path = sweep_file(tmp_path, grid={"heatmap": ["paper", "fixed"]})
    sweep = trials.load_sweep("mine", path)
    quick = {**QUICK, "max_steps": 40, "save_every_steps": 5, "log_every_steps": 5}
    wanted = trials.make_trials(sweep, "tiny", "a", [0], **quick)
    wanted += trials.make_trials(trials.Sweep(grid={"n_per": [3]}), "tiny", "a", [0], **quick, warm_start="none.pt")
    from dask.distributed import Client, LocalCluster

    local = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    with local as cluster, Client(cluster) as client:
        workers = [info["pid"] for info in client.run(lambda dask_worker: {"pid": os.getpid()}).values()]
        killed, results = [], {}

        def kill_the_trainer():
            checkpoint = outputs / "tiny" / wanted[0].name / "checkpoints"
            until = time.monotonic() + 120
            while not any(checkpoint.glob("gan-*.pt")) and time.monotonic() < until:
                time.sleep(0.05)
            (worker,) = [address for address, tasks in client.processing().items() if wanted[0].name in map(str, tasks)]
            pid = client.run(os.getpid, workers=[worker])[worker]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        import threading

        killer = threading.Thread(target=kill_the_trainer)
        killer.start()
        for trial, error in ablations.run_all("tiny", wanted, scheduler=cluster.scheduler_address):
            results[trial.name] = error
        killer.join()
    assert killed and killed[0] in workers
    assert results["a-heatmap-paper-seed0"] is None and results["a-heatmap-fixed-seed0"] is None
    assert "none.pt" in results["a-n_per-3-seed0"]
    steps = [r["step"] for r in runs.find("tiny/a-heatmap-paper-seed0").records("train")]
    assert steps == list(range(5, 41, 5))  # it went on from its checkpoint: each step once
    measured = ablations.mean_sigma2(runs.find("tiny/a-heatmap-paper-seed0"))
    assert config.read(outputs / "tiny" / "a-heatmap-fixed-seed0" / "config.yaml").fixed_sigma2 == measured
    assert list(ablations.run_all("tiny", wanted[:2], workers=1)) == []  # nothing is missing: no cluster is started


def test_a_scheduler_that_does_not_answer_is_named(outputs):
    wanted = trials.make_trials(trials.Sweep(grid={"n_per": [3]}), "tiny", "a", [0], **QUICK)
    with pytest.raises(UserError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        list(ablations.run_all("tiny", wanted, scheduler="tcp://127.0.0.1:9", timeout_s=1))


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
