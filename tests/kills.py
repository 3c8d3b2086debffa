"""Kills training and distillation at random moments and compares the finished run with an undisturbed one.

    python tests/kills.py N      N kills; the summary is the last line, exit code 1 where anything differs
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

GIVEN = ["-p", "dataset", "tiny", "-p", "max_steps", "40", "-p", "distill_steps", "30", "-p", "log_every_steps", "2",
         "-p", "sample_every_steps", "10", "-p", "save_every_steps", "5", "-p", "share_fakes", "false"]
TIMES = ("time_s", "steps_per_s", "left_s")


def started(stage, run, outputs):
    """The process of a stage of a run, when it has said that it trains."""
    command = [sys.executable, "-m", f"ganseg.{stage}", *GIVEN, "--run", run]
    env = {**os.environ, "GANSEG_OUTPUTS": str(outputs), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    process.stdout.readline()
    return process


def undisturbed(stage, outputs):
    """Seconds that a stage takes from its first line on, without kills."""
    process = started(stage, "straight", outputs)
    begun = time.monotonic()
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    return time.monotonic() - begun


def disturbed(stage, outputs, n_kills, seconds, random):
    """Run a stage to its end, killed n_kills times on the way at random moments; returns the steps it had reached."""
    reached = []
    while len(reached) < n_kills:
        process = started(stage, "killed", outputs)
        try:
            # About so many kills fit into one training: each attempt goes on from the checkpoint before
            process.wait(timeout=random.uniform(0, 2.5 * seconds / max(n_kills, 3)))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            reached.append(last_step(outputs, stage))
            continue
        assert process.returncode == 0, process.stdout.read()
        break  # it finished before all kills
    said = (process := started(stage, "killed", outputs)).communicate(timeout=600)[0]
    assert process.returncode == 0, said
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
        seconds = undisturbed(stage, outputs)
        reached[stage] = disturbed(stage, outputs, share, seconds, chance)
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
