"""Training curves: a panel for each quantity, and the parts' shares in their colours."""

import numpy as np
import pytest

from ganseg import part_names
from ganseg.figures import curves, pictures

TRAIN = [{"step": s, "time_s": 1.0, "a_loss": 1.0, "b_loss": 0.1} for s in (10, 20)]
SHARES = [{"step": s, "background_share": 0.7, "part_1_share": 0.2, "part_2_share": 0.1} for s in (10, 20)]
LABELS = ["1: $head$ \\", "2: <b>_arm</b>"]
NAMES = [label[3:] for label in LABELS]


class Logged:
    """What stage_curves reads of a run, with the part names LABELS."""

    def __init__(self, records, shares):
        self.of_stage = {"train": records, "train_samples": shares}

    def records(self, stage):
        return self.of_stage[stage]


@pytest.fixture
def painted(monkeypatch):
    parts = part_names.make_parts({k: {"name": label} for k, label in enumerate(NAMES, start=1)}, len(NAMES))
    monkeypatch.setattr(curves.part_names, "read_parts", lambda run: parts)
    return lambda records, shares: curves.stage_curves(Logged(records, shares), "train")


def panels(records, shares=()):
    """Title -> matplotlib Axes of the drawn curves."""
    return {axes.get_title(): axes for axes in curves.training_figure(records, list(shares), LABELS).axes}


def test_each_loss_gets_its_own_panel_and_time_gets_none():
    drawn = panels(TRAIN)
    assert list(drawn) == ["a loss", "b loss"]
    (line,) = drawn["a loss"].lines
    assert list(line.get_xdata()) == [10, 20] and list(line.get_ydata()) == [1, 1]


def test_a_quantity_missing_from_some_records_is_drawn_where_it_is_and_a_single_record_as_a_dot():
    drawn = panels([*TRAIN, {"step": 30, "gradient_penalty": 0.5}])
    (dot,) = drawn["gradient penalty"].lines
    assert list(dot.get_xdata()) == [30] and dot.get_marker() == "."
    assert drawn["a loss"].lines[0].get_marker() == ""


def test_seven_quantities_stand_in_three_rows():
    figure = curves.training_figure([{"step": 1, **{f"{name}_loss": 1.0 for name in "abcdefg"}}], [], LABELS)
    figure.canvas.draw()
    assert len({round(axes.get_position().y0, 2) for axes in figure.axes}) == 3


def test_shares_of_the_foreground_are_stacked_in_the_colours_of_the_parts():
    drawn = panels(TRAIN, SHARES)
    assert list(drawn["background share"].lines[0].get_ydata()) == [0.7, 0.7]
    bands = drawn["share of the foreground"].collections
    colors = pictures.part_colors(2) / 255
    assert [band.get_facecolor()[0, :3] for band in bands] == [pytest.approx(color) for color in colors]
    heights = [np.ptp(band.get_paths()[0].vertices[:, 1]) for band in bands]
    assert sum(heights) == pytest.approx(1) and heights[0] == pytest.approx(2 / 3)
    texts = [text.get_text() for text in drawn["share of the foreground"].get_legend().get_texts()]
    assert sorted(texts) == sorted(LABELS)  # as they are: no mathematics, no markup


def test_long_names_of_parts_leave_the_panels_their_width():
    widths = []
    for labels in (LABELS, ["1: " + "n" * 30, "2: b"]):
        figure = curves.training_figure(TRAIN, SHARES, labels)
        figure.canvas.draw()
        widths.append([axes.get_position().width for axes in figure.axes])
    assert widths[0] == pytest.approx(widths[1]) and widths[0][0] > 0.2


def test_the_picture_shows_every_part_in_its_colour(painted):
    picture = painted(TRAIN, SHARES)
    assert picture.dtype == np.uint8 and picture.shape[1:] == (720, 3)
    for color in pictures.part_colors(2):
        assert (picture == color).all(axis=-1).sum() > 1000
    without = painted(TRAIN, [])
    assert len(without) < len(picture)


def test_names_of_quantities_are_no_mathematics(painted):
    records = [{"step": s, "$\\frac$_loss": 1.0} for s in (1, 2)]
    assert list(panels(records)) == ["$\\frac$ loss"]
    assert painted(records, []).shape[1] == 720  # as mathematics it could not be drawn


def test_a_loss_that_is_not_a_number_and_no_lines_at_all_are_borne(painted):
    assert painted([{"step": 1, "area_loss": float("nan")}], []).shape[1] == 720
    empty = curves.training_figure([], [], LABELS)
    assert empty.axes == [] and empty.get_suptitle() == "No step is logged yet."
