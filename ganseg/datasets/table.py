"""A table of landmarks, and which picture a name in it means."""

import codecs
import csv
import io
import math
import textwrap
import unicodedata
from pathlib import PurePosixPath

from ganseg.datasets.kinds import is_picture

MISSING = {"", "-", "?", "na", "n/a", "nan", "none", "null"}  # in any letter case


def read_table(source, path, pictures):
    """A table of landmarks beside own pictures, as editors and spreadsheets save it.

    path      of the table within the source: columns file, optionally split (train or test), NAME_x and NAME_y, in any
              letter case, separated by commas, semicolons or tabs; with the last two, commas may be decimal
    pictures  names within the source, which the table names as `match` takes them
    Returns the landmarks' names (L,) in small letters, {picture: 2 L floats x, y, ..., NaN where missing} and
    {picture: split}, which is empty without that column. Raises UserError, which says where, for what is not clear.
    """
    rows, point = _read_rows(source, path)
    columns = list(rows[0][1]) if rows else []
    names = tuple(c[:-2] for c in columns if c.endswith("_x"))
    known = match([row["file"] for _, row in rows], pictures, path[: path.rfind("/") + 1])
    landmarks, splits = {}, {}
    for line, row in rows:
        listed, split = row["file"], row.get("split", "train").lower()
        file = (known[listed] or [listed])[0]
        try:
            if len(known[listed]) > 1:
                raise ValueError(f"names {listed}, which may be {' or '.join(known[listed][:2])}")
            if file in landmarks:
                raise ValueError(f"names {listed} for the second time")
            if split not in ("train", "test"):
                raise ValueError(f"has the split {row['split'][:50]!r}; allowed are train and test")
            landmarks[file] = [_coordinate(row[f"{name}_{axis}"], point) for name in names for axis in "xy"]
        except ValueError as error:
            raise source.error(f"has a {path} whose line {line} {error}.") from None
        if "split" in row:
            splits[file] = split
    source.check_all_in(set(pictures), list(landmarks), f"pictures of {path}")
    return names, landmarks, splits


def _read_rows(source, path):
    """[(line number, {column: cell})] of a table, and what its decimal points are written as."""
    text = source.parse(path, _decode)
    delimiter = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        lines = [(reader.line_num, [_plain(cell) for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise source.error(f"has a {path} whose line {reader.line_num} cannot be read: {error}.") from None
    columns = [cell.lower() for cell in lines[0][1]] if lines else []
    while columns and not columns[-1]:  # spreadsheets add empty columns
        columns.pop()
    problem = _problem(columns, len(lines))
    if problem:
        raise source.error(f"has a {path} that {textwrap.shorten(problem, 500, placeholder=' ...')}.")
    for line, cells in lines:
        if len(cells) < len(columns) or any(cells[len(columns) :]):
            raise source.error(f"has a {path} whose line {line} has {len(cells)} cells, the header {len(columns)}.")
    rows = [(line, dict(zip(columns, cells, strict=False))) for line, cells in lines[1:]]
    return rows, "." if delimiter == "," else ","


def _problem(columns, n_lines):
    """What is wrong with the columns of a table, or None."""
    pairs = {c for c in columns if c[:-2] and c[-2:] in ("_x", "_y") and {c[:-2] + "_x", c[:-2] + "_y"} <= set(columns)}
    unclear = [c or "without a name" for c in columns if c not in pairs | {"file", "split"} or columns.count(c) > 1]
    if "file" not in columns or not pairs:
        return f"lacks the column file or the columns NAME_x and NAME_y; it has {', '.join(columns) or 'none'}"
    if unclear:
        return (f"has the columns {', '.join(unclear)}; allowed are file, split and pairs of NAME_x and NAME_y, each "
                "once: rename the others or take them out")
    return "has a header and no more; it should have a line for each annotated picture" if n_lines == 1 else None


def _decode(data):
    """The text of a table: UTF-8, UTF-16 by its mark or zeros, else as Excel saves it in Western Europe."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _coordinate(text, point):
    """The number in a cell, NaN where it is missing. Raises ValueError for anything else."""
    try:
        return math.nan if text.lower() in MISSING else float(text.replace(point, "."))
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from None


def _plain(text):
    """A text in one spelling: accents and their letters as one, no line breaks."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def match(names, pictures, top=""):
    """Which pictures are meant by names that people wrote: {name: pictures}, one where it is clear.

    top  the folder of the table with the names, which ends in /; pictures below it may be named from there
    A name is taken as it is, else without images/, extension or folders, else in any letter case and Unicode form.
    """
    found, index = {}, {}  # index: form -> how clear it is -> pictures
    for picture in pictures:
        for rank, form in enumerate(_forms(_plain(picture), _plain(top))):
            index.setdefault(form, {}).setdefault(rank, []).append(picture)
    for name in set(names):
        wanted = PurePosixPath(_plain(name).replace("\\", "/")).as_posix()
        ranks = index.get(wanted) or index.get(wanted.casefold()) or {0: []}
        found[name] = ranks[min(ranks)]
    return found


def _forms(picture, top):
    """Ways to write the name of a picture, the clearest first; without its folders only if it lies below `top`."""
    below = picture.removeprefix(top)
    forms = [below, picture, below.removeprefix("images/")]
    forms += [_without_ending(form) for form in forms]
    if picture.startswith(top):
        name = PurePosixPath(picture).name
        forms += [name, _without_ending(name)]
    return [*forms, *map(str.casefold, forms)]


def _without_ending(name):
    return str(PurePosixPath(name).with_suffix("")) if is_picture(name) else name
