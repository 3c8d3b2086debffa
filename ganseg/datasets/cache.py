"""Decoded squares on disk, made once for each source, size and crop: a folder of npy files.

npy because numpy itself writes and maps it: a map of a million pictures opens at once, and a batch is one gather. Files
for streaming, such as WebDataset, give no random access, and zarr decompresses whole chunks.

images.npy (N, 3, S, S) uint8 and labels.npy (N, S, S) int16; index.npz, of which zip checks each member: crc (N, 1 or
2), the checksums of each row of images and of labels, names, sizes (N, 2), landmarks (N, L, 2), train and fit (N,),
boxes (N, 4), box_px (N, 2), and facts, in JSON.
"""

import json
import os
import shutil
import zlib
from dataclasses import fields

import numpy as np
import torch

from ganseg import files
from ganseg.datasets import decode, kinds
from ganseg.datasets.base import Facts, Pictures
from ganseg.datasets.labels import IGNORED
from ganseg.datasets.walk import printable
from ganseg.errors import UserError

CHECKED_ROWS = 1000  # spread over the pictures, on each opening; prepare checks all
MANY_ALIKE = 3  # pictures with a landmark at one and the same place, from which on it is odd
MAX_OUTSIDE = 0.01  # share of landmarks outside their pictures, above which something is wrong with all
FACTS = [field.name for field in fields(Facts)]
DTYPES = {"images": np.uint8, "labels": np.int16}


def open_or_build(folder, listed, image_size, crop, check_all=False):
    """The pictures of a cache, which is built where it is missing or damaged.

    folder     Path of the cache, named after all that determines it
    listed     function without arguments: a context of (Source, Listing); called only to build
    check_all  compare the checksums of all rows instead of a spread of them
    Returns Pictures, mapped from the files. Raises UserError for what a reader or picture does not allow. Nothing
    is left on disk then.
    """
    pictures = _open_if_whole(folder, check_all)
    if pictures is None:
        with files.locked(folder.with_suffix(".lock")):  # a second process waits, and finds it built
            pictures = _open_if_whole(folder, check_all)
            if pictures is None:
                with listed() as (source, listing):
                    _check_room(folder.parent, listing, image_size)
                    with files.whole_folder(folder) as partial:
                        _write(partial, source, listing, image_size, crop)
                pictures = open_cache(folder)
    return pictures


def _open_if_whole(folder, check_all):
    """The pictures of a cache; None where it is missing or damaged."""
    if not os.path.exists(folder / "index.npz"):  # where it may not even be looked at either
        return None
    try:
        return open_cache(folder, check_all)
    except Exception as error:  # a changed byte can lead anywhere
        print(f"The cache {folder} is damaged ({files.one_line(error)}) and is built again.", flush=True)
        return None


def open_cache(folder, check_all=False):
    """The pictures of a cache. Raises ValueError, or what a changed byte leads to, where it is not as written."""
    with np.load(folder / "index.npz", allow_pickle=False) as index:
        known = dict(index)
    facts, names = json.loads(str(known.pop("facts"))), known.pop("names")
    crc = known.pop("crc").reshape(len(names), -1)
    # "c": a private map that torch may take as writable; nothing is written
    maps = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in facts.pop("maps")}
    _check_rows(maps, names, crc, check_all)
    if "landmarks" in known:
        maps["landmarks"] = known.pop("landmarks")
    tensors = {name: torch.from_numpy(array) for name, array in maps.items()}
    skipped = [tuple(pair) for pair in facts.pop("skipped")]
    facts = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    return Pictures(names=names, skipped=skipped, checksums=crc[:, 0], **tensors, **known, **facts)


def _check_rows(maps, names, crc, check_all):
    """Raise ValueError where a row of images and labels, all of them or a spread, does not have its checksum."""
    n = len(crc)
    for name, array in maps.items():
        if len(array) != n or array.dtype != DTYPES[name]:
            raise ValueError(f"{name}.npy is not what was written")
    for i in range(n) if check_all else np.linspace(0, n - 1, min(CHECKED_ROWS, n)).astype(int):
        # Read from the files: the maps would read far around a row
        rows = [np.fromfile(array.filename, np.uint8, size, offset=array.offset + int(i) * size)
                for array, size in ((array, array[0].nbytes) for array in maps.values())]
        if [zlib.crc32(row) for row in rows] != crc[i].tolist():
            raise ValueError(f"picture {i} ({names[i]}) is not what was written")


