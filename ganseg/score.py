"""Measures masks that anybody made of a data set's test pictures: `ganseg score MASKS -p dataset cub --run theirs`."""

import contextlib

import numpy as np
import torch

from ganseg import config, files, measuring, records
from ganseg.datasets import decode
from ganseg.datasets.coco import CocoMasks
from ganseg.datasets.labels import IGNORED, SOFT, index_labels
from ganseg.datasets.layout import match_masks
from ganseg.datasets.loading import list_names, load_fit, load_pictures
from ganseg.datasets.source import Source, locate, printable
from ganseg.errors import UserError
from ganseg.figures import report
from ganseg.model.geometry import soft_centroids
from ganseg.model.prediction import Predicted

SPLITS = ("test", "train")
MOST_VALUES = 64  # of a mask whose pixels are label numbers
N_TOLD = 3  # pictures without a mask that are named
WHITE = 255  # the foreground of masks that know nothing else
HARD = "save label numbers as they are, without smoothing (nearest neighbour, no JPEG)"
REASONS = dict.fromkeys(  # of metrics that are left out
    ("extents_px", "centers_px", "mask_entropies", "certainties", "certainties_of_generated", "moved_labels",
     "labels_of_moved", "earlier_labels"), "it needs the network, and masks alone are given")
REASONS["part_labels"] = "masks do not tell which part is most probable where they say background"
REASONS |= dict.fromkeys(
    ("train_labels", "train_centroids"), "no masks of training pictures are given; missing.txt names those it needs")


def score(run, path, n_parts=None, resize=False, league="not known"):
    """Measure masks as evaluate measures a segmenter; log, draw, and return the record (dict).

    run      from runs.open_run, without a training
    path     folder, zip or tar of index PNGs, NAME.png or NAME_parts.png of the picture NAME, or COCO JSON. Those of
             training pictures are used where something is fitted on these
    n_parts  K; None: the largest label
    resize   whether masks of another size than their picture's are stretched to it, by nearest neighbour
    league   what made them was taught with, one or several of records.LEAGUES
    Centroids are the means of a part's pixels, and of an absent part the picture's middle, as geometry.soft_centroids.
    Pictures without a mask are left out, and named in missing.txt of the run. Raises UserError where that is more than
    half of the test pictures, and for masks that cannot be measured.
    """
    if any(run.folder.glob("checkpoints/*")) or run.records("train"):
        raise UserError(f"run: {run.label} was trained; give the masks another name with --run.")
    records.check_league(league)
    test, fit = load_pictures(run.cfg, "test"), load_fit(run.cfg)
    with _open(path) as masks:
        mask_of, unused = _match(masks, run.cfg, test)
        missing = [[name for name in photos.names if name not in mask_of] for photos in (test, fit)]
        test, of_fit = (photos.take([i for i, name in enumerate(photos.names) if name in mask_of])
                        for photos in (test, fit))
        labels, fit_labels = (_read_labels(masks, mask_of, photos, run.cfg, resize) for photos in (test, of_fit))
        _white_as_part(labels, fit_labels)
        run.cfg = config.changed(run.cfg, {"n_parts": _n_parts(run, masks, [labels, fit_labels], n_parts)})
    found, found_fit = (_found(one, run.cfg.n_parts) if len(one) else None for one in (labels, fit_labels))
    values, left_out = measuring.measure(run.cfg, test, found, of_fit if found_fit else fit, found_fit, REASONS)
    notes = {records.MASKS: str(masks.path), "league": league, records.WITHOUT: len(missing[0]),
             "training pictures without a mask, left out": len(missing[1]),
             "masks of no picture that is read": len(unused),
             "centroids": "means of the masks' pixels, not of probabilities as of a segmenter",
             **measuring.notes_on(run.cfg, test, of_fit, labels)}
    with run.held():
        run.start("cpu")
        lines = [f"{split}: {name}\n" for split, names in zip(SPLITS, missing, strict=True) for name in names]
        files.write_text(run.folder / "missing.txt", "".join(lines))
        measuring.save_detections(run, test, labels)
        settings = run.cfg.model_dump(include=records.SETTINGS)
        return run.log("evaluate", 0, **values, left_out=left_out, notes=notes, settings=settings)


def print_score(run, *args, **options):
    """As score, with report.html in the run's folder and the metrics printed."""
    score(run, *args, **options)
    print(*report.verdict(run), report.metrics_table(run), f"see {report.write_report(run)}", sep="\n")


def _open(path):
    """A context of the masks at a path, with their names, read(name) and error(sentence)."""
    found = locate(path, "a folder or zip of index PNGs, or COCO JSON", "masks")
    return contextlib.nullcontext(CocoMasks(found)) if found.suffix.lower() == ".json" else Source(found, "masks")


