"""Tables for people: what a file or a folder's name holds stays text, in notebooks and in spreadsheets."""

import unicodedata

from ganseg import files

FORMULA = tuple("=+-@\t\r\n")  # a cell that begins so is computed by a spreadsheet, in full width too


def styled(frame, precision=3):
    """A DataFrame as a pandas Styler with so many digits, nothing where a value is missing, and texts as they are."""
    shown = frame.style.format(precision=precision, na_rep="", escape="html")
    return shown.format_index(escape="html").format_index(escape="html", axis="columns")


def save_csv(frame, path, index=True):
    """Write a DataFrame as CSV, whole or not at all; a text that a spreadsheet would compute gets a ' in front.

    path   str or Path
    index  whether the index becomes the first column
    """
    frame = frame.rename(index=_as_text, columns=_as_text).map(_as_text)
    with files.whole(path) as file:
        frame.to_csv(file, index=index, lineterminator="\r\n")  # which quotes a lone \r too


def _as_text(cell):
    begins = unicodedata.normalize("NFKC", cell[:1]) if isinstance(cell, str) else ""
    return f"'{cell}" if begins.startswith(FORMULA) else cell
