"""Decoded squares on disk, made once for each source, size and crop: a folder of npy files.

npy because numpy itself writes, maps and checks it. A picture is one row at a known place, so a map of a million
pictures opens at once and a batch is one gather. The files can be sparse, every language reads them, and they need no
further library. (Arrow and HDF5 maps add a library and a copy; record files for streaming, such as WebDataset, give no
random access; zarr decompresses whole chunks.)

images.npy (N, 3, S, S) and labels.npy (N, S, S) uint8, landmarks.npy (N, L, 2), names.npy, masked.npy, train.npy and fit.npy (N,),
crc.npy (N,): the checksum of each row of images and labels; index.json: its own checksum, and the rest.
"""

import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from ganseg.datasets import decode
from ganseg.datasets.base import Pictures
from ganseg.datasets.source import printable
from ganseg.errors import UserError

CHECKED_ROWS = 1000  # spread over the pictures, on each opening; prepare checks all
MAX_OUTSIDE = 0.01  # share of landmarks outside their pictures, above which something is wrong with all
FACTS = ("landmark_names", "eyes", "frame_px", "only_foreground", "split_by")


class Damaged(Exception):
    """The cache is not what was written."""


def open_or_build(folder, make, image_size, crop, check_all=False):
    """The pictures of a cache, which is built where it is missing or damaged.

    folder     Path of the cache, named after all that determines it
    make       function without arguments: (Source, Listing); called only to build
    check_all  compare the checksums of all rows instead of a spread of them
    Returns Pictures, mapped from the files. Raises UserError for what a reader or picture does not allow. Nothing
    is left on disk then.
    """
    pictures = _open_if_whole(folder, check_all)
    if pictures is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # a second process waits, and finds it built
            pictures = _open_if_whole(folder, check_all)
            if pictures is None:
                for old in [folder, *folder.parent.glob(folder.name + ".partial-*")]:
                    shutil.rmtree(old, ignore_errors=True)
                source, listing = make()
                with source:
                    _build(folder, source, listing, image_size, crop)
                pictures = open_cache(folder)
    return pictures


def open_cache(folder, check_all=False):
    """The pictures of a cache. Raises FileNotFoundError where there is none, Damaged where it is not as written."""
    text = (folder / "index.json").read_text("utf-8", "replace")
    try:
        return _open(folder, text, check_all)
    except Exception as error:  # a changed byte can lead anywhere
        raise error if isinstance(error, Damaged) else Damaged(decode.reason(error)) from None


def _open(folder, text, check_all):
    """As open_cache; `text` is what index.json holds."""
    facts = _checked_facts(folder, text)
    # "c": a private map that torch may take as writable; nothing is written
    arrays = {name[:-4]: np.load(folder / name, mmap_mode="c") for name in facts["files"]}
    crc, names = arrays.pop("crc"), arrays.pop("names")
    known = {name: np.array(arrays.pop(name)) for name in ("masked", "train", "fit") if name in arrays}
    _check_rows(arrays, names, crc, check_all)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    kept = {name: tuple(v) if isinstance(v := facts[name], list) else v for name in FACTS}
    skipped = [tuple(pair) for pair in facts["skipped"]]
    return Pictures(names=names, skipped=skipped, **tensors, **known, **kept)


def _checked_facts(folder, text):
    """What index.json says, once it and the files that it names prove whole."""
    crc, text = text.split("\n", 1)
    if int(crc) != zlib.crc32(text.encode()):
        raise Damaged("index.json is not what was written")
    facts = json.loads(text)
    for name, (size, crc) in facts["files"].items():
        path = folder / name
        if not path.exists() or path.stat().st_size != size:
            raise Damaged(f"{name} does not have the {size:,} bytes that were written")
        if crc is not None and _crc_of_file(path) != crc:
            raise Damaged(f"{name} is not what was written")
    return facts


def _check_rows(arrays, names, crc, check_all):
    """Raise Damaged where a row of images and labels, all of them or a spread, does not have its checksum."""
    n = len(crc)
    found = np.zeros(n, np.uint32)
    rows = range(n) if check_all else np.linspace(0, n - 1, min(CHECKED_ROWS, n)).astype(int)
    for name in ("images", "labels"):
        if name in arrays:
            _update_crcs(found, rows, arrays[name])
    if wrong := [i for i in rows if found[i] != crc[i]]:
        raise Damaged(f"picture {wrong[0]} ({names[wrong[0]]}) is not what was written")


def _open_if_whole(folder, check_all):
    """The pictures of a cache; None where it is missing or damaged."""
    try:
        return open_cache(folder, check_all)
    except FileNotFoundError:
        return None
    except Damaged as error:
        print(f"The cache {folder} is damaged ({error}) and is built again.", flush=True)
        return None


