"""Oxford Flowers-102 with its segmentations: flower or not.

The published split is swapped, as is usual for this task: its large test part trains, its training part tests.
"""

import io

import numpy as np
import torchvision
from PIL import Image
from scipy.io import loadmat

from ganseg.datasets.base import Listing, Wanted

ARCHIVES = {"102flowers.tgz": "jpg/", "102segmentations.tgz": "segmim/"}
OBTAIN = (
    "Flowers-102 is at https://www.robots.ox.ac.uk/~vgg/data/flowers/102/: put 102flowers.tgz, 102segmentations.tgz "
    "and setid.mat into a folder, unpacked or not"
)
SEGMENTATIONS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102segmentations.tgz"
SPLIT_FILE = "setid.mat"
WANTED = [
    Wanted("jpg/", "anything: the pictures"),
    Wanted(SPLIT_FILE, "the splits"),
    Wanted("segmim/", "foreground_iou", required=False),
]
PUBLISHED = {"train": 6_149, "test": 1_020}
KEYS = {"train": "tstid", "test": "trnid"}


def list_split(source, split, cfg):
    """One split, with masks where segmim/ is there. All test pictures must have one then.

    Returns a Listing. Raises UserError when the pictures, setid.mat or masks of test pictures are missing or damaged.
    """
    folder, segmim = source.find("jpg/", needed=True), source.find("segmim/")
    ids = source.parse(source.find(SPLIT_FILE, needed=True), lambda data: loadmat(io.BytesIO(data))[KEYS[split]])
    ids, there = ids.ravel().astype(int), set(source.names)
    names = [f"{folder}image_{i:05d}.jpg" for i in ids]
    source.check_all_in(there, names, f"pictures of {KEYS[split]} in {SPLIT_FILE}")
    if segmim is None:
        return Listing(names)
    masks = [f"{segmim}segmim_{i:05d}.jpg" for i in ids]
    if split == "test":
        source.check_all_in(there, masks, f"masks of {KEYS[split]} in {SPLIT_FILE}")
    masks = [mask if mask in there else None for mask in masks]
    return Listing(names, masks, to_labels, only_foreground=True)


def to_labels(mask, resize):
    """Foreground of a segmim picture. Background is painted (0, 0, 254), and JPEG blurs it at the edges.

    mask    PIL image
    resize  function (image, resample) that makes a square of S pixels
    Returns uint8 (S, S): 1 where most of a pixel is foreground, else 0.
    """
    red, green, blue = np.moveaxis(np.asarray(mask.convert("RGB")), -1, 0)
    background = (red == 0) | (green == 0) | (blue == 254)
    foreground = Image.fromarray(np.where(background, 0, 255).astype(np.uint8))
    return (np.asarray(resize(foreground, Image.Resampling.BOX)) > 127.5).astype(np.uint8)


def download(folder, reader):
    """Fetch pictures and splits by torchvision, and the segmentations. Raises RuntimeError or OSError."""
    torchvision.datasets.Flowers102(folder, download=True)
    torchvision.datasets.utils.download_and_extract_archive(SEGMENTATIONS, folder)
