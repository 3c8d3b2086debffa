"""Looks at a data set before anything is trained on it: what is there, how much, and whether it is read right."""

import numpy as np

from ganseg import datasets, pictures, runs
from ganseg.datasets.source import Source, locate
from ganseg.errors import UserError

N_SHOWN = 40


def layout(cfg):
    """What the data set's layout consists of: a list of dicts with file, there and needed_for.

    Raises UserError when the source is missing or cannot be opened, or lacks something that nothing can do without.
    """
    if cfg.reader == "creatures":
        return []
    reader = datasets.READERS[cfg.reader]
    path = locate(cfg.source, f"where the pictures lie with -p source ({reader.OBTAIN})")
    with Source(path, archives=reader.ARCHIVES) as source:
        datasets.check_layout(source, cfg.reader)
        return [{"file": w.name, "there": source.has(w), "needed_for": w.purpose} for w in datasets.wanted(cfg.reader)]


def build(run):
    """Build the cache of every split, compare all of it with its checksums, and remember the source.

    Returns the pictures by split: train, fit (to fit regressions and matching on) and test.
    """
    cfg = run.cfg
    splits = {split: datasets.load(cfg, split, check_all=split != "fit") for split in datasets.SPLITS}
    if cfg.source:
        runs.remember_source(cfg.dataset, locate(cfg.source, "the pictures"))
    return splits


def counts(cfg, splits):
    """How many pictures there are, a list of dicts: split, pictures, published, and how many show what."""
    published = datasets.published(cfg.reader)
    rows = []
    for split, photos in splits.items():
        row = {"split": split, "pictures": len(photos), "published": published.get(split)}
        if photos.landmarks is not None:
            row["with landmarks"] = int((~photos.landmarks.isnan()).any(dim=2).any(dim=1).sum())
        if photos.labels is not None:
            row["with masks"] = sum(bool(labels.any()) for labels in photos.labels)
        rows.append({**row, "skipped": len(photos.skipped)})
    return rows


def draw(run, splits):
    """Save figures/prepare.png: training and test pictures with their masks and landmarks drawn on; returns its Path.

    Of the training pictures those are shown that regressions and matching are fitted on.
    """
    few = [splits[s].take(datasets.spread(len(splits[s]), N_SHOWN)) for s in ("fit", "test")]
    plain = np.concatenate([pictures.enlarge(pictures.to_uint8(photos.images)) for photos in few])
    drawn = np.concatenate([_annotated(photos) for photos in few])
    shown = pictures.pairs(plain, drawn) if (plain != drawn).any() else plain
    (run.folder / "figures").mkdir(parents=True, exist_ok=True)
    path = run.folder / "figures" / "prepare.png"
    pictures.save(pictures.grid(shown, 10), path)
    return path


def _annotated(photos):
    """Pictures with their masks and landmarks drawn on, (N, H, W, 3) uint8."""
    drawn = pictures.to_uint8(photos.images)
    if photos.labels is not None:
        drawn = pictures.overlay(drawn, photos.labels.numpy(), max(int(photos.labels.max()), 1))
    drawn = pictures.enlarge(drawn)
    if photos.landmarks is not None:
        drawn = pictures.draw_points(drawn, photos.landmarks[:, :, None].numpy())
    return drawn


def download(cfg):
    """Fetch what torchvision can fetch of a data set into cfg.source.

    Raises UserError where it can fetch nothing of it, or a download fails.
    """
    fetch = getattr(datasets.READERS.get(cfg.reader), "download", None)
    if fetch is None:
        raise UserError(f"download: torchvision does not offer {cfg.dataset}; get it by hand.")
    if not cfg.source:
        raise UserError("download: name the folder to download into with -p source.")
    try:
        fetch(cfg.source, cfg.reader)
    except (RuntimeError, OSError) as error:  # a broken download, a checksum, a missing gdown
        raise UserError(f"download: {cfg.dataset} could not be downloaded into {cfg.source}: {error}") from None