def _check_room(root, listing, image_size):
    """Raise UserError where a disk has no room for the squares of a listing."""
    n = len(listing.names)
    needed = n * image_size**2 * (3 if listing.masks is None else 5)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(f"source: {n:,} pictures at {image_size} pixels need {needed / 1e9:.1f} GB in {root}, where "
                        f"{free / 1e9:.1f} GB are free; set GANSEG_OUTPUTS to a larger disk.")


def _decode_all(folder, source, listing, S, crop):
    """Decode pictures and masks into maps of files.

    Returns the maps by name, and for each picture the reason why it cannot be read (None: it can), its width and
    height, and the checksum of its row in each map.
    """
    n = len(listing.names)
    arrays = {"images": _create(folder, "images", (n, 3, S, S), DTYPES["images"])}
    if listing.masks is not None:
        arrays["labels"] = _create(folder, "labels", (n, S, S), DTYPES["labels"])

    def work(i):
        try:
            square, size = decode.read_square(source.read(listing.names[i]), S, crop, listing.upright)
        except Exception as error:  # a damaged archive or file raises nearly anything
            return files.one_line(error), (0, 0), [0] * len(arrays)
        arrays["images"][i] = square.transpose(2, 0, 1)
        mask = listing.masks and listing.masks[i]
        if listing.masks and not mask:
            arrays["labels"][i] = IGNORED
        if mask:
            try:
                data = source.read(mask)
                arrays["labels"][i] = decode.read_labels(data, size, listing.to_labels, S, crop, listing.upright)
            except Exception as error:
                why = files.one_line(error)
                raise UserError(f"source: the mask {printable(mask)} cannot be used: {why}.") from None
        return None, size, [zlib.crc32(array[i]) for array in arrays.values()]

    reasons, sizes, crc = zip(*decode.in_parallel(work, n), strict=True)
    return arrays, reasons, np.array(sizes, np.int64), np.array(crc, np.uint32)


def _write(folder, source, listing, S, crop):
    """Decode a listing into a folder, keep what can be read, and write the index of it."""
    maps, reasons, sizes, crc = _decode_all(folder, source, listing, S, crop)
    readable = [i for i, reason in enumerate(reasons) if reason is None]
    skipped = [(printable(listing.names[i]), reason) for i, reason in enumerate(reasons) if reason is not None]
    if skipped and not readable:
        name, why = skipped[0]
        raise UserError(f"source: none of {len(reasons):,} pictures can be read; {name}: {why}.")
    if skipped:
        kinds.say_skipped(skipped, len(reasons))
        for name, array in maps.items():
            _keep_rows(folder, name, array, readable)
        listing, sizes, crc = listing.take(readable), sizes[readable], crc[readable]
    known = {"train": listing.train, "fit": listing.fit, "sizes": sizes}
    if crop == "pad":
        known["boxes"] = np.array([decode.photo_box(size, S, crop) for size in sizes.tolist()])
    if listing.landmarks is not None:
        points = _landmarks_inside(listing, sizes)
        known["landmarks"] = _to_square(points, sizes, S, crop, known.get("boxes")).astype(np.float32)
    if listing.box_px is not None:
        shown, side = _scale(sizes, S, crop, known.get("boxes"))
        known["box_px"] = (listing.box_px / shown * side).astype(np.float32)
    names = np.array([printable(name) for name in listing.names])
    facts = {"maps": list(maps), "skipped": skipped, **{name: getattr(listing, name) for name in FACTS}}
    np.savez(folder / "index.npz", crc=crc, names=names, facts=json.dumps(facts), **known)


