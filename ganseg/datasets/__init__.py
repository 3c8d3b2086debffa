"""The data sets: one reader per file, one registry, one class of what they return."""

from dataclasses import dataclass, field

import torch

N_CREATURES = {"train": 10_000, "test": 500}
CREATURES_SEED = 0  # fixed, so that every run is tested on the same pictures


@dataclass(frozen=True, eq=False)  # == on tensors would raise
class Pictures:
    """Pictures of one split, with the annotations there are.

    Coordinates are (x, y) in [-1, 1] with -1 and 1 on the outer pixel centres: pixel i of S is at
    -1 + 2i / (S - 1).
    """

    images: torch.Tensor  # (N, 3, S, S) uint8
    names: list[str]  # N: path within the source
    labels: torch.Tensor | None = None  # (N, S, S) uint8, 0 background, parts above
    landmarks: torch.Tensor | None = None  # (N, L, 2) float32, NaN where missing
    landmark_names: tuple[str, ...] = ()  # L
    eyes: tuple[int, int] | None = None  # the two landmarks of the inter-ocular distance
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (name, reason) of what cannot be read

    def __len__(self):
        return len(self.names)


def load(cfg, split, limit=None):
    """The pictures of one split, decoded at cfg.image_size.

    cfg    a config, or anything with the fields of DataConfig
    split  "train" or "test"
    limit  at most so many pictures; cfg.max_train_pictures and cfg.max_test_pictures limit too
    Returns Pictures. The limited pictures are the first ones; for the folder reader, an even spread.
    Raises UserError when the source is missing or not what the reader needs, ValueError for another split.
    """
    if split not in N_CREATURES:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(N_CREATURES)}")
    return READERS[cfg.reader](cfg, split, limit)


def how_many(cfg, split, limit, default):
    """Pictures wanted of a split: cfg's number, else `default`; never more than `limit`."""
    most = cfg.max_train_pictures if split == "train" else cfg.max_test_pictures
    most = default if most is None else most
    return most if limit is None else min(most, limit)


def _read_creatures(cfg, split, limit):
    """Draws the creatures: as many as the config asks for, there is no end of them."""
    from ganseg.datasets import creatures

    n = how_many(cfg, split, limit, default=N_CREATURES[split])
    images, labels, keypoints = creatures.draw(range(n), split, CREATURES_SEED, cfg.image_size)
    names = [f"{split}-{i:05d}" for i in range(n)]
    return Pictures(images, names, labels, keypoints, tuple(creatures.KEYPOINT_NAMES))


def _read_folder(cfg, split, limit):
    from ganseg.datasets import folder  # not at the top: the readers import Pictures from here

    return folder.read(cfg, split, limit)


def _read_lfw(cfg, split, limit):
    from ganseg.datasets import lfw

    return lfw.read(cfg, split, limit)


READERS = {"creatures": _read_creatures, "folder": _read_folder, "lfw": _read_lfw}
