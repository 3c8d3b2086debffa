"""Sweeps: named grids over settings and seeds, run as trials on this machine or on a Dask cluster."""

import contextlib
import itertools
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import joblib
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ganseg import checkpoints, config, devices, distill, evaluate, files, runs, train
from ganseg.errors import UserError
from ganseg.model import geometry, loading

N_SIGMA2 = 5000  # samples that a fixed sigma^2 is the mean of (S F.2)
NO_WORKERS_S = 60  # how long a cluster may have no worker at all


class Finding(BaseModel):
    model_config = ConfigDict(extra="forbid")
    claim: str
    trial: dict
    than: dict | None = None


class Sweep(BaseModel):
    """One entry of params/ablations.yaml, which explains the fields."""

    model_config = ConfigDict(extra="forbid")
    grid: dict[str, list] = Field(min_length=1)
    per_part: list[str] = []
    base: dict = {}
    findings: list[Finding] = []


@dataclass
class Trial:
    """One run of a sweep."""

    setting: dict  # the point of the grid
    overrides: dict  # everything that differs from the data set's own config, seed included
    name: str  # of the run
    after: str | None = None  # run whose samples tell this one's sigma^2

    @property
    def label(self):
        return ", ".join(f"{field} {value}" for field, value in self.setting.items())


def load(name, path=None):
    """The Sweep of a name in params/ablations.yaml, or in a file of the same form; UserError where it cannot be."""
    path = Path(path or config.ROOT / "params" / "ablations.yaml")
    try:
        sweeps = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"sweeps_file: {path} cannot be read as YAML: {files.one_line(error)}") from None
    if not isinstance(sweeps, dict) or name not in sweeps:
        known = list(sweeps) if isinstance(sweeps, dict) else []
        raise UserError(f"sweep: there is no {name!r} in {path.name}{config.nearest(name, known)}; "
                        f"known are {', '.join(map(str, known)) or 'none'}.")
    try:
        sweep = Sweep.model_validate(sweeps[name])
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"sweep {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    for field in [*sweep.grid, *sweep.base, *sweep.per_part]:
        if field not in config.Config.model_fields or field == "seed":
            what = "seeds are a parameter of their own" if field == "seed" else "there is no such setting"
            raise UserError(f"sweep {name}: {field}: {what}{config.nearest(field, config.Config.model_fields)}.")
    if empty := [field for field, values in sweep.grid.items() if not values]:
        raise UserError(f"sweep {name}: {empty[0]}: the list of values is empty.")
    return sweep


def trials(sweep, dataset, prefix, seeds, **overrides):
    """The Trials of a sweep on a data set, each setting checked.

    prefix     runs are called <prefix>-<what differs from the data set's config>-seed<N>; equal ones are shared
    overrides  settings of all trials, e.g. max_steps
    """
    if not seeds:
        raise UserError("seeds: the list is empty; give at least one number.")
    overrides = {**sweep.base, **{k: v for k, v in overrides.items() if v is not None}}
    own = config.load(dataset, **overrides)
    made = {}
    for values, seed in itertools.product(itertools.product(*sweep.grid.values()), seeds):
        setting = dict(zip(sweep.grid, values, strict=True))
        wanted = {**overrides, **setting, "seed": seed}
        for field in sweep.per_part:
            wanted[field] = getattr(own, field) / own.n_parts * setting.get("n_parts", own.n_parts)
        trial = Trial(setting, wanted, _name(prefix, setting, own, seed))
        if setting.get("heatmap") == "fixed" and own.fixed_sigma2 is None and "fixed_sigma2" not in setting:
            estimated = {**setting, "heatmap": "paper"}
            trial.after = _name(prefix, estimated, own, seed)
            made.setdefault(trial.after, Trial(estimated, {**wanted, "heatmap": "paper"}, trial.after))
            config.load(dataset, **wanted, fixed_sigma2=1.0)
        else:
            config.load(dataset, **wanted)
        made[trial.name] = trial
    return list(made.values())


def base(dataset, prefix, seeds, **overrides):
    """Trials of the data set's own configuration: what says whether the number of steps is enough."""
    own = config.load(dataset, **{k: v for k, v in overrides.items() if v is not None})
    return trials(Sweep(grid={"n_parts": [own.n_parts]}), dataset, prefix, seeds, **overrides)


def _name(prefix, setting, own, seed):
    parts = [f"{field}-{value}" for field, value in setting.items() if value != getattr(own, field)]
    return "-".join([prefix, *(parts or ["base"]), f"seed{seed}"]).replace(" ", "").replace("[", "").replace("]", "")


