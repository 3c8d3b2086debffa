"""A table of landmarks, and which picture a name in it means."""

import csv
import math


def read_table(source, path, pictures):
    """A table of landmarks beside own pictures.

    path      of the table within the source: columns file, optionally split (train or test), NAME_x and NAME_y
    pictures  names within the source. The table names them from its own folder or from the top.
    Returns the landmarks' names (L,), {picture: 2 L floats x, y, ..., NaN where missing} and {picture: split}, which is
    empty without that column. Raises UserError, which says where, for what cannot be read.
    """
    pictures, top = set(pictures), path[: path.rfind("/") + 1]
    reader = csv.DictReader(source.read_lines(path))
    columns = reader.fieldnames or []
    names = tuple(c[:-2] for c in columns if c.endswith("_x") and c[:-2] + "_y" in columns)
    if "file" not in columns or not names:
        raise source.error(f"has a {path} that lacks the column file or the columns NAME_x and NAME_y; it has "
                           f"{', '.join(columns) or 'none'}.")
    landmarks, splits = {}, {}
    try:
        for row in reader:
            listed = row["file"] or ""
            file = next((f for f in (top + listed, listed) if f in pictures), listed)
            if file in landmarks:
                raise source.error(f"has a {path} that names {listed} twice, the second time in line "
                                   f"{reader.line_num}.")
            landmarks[file] = [float(row[f"{name}_{axis}"] or math.nan) for name in names for axis in "xy"]
            if "split" in columns:
                splits[file] = row["split"]
                if row["split"] not in ("train", "test"):
                    raise source.error(f"has a {path} whose line {reader.line_num} has the split {row['split']!r}; "
                                       "allowed are train and test.")
    except (TypeError, ValueError, csv.Error) as error:
        raise source.error(f"has a {path} whose line {reader.line_num} cannot be read: {error}.") from None
    source.check_all_in(pictures, list(landmarks), f"pictures of {path}")
    return names, landmarks, splits
