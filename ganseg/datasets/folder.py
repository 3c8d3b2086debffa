"""Own pictures of any size and mode, in subfolders too. With masks/ or landmarks.csv beside them they can be tested on.

masks/NAME.png  labels of the picture NAME: 0 background, 1 to 255 parts; grey or palette, of the picture's size
landmarks.csv   columns file, optionally split (train or test), and NAME_x, NAME_y of each landmark in pixels;
                empty cells are missing; left_eye and right_eye give the inter-ocular distance
"""

import functools
import math
from pathlib import PurePosixPath

import numpy as np

from ganseg.datasets.base import Listing, Wanted
from ganseg.datasets.labels import index_labels
from ganseg.datasets.source import NO_PICTURES, is_picture
from ganseg.datasets.table import read_table

ARCHIVES = {}
OBTAIN = "a folder, zip or tar of your own pictures"
WANTED = [
    Wanted("masks/", "foreground_iou, nmi, ari and part_miou", required=False),
    Wanted("landmarks.csv", "errors of landmarks", required=False),
]
PUBLISHED = {}
TABLE = "landmarks.csv"
N_TEST = 500  # pictures shown where nothing is annotated


def list_split(source, split, cfg):
    """One split of a source of own pictures.

    The table's column `split` divides them. A picture that it does not name is for training. Without that column,
    every second annotated picture is for testing. Without annotations nothing can be tested on: "train" is all
    pictures, and "test" an even spread of 500 of them, on which to show detections.
    Returns a Listing. Raises UserError when there is no picture, or a table or mask does not fit.
    """
    if source.path.is_file() and is_picture(source.path.name):
        raise source.error("is one picture; it should be a folder or zip of pictures.")
    folder = source.find("masks/")
    masks = [name for name in source.names if folder and name.startswith(folder) and name.lower().endswith(".png")]
    names = [name for name in source.pictures() if not (folder and name.startswith(folder))]
    if folder and not masks:
        raise source.error(f"holds no png in {folder}; masks are grey or palette png, and pictures lie elsewhere.")
    if not names:
        raise source.error(NO_PICTURES)
    mask_of = _match_masks(source, names, masks, folder) if masks else {}
    table = source.find(TABLE)
    landmark_names, landmarks, split_of = read_table(source, table, names) if table else ((), {}, {})
    annotated = [name for name in names if name in mask_of or name in landmarks]
    chosen, split_by = _choose(names, split, annotated, split_of)
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


def _choose(names, split, annotated, split_of):
    """The pictures of a split, and what the split was made by."""
    if split_of:
        return [name for name in names if split_of.get(name, "train") == split], TABLE
    test = set(annotated[1::2] or annotated)
    if test:
        return [name for name in names if (name in test) == (split == "test")], "every second annotated picture"
    n = len(names) if split == "train" else min(N_TEST, len(names))
    return [names[i * len(names) // n] for i in range(n)], "nothing: test pictures are training pictures too"


def _match_masks(source, names, masks, folder):
    """{picture: its mask}, by path (an images/ beside masks/ left out), else by file name where that is unique."""
    top = folder[: -len("masks/")]
    by_path, by_stem = {}, {}
    for name in names:
        path = name.removeprefix(top).removeprefix("images/")
        by_path.setdefault(str(PurePosixPath(path).with_suffix("")), []).append(name)
        by_stem.setdefault(PurePosixPath(name).stem, []).append(name)
    mask_of = {}
    for mask in masks:
        path = PurePosixPath(mask.removeprefix(folder)).with_suffix("")
        pictures = by_path.get(str(path)) or by_stem.get(path.name, [])
        if len(pictures) > 1:
            raise source.error(f"holds several pictures for the mask {mask}: {', '.join(pictures[:3])}; put masks in "
                               "subfolders as the pictures are, or rename them.")
        if pictures and mask_of.setdefault(pictures[0], mask) != mask:
            raise source.error(f"holds two masks for {pictures[0]}: {mask_of[pictures[0]]} and {mask}.")
    if not mask_of:
        raise source.error(f"holds {len(masks):,} masks in {folder}, none named as a picture; the first is {masks[0]}.")
    if len(mask_of) < len(masks):
        print(f"{len(masks) - len(mask_of):,} of {len(masks):,} masks in {folder} are named as no picture.", flush=True)
    return mask_of
