"""Numbers of a run in TensorBoard's own files."""

import sys

import pytest

from ganseg import train
from ganseg.errors import UserError


def test_a_missing_package_is_told_before_training(tiny_run, quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = tiny_run(tensorboard=True)
    with pytest.raises(UserError, match="tensorboard: the package is missing; install it with pip install tensorboard"):
        list(train.train(run))
    assert run.newest("gan") is None


def test_numbers_are_there_by_stage(tiny_run):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tiny_run(tensorboard=True)
    run.folder.mkdir(parents=True)
    run.log("train", 10, loss=0.5, notes={"a": 1})
    run.log("evaluate", 20, nmi=0.25)
    found = accumulators.EventAccumulator(str(run.folder / "tensorboard" / "train")).Reload()
    assert found.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(10, 0.5)]
    found = accumulators.EventAccumulator(str(run.folder / "tensorboard" / "evaluate")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("nmi")] == [(20, 0.25)]
