"""What the files of own pictures are, told by their paths: pictures, their masks, tables of landmarks, and splits."""

import functools
import io
import os
import re
import unicodedata
from typing import NamedTuple

from PIL import Image

from ganseg.datasets.kinds import NO_PICTURES

TABLE = "landmarks.csv"
SPLITS = ("train", "val", "test")
# Folders whose names consist of such words and of numbers, in any letter case: Masks, train_masks, JPEGImages, val2017
WORDS = {
    "picture": "image images img imgs jpegimages photo photos picture pictures",
    "mask": "mask masks segmentationclass",
    "label": "annotation annotations ground groundtruth gt label labels seg segmentation segmentations trimaps truth",
    "other": "segmentationobject",  # VOC's instances
    "train": "train training trainset",
    "val": "val valid validation valset",
    "test": "test testing testset",
}
ROLES = dict.fromkeys(("data", "dataset", "set"), "")  # say nothing beside such words: data_train, Test Set
ROLES |= {word: role for role, words in WORDS.items() for word in words.split()}
# p0_mask.png beside p0.jpg or p0_image.jpg
OF_MASK = re.compile(r"masks?[ _.-](?P<stem>.+)|(?P<stem2>.+)[ _.-](?:masks?|labels?|seg|segmentation|gt|parts)", re.I)
# What people keep landmarks or splits in that are read from landmarks.csv only
OTHER_TABLE = re.compile(r".*\.(?:csv|tsv|xlsx?|json|xml|mat)|(?:.*/)?(?:landmarks?|train|val|trainval|test)\.txt",
                         re.I)
OF_PICTURE = re.compile(r"(.+)[ _.-](?:image|img|photo|picture|rgb)", re.I)
N_LOOKED_INTO, FEW_VALUES = 50, 32  # png that are looked into; colours of a mask at most


class Layout(NamedTuple):
    """Names are paths within the source."""

    pictures: list[str]
    mask_of: dict[str, str]  # picture: its mask
    tables: list[str]  # of landmarks
    split_of: dict[str, str]  # picture: train, val or test, by its folder; empty where folders tell no test pictures
    notes: list[str]  # sentences on what was decided or left out


class _Parsed(NamedTuple):
    role: str  # picture, mask, other, or label, which is a mask only where one is named as a picture
    split: str | None
    folders: str  # without those that name a role: a picture's and its mask's are the same
    stem: str


def read_layout(source):
    """The Layout of a source of own pictures.

    Raises UserError when there is no picture, or for what can be understood in two ways.
    """
    parsed = {name: _parse(name) for name in source.pictures()}
    pictures = [name for name, path in parsed.items() if path.role == "picture"]
    by_path = _by_path(pictures, parsed)
    labels = [name for name, path in parsed.items() if path.role == "label"]
    if labels and not any((parsed[name].folders, s) in by_path for name in labels for s in _stems(parsed[name])):
        pictures += labels  # photos of labels
        by_path = _by_path(pictures, parsed)
    masks = {name for name, path in parsed.items() if path.role in ("mask", "label")}.difference(pictures)
    masks |= {name for name in pictures if any((parsed[name].folders, s) in by_path for s in _stems(parsed[name])[1:])}
    wrong = next((name for name in sorted(masks) if not name.lower().endswith(".png")), None)
    if wrong:
        raise source.error(f"holds {wrong} where masks lie or as masks are named; masks are grey or palette "
                           "png (other formats change labels), and pictures lie elsewhere.")
    pictures = sorted(set(pictures) - masks)
    if not pictures:
        raise source.error(f"holds {len(masks):,} masks and no pictures of them." if masks else NO_PICTURES)
    _check_no_mask_among(source, pictures)
    notes = []
    others = [name for name, path in parsed.items() if path.role == "other"]
    if others:
        notes.append(f"{len(others):,} masks of instances are left out, the first is {others[0]}.")
    mask_of, unused = match_masks(source, pictures, sorted(masks))
    if masks and not mask_of:
        raise source.error(f"holds {len(masks):,} masks, none named as a picture; the first is {unused[0]}.")
    if unused:
        notes.append(f"{len(unused):,} of {len(masks):,} masks are named as no picture, the first is {unused[0]}.")
    tables = [name for name in source.names if name.rpartition("/")[2].casefold() == TABLE]
    unread = [name for name in source.names if name not in tables and OTHER_TABLE.fullmatch(name)]
    if unread:
        notes.append(f"{len(unread):,} tables or lists are not read, the first is {unread[0]}: landmarks are read from "
                     f"{TABLE}, splits from its column split or from folders named train, val and test.")
    return Layout(pictures, mask_of, tables, _split_by_folder(pictures, parsed, notes), notes)


