"""Train, distil, evaluate: through the notebooks, the command and the modules, with the tiny settings."""

import argparse
import json
import os
import re
import subprocess
import sys
from importlib import metadata

import papermill
import pytest
import yaml
from PIL import Image

from ganseg import arguments, cli, config, distill, evaluate, runs, train

NOTEBOOKS = sorted((config.ROOT / "notebooks").glob("*.ipynb"))
# Their parameters that are no settings of a run
OWN = {
    "prepare": {"download"},
    "benchmark": {"n_steps", "compiled", "n_pictures", "processes"},
    "embeddings": {"method", "n_samples"},
    "equivariance": {"weights", "untrained_only", "n_samples", "offsets_px", "angles_deg", "moved_parts"},
    "inspector": {"sample", "follow"},
    "samples": {"n_samples", "n_detections", "picture_seed"},
    "ablations": {"sweep", "sweeps_file", "seeds", "scheduler", "workers"},
    "features": {"network", "weights", "league"},
    "choose": {"seeds", "scheduler", "workers", "consensus"},
    "compare": {"metric", "league", "cost", "first", "second", "agreement"},
    "start": {"n_pictures"},
    "fidelity": {"n_generated", "weights", "inception_weights", "feature_network", "feature_size", "every_checkpoint"},
}
STEPS = ["-p", "max_steps", "4", "-p", "distill_steps", "4", "-p", "batch_size", "4"]


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture
def trained(outputs):
    """A tiny run with a GAN of four steps and nothing else."""
    run = runs.open_run("tiny", "x", max_steps=4)
    list(train.train(run))
    return run


def fails(argv, capsys, run=cli.main):
    """The one line that a command ends with, exit code 1 checked."""
    with pytest.raises(SystemExit) as stop:
        run(argv)
    assert isinstance(stop.value.code, str)  # printed to stderr by the interpreter, exit code 1
    assert "\n" not in stop.value.code
    return stop.value.code


@pytest.mark.slow
def test_the_command_trains_distils_and_evaluates_through_the_notebooks(outputs, capfd):
    for notebook in ("train", "distill", "evaluate"):
        cli.main([notebook, "-p", "dataset", "tiny", "-p", "log_every_steps", "1", *STEPS, "--run", "all"])
    printed = capfd.readouterr().out
    folder = outputs / "tiny" / "all"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {r["stage"] for r in records} == {"train", "train_samples", "distill", "evaluate"}
    assert "foreground_iou" in records[-1] and "nmi_foreground" in records[-1]
    assert "step 4/4" in printed and "steps/s" in printed and "report.html" in printed
    assert "Next: ganseg distill -p dataset tiny --run all" in printed
    assert "Next: ganseg evaluate -p dataset tiny --run all" in printed
    assert "report.html, then: ganseg segment PHOTOS --run tiny/all --out parts/" in printed
    for name in ("train.ipynb", "distill.ipynb", "evaluate.ipynb", "report.html", "figures/detections.png"):
        assert (folder / name).stat().st_size > 1000, name
    executed = json.loads((folder / "train.ipynb").read_text())
    assert "widgets" not in executed["metadata"]
    for name in ("train", "distill"):  # one figure, then all lines, however many there are
        (cell,) = (c for c in json.loads((folder / f"{name}.ipynb").read_text())["cells"] if "view.update" in str(c))
        figure, lines = cell["outputs"]
        assert "image/png" in figure["data"] and "".join(lines["text"]).count("steps/s") == 4
        assert (folder / f"{name}.ipynb").stat().st_size < 1_000_000


