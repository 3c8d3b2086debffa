"""Own pictures of any size and mode, in subfolders too. With masks/ or landmarks.csv beside them they can be tested on.

Several of either may lie in subfolders; ganseg.datasets.layout says what else is understood.

masks/NAME.png  labels of the picture NAME: 0 background, 1 to 255 parts; grey or palette, of the picture's size
landmarks.csv   columns file, optionally split (train or test), and NAME_x, NAME_y of each landmark in pixels;
                empty cells are missing; left_eye and right_eye give the inter-ocular distance
"""

import csv
import math

import numpy as np

from ganseg.datasets.base import Listing, Wanted
from ganseg.datasets.decode import index_labels
from ganseg.datasets.layout import TABLE, read_layout
from ganseg.datasets.source import is_picture

ARCHIVES = {}
OBTAIN = "a folder, zip or tar of your own pictures"
WANTED = [
    Wanted("masks/", "foreground_iou, nmi, ari and part_miou", required=False),
    Wanted("landmarks.csv", "errors of landmarks", required=False),
]
PUBLISHED = {}
N_TEST = 500  # pictures shown where nothing is annotated


def list_split(source, split, cfg):
    """One split of a source of own pictures.

    The table's column `split` divides them, else folders named train, val and test. A picture that neither names is for
    training. Without both, every second annotated picture is for testing. Without annotations nothing can be tested on:
    "train" is all pictures, and "test" an even spread of 500 of them, on which to show detections.
    Returns a Listing. Raises UserError when there is no picture, or a table or mask does not fit.
    """
    if source.path.is_file() and is_picture(source.path.name):
        raise source.error("is one picture; it should be a folder or zip of pictures.")
    layout = read_layout(source)
    names, mask_of = layout.pictures, layout.mask_of
    landmark_names, landmarks, split_of = _read_tables(source, layout)
    for note in layout.notes if split == "train" else []:  # once
        print(f"{cfg.dataset}: {note}", flush=True)
    annotated = [name for name in names if name in mask_of or name in landmarks]
    chosen, split_by = _choose(names, split, annotated, {**layout.split_of, **split_of})
    split_by = split_by if split_of or not layout.split_of else "their folders"
    annotations = {"upright": True, "split_by": split_by}
    if mask_of:
        annotations |= {"masks": [mask_of.get(name) for name in chosen], "to_labels": index_labels}
    if landmark_names:
        points = [landmarks.get(name, [math.nan] * (2 * len(landmark_names))) for name in chosen]
        annotations["landmarks"] = np.array(points, np.float64).reshape(len(chosen), len(landmark_names), 2)
        annotations["landmark_names"] = landmark_names
        if {"left_eye", "right_eye"} <= set(landmark_names):
            annotations["eyes"] = landmark_names.index("left_eye"), landmark_names.index("right_eye")
    if (mask_of or landmark_names) and split == "train":
        annotations["fit"] = np.isin(chosen, annotated)
    return Listing(chosen, **annotations)


def is_there(source, name):
    """Whether a source has what a Wanted names, wherever it lies and however it is spelled."""
    layout = read_layout(source)
    return bool(layout.tables if name == TABLE else layout.mask_of)


def _choose(names, split, annotated, split_of):
    """The pictures of a split, and what the split was made by."""
    if split_of:
        return [name for name in names if split_of.get(name, "train") == split], TABLE
    test = set(annotated[1::2] or annotated)
    if test:
        return [name for name in names if (name in test) == (split == "test")], "every second annotated picture"
    n = len(names) if split == "train" else min(N_TEST, len(names))
    return [names[i * len(names) // n] for i in range(n)], "nothing: test pictures are training pictures too"


def _read_tables(source, layout):
    """All tables of landmarks as one: see _read_table."""
    names, landmarks, split_of = (), {}, {}
    for path in layout.tables:
        columns, points, splits = _read_table(source, path, set(layout.pictures))
        if names and columns != names:
            raise source.error(f"has the landmarks {', '.join(columns)} in {path}, but {', '.join(names)} in "
                               f"{layout.tables[0]}; all tables should have the same.")
        twice = min(landmarks.keys() & points.keys(), default=None)
        if twice:
            raise source.error(f"has several tables with landmarks of {twice}: {', '.join(layout.tables)}; leave one.")
        names, landmarks, split_of = columns, landmarks | points, split_of | splits
    return names, landmarks, split_of


def _read_table(source, path, pictures):
    """A table as names, {picture: flat x, y pairs} and {picture: split}."""
    top = path[: -len(TABLE)]
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
