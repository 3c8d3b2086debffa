import json

import numpy as np
import pandas as pd

from ganseg.figures import pictures, plots

TRAIN = [{"step": s, "time_s": 1.0, "a_loss": 1.0, "b_loss": 0.1} for s in (10, 20)]
SHARES = [{"step": s, "background_share": 0.7, "part_1_share": 0.2, "part_2_share": 0.1} for s in (10, 20)]


def test_each_loss_gets_its_own_axes_and_time_gets_none():
    figure = plots.training_curves(TRAIN, "Training")
    assert [trace.name for trace in figure.data] == ["a_loss", "b_loss"]
    assert len({trace.yaxis for trace in figure.data}) == 2
    assert list(figure.data[0].x) == [10, 20]


def test_a_quantity_missing_from_some_records_is_drawn_where_it_is():
    figure = plots.training_curves([*TRAIN, {"step": 30, "gradient_penalty": 0.5}], "Training")
    assert list(figure.data[2].x) == [30]
    assert figure.data[2].mode == "markers"


def test_every_column_of_curves_names_its_steps():
    record = {"step": 1, **{f"{name}_loss": 1.0 for name in "abcdefg"}}
    figure = plots.training_curves([record], "Seven")
    titled = [axis for axis in figure.select_xaxes() if axis.title.text == "step"]
    assert len(titled) == 3


def test_no_records_give_an_empty_figure_with_its_title():
    for figure in (plots.training_curves([], "Nothing"), plots.part_shares([], "Nothing")):
        assert figure.layout.title.text == "Nothing"
        assert all(not trace.x for trace in figure.data)


def test_part_shares_are_stacked_in_the_colours_of_the_parts():
    figure = plots.part_shares(SHARES)
    part_1 = next(trace for trace in figure.data if trace.name == "part_1")
    assert part_1.fillcolor == "rgb({}, {}, {})".format(*pictures.part_colors(2)[0])
    assert sum(trace.y[0] for trace in figure.data) == 1
    assert len({trace.stackgroup for trace in figure.data}) == 1


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