def _parse(name):
    parent, _, file = unicodedata.normalize("NFC", name).rpartition("/")
    return _Parsed(*_parse_folders(parent), os.path.splitext(file)[0])


@functools.lru_cache(2**16)
def _parse_folders(parent):
    """The role, split and folders of _Parsed."""
    role, split, kept = "picture", None, []
    for folder in parent.split("/"):
        words = re.findall(r"\d+|[^\W\d_]+|[^\w -]", folder.casefold())
        roles = [word if word.isdigit() else ROLES.get(word) for word in words]
        if None in roles or not set(roles) & set(WORDS):
            kept.append(folder)
            continue
        split = split or next((r for r in roles if r in SPLITS), None)
        role = next((r for r in roles if r in ("mask", "label", "other")), role)
        kept.append("".join(r for r in roles if r in SPLITS or r.isdigit()))
    return role, split, "/".join(filter(None, kept))


def _stems(path):
    """The stems that the picture of a mask may have."""
    match = OF_MASK.fullmatch(path.stem)
    return [path.stem, match["stem"] or match["stem2"]] if match else [path.stem]


def _by_path(pictures, parsed):
    """{(folders, stem): pictures}; a picture p0_image is found as p0 too."""
    found = {}
    for name in pictures:
        path, match = parsed[name], OF_PICTURE.fullmatch(parsed[name].stem)
        for stem in [path.stem, match[1]] if match else [path.stem]:
            found.setdefault((path.folders, stem), []).append(name)
    return found


def match_masks(source, pictures, masks):
    """Which mask belongs to which picture: by path without the folders of WORDS, else by file name where it is unique.

    source           that of the masks, for messages
    pictures, masks  lists of paths
    Returns {picture: its mask} and the masks that are named as no picture. Raises UserError where a mask could be of
    several pictures, or several are of one.
    """
    parsed = {name: _parse(name) for name in [*pictures, *masks]}
    by_path, by_stem = _by_path(pictures, parsed), {}
    for (_, stem), names in by_path.items():
        by_stem.setdefault(stem, []).extend(names)
    mask_of, unused = {}, []
    for mask in masks:
        stems = _stems(parsed[mask])
        candidates = [by_path.get((parsed[mask].folders, s)) for s in stems] + [by_stem.get(s) for s in stems]
        found = next(filter(None, candidates), [])
        if len(found) > 1:
            raise source.error(f"holds the mask {mask}, which could be of several pictures: {', '.join(found[:3])}; "
                               "put masks in subfolders as the pictures are, or rename them.")
        if not found:
            unused.append(mask)
        elif mask_of.setdefault(found[0], mask) != mask:
            raise source.error(f"holds two masks for {found[0]}: {mask_of[found[0]]} and {mask}.")
    return mask_of, unused


def _split_by_folder(pictures, parsed, notes):
    """{picture: split}. Where no folder is of test pictures, val is tested on, else it is left out."""
    split_of = {name: parsed[name].split for name in pictures if parsed[name].split}
    n_val, decided = sum(split == "val" for split in split_of.values()), "neither trained nor tested on"
    if "test" not in split_of.values():
        split_of, decided = {name: split.replace("val", "test") for name, split in split_of.items()}, "tested on"
    if sum(split == "test" for split in split_of.values()) in (0, len(pictures)):
        return {}
    if n_val:
        notes.append(f"{n_val:,} pictures in folders of validation pictures are {decided}.")
    outside = [name for name in pictures if name not in split_of]
    if outside:
        notes.append(f"{len(outside):,} pictures lie in no folder of a split and are trained on, the first is "
                     f"{outside[0]}.")
    return split_of


def _check_no_mask_among(source, pictures):
    """Raise UserError where a picture looks like a mask and others do not.

    In each folder a png of each way to name them is looked into: 1.png and 1mask.png are two.
    """
    pngs = [name for name in reversed(pictures) if name.lower().endswith(".png")]
    first = {(name.rpartition("/")[0], re.sub(r".*\d|[^\d]*", "", name.rpartition("/")[2], count=1)): name
             for name in pngs}
    few = sorted(first.values())[:: max(1, len(first) // N_LOOKED_INTO)]
    alike = [name for name in few if _is_like_a_mask(source, name)]
    if alike and (len(alike) < len(few) or not all(name.lower().endswith(".png") for name in pictures)):
        raise source.error(f"holds {alike[0]}, which looks like a mask (one number per pixel, few values), "
                           "among pictures that do not; put masks into a folder masks/, named as their pictures, or "
                           "move such files away.")


def _is_like_a_mask(source, name):
    try:
        with Image.open(io.BytesIO(source.read(name)), formats=("PNG",)) as picture:
            return picture.mode in ("1", "L", "P") and picture.getcolors(FEW_VALUES) is not None
    except Exception:  # a damaged file raises nearly anything; the reason is told where all are decoded
        return False
