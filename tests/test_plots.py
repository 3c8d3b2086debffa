import json

import numpy as np

from ganseg import pictures, plots

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
