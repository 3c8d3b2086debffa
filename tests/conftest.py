"""What all tests share: one thread, a tiny config, tiny runs in a folder of their own."""

from collections import Counter

import pytest
import torch

from ganseg import config, runs, train
from ganseg.model import averaging

TINY = {
    "image_size": 32, "resolutions": [8, 16, 32], "margin": 2, "n_parts": 3, "n_per": 4, "point_divisor": 2.0,
    "channels": [8, 8, 4, 4], "mask_channels": [8, 4, 4], "spade_hidden": 4, "embedding_dim": 4, "z_dim": 8,
    "mlp_width": 8, "rgb_head": "two_conv3x3", "discriminator_channels": [4, 4, 4, 4], "batch_size": 4,
    "max_train_pictures": 16, "device": "cpu", "share_fakes": False, "log_every_steps": 1000,
    "sample_every_steps": 1000, "save_every_steps": 1000, "max_steps": 2,
}  # fmt: skip

LOGGED = {"time_s": 1.0, "steps_per_s": 1.0, "left_s": 0.0}  # by every line of a stage

fuzzed = Counter()  # kind of input -> cases tried, by test_fuzz


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # a process of several, whose counts the first one prints
        session.config.workeroutput["fuzzed"] = dict(fuzzed)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node):
    fuzzed.update(getattr(node, "workeroutput", {}).get("fuzzed", {}))


def pytest_terminal_summary(terminalreporter):
    if fuzzed:
        terminalreporter.write_line("fuzzed: " + ", ".join(f"{n:,} {kind}" for kind, n in fuzzed.items()))


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other on a busy machine make these small networks many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny():
    """Makes a config of networks with a few hundred weights; fields can be given."""
    return lambda **fields: config.check({"dataset": "creatures", "reader": "creatures", **TINY, **fields})


@pytest.fixture
def tiny_run(tmp_path, monkeypatch):
    """Makes a tiny run, or opens it again, by name; fields can be given. Outputs lie in tmp_path."""
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    return lambda name="run", **fields: runs.open_run("creatures", name, **{**TINY, **fields})


@pytest.fixture
def quick(monkeypatch):
    """Two batches to recalibrate with and four sample pictures, where more would only take longer."""
    monkeypatch.setattr(averaging.recalibrate_batchnorm, "__defaults__", (2,))
    monkeypatch.setattr(train, "N_SAMPLES", 4)


@pytest.fixture
def trained(tiny_run, quick):
    """A tiny run after two steps, with its checkpoint."""
    run = tiny_run("trained")
    list(train.train(run))
    return run
