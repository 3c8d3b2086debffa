"""Runs and models that older code made open, go on and are evaluated as they were then."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from ganseg import evaluate, metrics, runs, train
from ganseg.figures import report

HERE = Path(__file__).parent


@pytest.fixture
def before(tmp_path, monkeypatch):
    """A run of four GAN and two distillation steps of the code that had no folders, and what that code found next."""
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    with tarfile.open(HERE / "runs" / "before_folders.tar.xz") as archive:
        archive.extractall(tmp_path / "creatures", filter="data")
    return json.loads((tmp_path / "creatures" / "before" / "expected.json").read_text())


def test_a_run_made_before_the_folders_goes_on_as_it_would_have_then(before, quick):
    run = runs.open_run("creatures", "before", max_steps=6)
    for record, then in zip(train.train(run), before["train"], strict=True):
        losses = {name: value for name, value in then.items() if name.endswith("_loss")}
        assert {name: record[name] for name in losses} == pytest.approx(losses, rel=1e-3)


def test_a_run_made_before_the_folders_is_evaluated_as_it_was_then(before):
    record, then = evaluate.evaluate(runs.open_run("creatures", "before", needs="segmenter")), before["evaluate"]
    since = {"GAN steps of the generated samples": 4, "features of the discriminator": "none",
             "league": "nothing", "doubts about the masks": "none", report.SHOWN: record["notes"][report.SHOWN]}
    label_free = {name for name, sentence in metrics.protocols().items() if sentence.startswith("Label-free")}
    new = {"foreground_iou_pooled", "part_iou_min", "part_iou_median", "nmi_keypoints_parts", "ari_keypoints_parts"}
    assert record.keys() - label_free == {*then, "settings", *new} and record["notes"] == {**then["notes"], **since}
    numbers = {name: value for name, value in then.items() if isinstance(value, float) and name != "time_s"}
    assert {name: record[name] for name in numbers} == pytest.approx(numbers, rel=1e-2, abs=1e-3)


def test_a_run_is_made_the_shipped_model_by_a_command(before, tmp_path):
    command = [sys.executable, str(HERE.parent / ".ci" / "ship_model"), "creatures/before", str(tmp_path / "shipped")]
    subprocess.run(command, check=True, timeout=600, capture_output=True)
    gan, segmenter = (torch.load(tmp_path / "shipped" / f"{name}.pt") for name in ("gan", "segmenter"))
    assert gan.keys() == {"step", "ema"} and gan["step"] == 4 and segmenter["step"] == 2
    assert (tmp_path / "shipped" / "config.yaml").exists()
