"""Kills training and distillation at random moments and compares the finished run with an undisturbed one.

    python tests/kills.py N      N kills; the summary is the last line, exit code 1 where anything differs

A moment is counted in files of the run that are opened, renamed or removed, as seconds mean another thing on a busy
machine. Half of the kills come just before such a file, half up to 50 ms later, in the middle of writing or computing.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

GIVEN = ["-p", "dataset", "tiny", "-p", "max_steps", "40", "-p", "distill_steps", "30", "-p", "log_every_steps", "2",
         "-p", "sample_every_steps", "10", "-p", "save_every_steps", "5", "-p", "share_fakes", "false"]
OPENING = 25  # files, at least, that a stage touches before it goes on with its steps; 11 where it is new
TIMES = ("time_s", "steps_per_s", "left_s")
CHILD = """
import os, runpy, signal, sys, threading
stage, at, later = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
seen = 0

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def count(event, given):
    global seen
    if event in ("open", "os.rename", "os.remove") and os.environ["GANSEG_OUTPUTS"] in str(given[0]):
        seen += 1
        if seen == at:
            threading.Timer(later, kill).start() if later else kill()

sys.addaudithook(count)
sys.argv = sys.argv[3:]
try:
    runpy.run_module("ganseg." + stage, run_name="__main__")
finally:
    print("files:", seen)
"""


def run_stage(stage, run, outputs, at=0, later=0.0):
    """A stage of a run, killed at its at-th file or `later` seconds after it; returns its files, None where killed."""
    command = [sys.executable, "-c", CHILD, stage, str(at), str(later), *GIVEN, "--run", run]
    env = {**os.environ, "GANSEG_OUTPUTS": str(outputs), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    if at and done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stdout
    return int(done.stdout.split()[-1])


def disturbed(stage, outputs, n_kills, files, random):
    """Run a stage to its end, killed n_kills times on the way at random moments; returns the steps it had reached.

    Each attempt goes on from the checkpoint before and gets through a share of the rest at most, so none ends early.
    """
    reached = []
    for number in range(n_kills):
        at, later = random.randint(1, OPENING + files // (n_kills + 1)), random.uniform(0, 0.05) * (number % 2)
        assert run_stage(stage, "killed", outputs, at, later) is None
        reached.append(last_step(outputs, stage))
    run_stage(stage, "killed", outputs)
    return reached


def last_step(outputs, stage):
    return max((r["step"] for r in records(outputs / "tiny" / "killed") if r["stage"] == stage), default=0)


def records(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    parsed = []
    for line in lines:
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError:
            pass  # cut short by a kill
    return [{name: value for name, value in r.items() if name not in TIMES} for r in parsed]


def differences(outputs):
    """Sentences on what differs between the two runs, [] where nothing does."""
    straight, killed = (outputs / "tiny" / name for name in ("straight", "killed"))
    found = []
    if records(straight) != records(killed):
        found.append("metrics.jsonl differs")
    for folder in ("checkpoints", "samples"):
        names = [sorted(p.name for p in (run / folder).glob("*.p[tn]*")) for run in (straight, killed)]
        if names[0] != names[1]:
            found.append(f"{folder}: {names[0]} against {names[1]}")
            continue
        for name in names[0]:
            if folder == "samples":
                same = (straight / folder / name).read_bytes() == (killed / folder / name).read_bytes()
            else:
                same = equal(*(torch.load(run / folder / name, weights_only=True) for run in (straight, killed)))
            if not same:
                found.append(f"{folder}/{name} differs")
    return found


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def kill_and_compare(outputs, n_kills, seed=0):
    """Both stages with n_kills kills in all: (steps reached at the kills by stage, differences)."""
    chance, reached = random.Random(seed), {}
    for stage, share in (("train", (n_kills + 1) // 2), ("distill", n_kills // 2)):
        files = run_stage(stage, "straight", outputs)
        reached[stage] = disturbed(stage, outputs, share, files, chance)
    return reached, differences(outputs)


if __name__ == "__main__":
    n, done, wrong, seed = int(sys.argv[1]), 0, 0, 0
    while done < n:
        with tempfile.TemporaryDirectory() as folder:
            reached, found = kill_and_compare(Path(folder), min(10, n - done), seed)
        kills = sum(map(len, reached.values()))
        done, wrong, seed = done + kills, wrong + len(found), seed + 1
        print(f"{kills} kills, at steps {reached}; {found or 'all equal'}", flush=True)
    print(f"{done} kills in training and distillation, {wrong} differences")
    sys.exit(wrong > 0)
