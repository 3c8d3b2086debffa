import json

import numpy as np
import pandas as pd

from ganseg.figures import plots


def test_a_picture_is_stored_compressed_and_shows_no_axes():
    sheet = np.zeros((400, 600, 3), np.uint8)
    figure = plots.picture(sheet, "Black")
    assert len(json.dumps(figure.to_plotly_json(), default=str)) < 50_000
    assert figure.layout.xaxis.visible is False
    assert figure.layout.title.text == "Black"


def test_strips_are_named_at_their_middle():
    figure = plots.strips({"a": np.zeros((10, 40, 3), np.uint8), "b": np.full((10, 40, 3), 255, np.uint8)}, "Rows")
    assert figure.layout.yaxis.tickvals == (5, 15) and figure.layout.yaxis.ticktext == ("a", "b")
    assert not plots.strips({}, "Rows").data


def test_a_sweep_is_drawn_with_its_spread_and_only_where_there_are_metrics():
    table = pd.DataFrame({"nmi": [0.1, 0.5], "nmi_std": [0.01, 0.02]}, index=["n_parts 1", "n_parts 8"])
    (line,) = plots.sweep_curves(table, ["nmi", "landmark_error"], "K").data
    assert list(line.x) == ["n_parts 1", "n_parts 8"] and list(line.y) == [0.1, 0.5]
    assert list(line.error_y.array) == [0.01, 0.02]
    assert not plots.sweep_curves(table, ["landmark_error"], "K").data


def test_runs_without_the_metric_are_no_points():
    table = pd.DataFrame({"dataset": ["a", "a", "b"], "minutes": [1, 2, 3], "nmi": [0.1, None, 0.3]}, index=list("xyz"))
    figure = plots.scatter(table, "minutes", "nmi", "t")
    assert sorted(name for trace in figure.data for name in trace.hovertext) == ["x", "z"]
    assert not plots.scatter(table, "minutes", "ari", "t").data
