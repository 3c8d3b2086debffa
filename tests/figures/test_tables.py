"""Tables in notebooks and CSV files: what stands in a file is text, never markup and never a formula."""

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from ganseg.figures import tables

MARKUP = "<img src=x onerror=alert(1)>"
NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def test_markup_in_cells_index_and_columns_is_shown_as_text():
    page = tables.styled(pd.DataFrame({MARKUP: [MARKUP, 1 / 3], "a": [None, 2]}, index=[MARKUP, "b"]), 2).to_html()
    assert "<img" not in page and page.count("&lt;img src=x onerror=alert(1)&gt;") == 3
    assert ">0.33</td>" in page and re.search(r"<td[^>]*></td>", page)  # what is missing is empty


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0d"])
def test_no_text_of_a_csv_is_a_formula_and_numbers_stay_numbers(tmp_path, begins):
    text = f"{begins}1+1"
    tables.save_csv(pd.DataFrame({"a": [text, f"b{begins}"], text: [-1.5, None]}, index=[text, "c"]), tmp_path / "t.csv")
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
