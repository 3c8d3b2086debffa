"""Own pictures from a folder or a zip, nested, of any size and mode; other readers of files build on this."""

import io
import os
import threading
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ganseg import config
from ganseg.datasets import Pictures, how_many
from ganseg.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "DIB")  # by content; keeps EPS and its like out
CLUTTER = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
N_TEST = 500  # pictures shown when max_test_pictures is not set
MAX_BYTES = 2**30  # of one unpacked picture: a zip can hold terabytes of zeros
MAX_THREADS = 8  # each holds one picture at its own size
PROGRESS_EVERY_S = 5.0
TRANSPOSE = Image.Transpose
UPRIGHT = {2: TRANSPOSE.FLIP_LEFT_RIGHT, 3: TRANSPOSE.ROTATE_180, 4: TRANSPOSE.FLIP_TOP_BOTTOM,
           5: TRANSPOSE.TRANSPOSE, 6: TRANSPOSE.ROTATE_270, 7: TRANSPOSE.TRANSVERSE, 8: TRANSPOSE.ROTATE_90}
ORIENTATION = 0x0112  # EXIF tag
GREY_TOPS = {"F": (1, 255, 65535), "I": (255, 65535)}  # what white may be in grey of more than 8 bits


class Decoded(NamedTuple):
    """Pictures that could be read, and the others."""

    images: torch.Tensor  # (N, 3, S, S) uint8
    sizes: np.ndarray  # (N, 2) width and height in pixels, upright, before becoming square
    kept: list[int]  # N positions in the listing
    skipped: list[tuple[str, str]]  # (name, reason)


def read(cfg, split, limit=None):
    """The pictures of cfg.source, without annotations.

    Both splits come from the same pictures: without labels nothing can be tested on, and a user wants the GAN
    to see all photos. "train" is all of them; "test", for showing detections, an even spread of 500. When
    limited, both are spread evenly over the listing sorted by name.
    Returns Pictures. Raises UserError when there is no picture.
    """
    source = find(cfg.source, "a folder or zip of pictures, e.g. -p source photos/")
    if source.suffix.lower() in EXTENSIONS and source.is_file():
        raise UserError(f"source: {source} is one picture; it should be a folder or zip of pictures.")
    listing = list_pictures(source)
    n = how_many(cfg, split, limit, default=len(listing) if split == "train" else N_TEST)
    n = min(n, len(listing))
    listing = [listing[i * len(listing) // n] for i in range(n)]
    images, _, kept, skipped = read_pictures(listing, cfg.image_size, cfg.crop)
    return Pictures(images, [listing[i][0] for i in kept], skipped=skipped)


def find(source, wanted):
    """The path of cfg.source: from the working directory, else from the project root.

    wanted  what it should be, for the message when it is not set
    Raises UserError when it is not set or not there.
    """
    if not source:
        raise UserError(f"source: is not set; name {wanted}.")
    candidates = [Path(source).expanduser(), config.ROOT / source]
    for path in candidates:
        if path.exists():
            return path
    looked = " or ".join(dict.fromkeys(str(path.absolute()) for path in candidates))
    raise UserError(f"source: there is no {looked}; name {wanted}.")


def list_pictures(path, called="source"):
    """The pictures of a folder or zip, subfolders included, or one picture itself.

    called  the parameter, for messages
    Returns a list of (name, opener), sorted by name: the path within, and a function that returns the bytes.
    Raises UserError when the path is missing, a damaged zip, something else, or holds no picture.
    """
    listing = [(name, opener) for name, opener in list_files(path, called) if _is_picture(name)]
    if not listing:
        raise UserError(f"{called}: {path} holds no pictures; looked for {', '.join(EXTENSIONS)} in any "
                        "letter case, in subfolders too, hidden files left out.")
    return listing


def list_files(path, called="source"):
    """Like list_pictures, for files of every kind but hidden ones and what systems leave behind."""
    path = Path(path)
    if path.is_dir():
        files = _walk(path)
    elif _is_picture(path.name) and path.is_file():
        return [(path.name, path.read_bytes)]
    elif path.is_file() and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)):
        files = _members(path, called)
    elif path.exists():
        raise UserError(f"{called}: {path} is neither a folder nor a zip of pictures nor a picture "
                        f"({', '.join(EXTENSIONS)}).")
    else:
        raise UserError(f"{called}: there is no {path.absolute()}.")
    return sorted((file for file in files if not _is_clutter(file[0])), key=lambda file: file[0])


