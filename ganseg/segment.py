"""Parts of anybody's photos, with a run's segmenter: `segment.load("lfw/k8").segment("photo.jpg")`."""

import csv
import io
import itertools
import time
import warnings
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ganseg import pictures, runs, sampling, segmenter
from ganseg.datasets import folder
from ganseg.errors import UserError

BAND_PX = 2**20  # photos are enlarged and painted in bands of rows: one of 50 megapixels would take gigabytes
COLUMNS = ["photo", "part", "area_px", "area_share", "centroid_x_px", "centroid_y_px"]
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class Segmented(NamedTuple):
    """What segment_photos did."""

    names: list[str]  # of the photos that were segmented
    skipped: list[tuple[str, str]]  # (name, reason) of those that cannot be read
    table: Path  # parts.csv


def load(run, device="auto"):
    """The newest segmenter of a run, named by its folder, DATASET/NAME or NAME.

    Returns a PhotoSegmenter. Raises UserError where there is no such run or it has no segmenter.
    """
    run = runs.find(str(run))
    path = run.newest("segmenter")
    if path is None:
        raise runs.missing(run.folder, "segmenter")
    cfg = run.cfg.model_copy(update={"backbone_weights": "none"})  # the checkpoint holds the backbone
    network = runs.load_weights(segmenter.build(cfg), runs.load_checkpoint(path).get("segmenter"), path)
    return PhotoSegmenter(cfg, network, sampling.choose_device(device))


class PhotoSegmenter:
    """A trained segmenter for photos of any size; `cfg` is its run's config."""

    def __init__(self, cfg, network, device):
        self.cfg, self.device = cfg, device
        self.network = network.to(device).eval()

    def segment(self, photo):
        """The parts of one photo.

        photo  path, bytes of a file, or PIL image; a PIL image is taken as it is, not turned by its EXIF
        Returns uint8 (H, W) at the photo's own upright size: 0 background, parts 1..K. With crop "center"
        all outside the middle square is background.
        Raises UserError with the reason when it cannot be read.
        """
        data = _png(photo) if isinstance(photo, Image.Image) else photo
        try:
            size = folder.open_upright(data).size
            square = folder.read_picture(data, self.cfg.image_size, self.cfg.crop)
        except ValueError as error:
            raise UserError(f"photo: {'it' if data is not photo else photo!r:.200} cannot be read: {error}.") from None
        return self.labels(self.logits(square[None])[0], *size)

    @torch.inference_mode()
    def logits(self, squares):
        """Squares as in training, (B, S, S, 3) uint8 -> logits (B, K + 1, S, S) on the CPU."""
        images = torch.from_numpy(np.ascontiguousarray(squares)).to(self.device).permute(0, 3, 1, 2)
        return self.network(images.float() / 127.5 - 1).float().cpu()

    def labels(self, logits, width, height):
        """Logits of one square (K + 1, S, S) -> labels uint8 (height, width) of the photo it was made from."""
        if self.cfg.crop == "squeeze":
            return _enlarged_labels(logits, width, height)
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        labels = np.zeros((height, width), np.uint8)
        labels[top : top + side, left : left + side] = _enlarged_labels(logits, side, side)
        return labels