def _match(masks, cfg, test):
    """{picture: its mask}, and masks of no picture. Raises UserError where most test pictures have none."""
    is_coco = isinstance(masks, CocoMasks)
    names = [name for name in masks.names if is_coco or name.lower().endswith(".png")]
    if not names:
        raise masks.error("holds no masks; they should be index PNGs, NAME.png or NAME_parts.png of the picture NAME.")
    mask_of, unused = match_masks(masks, list_names(cfg), names)
    missing = [name for name in test.names if name not in mask_of]
    if len(missing) > len(test) / 2:
        raise masks.error(f"holds {len(names):,} masks, but none of {len(missing):,} of {len(test):,} test pictures, "
                          f"which is more than half; the first is {missing[0]}, and the first mask {names[0]}.")
    if unused:
        print(f"{len(unused):,} of {len(names):,} masks belong to no picture that is read, the first is "
              f"{printable(unused[0])}.")
    if missing:
        print(f"{len(missing):,} of {len(test):,} test pictures have no mask and are left out: "
              f"{', '.join(missing[:N_TOLD])}{' ...' * (len(missing) > N_TOLD)} (all are in missing.txt of the run).")
    return mask_of, unused


def _read_labels(masks, mask_of, photos, cfg, resize):
    """The masks of Pictures as labels of their squares: (N, S, S) int16, below 0 outside of a photo."""
    S = cfg.image_size
    sizes = np.full((len(photos), 2), S) if photos.sizes is None else photos.sizes
    boxes = np.tile([0, 0, S, S], (len(photos), 1)) if photos.boxes is None else photos.boxes

    def work(i):
        name, size = mask_of[photos.names[i]], tuple(sizes[i].tolist())
        try:
            mask = decode.open_mask(masks.read(name))
            of_square = mask.size == (S, S) != size  # as the COCO JSON of ganseg samples
            if not (of_square or resize or mask.size == size):
                raise ValueError(f"it is {mask.width} x {mask.height} pixels, its picture {size[0]} x {size[1]}; "
                                 "--resize stretches it")
            size, crop = ((S, S), "squeeze") if of_square else (size, cfg.crop)
            labels = decode.read_labels(mask, size, _hard_labels, S, crop, stretch=True)
        except Exception as error:  # a damaged archive or file raises nearly anything
            raise masks.error(f"holds the mask {name}, which cannot be used: {files.one_line(error)}.") from None
        x, y, w, h = boxes[i]
        inside = np.full((S, S), IGNORED, np.int16)
        inside[y : y + h, x : x + w] = labels[y : y + h, x : x + w]
        return inside, of_square

    read = decode.in_parallel(work, len(photos), "read masks of")
    if n := sum(of_square for _, of_square in read):
        print(f"{n:,} masks are {S} x {S} pixels, other than their pictures, and count as masks of the "
              f"squares that these are made to (crop {cfg.crop}).")
    return np.array([labels for labels, _ in read], np.int16).reshape(-1, S, S)


def _hard_labels(mask, resize):
    """As labels.index_labels, without doubts: raises ValueError where a mask was smoothed."""
    if mask.mode in ("L", "P") and mask.getcolors(MOST_VALUES) is None:
        raise ValueError(f"it holds more than {MOST_VALUES} different values, as photos and smoothed masks do; {HARD}")
    labels = index_labels(mask, resize)
    if (labels == SOFT).any():
        raise ValueError(f"its edges are smoothed, with values between those of their sides; {HARD}")
    return labels


def _white_as_part(*labels):
    """Make 255 label 1 in place, where it is the only one besides 0."""
    if set().union(*(np.unique(one) for one in labels)) - {IGNORED, 0} == {WHITE}:
        print(f"All masks hold 0 and {WHITE} only: {WHITE} counts as part 1.")
        for one in labels:
            one[one == WHITE] = 1


def _n_parts(run, masks, labels, given):
    """K of masks with all their labels, two arrays of which the second may be empty; UserError where it cannot be."""
    largest = max(int(one.max(initial=0)) for one in labels)
    if largest == 0:
        raise masks.error("holds background alone; parts are labels from 1 to 255.")
    if given is not None and given < largest:
        raise UserError(f"n_parts: {given} is less than {largest}, the largest label of {masks.path}.")
    K = given or max(largest, getattr(masks, "n_parts", 0))
    if run.records("evaluate") and given is None and K != run.cfg.n_parts:
        raise UserError(f"run: {run.label} has {run.cfg.n_parts} parts, {masks.path} {K}; give another name with "
                        "--run, or the number of parts with -p n_parts.")
    return K


def _found(labels, n_parts):
    """Labels (N, S, S) as the parts that a segmenter would have found, without its probabilities."""
    parts = torch.arange(1, n_parts + 1)[:, None, None]
    centroids = [soft_centroids((torch.from_numpy(one) == parts)[None].float()) for one in labels]
    return Predicted(labels, None, torch.cat(centroids), None, None, None)
