"""Which files are pictures, by their ending and else by their first bytes."""

import os
import re
from collections import Counter

from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".ppm", ".pgm", ".pbm",
              ".pnm", ".tif", ".tiff")
NO_PICTURES = (f"holds no pictures; looked for {', '.join(EXTENSIONS)} in any letter case, in subfolders too, hidden "
               "files left out, and into files of unknown endings.")
DRAWINGS = (".svg", ".eps")  # pictures, though they are text
# Endings of files that nobody takes for pictures. Those that are not known are looked into.
OTHERS = {f".{ending}" for ending in (
    "cfg csv ckpt conf css db doc docx h5 hdf5 htm html ini ipynb js json jsonl lnk log mat md npy npz parquet pdf "
    "pickle pkl ply pt pth py pyc rst safetensors sh sqlite tex toml tsv txt url xls xlsx xml yaml yml").split()}
# By content; keeps EPS and its like out
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "DIB")
HEAD_BYTES = 512  # that tell what an unknown file is
UNKNOWN = "not a picture of a known format"
# What else is met in folders of photos
KINDS = [(re.compile(pattern, re.DOTALL), why) for pattern, why in (
    (rb"....ftyp.{0,40}?(hei[cxms]|hev[cx])", "HEIC cannot be read: convert it to JPEG"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL cannot be read: convert it to JPEG"),
    (rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b", "this archive is not opened: unpack it"),
    (rb"....ftyp(?!avi[fs]|mi|ms|crx)|RIFF....AVI |\x1aE\xdf\xa3", "a video is no picture: save its frames as JPEG"),
)]
N_TOLD = 10  # kinds of files left out that are told


def is_picture(name):
    """Whether a file is a picture by its ending."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def is_other(name, head=b""):
    """Whether a file is by its ending, or is a text by its first bytes, nothing that anybody takes for a picture."""
    ending = os.path.splitext(name)[1].lower()
    if not head or ending in OTHERS or ending in DRAWINGS:
        return ending in OTHERS
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if len(head) - error.start > 3:  # else its last character is cut
            return False
    return b"\0" not in head


def why_no_picture(data):
    """Why a file is no picture that can be read; None where it begins as one of FORMATS.

    data  the file, or its first HEAD_BYTES
    """
    Image.init()  # which imports Pillow's formats
    for pattern, why in KINDS:
        if pattern.match(data):
            return why
    return None if any(Image.OPEN[name][1](data[:64].ljust(64, b"\0")) is True for name in FORMATS) else UNKNOWN


def say_skipped(skipped, n):
    """Print how many of n files are left out, by their endings and the reasons.

    skipped  [(name, reason)]
    """
    found = Counter((os.path.splitext(name)[1].lower() or "without ending", why) for name, why in skipped)
    for (ending, why), count in found.most_common(N_TOLD):
        print(f"{count:,} of {n:,} files are left out ({ending}): {why}.", flush=True)
    rest = found.total() - sum(count for _, count in found.most_common(N_TOLD))
    if rest:
        print(f"{rest:,} of {n:,} files are left out for other reasons.", flush=True)