def test_the_modules_do_the_same_without_any_notebook_library(outputs, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("papermill", "plotly", "pandas", "IPython", "ipywidgets", "nbformat", "jupyterlab"):
        (blocked / f"{name}.py").write_text("raise ImportError('a notebook library was imported')")
    env = {**os.environ, "PYTHONPATH": str(blocked)}
    (blocked / "sklearn.py").write_text("raise ImportError('a training waited for scikit-learn')")
    for stage in ("train", "distill", "evaluate"):
        if stage == "evaluate":
            (blocked / "sklearn.py").unlink()
        command = [sys.executable, "-m", f"ganseg.{stage}", "-p", "dataset", "tiny", "--run", "bare", *STEPS]
        done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "foreground_iou" in done.stdout


def test_a_run_that_stopped_goes_on_when_the_command_is_given_again(outputs, capsys):
    train.main(["-p", "dataset", "tiny", "--run", "go", "-p", "max_steps", "2"])
    train.main(["-p", "dataset", "tiny", "--run", "go", "-p", "max_steps", "4"])
    train.main(["-p", "dataset", "tiny", "--run", "go", "-p", "max_steps", "4"])
    assert [r["step"] for r in runs.find("tiny/go").records("train")] == [2, 4]


def test_distillation_stopped_and_resumed_equals_straight_through(trained, outputs):
    run = runs.open_run("tiny", "x", distill_steps=4, save_every_steps=2, log_every_steps=3)
    list(distill.distill(run))
    straight = run.load_state("segmenter")
    for path in run.checkpoints("segmenter"):
        if path.name != "segmenter-00000002.pt":
            path.unlink()
    list(distill.distill(run))
    again = run.load_state("segmenter")
    assert all(bool((straight["segmenter"][k] == v).all()) for k, v in again["segmenter"].items())
    logged = [(r["step"], r["segmentation_loss"]) for r in run.records("distill")]
    assert [step for step, _ in logged] == [3, 4]


def test_the_control_is_evaluated_beside_the_segmenter(trained):
    run = runs.open_run("tiny", "x", distill_steps=2, untrained_control=True)
    list(distill.distill_all(run))
    record = evaluate.evaluate(run)
    assert {"foreground_iou", "untrained_foreground_iou"} <= set(record)
    assert record["notes"]["generator weights"] == "ema"


def test_a_stage_without_the_one_before_names_its_command(outputs, trained, capsys):
    message = fails(["distill", "-p", "dataset", "creatures", "--run", "no"], capsys)
    assert "ganseg train -p dataset creatures --run no" in message
    message = fails(["evaluate", "-p", "dataset", "tiny", "--run", "x"], capsys)
    assert "ganseg distill -p dataset tiny --run x" in message


@pytest.mark.parametrize(
    "argv, message",
    [
        (["trian"], "did you mean train"),
        (["train", "-p", "datset", "creatures"], "did you mean dataset"),
        (["train", "-p", "dataset", "creatues"], "did you mean creatures"),
        (["train", "-p", "n_parts", "0"], "n_parts: 0 is not allowed"),
        (["train", "-p", "n_parts", "many"], "n_parts: 'many' is not allowed"),
        (["train", "-p", "n_per", "1"], "n_per: 1 is not allowed"),
        (["train", "-p", "image_size", "48"], "a power of two"),
        (["train", "-p", "dataset", "folder"], "source"),
        (["train", "-p", "dataset", "folder", "-p", "source", "nowhere"], "nowhere"),
        (["train", "-p", "spade_hiden", "4"], "did you mean spade_hidden"),
        (["train", "--run", "../up"], "run: '../up' is not allowed"),
        (["train", "-p", "overrides", "n_parts=4"], "overrides: 'n_parts=4' is not allowed; it should be names and"),
        (["samples", "-p", "n_samples", "many"], "n_samples: 'many' is not allowed; it should be a whole number"),
        (["samples", "-p", "n_samples", "2.5"], "n_samples: '2.5' is not allowed; it should be a whole number"),
        (["prepare", "-p", "download", "maybe"], "download: 'maybe' is not allowed; it should be true or false"),
        (["ablations", "-p", "seeds", "3"], "seeds: '3' is not allowed; it should be a list, as [1, 2]"),
        (["benchmark", "-p", "n_parts", "4"], "n_parts: '4' is not allowed; it should be a list, as [1, 2]"),
    ],
)
def test_a_users_mistake_ends_in_one_sentence_and_writes_nothing(argv, message, outputs, capsys):
    assert message in fails(argv, capsys)
    assert not outputs.exists()


def test_another_config_is_refused_and_the_run_stays_as_it_was(trained, capsys):
    before = {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()}
    message = fails(["train", "-p", "dataset", "tiny", "-p", "n_parts", "3", "--run", "x"], capsys)
    assert "n_parts" in message and "made with 5, not 3" in message
    assert {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()} == before


def test_the_shipped_creatures_model_is_a_run_of_its_own_name(outputs, capsys):
    run = runs.open_run("tiny", "shipped", needs="segmenter", max_test_pictures=50)
    assert "tiny/shipped is the creatures model that ships with ganseg" in capsys.readouterr().out
    record = evaluate.evaluate(run)
    assert record["foreground_iou"] > 0.6 and record["collapse"] == 0
    size = sum(path.stat().st_size for path in runs.SHIPPED.iterdir())
    assert size < 3_000_000


@pytest.mark.parametrize("notebook", cli.NEEDS)
def test_a_first_training_takes_no_notebooks_default_run(trained_try, notebook):
    """What opens with the defaults is the shipped model, before and after `ganseg train` with its own defaults."""
    tagged = papermill.inspect_notebook(str(config.ROOT / "notebooks" / f"{notebook}.ipynb"))
    name = yaml.safe_load(tagged["run"]["default"])
    run = runs.open_run("tiny", name, cli.NEEDS[notebook])
    assert run.cfg.n_parts == 8 and run.newest("gan").stem == "gan-00001200"
    if notebook in ("distill", "evaluate"):  # which are modules too
        assert arguments.RUNS[cli.NEEDS[notebook]] == name


@pytest.mark.parametrize("argv", [["--help"], []])
def test_help_lists_every_notebook_with_its_title(argv, capsys):
    cli.main(argv)
    printed = capsys.readouterr().out
    for path in NOTEBOOKS:
        title = "".join(json.loads(path.read_text())["cells"][0]["source"]).splitlines()[0].removeprefix("# ")
        assert re.search(rf"^  {path.stem} +{re.escape(title)}$", printed, re.M)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_help_of_a_notebook_lists_its_parameters_and_all_settings(path, outputs, capsys):
    cli.main([path.stem, "--help"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: ganseg {path.stem} [-p NAME VALUE]") and not outputs.exists()
    for name, tag in papermill.inspect_notebook(str(path)).items():
        line = rf"^  {name} = {re.escape(tag['default'])} +{re.escape(tag['help'])}$"
        assert bool(re.search(line, printed, re.M)) == (name != "overrides")
    assert set(config.Config.model_fields) <= set(re.findall(r"\w+", printed.split("settings.py explains them")[1]))


def test_help_of_a_module_lists_all_settings(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    assert set(config.Config.model_fields) <= set(re.findall(r"\w+", capsys.readouterr().out))


def test_the_package_runs_as_a_module_and_says_its_version():
    """Without PyTorch, pandas or papermill, which take seconds to import."""
    for argv, said in (("--version", f"ganseg {metadata.version('ganseg')}\n"), ("--help", "usage: ganseg NOTEBOOK"),
                       ("segment --help", "usage: ganseg segment"), ("score --help", "usage: ganseg score")):
        command = [sys.executable, "-X", "importtime", "-m", "ganseg", *argv.split()]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith(said)
        assert not re.search(r"\| +(torch|papermill|pandas|numpy)$", done.stderr, re.M)


@pytest.fixture
def trained_try(outputs):
    train.main(["-p", "max_steps", "2"])
    assert runs.find("try").label == "tiny/try"


def test_a_run_that_a_user_names_is_never_the_shipped_one(outputs, capsys):
    message = fails(["evaluate", "-p", "dataset", "tiny", "--run", "mine"], capsys)
    assert "tiny/mine has no trained segmenter; make it with: ganseg distill" in message
    message = fails(["train", "-p", "dataset", "tiny", "--run", "shipped", "-p", "n_parts", "3"], capsys)
    assert "the run tiny/shipped was made with 8, not 3" in message


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_fully_seen_by_papermill_and_known_to_the_config(path):
    cells = json.loads(path.read_text())["cells"]
    (cell,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assigned = {line.split(":")[0] for line in "".join(cell["source"]).splitlines()}
    seen = papermill.inspect_notebook(str(path))
    assert assigned == set(seen)
    assert set(seen) <= {*config.Config.model_fields, *cli.DEFAULTS, "overrides", *OWN.get(path.stem, ())}
    assert all(parameter["help"] for name, parameter in seen.items() if name != "seed")


@pytest.mark.slow
@pytest.mark.parametrize("folder, notebook", [(".", "notebooks/train.ipynb"), ("notebooks", "train.ipynb")])
def test_plain_papermill_works_from_the_root_and_from_notebooks_and_piped(folder, notebook, outputs, tmp_path):
    command = [sys.executable, "-m", "papermill", notebook, "-p", "dataset", "tiny", "-p", "max_steps", "2"]
    with open(tmp_path / "out.ipynb", "w") as piped:
        done = subprocess.run(command, cwd=config.ROOT / folder, stdout=piped, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    assert (outputs / "tiny" / "try" / "metrics.jsonl").exists()


@pytest.fixture
def photos(tmp_path):
    """A folder of eight photos of mixed kinds and one broken file."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i, mode in enumerate(("RGB", "L", "RGBA", "P", "CMYK", "RGB", "RGB", "L")):
        picture = Image.effect_noise((40 + 7 * i, 50), 80).convert(mode)
        picture.save(folder / ("more" if i % 2 else "") / f"{i}.{'JPG' if mode in ('RGB', 'CMYK') else 'png'}")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def tiny_model():
    """The tiny settings that are not about the data set, as -p pairs."""
    values = yaml.safe_load((config.ROOT / "params" / "tiny.yaml").read_text())
    data = ("reader", "max_train_pictures", "max_test_pictures", "fit_pictures", *STEPS[1::3])
    return [x for name, value in values.items() if name not in data for x in ("-p", name, str(value))]


def test_own_photos_are_trained_on_evaluated_and_segmented(photos, tiny_model, outputs, tmp_path, capsys):
    given = ["-p", "dataset", "folder", "-p", "source", str(photos), "--run", "own", *tiny_model, *STEPS]
    for stage in (train, distill, evaluate):
        stage.main(given)
    assert "broken.png" in (outputs / "folder" / "own" / "skipped_pictures.txt").read_text()
    said = " ".join(capsys.readouterr().out.split())  # what is left out is wrapped
    assert re.search(r"Left out: .*foreground_iou.*: the test pictures have no true foreground masks", said)
    cli.main(["segment", str(photos), "--run", "folder/own", "--out", str(tmp_path / "parts")])
    with Image.open(tmp_path / "parts" / "more" / "7_parts.png") as parts:
        assert (parts.mode, parts.size) == ("P", (89, 50))
    assert (tmp_path / "parts" / "more" / "7_overlay.jpg").exists()
    assert (tmp_path / "parts" / "parts.csv").read_text().count("\n") == 1 + 8 * 5
    assert "broken.png" in capsys.readouterr().out


def test_fewer_photos_than_a_batch_are_an_error_that_names_the_unreadable_ones(photos, tiny_model, outputs, capsys):
    given = ["-p", "dataset", "folder", "-p", "source", str(photos), *tiny_model, "-p", "batch_size", "9"]
    message = fails(given, capsys, run=train.main)
    assert "8 pictures can be read" in message and "broken.png" in message
    assert not (outputs / "folder").exists()


def test_a_damaged_zip_is_named(outputs, tmp_path, capsys):
    (tmp_path / "photos.zip").write_bytes(b"PK\x03\x04 cut short")
    given = ["-p", "dataset", "folder", "-p", "source", str(tmp_path / "photos.zip")]
    assert "photos.zip" in fails(given, capsys, run=train.main)
    assert not (outputs / "folder").exists()


def test_two_points_per_part_warn_and_train(outputs, capsys):
    train.main(["-p", "dataset", "tiny", "--run", "two", "-p", "n_per", "2", "-p", "max_steps", "2"])
    printed = capsys.readouterr().out
    assert "Warning: n_per is 2: the paper saw its parts collapse" in printed and "step 2/2" in printed


def test_a_runs_config_says_what_it_was_made_with(trained):
    saved = yaml.safe_load((trained.folder / "config.yaml").read_text())
    assert {"commit", "python", "torch", "device"} <= set(saved["made_with"])


def test_texts_stay_as_they_were_typed():
    parser = arguments.add_parameters(argparse.ArgumentParser())
    args = parser.parse_args(["-p", "run", "007", "-p", "follow", "1e5", "-p", "source", "2024_01", "-p", "n", "1e3"])
    read = arguments.parameters(args, {"run", "follow", "source", "n"}, {"run": "str", "follow": "str", "n": "float"})
    assert read == {"run": "007", "follow": "1e5", "source": "2024_01", "n": 1000.0}


def test_parameters_of_a_notebook_are_not_checked_as_settings_of_the_same_name(outputs):
    notebook = config.ROOT / "notebooks" / "benchmark.ipynb"
    values = {"dataset": "tiny", "run": "x", "n_parts": [1, 4], "image_size": [32]}
    assert cli._run_folder("benchmark", papermill.inspect_notebook(str(notebook)), values) == outputs / "tiny" / "x"
    assert cli._run_folder("compare", {}, {"dataset": "all", "run": "compare"}) == outputs / "all" / "compare"
