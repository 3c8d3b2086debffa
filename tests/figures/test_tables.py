"""Tables in notebooks and CSV files: what stands in a file is text, never markup and never a formula."""

import csv
import html
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from ganseg import config
from ganseg.figures import tables

MARKUP = "<img src=x onerror=alert(1)>"
NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def test_markup_in_cells_index_and_columns_is_shown_as_text():
    page = tables.styled(pd.DataFrame({MARKUP: [MARKUP, 1 / 3], "a": [None, 2]}, index=[MARKUP, "b"]), 2).to_html()
    assert "<img" not in page and page.count("&lt;img src=x onerror=alert(1)&gt;") == 3
    assert ">0.33</td>" in page and re.search(r"<td[^>]*></td>", page)  # what is missing is empty


def read(styler):
    """What a page's table shows: a list of texts for each column, and each column's side."""
    page = styler.to_html()
    cells = re.findall(r'<td [^>]*class="data row\d+ col(\d+)" >(.*?)</td>', page, re.S)
    sides = re.findall(r"\.col\d+ {\s*text-align: (\w+)", page)
    return [[html.unescape(text) for column, text in cells if int(column) == i] for i in range(len(sides))], sides


def test_tables_show_all_rows_whole_sentences_at_the_left_and_numbers_as_people_write_them():
    sentence = "a protocol of many words, " * 12
    frame = pd.DataFrame({"value": [0.80312, 3.0, None, 1.2e-5, 12.3456], "n": [1, 2, 3, 4, 5],
                          "protocol": [sentence, "b", None, "d", "e"], "list": [[1, 2], None, True, 0.5, "x"]})
    shown, sides = read(tables.styled(frame))
    assert shown[0] == ["0.803", "3", "", "1.2e-05", "12.346"] and shown[1] == ["1", "2", "3", "4", "5"]
    assert shown[2] == [sentence, "b", "", "d", "e"] and shown[3] == ["[1, 2]", "", "True", "0.500", "x"]
    assert sides == ["right", "right", "left", "left"]


def test_a_table_of_all_settings_shows_them_all():
    settings = config.load("creatures").model_dump()
    assert len(settings) > 60
    texts = ["" if value is None else str(value) for value in settings.values()]
    assert read(tables.styled(pd.Series(settings).astype(str))) == ([texts], ["left"])


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0d"])
def test_no_text_of_a_csv_is_a_formula_and_numbers_stay_numbers(tmp_path, begins):
    text = f"{begins}1+1"
    frame = pd.DataFrame({"a": [text, f"b{begins}"], text: [-1.5, None]}, index=[text, "c"])
    tables.save_csv(frame, tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))
    assert read == [["", "a", f"'{text}"], [f"'{text}", f"'{text}", "-1.5"], ["c", f"b{begins}", ""]]


def test_a_table_that_cannot_be_made_leaves_the_old_one(tmp_path):
    (tmp_path / "t.csv").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        tables.save_csv(pd.DataFrame({"a": ["\udcff"]}), tmp_path / "t.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"] and (tmp_path / "t.csv").read_text() == "old"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_show_and_save_tables_as_text(path):
    code = "".join(line for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"
                   for line in cell["source"])
    assert not re.findall(r"\.style\b|\.to_csv\(", code)
