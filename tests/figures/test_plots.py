import base64
import html
import io
import re

import nbconvert
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from nbclient import NotebookClient
from PIL import Image

from ganseg.figures import plots, static


def test_a_picture_is_stored_compressed_under_its_title():
    sheet = np.zeros((400, 600, 3), np.uint8)
    image = plots.picture(sheet, "Black")
    page = np.asarray(Image.open(io.BytesIO(image.data)))
    np.testing.assert_array_equal(page[-400:], sheet)
    assert len(image.data) < 50_000 and (page[:-400] < 100).any()  # the title


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


MARKUP = "<i>$x$</i> & %{y}"
PLOTS = {
    "strips": lambda: plots.strips({MARKUP: np.zeros((4, 4, 3), np.uint8)}, MARKUP),
    "sweep_curves": lambda: plots.sweep_curves(
        pd.DataFrame({MARKUP: [0.1], f"{MARKUP}_std": [0.0]}, index=[MARKUP]), [MARKUP], MARKUP),
    "scatter": lambda: plots.scatter(
        pd.DataFrame({"dataset": [MARKUP], MARKUP: [1.0], "y": [2.0]}, index=[MARKUP]), MARKUP, "y", MARKUP),
    "growth": lambda: plots.growth([{"field": MARKUP, "value": 1, "seconds": 1.0}], MARKUP),
    "over_steps": lambda: plots.over_steps([{"step": 1, MARKUP: 1.0}], MARKUP, MARKUP),
    "equivariance": lambda: plots.equivariance([
        {"experiment": "all points", "weights": MARKUP, "variant": MARKUP, "offset_px": 1, "masks_db": 1.0,
         "masks_still_db": 1.0, "foreground_db": 1.0, "foreground_still_db": 1.0}], MARKUP),
    "start_rows": lambda: plots.start_rows({MARKUP: np.zeros((2, 8))}, 2, MARKUP),
    "embedding": lambda: plots.embedding(np.zeros((2, 2)), np.arange(2), np.arange(2), MARKUP, [MARKUP]),
}  # fmt: skip


def texts_of(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0):
        return [text for one in value for text in texts_of(one)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", PLOTS)
def test_no_text_of_a_figure_is_markup(name):
    figure = PLOTS[name]()
    texts = texts_of(figure.to_plotly_json())
    assert not [text for text in texts if "<i>" in text or "$" in text or "%{y}</" in text]
    assert figure.layout.title.text == plots.plain(MARKUP) and html.unescape(figure.layout.title.text) == MARKUP
    assert sum(MARKUP in html.unescape(text) for text in texts) > 1


@pytest.mark.parametrize("name", PLOTS)
def test_a_figure_is_also_a_png_of_the_same_data_and_texts(name):
    figure = PLOTS[name]()
    shown, _ = DisplayFormatter().format(figure)  # what a notebook keeps of it
    picture = Image.open(io.BytesIO(shown["image/png"]))
    assert picture.size == (900, figure.layout.height or 450)
    drawn = static.draw(figure)
    texts = [text.get_text() for text in drawn.findobj(lambda part: hasattr(part, "get_text"))]
    assert drawn.get_suptitle() == MARKUP and sum(MARKUP in text for text in texts) > 1
    points = [trace for trace in figure.data if trace.type.startswith("scatter")]
    lines = [axes.containers for axes in drawn.axes]
    assert [list(bars[0].get_ydata()) for of_axes in lines for bars in of_axes] == [list(trace.y) for trace in points]
    assert len(drawn.axes) == len({trace.xaxis or "x" for trace in figure.data})


def test_a_page_that_nbconvert_makes_shows_figures_and_pictures(tmp_path):
    code = ["import numpy as np\nfrom ganseg.figures import plots",
            "plots.growth([{'field': 'f', 'value': 1, 'seconds': 1.0}], 'Growth')",
            "plots.picture(np.zeros((4, 4, 3), np.uint8), 'Black')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in code])
    notebook = NotebookClient(notebook, kernel_name="python3").execute()
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    images = re.findall(r"<img[^>]*src=\"data:image/png;base64,([^\"]+)\"", page)
    assert [Image.open(io.BytesIO(base64.b64decode(image))).width for image in images][0] == 900 and len(images) == 2
    assert len(nbformat.writes(notebook)) < 100_000


def test_a_png_shows_colours_dashes_spread_and_panels_as_plotly_does():
    records = [{"field": f, "value": v, "seconds": v + 1.0} for f in ("n_parts", "n_per") for v in (1, 2)]
    drawn = static.draw(plots.growth(records, "Growth"))
    left, right = drawn.axes
    assert left.get_position().x1 < right.get_position().x0 and left.get_ylim()[0] == 0
    assert [bars[0].get_linestyle() for bars in left.containers] == ["--", "-"]
    assert [bars[0].get_color() for bars in left.containers] == [plots.GREY, plots.CURVE]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["expected", "measured"]
    table = pd.DataFrame({"nmi": [0.1, 0.5], "nmi_std": [0.25, 0.25]}, index=["a", "b"])
    (bars,) = static.draw(plots.sweep_curves(table, ["nmi"], "K")).axes[0].containers
    (spread,) = bars[2]
    assert [np.ptp(segment[:, 1]) for segment in spread.get_segments()] == [0.5, 0.5]


def test_every_plot_is_asked_for_markup():
    own = [name for name, made in vars(plots).items() if getattr(made, "__module__", "") == "ganseg.figures.plots"]
    assert {name for name in own if not name.startswith("_")} == {*PLOTS, "picture", "plain", "Chart"}


def test_a_setting_that_grows_stands_beside_what_its_operations_let_expect():
    records = [{"field": "n_parts", "value": k, "seconds": s, "gflop": g} for k, s, g in ((1, 2.0, 5), (4, 7.0, 10))]
    figure = plots.growth([*records, {"field": "n_per", "value": 2, "seconds": 3.0}], "Growth")
    drawn = {(line.name, line.xaxis): list(line.y) for line in figure.data}
    assert drawn == {("expected", "x"): [2, 4], ("measured", "x"): [2, 7], ("expected", "x2"): [3],
                     ("measured", "x2"): [3]}  # fmt: skip
    assert [note.text for note in figure.layout.annotations] == ["n_parts", "n_per"]
    assert {line.name: line.line.dash for line in figure.data} == {"expected": "dash", "measured": "solid"}
    assert not plots.growth([], "Growth").data
