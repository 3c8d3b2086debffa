"""Starts a training in several processes of this machine by torchrun, and follows its log."""

import os
import re
import subprocess
import sys
import time

import torch

from ganseg import files
from ganseg.errors import UserError
from ganseg.training.loop import NOTHING_TO_DO

MISTAKE = "ganseg: (.*)"  # which starting again would not mend
MAX_RESTARTS = 3  # after a worker has died; each goes on from the newest checkpoint
# Without it restarted workers may read the dead ones' addresses in torchrun's store, and wait for them
ENV = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def check(cfg):
    """Raise UserError where cfg.devices processes cannot train on this machine."""
    if torch.cuda.is_available() and cfg.device != "cpu" and torch.cuda.device_count() < cfg.devices:
        raise UserError(f"devices: {cfg.devices} are wanted, and there are {torch.cuda.device_count()} GPUs.")
    if cfg.batch_size % cfg.devices:
        raise UserError(f"batch_size: {cfg.batch_size} pictures cannot be divided among {cfg.devices} devices; "
                        f"choose a multiple of {cfg.devices}.")


def launch(run):
    """Train a run in cfg.devices processes on this machine; yields its log records as they are written.

    Raises UserError for a user's mistake that one of them finds, and when they failed more often than MAX_RESTARTS
    times.
    """
    cfg, log = run.cfg, run.folder / "workers.log"
    seen = len(run.records("train"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cfg.devices),
               "--max-restarts", str(MAX_RESTARTS), "-m", "ganseg.train",
               "-p", "dataset", run.folder.parent.name, "-p", "run", run.folder.name]  # torchrun has a --run of its own
    command += ["-p", "max_minutes", str(cfg.max_minutes)] if cfg.max_minutes else []
    with files.writing(log), open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, env=ENV | os.environ, stdout=file, stderr=subprocess.STDOUT)
    try:
        while not _said(log, MISTAKE):
            ended = process.poll() is not None
            records = run.records("train")
            # A restart repeats some steps and their lines
            yield from records[min(seen, len(records)) :]
            seen = len(records)
            if ended:
                break
            time.sleep(0.5)
    finally:
        if process.poll() is None:
            process.terminate()  # torchrun passes it on; each process ends after a saved step
            process.wait()
    if process.returncode:
        raise UserError(_said(log, MISTAKE) or f"{run.label}: its processes failed, see {log}.")
    if said := _said(log, f"(.*{NOTHING_TO_DO}.*)"):
        print(said, flush=True)


def _said(log, pattern):
    """The group of the first line of the processes that is of a pattern; None where there is none."""
    found = re.search(f"^{pattern}$", log.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return found and found[1]