def _to_square(points, sizes, S, crop, boxes=None):
    """Pixels of the pictures to [-1, 1] of their squares, S pixels wide.

    points  (N, L, 2) x, y in pixels; pixel centres are whole numbers
    sizes   (N, 2) width and height in pixels
    boxes   (N, 4) where the pictures lie in their squares, as of decode.photo_box; None: they fill them
    Returns (N, L, 2), NaN where the crop cuts the point away. Pixel x of a picture W wide is at x S / W of the square,
    as in the released evaluation; -1 and 1 are the square's outer pixel centres.
    """
    shown, side = (scale[:, None] for scale in _scale(sizes, S, crop, boxes))
    offset = (sizes[:, None] - shown) / 2
    points = points - offset
    kept = ((points >= 0) & (points < shown) | (offset == 0)).all(axis=-1, keepdims=True)
    corner = 0 if boxes is None else boxes[:, None, :2]
    return np.where(kept, 2 * (corner + points / shown * side) / (S - 1) - 1, np.nan)


def _scale(sizes, S, crop, boxes=None):
    """How many pixels of each picture, across and down, become how many of its square: two arrays (N, 2)."""
    shown = np.broadcast_to(sizes.min(axis=1, keepdims=True), sizes.shape) if crop == "center" else sizes
    return shown, np.full(sizes.shape, S) if boxes is None else boxes[:, 2:]


def _landmarks_inside(listing, sizes):
    """The landmarks, NaN where coded as missing or outside their picture. Raises UserError where too many are."""
    points = _without_codes(np.array(listing.landmarks, np.float64))
    _check_plausible(points, listing.landmark_names)
    outside = _outside(points, sizes)
    if outside.any():
        i, j = np.argwhere(outside)[0]
        x, y = points[i, j]
        which = f"{listing.landmark_names[j]} of {printable(listing.names[i])}"
        where = (f"{int(outside.sum()):,} landmarks lie outside their pictures, the first is {which}: "
                 f"({x:g}, {y:g}) in {sizes[i][0]} x {sizes[i][1]} pixels")
        if outside.sum() > MAX_OUTSIDE * np.isfinite(points).all(axis=-1).sum():
            swapped = "" if _outside(points[..., ::-1], sizes).any() else "; all lie inside with x and y exchanged"
            raise UserError(f"source: {where}; x, y are expected in pixels of the picture{swapped}.")
        print(f"{where}; they count as missing.", flush=True)
        points[outside] = np.nan
    return points


def _outside(points, sizes):
    """Which landmarks lie outside their picture, with a pixel of tolerance: (N, L) bool."""
    with np.errstate(invalid="ignore"):
        return ((points < -1) | (points > sizes[:, None])).any(axis=-1)


def _without_codes(points):
    """Landmarks with NaN for -1, -1, the code of missing."""
    missing, corner = ((points == code).all(axis=-1) for code in (-1, 0))
    if missing.any():
        print(f"{missing.sum():,} landmarks are at (-1, -1) or (0, 0) and count as missing.", flush=True)
    if corner.any():
        print(f"{corner.sum():,} landmarks are at (0, 0); where one is missing, leave its cells empty.", flush=True)
    return np.where(missing[..., None], np.nan, points)


def _check_plausible(points, names):
    """Raise UserError where landmarks are shares of the picture, no pixels; say which is the same everywhere."""
    known = np.isfinite(points).all(axis=-1)
    if known.any() and np.abs(points[known]).max() <= 1 and (points[known] % 1).any():
        raise UserError(f"source: all {known.sum():,} landmarks lie between {points[known].min():g} and "
                        f"{points[known].max():g}; x, y are expected in pixels of the picture, not as shares of it.")
    for j, name in enumerate(names):
        places = points[known[:, j], j]
        if len(places) >= MANY_ALIKE and (places == places[0]).all():
            print(f"The landmark {name} is at ({places[0, 0]:g}, {places[0, 1]:g}) in all {len(places):,} pictures; "
                  "look whether it is right.", flush=True)


def _create(folder, name, shape, dtype):
    """A new file of zeros, as a map."""
    created = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # a disk that fills up while a map is written would end the process
        with open(created.filename, "rb+") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, created.offset + created.nbytes)
            except OSError as error:  # not every disk can
                if error.errno in files.FULL:
                    raise
    return created


def _keep_rows(folder, name, array, kept):
    """Replace the file of a map by one with some of its rows only."""
    fewer = _create(folder, "fewer", (len(kept), *array.shape[1:]), array.dtype)
    for first in range(0, len(kept), 1024):
        fewer[first : first + 1024] = array[kept[first : first + 1024]]
    os.replace(folder / "fewer.npy", folder / f"{name}.npy")
