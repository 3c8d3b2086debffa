"""Own pictures of any size and mode, in subfolders too. With masks/ or landmarks.csv beside them they can be tested on.

Several of either may lie in subfolders; ganseg.datasets.layout says what else is understood.

masks/NAME.png  labels of the picture NAME: 0 background, 1 to 255 parts; grey or palette, of the picture's size
landmarks.csv   columns file, optionally split (train or test), and NAME_x, NAME_y of each landmark in pixels;
                empty cells are missing; left_eye and right_eye give the inter-ocular distance
"""

import functools
import hashlib
import math
import unicodedata

import numpy as np

from ganseg import files
from ganseg.datasets.base import Listing, Wanted
from ganseg.datasets.labels import index_labels
from ganseg.datasets.layout import TABLE, read_layout
from ganseg.datasets.table import read_table
from ganseg.datasets.walk import printable

ARCHIVES = {}
OBTAIN = "a folder, zip or tar of your own pictures"
WANTED = [
    Wanted("masks/", "foreground_iou, nmi, ari and part_miou", required=False),
    Wanted("landmarks.csv", "errors of landmarks", required=False),
]
PUBLISHED = {}
BY_HASH = "a hash of their names, which takes about half of the annotated ones"
HELD_OUT = "a hash of their names, which holds out a sixteenth, for nothing is annotated"
N_TEST = 500  # pictures to show and to score without labels, where nothing is annotated
N_LEAST = 20  # fewer held out say nothing; then all are trained on


def list_split(source, split, cfg):
    """One split of a source of own pictures.

    The table's column `split` divides them, else folders named train, val and test. A picture that neither names is for
    training. Without both, about half of the annotated pictures are for testing, by a hash of their names. Without
    annotations a sixteenth is held out in that way, at most 500, to show detections and to score them without labels.
    Where that would be fewer than 20, "train" is all pictures, and "test" is too.
    Returns a Listing. Raises UserError when there is no picture, or a table or mask does not fit.
    """
    if source.names == [source.path.name]:
        raise source.error("is one picture; it should be a folder or zip of pictures.")
    layout = read_layout(source)
    names, mask_of = layout.pictures, layout.mask_of
    landmark_names, landmarks, split_of = _read_tables(source, layout)
    for note in layout.notes if split == "train" else []:  # once
        print(printable(files.one_line(f"{cfg.dataset}: {note}")), flush=True)
    annotated = [name for name in names if name in mask_of or name in landmarks]
    chosen, split_by = _choose(names, split, annotated, {**layout.split_of, **split_of})
    split_by = split_by if split_of or not layout.split_of else "their folders"
    annotations = {"upright": True, "split_by": split_by}
    if mask_of:
        to_labels = functools.partial(index_labels, ignore_label=cfg.ignore_label)
        annotations |= {"masks": [mask_of.get(name) for name in chosen], "to_labels": to_labels}
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
    if annotated:
        # Whether a picture is tested on depends on no other one, but for the first two
        by_hash = sorted(annotated, key=_hash)
        n = sum(_hash(name) < "8" for name in by_hash)
        test = set(by_hash[: min(max(n, 1), max(len(by_hash) - 1, 1))])
        return [name for name in names if (name in test) == (split == "test")], BY_HASH
    held_out = sorted((name for name in names if _hash(name) < "1"), key=_hash)[:N_TEST]
    if len(held_out) < N_LEAST:
        return names, "nothing: test pictures are training pictures too"
    held_out = set(held_out)
    return [name for name in names if (name in held_out) == (split == "test")], HELD_OUT


def _hash(name):
    """A text of hexadecimal digits, the same for both ways in which Unicode writes a name."""
    return hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "replace")).hexdigest()


def _read_tables(source, layout):
    """All tables of landmarks as one: see read_table."""
    names, landmarks, split_of = (), {}, {}
    for path in layout.tables:
        columns, points, splits = read_table(source, path, layout.pictures)
        if names and columns != names:
            raise source.error(f"has the landmarks {', '.join(columns)} in {path}, but {', '.join(names)} in "
                               f"{layout.tables[0]}; all tables should have the same.")
        twice = min(landmarks.keys() & points.keys(), default=None)
        if twice:
            raise source.error(f"has several tables with landmarks of {twice}: {', '.join(layout.tables)}; leave one.")
        names, landmarks, split_of = columns, landmarks | points, split_of | splits
    return names, _with_one_code(landmarks), split_of


def _with_one_code(landmarks):
    """Landmarks with -1, -1, which is missing, for 0, 0 where some picture of any split has several there."""
    points = {name: np.reshape(xy, (-1, 2)) for name, xy in landmarks.items()}
    if not any((xy == 0).all(axis=1).sum() > 1 for xy in points.values()):
        return landmarks
    return {name: np.where((xy == 0).all(axis=1, keepdims=True), -1, xy).ravel() for name, xy in points.items()}
