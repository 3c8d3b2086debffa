"""Tables for people: what a file or a folder's name holds stays text, in notebooks and in spreadsheets."""

import math
import unicodedata
from numbers import Real

import pandas as pd

from ganseg import files

FORMULA = tuple("=+-@\t\r\n")  # a cell that begins so is computed by a spreadsheet, in full width too
LEFT, RIGHT = (f"text-align: {side}; vertical-align: top" for side in ("left", "right"))


def styled(frame, precision=3):
    """A DataFrame or Series as a pandas Styler: all rows, whole texts at the left, numbers at the right.

    precision  digits after the point, more for numbers near 0; whole numbers have none
    What is missing is empty. Markup in cells and names is shown as text. Names of columns must differ.
    """
    frame = frame.to_frame() if frame.ndim == 1 else frame
    shown = frame.style.format(lambda value: _as_cell(value, precision), escape="html")
    shown = shown.format_index(escape="html").format_index(escape="html", axis="columns")
    # Notebooks put all cells at the right
    sides = {name: RIGHT if all(map(_is_number, frame[name].dropna())) else LEFT for name in frame}
    of_columns = {name: [{"selector": "", "props": side}] for name, side in sides.items()}
    return shown.set_table_styles([{"selector": "th", "props": LEFT}]).set_table_styles(of_columns, overwrite=False)


def save_csv(frame, path, index=True):
    """Write a DataFrame as CSV, whole or not at all; a text that a spreadsheet would compute gets a ' in front.

    path   str or Path
    index  whether the index becomes the first column
    """
    frame = frame.rename(index=_as_text, columns=_as_text).map(_as_text)
    with files.whole(path) as file:
        frame.to_csv(file, index=index, lineterminator="\r\n")  # which quotes a lone \r too


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool)


def _as_cell(value, precision):
    """What a cell shows, as text."""
    if pd.isna(value) is True:  # of a list it is an array
        return ""
    if not _is_number(value):
        return str(value)
    if math.isinf(value) or value == int(value):
        return f"{value:.0f}"
    return f"{value:.{precision}{'g' if abs(value) < 10**-precision else 'f'}}"


def _as_text(cell):
    begins = unicodedata.normalize("NFKC", cell[:1]) if isinstance(cell, str) else ""
    return f"'{cell}" if begins.startswith(FORMULA) else cell