def run_all(dataset, wanted, scheduler=None, workers=None, timeout_s=20):
    """Run the trials that are not finished, several at once.

    scheduler  address of a Dask scheduler whose workers see the same outputs and pictures; None: this machine
    workers    processes on this machine; None: one per GPU, or per core
    timeout_s  how long the scheduler may take to answer
    Yields (Trial, None or why it failed) as they end. Raises UserError when the scheduler does not answer or all
    workers are gone: what has finished is kept, and the next call runs what is missing.
    """
    from dask.distributed import Client, LocalCluster, wait  # not at the top: training needs no Dask

    by_name = {trial.name: trial for trial in wanted}
    missing = [trial for trial in by_name.values() if not finished(dataset, trial)]
    if not missing:
        return
    cores = joblib.cpu_count()  # those this process may use
    workers = min(workers or torch.cuda.device_count() or cores, len(missing))
    threads = max(1, cores // workers)
    cluster = None
    try:
        if scheduler is None:
            cluster = LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=None,
                                   dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL)
        client = Client(cluster or scheduler, timeout=timeout_s)
    except (OSError, ValueError) as error:
        raise UserError(f"scheduler: no Dask scheduler answers at {scheduler} ({error}).") from None
    try:
        futures = {}
        for trial in missing:
            parent = futures.get(trial.after)
            futures[trial.name] = client.submit(
                run_trial, dataset, trial, str(runs.outputs_root()), threads, parent, key=trial.name, pure=False
            )
        waiting = {futures[trial.name]: trial for trial in missing}
        seen = time.monotonic()
        while waiting:
            try:
                wait(list(waiting), timeout=2, return_when="FIRST_COMPLETED")
            except TimeoutError:
                pass
            for future in [future for future in waiting if future.status not in ("pending", "lost")]:
                trial = waiting.pop(future)
                yield trial, _outcome(dataset, trial, future)
            if client.status == "running" and client.scheduler_info()["workers"]:
                seen = time.monotonic()
            elif time.monotonic() - seen > NO_WORKERS_S:
                raise UserError(f"scheduler: no worker for {NO_WORKERS_S} s, {len(waiting)} trials are not finished; "
                                "the same command goes on with them.")
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


def run_trial(dataset, trial, outputs, threads, parent=None):
    """Train, distil and evaluate one trial in a worker; its run holds error.txt when that failed. Returns the reason.

    parent  what the trial waited for, not looked at
    """
    os.environ["GANSEG_OUTPUTS"] = outputs
    torch.set_num_threads(threads)
    _choose_gpu()
    folder = runs.outputs_root() / dataset / trial.name
    try:
        overrides = trial.overrides
        if trial.after and not (folder / "config.yaml").exists():
            overrides = {**overrides, "fixed_sigma2": mean_sigma2(runs.find(f"{dataset}/{trial.after}"))}
        run = runs.open_run(dataset, trial.name, **overrides)
        with contextlib.redirect_stdout(None):  # lines of several trials would mix; troubles stand in metrics.jsonl
            for stage in (train.train, distill.distill_all):
                for _ in stage(run):
                    pass
            evaluate.evaluate(run)
        (folder / "error.txt").unlink(missing_ok=True)
    except Exception as error:  # whatever ends one trial, the others go on
        return _mark(folder, error)


def finished(dataset, trial):
    """Whether a trial is trained, distilled and evaluated to its end."""
    folder = runs.outputs_root() / dataset / trial.name
    if not (folder / "config.yaml").exists():
        return False
    run = runs.open_run(dataset, trial.name, **trial.overrides)  # refuses another configuration
    stages = {name: run.newest(name) for name in ("gan", "segmenter")}
    steps = {name: checkpoints.step_of(path) if path else -1 for name, path in stages.items()}
    last = run.cfg.distill_steps if run.cfg.architecture == "gan" else run.cfg.max_steps
    evaluated = any(record["step"] == last and record.get("notes", {}).get("GAN steps") == run.cfg.max_steps
                    for record in run.records("evaluate"))
    return steps == {"gan": run.cfg.max_steps, "segmenter": last} and evaluated


@torch.no_grad()
def mean_sigma2(run):
    """Mean over N_SIGMA2 samples and all parts of a trained run's sigma^2 (heatmap paper or gaussian)."""
    G = loading.load_generator(run, run.cfg.distill_generator)
    latents = G.sample_latents(N_SIGMA2, devices.rng(run.cfg.seed, "sigma2"))
    points, _ = G.make_points(latents)
    return geometry.part_shape(points, run.cfg.heatmap).spread.mean().item()


def evaluation(dataset, trial):
    """The newest evaluation of a finished trial, or None."""
    if not finished(dataset, trial):
        return None
    return runs.find(f"{dataset}/{trial.name}").records("evaluate")[-1]


def _outcome(dataset, trial, future):
    """The reason a future failed for, or None."""
    try:
        return future.result(timeout=10)
    except Exception as error:  # a worker that died too often, a scheduler that went away
        return _mark(runs.outputs_root() / dataset / trial.name, error)


def _mark(folder, error):
    reason = files.one_line(error)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "error.txt", reason + "\n")
    return reason


def _choose_gpu():
    """On this machine each worker has a GPU of its own."""
    from dask.distributed import get_worker

    try:
        number = int(get_worker().name)
    except (ValueError, TypeError):  # no worker, or one of a cluster, which gives its workers their GPUs
        return
    if torch.cuda.device_count():
        torch.cuda.set_device(number % torch.cuda.device_count())
