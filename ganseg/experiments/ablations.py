"""Runs the trials of a sweep, several at once, on this machine or on a Dask cluster."""

import contextlib
import logging
import os
import time

import joblib
import torch

from ganseg import distill, evaluate, files, runs, train
from ganseg.errors import UserError
from ganseg.experiments import trials

NO_WORKERS_S = 60  # how long a cluster may have no worker at all


def run_all(dataset, wanted, scheduler=None, workers=None, timeout_s=20):
    """Run the trials that are not finished, several at once.

    scheduler  address of a Dask scheduler whose workers see the same outputs and pictures; None: this machine
    workers    processes on this machine; None: one per GPU, or per core
    timeout_s  how long the scheduler may take to answer
    Yields (Trial, None or why it failed) as they end. Raises UserError before the first trial starts for one that
    cannot be run, see trials.evaluations, and when the scheduler does not answer or all workers are gone. Finished
    trials are kept, and the next call runs what is missing.
    """
    if workers is not None and (type(workers) is not int or workers < 1):
        raise UserError(f"workers: {workers!r} is not allowed; it should be a whole number from 1 on.")
    done = trials.evaluations(dataset, wanted)
    missing = [trial for name, trial in trials.by_name(wanted).items() if name not in done]
    if not missing:
        return
    cores = joblib.cpu_count()  # those this process may use
    workers = min(workers or torch.cuda.device_count() or cores, len(missing))
    with _client(scheduler, workers, timeout_s) as client:
        for trial, future in _as_they_end(client, _submit(client, dataset, missing, max(1, cores // workers))):
            try:
                reason = future.result(timeout=10)
            except Exception as error:  # a worker that died too often, a scheduler that went away
                reason = _mark(runs.outputs_root() / dataset / trial.name, error)
            yield trial, reason


def _submit(client, dataset, missing, threads):
    """Hand the trials to the cluster: future -> Trial. A trial's future waits for that of the run it comes after."""
    futures, outputs = {}, str(runs.outputs_root().resolve())
    for trial in missing:
        parent = futures.get(trial.after.name) if trial.after else None
        key = f"{outputs}/{dataset}/{trial.name}"  # a scheduler knows equal keys of several clients for the same work
        futures[trial.name] = client.submit(run_trial, dataset, trial, outputs, threads, parent, key=key, pure=False)
    return {futures[trial.name]: trial for trial in missing}


def _as_they_end(client, waiting):
    """Yield (Trial, future) of waiting (future -> Trial) as they end; UserError when all workers are gone."""
    from dask.distributed import wait  # takes a second, and training needs no Dask

    seen = time.monotonic()  # when there last was a worker
    while waiting:
        with contextlib.suppress(TimeoutError):
            wait(list(waiting), timeout=2, return_when="FIRST_COMPLETED")
        for future in [future for future in waiting if future.status not in ("pending", "lost")]:
            yield waiting.pop(future), future
        if client.status == "running" and client.scheduler_info()["workers"]:
            seen = time.monotonic()
        elif time.monotonic() - seen > NO_WORKERS_S:
            raise UserError(f"scheduler: no worker for {NO_WORKERS_S} s, {len(waiting)} trials are not finished; "
                            "the same command goes on with them.")


@contextlib.contextmanager
def _client(scheduler, workers, timeout_s):
    """A Dask client of a scheduler, or of a cluster of processes on this machine where there is none."""
    from dask.distributed import Client, LocalCluster  # takes a second, and training needs no Dask

    with contextlib.ExitStack() as stack:
        try:
            if scheduler is None:
                scheduler = stack.enter_context(LocalCluster(
                    n_workers=workers, threads_per_worker=1, memory_limit=None, dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL))
            client = stack.enter_context(Client(scheduler, timeout=timeout_s))
        except (OSError, TypeError, ValueError) as error:
            raise UserError(f"scheduler: no Dask scheduler answers at {scheduler} ({error}).") from None
        yield client


def run_trial(dataset, trial, outputs, threads, parent=None):
    """Train, distil and evaluate one trial in a worker. Returns why that failed, which error.txt keeps, or None.

    parent  the result of the run that the trial comes after; Dask waits for it, and it is not used
    """
    os.environ["GANSEG_OUTPUTS"] = outputs
    torch.set_num_threads(threads)
    _choose_gpu()
    folder = runs.outputs_root() / dataset / trial.name
    try:
        run = trials.start_trial(dataset, trial)
        with contextlib.redirect_stdout(None):  # else the lines of several trials would mix
            for stage in (train.train, distill.distill_all):
                for _ in stage(run):
                    pass
            evaluate.evaluate(run)
        (folder / "error.txt").unlink(missing_ok=True)
    except Exception as error:  # one trial's failure must not end the others
        return _mark(folder, error)


def _mark(folder, error):
    reason = files.one_line(error)
    files.write_text(folder / "error.txt", reason + "\n")
    return reason


def _choose_gpu():
    """On this machine each worker has a GPU of its own."""
    from dask.distributed import get_worker  # takes a second, and training needs no Dask

    try:
        number = int(get_worker().name)
    except (ValueError, TypeError):  # no worker, or one of a cluster, which gives its workers their GPUs
        return
    if torch.cuda.device_count():
        torch.cuda.set_device(number % torch.cuda.device_count())
