"""Labeled Faces in the Wild at 128 x 128 with five landmarks: stands in for CelebA in the wild.

The source is lfw.zip or the folder it unpacks to: images/NAME.jpg and landmarks.csv with the columns file,
split and x, y of each landmark in pixels. The split is by person. Left and right are as seen in the picture.
"""

import csv
import math

import numpy as np
import torch

from ganseg.datasets import Pictures, folder, how_many
from ganseg.errors import UserError

TABLE = "landmarks.csv"
LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
COLUMNS = [f"{name}_{axis}" for name in LANDMARKS for axis in "xy"]
WANTED = (f"lfw.zip or the folder it unpacks to (faces in images/, their landmarks in {TABLE}), "
          "e.g. -p source lfw.zip")


def read(cfg, split, limit=None):
    """One split of the faces, in the order of landmarks.csv.

    Returns Pictures with landmarks and eyes; empty cells of the table are NaN.
    Raises UserError when the source, the table, a column, a number or a picture is missing or wrong.
    """
    source = folder.find(cfg.source, WANTED)
    files = dict(folder.list_files(source))
    rows = _read_table(source, files)
    missing = [row["file"] for row in rows if row["file"] not in files]
    if missing:
        raise UserError(f"source: {source} lacks {len(missing):,} of the {len(rows):,} pictures in {TABLE}, "
                        f"the first is {missing[0]}.")
    rows = [row for row in rows if row["split"] == split]
    if not rows:
        raise UserError(f"source: {TABLE} of {source} has no line with split {split}.")
    rows = rows[:how_many(cfg, split, limit, default=len(rows))]
    listing = [(row["file"], files[row["file"]]) for row in rows]
    images, sizes, kept, skipped = folder.read_pictures(listing, cfg.image_size, cfg.crop)
    points = np.array([rows[i]["points"] for i in kept]).reshape(-1, len(LANDMARKS), 2)
    landmarks = torch.from_numpy(to_square(points, sizes, cfg.crop)).float()  # (N, L, 2)
    return Pictures(images, [rows[i]["file"] for i in kept], None, landmarks, LANDMARKS, (0, 1), skipped)


def to_square(points, sizes, crop):
    """Pixels of the pictures to [-1, 1] of their squares.

    points  (N, L, 2) x, y in pixels; pixel centres are whole numbers
    sizes   (N, 2) width and height in pixels
    Returns (N, L, 2); the outer pixel centres of what the square shows are -1 and 1.
    """
    shown = sizes.min(axis=1, keepdims=True) if crop == "center" else sizes
    offset = (sizes - shown) / 2
    return 2 * (points - offset[:, None]) / (shown[:, None] - 1) - 1


def _read_table(source, files):
    """Lines of landmarks.csv as dicts: file, split, points (L x, y pairs, flat)."""
    if TABLE not in files:
        raise UserError(f"source: {source} holds no {TABLE}; name {WANTED}.")
    text = files[TABLE]().decode("utf-8-sig", "replace")
    reader = csv.DictReader(text.splitlines())
    lacking = [column for column in ["file", "split", *COLUMNS] if column not in (reader.fieldnames or [])]
    if lacking:
        raise UserError(f"source: {TABLE} of {source} lacks the columns {', '.join(lacking)}.")
    rows = []
    for row in reader:
        try:
            points = [float(row[column] or math.nan) for column in COLUMNS]
        except ValueError as error:
            raise UserError(f"source: {TABLE} of {source}, line {reader.line_num}: {error}.") from None
        rows.append({"file": row["file"], "split": row["split"], "points": points})
    return rows