def _build(folder, source, listing, image_size, crop):
    """Decode a listing into the cache's folder, whole or not at all."""
    n = len(listing.names)
    needed = n * image_size**2 * (3 if listing.masks is None else 4)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise UserError(f"source: {n:,} pictures at {image_size} pixels need {needed / 1e9:.1f} GB in "
                        f"{folder.parent}, where {free / 1e9:.1f} GB are free; set GANSEG_OUTPUTS to a larger disk.")
    scratch = Path(tempfile.mkdtemp(prefix=folder.name + ".partial-", dir=folder.parent))
    try:
        _write(scratch, source, listing, image_size, crop)
        os.replace(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _decode_all(folder, source, listing, S, crop):
    """Decode pictures and masks into maps of files.

    Returns the maps by name, and for each picture the reason why it cannot be read (None: it can), its width and
    height, and its checksum.
    """
    n = len(listing.names)
    arrays = {"images": _create(folder, "images", (n, 3, S, S))}
    if listing.masks is not None:
        arrays["labels"] = _create(folder, "labels", (n, S, S))

    def work(i):
        try:
            square, size = decode.read_square(source.read(listing.names[i]), S, crop, listing.upright)
        except Exception as error:  # a damaged archive or file raises nearly anything
            return decode.reason(error), (0, 0), 0
        arrays["images"][i] = square.transpose(2, 0, 1)
        mask = listing.masks and listing.masks[i]
        if mask:
            try:
                data = source.read(mask)
                arrays["labels"][i] = decode.read_labels(data, size, listing.to_labels, S, crop, listing.upright)
            except Exception as error:
                raise UserError(f"source: the mask {printable(mask)} cannot be used: {decode.reason(error)}.") from None
        checksum = 0
        for array in arrays.values():  # images, then labels
            checksum = zlib.crc32(array[i], checksum)
        return None, size, checksum

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
        for name, array in maps.items():
            _keep_rows(folder, name, array, readable)
        listing, sizes, crc = listing.take(readable), sizes[readable], crc[readable]
    _write_index(folder, list(maps), {"crc": crc, **_known(listing, sizes, S, crop)}, listing, skipped)


def _known(listing, sizes, S, crop):
    """What is known of each picture beside its pixels: the small arrays of the cache by name."""
    known = {"names": np.array([printable(name) for name in listing.names])}
    if listing.landmarks is not None:
        known["landmarks"] = _to_square(_landmarks_inside(listing, sizes), sizes, S, crop).astype(np.float32)
    if listing.masks is not None:
        known["masked"] = np.array([mask is not None for mask in listing.masks])
    return known | {name: rows for name in ("train", "fit") if (rows := getattr(listing, name)) is not None}


def _write_index(folder, maps, arrays, listing, skipped):
    """Write the small arrays and index.json, which holds the size of each file and the small ones' checksums."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    paths = [folder / f"{name}.npy" for name in (*maps, *arrays)]
    files = {path.name: (path.stat().st_size, None if path.stem in maps else _crc_of_file(path)) for path in paths}
    text = json.dumps({"files": files, "skipped": skipped, **{name: getattr(listing, name) for name in FACTS}})
    (folder / "index.json").write_text(f"{zlib.crc32(text.encode())}\n{text}")


def _to_square(points, sizes, S, crop):
    """Pixels of the pictures to [-1, 1] of their squares, S pixels wide.

    points  (N, L, 2) x, y in pixels; pixel centres are whole numbers
    sizes   (N, 2) width and height in pixels
    Returns (N, L, 2), NaN where the crop cuts the point away. Pixel x of a picture W wide is at x S / W of the square,
    as in the released evaluation; -1 and 1 are the square's outer pixel centres.
    """
    shown = (sizes.min(axis=1, keepdims=True) if crop == "center" else sizes)[:, None]
    offset = (sizes[:, None] - shown) / 2
    points = points - offset
    kept = ((points >= 0) & (points < shown) | (offset == 0)).all(axis=-1, keepdims=True)
    return np.where(kept, 2 * points / shown * S / (S - 1) - 1, np.nan)


def _landmarks_inside(listing, sizes):
    """The landmarks, NaN where outside their picture. Raises UserError where too many are outside."""
    points = np.array(listing.landmarks, np.float64)
    with np.errstate(invalid="ignore"):
        outside = ((points < -1) | (points > sizes[:, None])).any(axis=-1)  # a pixel of tolerance
    if outside.any():
        i, j = np.argwhere(outside)[0]
        x, y = points[i, j]
        which = f"{listing.landmark_names[j]} of {printable(listing.names[i])}"
        where = (f"{int(outside.sum()):,} landmarks lie outside their pictures, the first is {which}: "
                 f"({x:g}, {y:g}) in {sizes[i][0]} x {sizes[i][1]} pixels")
        if outside.sum() > MAX_OUTSIDE * np.isfinite(points).all(axis=-1).sum():
            raise UserError(f"source: {where}; x, y are expected in pixels of the picture.")
        print(f"{where}; they count as missing.", flush=True)
        points[outside] = np.nan
    return points


def _create(folder, name, shape):
    """A new file of zeros, as a map."""
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)


def _keep_rows(folder, name, array, kept):
    """Replace the file of a map by one with some of its rows only."""
    shape = (len(kept), *array.shape[1:])
    fewer = np.lib.format.open_memmap(folder / "fewer.npy", mode="w+", dtype=array.dtype, shape=shape)
    for first in range(0, len(kept), 1024):
        fewer[first : first + 1024] = array[kept[first : first + 1024]]
    os.replace(folder / "fewer.npy", folder / f"{name}.npy")


def _update_crcs(crc, rows, array):
    """Continue the checksums of some rows, read from the file: a map would read far around each."""
    size = array[0].nbytes
    with open(array.filename, "rb", buffering=0) as file:
        for i in rows:
            file.seek(array.offset + int(i) * size)
            crc[i] = zlib.crc32(file.read(size), crc[i])


def _crc_of_file(path):
    crc = 0
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            crc = zlib.crc32(piece, crc)
    return crc

