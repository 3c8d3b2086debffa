"""Every notebook on runs out of the ordinary. The cells are run here: a kernel takes seconds to start."""

import ast
import json

import pandas as pd
import pytest
from PIL import Image

from ganseg import config, distill, evaluate, measuring, runs, train
from ganseg.errors import UserError
from ganseg.figures import pages, plots
from ganseg.model import averaging
from ganseg.viewer import photos_widget

NOTEBOOKS = [path.stem for path in sorted((config.ROOT / "notebooks").glob("*.ipynb"))]
QUICK = {"max_steps": 2, "distill_steps": 2}
FEW = {  # what makes a notebook quick
    "samples": {"n_samples": 2, "n_detections": 2},
    "embeddings": {"n_samples": 6},
    "equivariance": {"n_samples": 2, "offsets_px": [1], "angles_deg": [10], "moved_parts": 1},
    "fidelity": {"n_generated": 8, "feature_size": 32},
    "ablations": {"sweep": "n_per", "seeds": [0], "max_steps": 1},
    "features": {"max_train_pictures": 8, "overrides": {"max_test_pictures": 4, "fit_pictures": 4}},
    "benchmark": {"n_steps": 1, "n_pictures": 2, "processes": [1]},
}
PAINTS_NOTHING = {"embeddings", "equivariance", "fidelity", "inspector"}  # these look at samples of a GAN


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr(averaging.recalibrate_batchnorm, "__defaults__", (2,))
    monkeypatch.setattr(train, "N_SAMPLES", 2)
    monkeypatch.setattr(evaluate, "N_SAMPLES", 2)
    monkeypatch.setattr(measuring, "N_DETECTIONS", 2)


def execute(name, **parameters):
    """Run a notebook's cells with parameters in place of those that its tagged cell gives.

    No cell shows a bare DataFrame, which pandas cuts: at 60 rows, at 50 letters, at 3.000 for 3.
    """
    names = {}
    for cell in json.loads((config.ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(line for line in cell["source"] if not line.startswith("%")))
            shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, name, "exec"), names)
            value = eval(compile(ast.Expression(shown.value), name, "eval"), names) if shown else None
            assert not isinstance(value, pd.DataFrame | pd.Series), ast.unparse(shown)
        if "parameters" in cell["metadata"].get("tags", []):
            names |= {**FEW.get(name, {}), **parameters}
    return names


def made(name, **fields):
    """A trained, distilled run of the tiny settings."""
    run = runs.open_run("tiny", name, **QUICK, **fields)
    list(train.train(run))
    list(distill.distill_all(run))
    return run


def test_an_autoencoder_goes_through_every_notebook_that_has_a_use_for_it(quick):
    made("x", architecture="autoencoder_points")
    for notebook in set(NOTEBOOKS) - PAINTS_NOTHING - {"ablations", "benchmark", "choose", "features"}:
        execute(notebook, dataset="tiny", run="x")
    for notebook in PAINTS_NOTHING:
        with pytest.raises(UserError, match="auto-encoder, which paints no pictures of its own"):
            execute(notebook, dataset="tiny", run="x")


@pytest.mark.parametrize("split", ["train", "test", "none"])
@pytest.mark.parametrize("architecture", ["gan", "autoencoder_masks"])
def test_masks_in_one_split_or_none_are_enough_for_every_notebook(quick, tmp_path, architecture, split):
    for folder in ("images", "masks"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
    for i in range(12):
        Image.effect_noise((32, 32), 80).convert("RGB").save(tmp_path / "photos" / "images" / f"{i:02}.png")
        if split == ("train", "test")[i % 2]:
            Image.new("L", (32, 32), 1).save(tmp_path / "photos" / "masks" / f"{i:02}.png")
    rows = "".join(f"images/{i:02}.png,{('train', 'test')[i % 2]},4,5\n" for i in range(12))
    if split != "none":  # then nothing can be fitted
        (tmp_path / "photos" / "landmarks.csv").write_text("file,split,a_x,a_y\n" + rows)
    settings = config.load("tiny").model_dump(exclude={"dataset", "reader", "preset", "max_train_pictures", "source"})
    settings |= {**QUICK, "batch_size": 2, "architecture": architecture, "segmenter_width": 4}
    run = runs.open_run("folder", "x", source=str(tmp_path / "photos"), **settings)
    list(train.train(run))
    list(distill.distill_all(run))
    for notebook in ("evaluate", "samples", "compare"):
        execute(notebook, dataset="folder", run="x")
    execute("prepare", dataset="folder", source=str(tmp_path / "photos"))


def test_clusters_of_features_are_evaluated_and_compared_by_the_notebooks(quick):
    execute("features", dataset="tiny", run="x")
    for notebook in ("evaluate", "compare", "features"):
        execute(notebook, dataset="tiny", run="x")


def test_compare_sets_the_runs_of_all_data_sets_beside_each_other(quick):
    evaluate.evaluate(made("x"))
    made("y", architecture="autoencoder_points")
    execute("compare", dataset="all", run="both")


@pytest.mark.parametrize("notebook", ["train", "distill", "evaluate"])
def test_the_word_none_is_a_value_in_every_notebook(quick, notebook):
    made("x")
    wishes = {"fit_pictures": "none", "max_minutes": "none"}
    names = execute(notebook, dataset="tiny", run="x", overrides=wishes)
    assert names["cfg"].fit_pictures is None and names["cfg"].max_minutes is None


def test_a_gan_without_segmenter_is_inspected_and_another_run_followed(quick):
    for name in ("x", "y"):
        list(train.train(runs.open_run("tiny", name, **QUICK)))
    names = execute("inspector", dataset="tiny", run="x", follow="tiny/y")
    assert names["inspector"].label == "tiny/x"
    said = photos_widget.photo_browser(names["opened"]).value
    assert "tiny/x has no trained segmenter; make it with: ganseg distill -p dataset tiny --run x" in said


def test_each_figure_of_a_barely_trained_run_says_so(quick, monkeypatch):
    made("x")
    titles = []
    styled, page, picture = plots._styled, pages._page, plots.picture
    monkeypatch.setattr(plots, "_styled", lambda *args, **layout: titles.append(args[1]) or styled(*args, **layout))
    monkeypatch.setattr(plots, "picture", lambda *args: titles.append(args[1]) or picture(*args))
    monkeypatch.setattr(pages, "_page", lambda *args: titles.append(args[-1]) or page(*args))
    for notebook in ("train", "distill", "evaluate", "samples", "embeddings", "fidelity", "equivariance", "ablations"):
        titles.clear()
        execute(notebook, dataset="tiny", run="x")
        of_the_run = set(titles) - {"Training pictures", "A row of the start tensor"}
        steps = 1 if notebook == "ablations" else 2
        assert of_the_run and all(f"({steps} steps: expect noise)" in title for title in of_the_run), notebook
