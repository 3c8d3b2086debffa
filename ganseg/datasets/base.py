"""What a reader says about a data set, and what everybody else gets of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

PER_PICTURE = ("names", "images", "labels", "landmarks", "checksums", "sizes", "boxes", "box_px", "masks", "train",
               "fit")


@dataclass(frozen=True, eq=False, kw_only=True)
class Facts:
    """What holds for all pictures of a split."""

    only_foreground: bool = False  # the labels say foreground or not, no parts
    landmark_names: tuple[str, ...] = ()  # L
    eyes: tuple[int, int] | None = None  # the two landmarks of the inter-ocular distance, left and right
    frame_px: float | None = None  # width of the frames in which the data set's own protocol counts pixels
    split_by: str = "as published"  # how test pictures were told from training pictures

    def take(self, rows):
        """Those at some rows (an array of indices). A slice of mapped arrays stays mapped, others are gathered."""
        rows = np.asarray(rows, np.int64)
        first, last = (rows[0], rows[-1] + 1) if len(rows) else (0, 0)
        chosen = slice(first, last) if np.array_equal(rows, np.arange(first, last)) else rows
        kept = {}
        for name in PER_PICTURE:
            values = getattr(self, name, None)
            if values is not None:
                kept[name] = [values[i] for i in rows] if name in ("names", "masks") else values[chosen]
        return replace(self, **kept)


@dataclass(frozen=True, eq=False)  # == on tensors would raise
class Pictures(Facts):
    """Pictures of one split, with the annotations there are.

    Coordinates are (x, y) in [-1, 1] with -1 and 1 on the outer pixel centres: pixel i of S is at
    -1 + 2i / (S - 1).
    """

    images: torch.Tensor  # (N, 3, S, S) uint8; mapped from the cache's file, except drawn ones
    names: np.ndarray | list[str]  # N: path within the source
    labels: torch.Tensor | None = None  # (N, S, S) integers, 0 background, parts above, < 0 not known
    landmarks: torch.Tensor | None = None  # (N, L, 2) float32, NaN where missing
    checksums: np.ndarray | None = None  # (N,) uint32, of the images; None: they are drawn
    sizes: np.ndarray | None = None  # (N, 2) width and height of the photo in pixels; None: drawn, as its square
    boxes: np.ndarray | None = None  # (N, 4) left, top, width, height of the photo in its square; None: all of it
    box_px: np.ndarray | None = None  # (N, 2) width and height of the object's bounding box, in pixels of the square
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (name, reason) of what cannot be read
    train: np.ndarray | None = None  # of a whole cache (N,) bool: what is trained on; None: all
    fit: np.ndarray | None = None  # likewise, what regressions and matching are fitted on

    def __len__(self):
        return len(self.names)

    @property
    def masked(self):
        """(N,) bool: the pictures with labels of which some are known; None: no picture has labels."""
        return None if self.labels is None else (self.labels >= 0).flatten(1).any(dim=1).numpy()


@dataclass(frozen=True, eq=False)
class Listing(Facts):
    """What a reader finds of one split, nothing decoded yet. All annotations are in the picture's own pixels."""

    names: list[str]  # N paths within the source
    masks: list[str | None] | None = None  # N paths of their masks, None where a picture has none
    to_labels: Callable | None = None  # see ganseg.datasets.decode.read_labels
    landmarks: np.ndarray | None = None  # (N, L, 2) float: x, y, pixel centres being whole numbers; NaN missing
    box_px: np.ndarray | None = None  # (N, 2) width and height of the object's bounding box
    train: np.ndarray | None = None  # (N,) bool: of the split "train", what is trained on; None: all
    fit: np.ndarray | None = None  # (N,) bool: of the split "train", what is fitted on; None: all
    upright: bool = False  # annotations refer to the picture as its EXIF data turns it


class Wanted(NamedTuple):
    """A file or folder of a data set's layout."""

    name: str  # as Source.find looks for it; a folder ends in /
    purpose: str  # what cannot be done without it
    required: bool = True  # nothing can be done without it
