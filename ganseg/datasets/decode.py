"""Pictures and masks of any size and mode to squares."""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import joblib
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ganseg import files
from ganseg.datasets import kinds
from ganseg.datasets.labels import IGNORED
from ganseg.errors import UserError

NEW_SUBFILE_TYPE = 254  # TIFF tag; its first bit marks a preview
MAX_THREADS = 8  # each holds one picture at its own size
MANY = 1000  # pictures from which on processes pay
AHEAD = 8192  # pictures asked for at a time
PROGRESS_EVERY_S = 5.0
TRANSPOSE = Image.Transpose
UPRIGHT = {2: TRANSPOSE.FLIP_LEFT_RIGHT, 3: TRANSPOSE.ROTATE_180, 4: TRANSPOSE.FLIP_TOP_BOTTOM,
           5: TRANSPOSE.TRANSPOSE, 6: TRANSPOSE.ROTATE_270, 7: TRANSPOSE.TRANSVERSE, 8: TRANSPOSE.ROTATE_90}
SIDEWAYS = [UPRIGHT[orientation] for orientation in (5, 6, 7, 8)]
ORIENTATION = 0x0112  # EXIF tag
GREY_TOPS = {"F": (1, 255, 65535), "I": (255, 65535)}  # what white may be in grey of more than 8 bits


def open_upright(source):
    """One picture at its own size, its first frame if it moves.

    source  bytes of a file, its path, or a picture as of _given
    Returns an RGB PIL image, turned as EXIF says, transparent pixels over white. 16 bit grey keeps its full
    range. Other grey of more than 8 bits is scaled by the range it uses.
    Raises ValueError with the reason when it cannot be read.
    """
    return _decode(source)[0]


def read_square(source, image_size, crop, upright=True):
    """One picture as a square.

    source      bytes of a file, its path, or a picture as of _given
    image_size  side S in pixels
    crop        "squeeze" changes the aspect ratio, "center" cuts the middle out, "pad" repeats the edges
    upright     whether to turn it as EXIF says
    Returns uint8 (S, S, 3) and the picture's own (width, height). Raises ValueError with the reason when it cannot be
    read.
    """
    # JPEG decodes at 1/2, 1/4 or 1/8 where that leaves four pixels or more, each way, for one of the square.
    # A 12 megapixel photo takes an eighth of the time, and colours change by less than 1 of 255 on average.
    picture, size = _decode(source, smallest=4 * image_size, upright=upright)
    box = photo_box(size, image_size, crop)
    return _pad(_fit(picture, box, crop, Image.Resampling.LANCZOS), box, image_size, mode="edge"), size


def photo_box(size, image_size, crop):
    """Where a picture of some size (width, height) lies in its square: left, top, width, height, in whole pixels."""
    w, h = (max(1, round(image_size * side / max(size))) if crop == "pad" else image_size for side in size)
    return (image_size - w) // 2, (image_size - h) // 2, w, h


def open_mask(data, upright=True):
    """A mask file, or a mask as of _given, as a PIL image of the mode that it has."""
    return _decode(data, upright=upright, convert=Image.Image.copy)[0]


def read_labels(data, size, to_labels, image_size, crop, upright=True, stretch=False):
    """A mask file as the labels of its picture's square.

    data       bytes of the file, or a mask as of _given
    size       width and height of the upright picture, which the mask must have too
    to_labels  function of the mask (a PIL image) and of resize(image, resample), which makes it as large as its
               picture in the square; returns labels of that size, e.g. labels.index_labels
    stretch    whether a mask of another size is stretched to that of its picture
    Returns int16 (S, S), 0 background, below 0 where not known or where the picture does not reach. Raises ValueError
    with the reason when it cannot be read or does not fit.
    """
    mask = open_mask(data, upright)
    if mask.size != tuple(size) and not stretch:
        raise ValueError(f"it is {mask.size[0]} x {mask.size[1]} pixels, its picture {size[0]} x {size[1]}")
    box = photo_box(size, image_size, crop)
    labels = to_labels(mask, lambda image, resample: _fit(image.resize(size, resample), box, crop, resample))
    return _pad(np.asarray(labels, np.int16), box, image_size, constant_values=IGNORED)


def _fit(image, box, crop, resample):
    return ImageOps.fit(image, box[2:], resample) if crop == "center" else image.resize(box[2:], resample)


def _pad(image, box, image_size, **how):
    """An image (h, w, ...) at its place in a square; `how` is numpy's to fill the rest."""
    left, top, w, h = box
    sides = [(top, image_size - h - top), (left, image_size - w - left), (0, 0)]
    return np.pad(image, sides[: np.ndim(image)], **how)


