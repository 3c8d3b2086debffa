"""CUB-200-2011: birds with 15 part locations and, from an archive of their own, foreground masks."""

from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from ganseg.datasets.base import Listing, Wanted
from ganseg.datasets.source import locate, parse_rows
from ganseg.errors import UserError

ARCHIVES = {"CUB_200_2011.tgz": "images/", "segmentations.tgz": "segmentations/"}
OBTAIN = (
    "CUB-200-2011 is at https://www.vision.caltech.edu/datasets/cub_200_2011/ (pictures and lists in "
    "https://data.caltech.edu/records/65de6-vp158, masks in https://data.caltech.edu/records/w9d68-gec53): put "
    "CUB_200_2011.tgz and segmentations.tgz into a folder, unpacked or not"
)
IMAGES, SPLIT, PARTS, LOCATIONS = "images.txt", "train_test_split.txt", "parts/parts.txt", "parts/part_locs.txt"
BOXES, CLASSES = "bounding_boxes.txt", "image_class_labels.txt"
WANTED = [
    Wanted(IMAGES, "anything: the list of the pictures"),
    Wanted("images/", "anything: the pictures"),
    Wanted(SPLIT, "the official split, the fallback where no split_list is given", required=False),
    Wanted(PARTS, "metrics of landmarks", required=False),
    Wanted(LOCATIONS, "metrics of landmarks", required=False),
    Wanted(BOXES, "metrics in shares of the bird's bounding box", required=False),
    Wanted(CLASSES, "the setting classes", required=False),
    Wanted("segmentations/", "foreground_iou", required=False),
]
PUBLISHED = {"train": 10_000, "test": 1_000}  # by a list like split_list; the official split has other numbers


def list_split(source, split, cfg):
    """One split: by the list cfg.split_list, else by the official one, else ids that end in 1 are for testing.

    Of cfg.classes alone, where they are given.
    Returns a Listing, with landmarks, boxes and masks where the source has them.
    Raises UserError when a list is missing or malformed, or names what is not there.
    """
    path = source.find(IMAGES, needed=True)
    folder, there = path.removesuffix(IMAGES) + "images/", set(source.names)
    pictures = source.read_rows(path, "id path", int, str)
    source.check_all_in(there, [folder + name for name in pictures.values()], f"pictures of {path}")
    ids, split_by = _list_ids(source, split, cfg.split_list, sorted(pictures))
    ids = _of_classes(source, ids, pictures, cfg.classes)
    annotations, masks_folder = _read_landmarks(source, ids, pictures), source.find("segmentations/")
    if (path_of_boxes := source.find(BOXES)) is not None:
        boxes = source.read_rows(path_of_boxes, "id x y width height", int, *4 * [float])
        source.check_all_in(boxes, ids, f"ids of {IMAGES} in {path_of_boxes}")
        annotations["box_px"] = np.array([boxes[i][2:] for i in ids], np.float64).reshape(-1, 2)
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
    if split_list is not None:
        where, wanted = f"split_list: {split_list}", {"train": 0, "test": 2}[split]
        try:
            text = locate(split_list, "a file of lines 'id split'", "split_list").read_text("utf-8-sig", "replace")
        except OSError as error:
            raise UserError(f"{where} cannot be read: {error.strerror}.") from None
        part_of = parse_rows(text.splitlines(), where, "id split", int, {"0": 0, "1": 1, "2": 2}.__getitem__)
        path, split_by = split_list, "the user's split_list"  # which may leave pictures out
    elif source.find(SPLIT) is None:
        print(f"{source.path} lacks {SPLIT}: pictures whose id ends in 1 are tested on, the others train.", flush=True)
        return [i for i in known if (i % 10 == 1) == (split == "test")], f"the id's last digit, for want of {SPLIT}"
    else:
        path, wanted = source.find(SPLIT), {"train": 1, "test": 0}[split]
        part_of = source.read_rows(path, "id is_train", int, {"0": 0, "1": 1}.__getitem__)
        source.check_all_in(part_of, known, f"ids of {IMAGES} in {path}")
        split_by = f"the official {SPLIT}"
    source.check_all_in(set(known), list(part_of), f"ids of {path} in {IMAGES}")
    return [i for i in known if part_of.get(i) == wanted], split_by


def _of_classes(source, ids, pictures, classes):
    """Those of the ids whose picture is of one of the classes, a list of numbers; None: all."""
    if classes is None:
        return ids
    path = source.find(CLASSES, needed=True)
    class_of = source.read_rows(path, "id class", int, int)
    source.check_all_in(class_of, list(pictures), f"ids of {IMAGES} in {path}")
    if unknown := sorted(set(classes) - set(class_of.values())):
        known = class_of.values()
        raise UserError(f"classes: {unknown[0]} is no class of {path}, which has {min(known)} to {max(known)}.")
    return [i for i in ids if class_of[i] in classes]


def _read_landmarks(source, ids, pictures):
    """Landmarks and their names as fields of a Listing; none where one of the two files is missing."""
    path, path_of_names = source.find(LOCATIONS), source.find(PARTS)
    if path is None or path_of_names is None:
        return {}
    names = source.read_rows(path_of_names, "id name", int, str)
    kinds = int, int, float, float, {"0": False, "1": True}.__getitem__
    locations = source.read_rows(path, "image_id part_id x y visible", *kinds)
    source.check_all_in(pictures, [i for i, _ in locations], f"ids of {path} in {IMAGES}")
    source.check_all_in(names, [part for _, part in locations], f"parts of {path} in {PARTS}")
    landmarks = np.full((len(ids), len(names), 2), np.nan)
    row, column = ({key: n for n, key in enumerate(keys)} for keys in (ids, names))
    for (i, part), (x, y, visible) in locations.items():
        if visible and i in row:
            landmarks[row[i], column[part]] = x, y
    return {"landmarks": landmarks, "landmark_names": tuple(names.values())}
