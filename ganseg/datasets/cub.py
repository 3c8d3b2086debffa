"""CUB-200-2011: birds with 15 part locations and, from an archive of their own, foreground masks."""

from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from ganseg.datasets.base import Listing, Wanted
from ganseg.datasets.source import locate
from ganseg.errors import UserError

ARCHIVES = {"CUB_200_2011.tgz": "images/", "segmentations.tgz": "segmentations/"}
OBTAIN = (
    "CUB-200-2011 is at https://www.vision.caltech.edu/datasets/cub_200_2011/ (pictures and lists in "
    "https://data.caltech.edu/records/65de6-vp158, masks in https://data.caltech.edu/records/w9d68-gec53): put "
    "CUB_200_2011.tgz and segmentations.tgz into a folder, unpacked or not"
)
IMAGES, SPLIT, PARTS, LOCATIONS = "images.txt", "train_test_split.txt", "parts/parts.txt", "parts/part_locs.txt"
WANTED = [
    Wanted(IMAGES, "anything: the list of the pictures"),
    Wanted("images/", "anything: the pictures"),
    Wanted(SPLIT, "the official split, the fallback where no split_list is given", required=False),
    Wanted(PARTS, "metrics of landmarks", required=False),
    Wanted(LOCATIONS, "metrics of landmarks", required=False),
    Wanted("segmentations/", "foreground_iou", required=False),
]
PUBLISHED = {"train": 10_000, "test": 1_000}  # by a list like split_list; the official split has other numbers


def list_split(source, split, cfg):
    """One split: by the list cfg.split_list, else by the official one, else every tenth picture is for testing.

    Returns a Listing, with landmarks and masks where the source has them.
    Raises UserError when a list is missing or malformed, or names what is not there.
    """
    path = source.find(IMAGES, needed=True)
    folder, there = path.removesuffix(IMAGES) + "images/", set(source.names)
    pictures = _parse_table(source.read_lines(path), _where(source, path), "id path", int, str)
    source.check_all_in(there, [folder + name for name in pictures.values()], f"pictures of {path}")
    ids, split_by = _list_ids(source, split, cfg.split_list, sorted(pictures))
    annotations, masks_folder = _read_landmarks(source, ids, pictures), source.find("segmentations/")
    if masks_folder is not None:
        masks = [masks_folder + str(PurePosixPath(pictures[i]).with_suffix(".png")) for i in ids]
        source.check_all_in(there, masks, f"masks of the split {split}")
        annotations |= {"masks": masks, "to_labels": to_labels, "only_foreground": True}
    return Listing([folder + pictures[i] for i in ids], split_by=split_by, **annotations)


def to_labels(mask, resize):
    """Foreground of a mask, which is grey where the annotators disagreed.

    mask    PIL image
    resize  function (image, resample) that makes a square of S pixels
    Returns uint8 (S, S): 1 where the resized mask is over 127.5, else 0.
    """
    return (np.asarray(resize(mask.convert("L"), Image.Resampling.BILINEAR)) > 127.5).astype(np.uint8)


def _list_ids(source, split, split_list, known):
    """Those of the ascending `known` ids that are in a split, and what the split was made by."""
    official = source.find(SPLIT)
    if split_list is not None:
        where, wanted = f"split_list: {split_list}", {"train": 0, "test": 2}[split]
        try:
            text = locate(split_list, "a file of lines 'id split'", "split_list").read_text("utf-8-sig", "replace")
        except OSError as error:
            raise UserError(f"{where} cannot be read: {error.strerror}.") from None
        part_of = _parse_table(text.splitlines(), where, "id split", int, {"0": 0, "1": 1, "2": 2}.__getitem__)
        split_by = "the user's split_list"  # which may leave pictures out
    elif official is not None:
        where, wanted = _where(source, official), {"train": 1, "test": 0}[split]
        part_of = _parse_table(source.read_lines(official), where, "id is_train", int, {"0": 0, "1": 1}.__getitem__)
        source.check_all_in(part_of, known, f"ids of {IMAGES} in {official}")
        split_by = f"the official {SPLIT}"
    else:
        print(f"{source.path} lacks {SPLIT}: every tenth picture by id is tested on, the others train.", flush=True)
        part_of, wanted = {i: row % 10 == 0 for row, i in enumerate(known)}, split == "test"
        split_by = f"every tenth picture by id, for want of {SPLIT}"
    source.check_all_in(set(known), list(part_of), f"ids of {split_list or official} in {IMAGES}")
    return [i for i in known if part_of.get(i) == wanted], split_by


def _read_landmarks(source, ids, pictures):
    """Landmarks and their names as fields of a Listing; none where one of the two files is missing."""
    path, path_of_names = source.find(LOCATIONS), source.find(PARTS)
    if path is None or path_of_names is None:
        return {}
    names = _parse_table(source.read_lines(path_of_names), _where(source, path_of_names), "id name", int, str)
    where, form = _where(source, path), "image_id part_id x y visible"
    kinds = int, int, float, float, {"0": False, "1": True}.__getitem__
    locations = _parse_table(source.read_lines(path), where, form, *kinds)
    source.check_all_in(pictures, [i for i, _ in locations], f"ids of {path} in {IMAGES}")
    source.check_all_in(names, [part for _, part in locations], f"parts of {path} in {PARTS}")
    landmarks = np.full((len(ids), len(names), 2), np.nan)
    row, column = ({key: n for n, key in enumerate(keys)} for keys in (ids, names))
    for (i, part), (x, y, visible) in locations.items():
        if visible and i in row:
            landmarks[row[i], column[part]] = x, y
    return {"landmarks": landmarks, "landmark_names": tuple(names.values())}


def _parse_table(lines, where, form, *kinds):
    """{id: what follows it} of a list's lines. `form` names the fields; those that end in id are the key."""
    rows, n_ids = {}, sum(field.endswith("id") for field in form.split())
    for number, line in enumerate(lines, 1):
        fields = line.strip().split(maxsplit=len(kinds) - 1)  # the last field may hold spaces
        if not fields:
            continue
        try:
            values = [kind(field) for kind, field in zip(kinds, fields, strict=True)]
        except (ValueError, KeyError):
            raise UserError(f"{where}, line {number}: {line[:100]!r} is not '{form}'.") from None
        key, value = (v[0] if len(v) == 1 else tuple(v) for v in (values[:n_ids], values[n_ids:]))
        if key in rows:
            raise UserError(f"{where}, line {number}: {line[:100]!r} has the id of an earlier line.")
        rows[key] = value
    return rows


def _where(source, path):
    return f"{source.called}: {path} of {source.path}"