def read_pictures(listing, image_size, crop):
    """Decode a listing in threads; only the small squares are kept.

    listing     (name, opener) pairs, see list_pictures
    image_size  side S in pixels
    crop        "squeeze" or "center"
    Returns Decoded. Prints a line every few seconds. Raises UserError when no picture can be read.
    """
    images = np.empty((len(listing), 3, image_size, image_size), np.uint8)
    sizes = np.zeros((len(listing), 2), np.int64)

    def work(i):
        try:
            square, sizes[i] = _read(listing[i][1](), image_size, crop)
        except Exception as error:  # a damaged zip member or file raises nearly anything
            return _reason(error)
        images[i] = square.transpose(2, 0, 1)

    reasons = _in_threads(work, len(listing))
    kept = [i for i, reason in enumerate(reasons) if reason is None]
    skipped = [(listing[i][0], reason) for i, reason in enumerate(reasons) if reason is not None]
    if skipped and not kept:
        name, reason = skipped[0]
        raise UserError(f"source: none of {len(skipped):,} pictures can be read; {name}: {reason}.")
    if skipped:
        images, sizes = images[kept], sizes[kept]
    return Decoded(torch.from_numpy(images), sizes, kept, skipped)


def read_picture(source, image_size, crop):
    """One picture as a square.

    source      bytes of a file, or its path
    image_size  side S in pixels
    crop        "squeeze" changes the aspect ratio, "center" cuts the middle out
    Returns uint8 (S, S, 3). Raises ValueError with the reason when it cannot be read.
    """
    return _read(source, image_size, crop)[0]


def open_upright(source):
    """One picture at its own size, its first frame if it moves.

    source  bytes of a file, or its path
    Returns an RGB PIL image, turned as EXIF says, transparent pixels over white. 16 bit grey keeps its full
    range; other grey of more than 8 bits is scaled by the range it uses.
    Raises ValueError with the reason when it cannot be read.
    """
    return _decode(source)[0]


def _read(source, image_size, crop):
    """The square (S, S, 3) and the picture's own (width, height)."""
    # JPEG decodes at 1/2, 1/4 or 1/8 where that leaves four pixels or more, each way, for one of the square:
    # an eighth of the time for a 12 megapixel photo, and colours change by less than 1 of 255 on average.
    picture, size = _decode(source, smallest=4 * image_size)
    (width, height), side = picture.size, min(picture.size)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side) if crop == "center" else None
    square = picture.resize((image_size, image_size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(square), size


def _decode(source, smallest=None):
    """The upright RGB picture, `smallest` or more wide and high if it was, and its own (width, height)."""
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        if not data:
            raise ValueError("the file is empty")
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            short, long = sorted(picture.size)
            if smallest:
                picture.draft(None, (smallest, smallest))
            picture.load()  # before the orientation: TIFF turns itself here
            turn = UPRIGHT.get(_orientation(picture))
            rgb = _rgb(picture) if turn is None else _rgb(picture).transpose(turn)
        return rgb, (long, short) if rgb.width >= rgb.height else (short, long)
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise ValueError(_reason(error)) from error


def _orientation(picture):
    """EXIF orientation, 1-8. (ImageOps.exif_transpose fails on EXIF that it cannot write back.)"""
    try:
        return picture.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1


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


def _reason(error):
    """Why a picture cannot be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format"
    return " ".join(str(error).split()) or type(error).__name__


def _in_threads(work, n):
    """[work(0), ..., work(n - 1)], with a line every few seconds."""
    Image.init()  # in one thread: it imports Pillow's formats
    results, start = [], time.monotonic()
    printed = start
    with warnings.catch_warnings(), ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # large pictures and odd EXIF are read all the same
        for result in pool.map(work, range(n)):
            results.append(result)
            if time.monotonic() - printed > PROGRESS_EVERY_S:
                printed = time.monotonic()
                print(f"read {len(results):,} of {n:,} pictures in {printed - start:.0f} s", flush=True)
    return results


def _walk(root):
    """(name, opener) of all files below a folder; links are followed, each folder once."""
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:
            subfolders.clear()
            continue
        seen.add(os.path.realpath(folder))
        for path in (Path(folder, name) for name in names):
            if path.is_file():
                # names that are not UTF-8 could not be printed
                name = path.relative_to(root).as_posix().encode("utf-8", "replace").decode()
                yield name, path.read_bytes


def _members(path, called):
    """(name, opener) of all files in a zip."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{called}: {path} cannot be opened as a zip: {_reason(error)}; it may be damaged or "
                        "incomplete, copy or download it again.") from None
    lock = threading.Lock()  # one handle for all threads
    return [(member.filename.replace("\\", "/"), partial(_read_member, archive, member, lock))
            for member in archive.infolist() if not member.is_dir()]


def _read_member(archive, member, lock):
    if member.file_size > MAX_BYTES:
        raise ValueError(f"{member.file_size:,} bytes are too many for one picture")
    with lock:
        return archive.read(member)


def _is_picture(name):
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def _is_clutter(name):
    return any(part.startswith(".") or part in CLUTTER for part in PurePosixPath(name).parts)
