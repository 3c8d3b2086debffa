"""The pictures of a data set. Its reader lists them, and the cache decodes them once."""

import contextlib
import hashlib
import json
from dataclasses import replace

import numpy as np

from ganseg import runs
from ganseg.datasets import cache, celeba, creatures, cub, flowers, folder, taichi
from ganseg.datasets.base import Pictures
from ganseg.datasets.source import Source, fingerprint, locate

READERS = {"folder": folder, "celeba": celeba, "celeba_aligned": celeba, "taichi": taichi, "cub": cub,
           "flowers": flowers}  # but for creatures, which are drawn
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
    kind = "test" if split == "test" else "train"
    if cfg.reader == "creatures":
        return _draw_creatures(kind, _most(cfg, kind), limit, cfg.image_size)
    pictures = _from_cache(cfg, kind, check_all)
    rows = np.flatnonzero(pictures.fit if split == "fit" else pictures.train)
    return pictures.take(rows[spread_rows(len(rows), limit)])


def load_fit(cfg):
    """The training pictures that regressions and matching are fitted on; none where there is nothing to fit."""
    fit = load_pictures(cfg, "fit", cfg.fit_pictures)
    return fit.take([]) if fit.landmarks is None and (fit.labels is None or fit.only_foreground) else fit


def list_names(cfg):
    """The names of all pictures of both splits, those that nothing is fitted on too."""
    if cfg.reader == "creatures":
        return [name for split in N_CREATURES for name in _name_creatures(split, _most(cfg, split))]
    # Where nothing is annotated, test pictures are training pictures too
    return list(dict.fromkeys(str(name) for split in N_CREATURES for name in _from_cache(cfg, split, False).names))


def spread_rows(n, limit):
    """Indices of at most `limit` of n things, evenly spread; None: of all."""
    k = n if limit is None else min(n, limit)
    return np.arange(k) * n // max(k, 1)


def _limited(listing, most):
    """A listing with at most so many pictures to train on, which come first, and as many to fit on."""
    everything = np.ones(len(listing.names))
    chosen = [np.flatnonzero(everything if flags is None else flags) for flags in (listing.train, listing.fit)]
    train, fit = (rows[spread_rows(len(rows), most)] for rows in chosen)
    rows = np.concatenate([train, np.setdiff1d(fit, train)])
    return replace(listing.take(rows), train=np.isin(rows, train), fit=np.isin(rows, fit))


def _draw_creatures(split, most, limit, image_size):
    """The first creatures of a split, which has no end."""
    names = _name_creatures(split, most)[: limit or None]
    images, labels, keypoints = creatures.draw(range(len(names)), split, CREATURES_SEED, image_size)
    return Pictures(images, names, labels, landmarks=keypoints, landmark_names=tuple(creatures.KEYPOINT_NAMES),
                    split_by="the seed they are drawn from")


def _name_creatures(split, most):
    return [f"{split}-{i:05d}" for i in range(N_CREATURES[split] if most is None else most)]


def _from_cache(cfg, split, check_all):
    @contextlib.contextmanager
    def listed():
        with open_source(cfg) as source:
            listing = READERS[cfg.reader].list_split(source, split, cfg)
            if not listing.names:
                raise source.error(f"holds no picture of the split {split}.")
            yield source, _limited(listing, _most(cfg, split))

    return cache.open_or_build(_cache_folder(cfg, split), listed, cfg.image_size, cfg.crop, check_all)


@contextlib.contextmanager
def open_source(cfg):
    """The Source of a config. A tar stays unpacked until the pictures of both splits are decoded.

    Raises UserError when it is not set or cannot be opened, or lacks something that nothing can do without.
    """
    scratch = runs.cache_folder(cfg.dataset)
    with Source(_locate(cfg), archives=READERS[cfg.reader].ARCHIVES, scratch=scratch) as source:
        missing = [w.name for w in wanted_files(cfg.reader) if w.required and source.find(w.name) is None]
        if missing:
            raise source.error(f"lacks {', '.join(missing)}; {READERS[cfg.reader].OBTAIN}.")
        yield source
        source.keep = not all(_cache_folder(cfg, split).exists() for split in ("train", "test"))


def _locate(cfg):
    return locate(cfg.source, "the folder, zip or tar of the pictures with -p source, or once for all runs by: ganseg "
                  f"prepare -p dataset {cfg.dataset} -p source PATH ({READERS[cfg.reader].OBTAIN})")


def _cache_folder(cfg, split):
    """The Path of a split's cache, named after all that determines it."""
    lists = [fingerprint(locate(cfg.split_list, "a file", "split_list"))] if cfg.split_list else []
    key = [9, cfg.reader, fingerprint(_locate(cfg)), lists, split, cfg.image_size, cfg.crop, cfg.ignore_label,
           _most(cfg, split), cfg.classes]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    return runs.cache_folder(cfg.dataset) / f"{split}-{digest}"


def _most(cfg, split):
    return cfg.max_test_pictures if split == "test" else cfg.max_train_pictures


def wanted_files(reader):
    """The files and folders that a reader looks for, a list of base.Wanted."""
    return READERS[reader].WANTED_ALIGNED if reader == "celeba_aligned" else READERS[reader].WANTED


def published_counts(cfg):
    """{split: number of pictures as published}, where numbers are published."""
    if cfg.reader in ("creatures", "celeba_aligned") or (cfg.reader == "cub" and (not cfg.split_list or cfg.classes)):
        return {}  # CUB's published numbers are those of a list, and of all classes
    return READERS[cfg.reader].PUBLISHED
