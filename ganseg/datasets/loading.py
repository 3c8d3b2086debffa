"""The pictures of a data set. Its reader lists them, and the cache decodes them once."""

import hashlib
import json

import numpy as np

from ganseg import runs
from ganseg.datasets import cache, celeba, creatures, cub, flowers, folder, taichi
from ganseg.datasets.base import Pictures
from ganseg.datasets.source import Source, fingerprint, locate

READERS = {
    "folder": folder,
    "celeba": celeba,
    "celeba_aligned": celeba,
    "taichi": taichi,
    "cub": cub,
    "flowers": flowers,
}  # but for creatures, which are drawn
SPLITS = ("train", "fit", "test")
N_CREATURES = {"train": 10_000, "test": 500}
CREATURES_SEED = 0  # fixed, so that every run is tested on the same pictures


def load_pictures(cfg, split, limit=None, check_all=False):
    """The pictures of one split, decoded once at cfg.image_size and mapped from the cache ever after.

    cfg        a config, or anything with the fields of DataConfig
    split      "train", "test", or "fit": the training pictures that regressions and matching are fitted on
    limit      at most so many pictures, an even spread; cfg.max_train_pictures and cfg.max_test_pictures limit too
    check_all  compare every picture of the cache with its checksum, not just some
    Returns Pictures.
    Raises UserError when the source is missing or not what the reader needs, ValueError for another split.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    most = cfg.max_test_pictures if split == "test" else cfg.max_train_pictures
    if cfg.reader == "creatures":
        return _draw_creatures("test" if split == "test" else "train", most, limit, cfg.image_size)
    pictures = _from_cache(cfg, "test" if split == "test" else "train", most, check_all)
    rows = pictures.fit if split == "fit" and pictures.fit is not None else np.arange(len(pictures))
    return pictures.take(rows[spread_rows(len(rows), limit)])


def spread_rows(n, limit):
    """Indices of at most `limit` of n things, evenly spread; None: of all."""
    k = n if limit is None else min(n, limit)
    return np.arange(k) * n // max(k, 1)


def _limited_rows(listing, most):
    """At most so many rows of a listing, and as many of those to fit on, which can be few among many."""
    fit = np.flatnonzero(np.ones(len(listing.names)) if listing.fit is None else listing.fit)
    return np.union1d(spread_rows(len(listing.names), most), fit[spread_rows(len(fit), most)])


def _draw_creatures(split, most, limit, image_size):
    """The first creatures of a split, which has no end."""
    n = min(N_CREATURES[split] if most is None else most, limit or most or N_CREATURES[split])
    images, labels, keypoints = creatures.draw(range(n), split, CREATURES_SEED, image_size)
    names = [f"{split}-{i:05d}" for i in range(n)]
    return Pictures(images, names, labels, landmarks=keypoints, landmark_names=tuple(creatures.KEYPOINT_NAMES),
                    split_by="the seed they are drawn from")


def _from_cache(cfg, split, most, check_all):
    reader = READERS[cfg.reader]
    path = locate(cfg.source, "the folder, zip or tar of the pictures with -p source, or once for all runs by: "
                  f"ganseg prepare -p dataset {cfg.dataset} -p source PATH")
    lists = [fingerprint(locate(cfg.split_list, "a file", "split_list"))] if cfg.split_list else []
    key = [2, cfg.reader, fingerprint(path), lists, split, cfg.image_size, cfg.crop, most]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    root = runs.cache_folder(cfg.dataset)

    def make():
        root.mkdir(parents=True, exist_ok=True)
        source = Source(path, archives=reader.ARCHIVES, scratch=root)
        try:
            check_layout(source, cfg.reader)
            listing = reader.list_split(source, split, cfg)
            if not listing.names:
                raise source.error(f"holds no picture of the split {split}.")
        except BaseException:
            source.close()
            raise
        return source, listing.take(_limited_rows(listing, most))

    return cache.open_or_build(root / f"{split}-{digest}", make, cfg.image_size, cfg.crop, check_all)


def wanted_files(reader):
    """The files and folders that a reader looks for, a list of base.Wanted."""
    return READERS[reader].WANTED_ALIGNED if reader == "celeba_aligned" else READERS[reader].WANTED


def published_counts(cfg):
    """{split: number of pictures as published}, where numbers are published."""
    if cfg.reader in ("creatures", "celeba_aligned") or (cfg.reader == "cub" and not cfg.split_list):
        return {}  # CUB's published numbers are those of a list
    return READERS[cfg.reader].PUBLISHED


def check_layout(source, reader):
    """Raise UserError that names every required file that is missing."""
    missing = [w.name for w in wanted_files(reader) if w.required and not source.has(w)]
    if missing:
        raise source.error(f"lacks {', '.join(missing)}; {READERS[reader].OBTAIN}.")