def _rgb(picture):
    """Any mode to RGB; transparent pixels show white, as on a page."""
    if picture.mode in GREY_TOPS or picture.mode.startswith("I;16"):
        picture = Image.fromarray(_eight_bits(picture))  # convert() would clip to 255
    elif picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _eight_bits(picture):
    """Grey of 16 bits, 32 bits or floats to uint8 (H, W)."""
    values = np.nan_to_num(np.asarray(picture, np.float64), nan=0, posinf=0, neginf=0)
    low, high = values.min(), values.max()
    # Pillow before 11 opens 16 bit PNG as "I".
    tops = GREY_TOPS[picture.mode] if picture.mode in GREY_TOPS and picture.format != "PNG" else (65535,)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    low, high = (low, high) if top is None else (0, top)
    return np.rint((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)


def _decode(source, smallest=None, upright=True, convert=_rgb):
    """The upright, converted picture and its own (width, height). JPEG may come as small as `smallest` each way."""
    try:
        if not isinstance(source, bytes | bytearray | memoryview | str | os.PathLike):
            picture = _given(source)
            return convert(picture), picture.size
        data = Path(source).read_bytes() if isinstance(source, str | os.PathLike) else bytes(source)
        if not data:
            raise ValueError("the file is empty")
        with Image.open(io.BytesIO(data), formats=kinds.FORMATS) as picture:
            if picture.format == "TIFF" and picture.tag_v2.get(NEW_SUBFILE_TYPE, 0) & 1:
                raise ValueError("it shows a preview only, as raw files of cameras do: convert it to JPEG")
            size = picture.size
            if smallest:
                picture.draft(None, (smallest, smallest))
            picture.load()  # before the orientation: TIFF turns itself here
            turn = None  # ImageOps.exif_transpose fails on EXIF that it cannot write back
            with contextlib.suppress(Exception):
                turn = UPRIGHT.get(picture.getexif().get(ORIENTATION)) if upright else None
            turned = convert(picture) if turn is None else convert(picture).transpose(turn)
            if picture.format not in ("JPEG", "MPO"):  # only these are drafted
                size = turned.size
            elif turn in SIDEWAYS:
                size = size[::-1]
        return turned, size
    except UnidentifiedImageError as error:
        raise ValueError(kinds.why_no_picture(data) or kinds.UNKNOWN) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise ValueError(files.one_line(error)) from error


def _given(picture):
    """A PIL image as it is, not turned; or of an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).

    Arrays are uint8, uint16 or float in [0, 1]. Raises ValueError for anything else.
    """
    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, np.ndarray):
        raise ValueError("it is no path, no bytes of a file, no PIL image and no numpy array")
    white = {"uint8": 255, "uint16": 65535}.get(picture.dtype.name, 1)
    is_known = white > 1 or picture.dtype.kind == "f"
    is_shaped = picture.size and (picture.ndim == 2 or picture.ndim == 3 and picture.shape[2] in (1, 3, 4))
    if not (is_known and is_shaped and picture.min() >= 0 and picture.max() <= white):
        raise ValueError(f"it is {picture.dtype} of shape {picture.shape}; an array is (H, W), (H, W, 1), (H, W, 3) or "
                         "(H, W, 4), uint8, uint16 or float from 0 to 1")
    eight_bits = picture if white == 255 else np.rint(picture * (255 / white)).astype(np.uint8)
    return Image.fromarray(eight_bits[..., 0] if picture.shape[2:] == (1,) else eight_bits)


def in_parallel(work, n, doing="read"):
    """[work(0), ..., work(n - 1)] of n pictures, with a line every few seconds; an error stops it.

    It runs in processes where they can be forked and pay, because threads wait for the interpreter now and then. What
    work changes in memory is then lost, except in maps of files. What it returns is kept.
    """
    Image.init()  # in one thread: it imports Pillow's formats
    results, start = [], time.monotonic()
    printed = start
    with warnings.catch_warnings(), _pool(work, n) as run:
        warnings.simplefilter("ignore")  # large pictures and odd EXIF are read all the same
        for first in range(0, n, AHEAD):  # not all at once: a million would wait as objects
            for result in run(range(first, min(first + AHEAD, n))):
                results.append(result)
                if time.monotonic() - printed > PROGRESS_EVERY_S:
                    printed = time.monotonic()
                    print(f"{doing} {len(results):,} of {n:,} pictures in {printed - start:.0f} s", flush=True)
    return results


@contextlib.contextmanager
def _pool(work, n):
    """A function that starts work on a range and returns an iterator over its results, in order."""
    n_workers = joblib.cpu_count()  # those this process may use
    if sys.platform != "linux" or n < MANY or n_workers == 1:
        with ThreadPoolExecutor(min(MAX_THREADS, n_workers)) as pool:
            yield lambda rows: pool.map(work, rows)
        return
    try:
        with ProcessPoolExecutor(n_workers, multiprocessing.get_context("fork"), _start_worker, (work,)) as pool:
            yield lambda rows: pool.map(_call_work, rows, chunksize=16)
    except BrokenProcessPool:  # the kernel ends a process that writes a map where no room is left
        raise UserError("source: a process that read pictures was killed, for want of memory or of room on the disk "
                        "of outputs/; make room, or set GANSEG_OUTPUTS to a larger disk.") from None


def _start_worker(work):
    """Keep what a forked process works on, because functions within functions cannot be sent to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops it
    _call_work.work = work


def _call_work(i):
    return _call_work.work(i)
