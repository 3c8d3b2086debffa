"""Several processes under torchrun compute what one does; a killed one makes the job go on from its checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import parallel_steps
import psutil
import pytest
import torch

from ganseg import distill, runs, train
from ganseg.errors import UserError

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def steps_of_two(configs, folder):
    """What two processes under torchrun compute of parallel_steps.three_steps, for each of some configs."""
    (folder / "configs.json").write_text(json.dumps([cfg.model_dump() for cfg in configs]))
    given = [str(HERE / "parallel_steps.py"), str(folder / "configs.json"), str(folder / "results.pt")]
    subprocess.run([*TORCHRUN, "--nproc-per-node", "2", *given], env=ENV, check=True, timeout=300, capture_output=True)
    return torch.load(folder / "results.pt")


def test_two_processes_compute_the_gradients_of_one(tiny, tmp_path):
    configs = [tiny(batch_size=8, **fields) for fields in (
        {"share_fakes": False}, {"share_fakes": True},
        {"share_fakes": True, "features": "efficientnet_lite0", "features_size": 32})]
    for cfg, two in zip(configs, steps_of_two(configs, tmp_path), strict=True):
        assert_equal_but_for_rounding(cfg, parallel_steps.three_steps(cfg), two)


def assert_equal_but_for_rounding(cfg, one, two):
    for name in ("gradients", "penalty"):
        largest = max(g.norm() for g in one[name])
        for a, b in zip(one[name], two[name], strict=True):
            # Biases that a BatchNorm takes off again have no gradient but rounding
            assert (a - b).norm() <= 1e-4 * a.norm() + 1e-6 * largest
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    for a, b in zip(one["statistics"], two["statistics"], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)
    weights = [torch.cat([w.flatten() for w in result["weights"]]) for result in (one, two)]
    # Adam moves a weight whose gradient is nearly 0 by the sign of its rounding
    assert (weights[0] - weights[1]).abs().gt(0.1 * cfg.lr_generator).float().mean() < 0.03


GIVEN = ["-p", "dataset", "tiny", "-p", "save_every_steps", "5", "-p", "log_every_steps", "5", "-p", "device", "cpu",
         "-p", "devices", "2", "-p", "max_steps", "20"]


def test_the_command_trains_on_several_devices_and_survives_the_death_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    trained = {}
    for name in ("straight", "killed"):
        command = [sys.executable, "-m", "ganseg.train", *GIVEN, "--run", name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        run_folder = tmp_path / "tiny" / name
        if name == "killed":
            end = time.monotonic() + 300
            while time.monotonic() < end and not list(run_folder.glob("checkpoints/gan-*.pt")):
                time.sleep(0.02)
            workers = [child for child in psutil.Process(process.pid).children(recursive=True)
                       if "RANK" in child.environ() and child.environ()["RANK"] == "1"]
            workers[0].send_signal(signal.SIGKILL)
        said = process.communicate(timeout=300)[0]
        assert process.returncode == 0, said
        assert "step 20/20" in said and "Traceback" not in said
        starts = (run_folder / "workers.log").read_text().count("train -> ") / 2  # each of the two says so
        assert starts == 1 if name == "straight" else starts > 1
        trained[name] = torch.load(run_folder / "checkpoints" / "gan-00000020.pt")
        lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if line["stage"] == "train"] == list(range(5, 21, 5))
    for part in ("generator", "discriminator", "ema"):
        for a, b in zip(trained["straight"][part].values(), trained["killed"][part].values(), strict=True):
            assert torch.equal(a, b)


def test_what_cannot_be_divided_is_refused_before_anything_starts(tiny_run, quick, monkeypatch):
    with pytest.raises(UserError, match="batch_size: 4 pictures cannot be divided among 3 devices"):
        next(train.train(tiny_run("a", devices=3)))
    with pytest.raises(UserError, match="warm_start: there is no such checkpoint|none.pt: there is no such checkpoint"):
        next(train.train(tiny_run("a", devices=2, warm_start="none.pt")))
    assert not tiny_run("a").folder.exists()
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="batch_size: 4 pictures cannot be divided among 3 processes"):
        next(train.train(tiny_run("b")))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="autoencoder_points is trained by one process"):
        next(train.train(tiny_run("c", architecture="autoencoder_points")))
    with pytest.raises(SystemExit, match="distill is done by one process: start it without torchrun"):
        distill.main(["-p", "dataset", "tiny"])


def test_a_mistake_that_the_processes_find_is_said_once_and_not_tried_again(tiny_run, quick, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = tiny_run("wild", devices=2, lr_generator=1.0e30, lr_discriminator=1.0e30, max_steps=400, log_every_steps=1)
    with pytest.raises(UserError, match="wild: .* is not finite, training stopped"):
        list(train.train(run))
    log = (run.folder / "workers.log").read_text()
    assert log.count("is not finite") <= 2 and "restart" not in log.lower()


def test_the_processes_are_stopped_with_the_one_that_started_them(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    run = runs.open_run("tiny", "x", max_steps=100_000, log_every_steps=1, save_every_steps=100_000, devices=2,
                        device="cpu")
    before = psutil.Process().children(recursive=True)  # other tests leave helpers of multiprocessing behind
    records = train.train(run)
    for _ in range(3):
        record = next(records)
    workers = [p for p in psutil.Process().children(recursive=True) if p not in before]
    records.close()
    assert record["step"] >= 3 and run.newest("gan") is not None
    assert len(workers) >= 3  # torchrun and its two
    assert not [p for p in workers if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
