"""Looks at a data set before anything is trained on it: what is there, how much, and whether it is read right."""

from pathlib import PurePosixPath

import numpy as np

from ganseg import config, sources
from ganseg.datasets import labels, loading
from ganseg.errors import UserError
from ganseg.figures import pictures

N_SHOWN = 40
NOT_COUNTED = {labels.IGNORED: "left out", labels.SOFT: "smoothed edges"}


def list_layout(cfg):
    """The files and folders of the data set's layout: a list of dicts with file, there and needed_for.

    Raises UserError when the source is missing or cannot be opened, or lacks something that nothing can do without.
    """
    if cfg.reader == "creatures":
        return []
    with loading.open_source(cfg) as source:
        find = getattr(loading.READERS[cfg.reader], "is_there", lambda source, name: source.find(name) is not None)
        return [{"file": w.name, "there": find(source, w.name), "needed_for": w.purpose}
                for w in loading.wanted_files(cfg.reader)]


def build_cache(run):
    """Build the cache of both splits, or compare all of it with its checksums. The source is remembered.

    Returns the pictures by split: train, fit (those of the training pictures' cache that are fitted on) and test.
    """
    cfg = run.cfg
    train, test = (loading.load_pictures(cfg, split, check_all=True) for split in ("train", "test"))
    if cfg.reader == "creatures":
        return {"train": train, "fit": train, "test": test}
    paths = config.absolute_paths({"source": cfg.source, "split_list": cfg.split_list})
    sources.remember(cfg.dataset, **{name: path for name, path in paths.items() if path})
    return {"train": train, "fit": loading.load_pictures(cfg, "fit"), "test": test}


def count_pictures(cfg, splits):
    """Numbers of pictures: a list of dicts with split, pictures, published, with landmarks and masks, and skipped."""
    published = loading.published_counts(cfg)
    counted = []
    for split, photos in splits.items():
        counts = {"split": split, "pictures": len(photos), "published": published.get(split)}
        if photos.landmarks is not None:
            known = ~photos.landmarks.isnan().any(dim=2)  # (N, L)
            counts["with landmarks"] = int(known.any(dim=1).sum())
            counts["landmarks missing in them"] = int((~known[known.any(dim=1)]).sum())
        if photos.labels is not None:
            counts["with masks"] = int(photos.masked.sum())
        counted.append({**counts, "skipped": len(photos.skipped)})
    return counted


def say_what_is_there(cfg, splits):
    """Print what a terminal should show: how many masks and landmarks there are, and who is tested on what."""
    test, train = splits["test"], splits["train"]
    for row in count_pictures(cfg, splits):
        found = [f"{row[kind]:,} {kind}" for kind in ("with landmarks", "with masks") if kind in row]
        print(f"{row['split']}: {row['pictures']:,} pictures, {', '.join(found) or 'no landmarks or masks'}")
    print(f"Test pictures are told from training pictures by {test.split_by}.")
    if test.checksums is not None and (n := np.isin(test.checksums, train.checksums).sum()):
        print(f"{n:,} of {len(test):,} test pictures are among the training pictures.")
    if cfg.reader == "folder":
        print(f"In landmarks.csv the first picture is called {train.names[0]}; its mask is masks/"
              f"{PurePosixPath(train.names[0]).stem}.png.")


def list_labels(splits):
    """The labels that masks hold: dicts of label and shares of the pixels in fit and test. Doubts are printed."""
    for split, what in (("fit", "pictures to fit on"), ("test", "test pictures")):
        labels.say_doubts(splits[split], what)
    shares = {split: labels.label_shares(splits[split]) for split in ("fit", "test")}
    return [{"label": NOT_COUNTED.get(label, label), **{split: known.get(label, 0) for split, known in shares.items()}}
            for label in sorted({label for known in shares.values() for label in known})]


def draw_annotations(run, splits):
    """Save figures/prepare.png: training and test pictures with their masks and landmarks drawn on. Returns its Path.

    The training pictures shown are those that regressions and matching are fitted on, where there are any.
    """
    chosen = splits["fit"] if len(splits["fit"]) else splits["train"], splits["test"]
    few = [photos.take(loading.spread_rows(len(photos), N_SHOWN)) for photos in chosen]
    plain = np.concatenate([pictures.enlarge(pictures.to_uint8(photos.images)) for photos in few])
    drawn = np.concatenate([_annotated(photos) for photos in few])
    shown = pictures.pairs(plain, drawn) if (plain != drawn).any() else plain
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
    fetch = getattr(loading.READERS.get(cfg.reader), "download", None)
    if fetch is None:
        raise UserError(f"download: torchvision does not offer {cfg.dataset}; get it by hand.")
    if not cfg.source:
        raise UserError("download: name the folder to download into with -p source.")
    try:
        fetch(cfg.source, cfg.reader)
    except Exception as error:  # a broken download, a checksum, no gdown, gdown's own errors
        raise UserError(f"download: {cfg.dataset} could not be downloaded into {cfg.source}: {error}") from None
