"""A run's segmenter on real photos: parts, the worst pictures, what a part means, and the parts' names."""

import functools
import math
import os
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from ganseg import part_names
from ganseg.datasets import decode
from ganseg.datasets.loading import load_pictures
from ganseg.errors import UserError
from ganseg.figures import pictures
from ganseg.metrics import landmarks, masks
from ganseg.model import prediction

VIEW_PX, CROP_PX = 256, 80  # pictures are enlarged to at least so many pixels
OWN_PX = 1200  # own photos are shrunk to at most so many

# The worst pictures have the lowest or the highest value of a quantity
MEASURES = {"foreground_iou": "lowest", "landmark_error_with_bias": "highest", "keypoint_error_percent": "highest",
            "background_share": "highest", "confidence": "lowest", "parts_missing": "highest"}


class View(NamedTuple):
    """One photo as it is shown. Pictures are uint8 (H, W, 3), at least VIEW_PX wide."""

    photo: np.ndarray  # with the numbered centroids of the parts that are there
    parts: np.ndarray  # the parts painted over it
    truth: np.ndarray | None  # true parts or foreground painted over it, true landmarks as dots; None: not known
    rows: list[dict]  # per part: part, label, area_share, confidence, x_px, y_px (None: absent)


class Photos:
    """At most `limit` photos of a split (an even spread) and the segmenter's answers, computed once.

    model  from segment.load
    split  test or train
    Memory: 4 S^2 bytes a photo; 66 MB for 1,000 of 128 pixels.
    Raises UserError where the photos cannot be had.
    """

    def __init__(self, run, model, split="test", limit=1000):
        self.run, self.model, self.limit = run, model, limit
        self.photos = load_pictures(run.cfg, split, limit)
        self.predicted = prediction.predict(model.network, self.photos.images, self.photos.boxes).numpy()

    def view(self, i, part=None, strength=0.75):
        """Photo i as a View; part, if given, is painted alone; strength of the colours in [0, 1]."""
        photos = self.photos
        known = photos.labels is not None and (photos.labels[i] >= 0).any()
        truth = (photos.labels[i].numpy(), int(photos.labels.max())) if known else None
        points = None if photos.landmarks is None else photos.landmarks[i].numpy()
        image = pictures.to_uint8(photos.images[i : i + 1])
        one = prediction.Predicted(*(field[i : i + 1] for field in self.predicted))
        return _view(image, one, part_names.read_parts(self.run), part, strength, truth, points)

    def measures(self):
        """Names of the quantities, of MEASURES, that these photos can be ranked by."""
        photos, with_points = self.photos, self.photos.landmarks is not None
        there = {"foreground_iou": photos.labels is not None,
                 "landmark_error_with_bias": with_points and photos.eyes is not None,
                 "keypoint_error_percent": with_points and photos.eyes is None}
        return [name for name in MEASURES if there.get(name, True)]

    def values(self, measure):
        """A measure of each photo, (N,) floats, NaN where it is not known.

        foreground_iou and the two errors are those of ganseg.metrics for one picture. confidence is the mean over all
        pixels of the largest probability. parts_missing is the number of parts that win no pixel.
        """
        area, labels, photos = self.predicted.area, self.predicted.labels, self.photos
        known = {"background_share": 1 - area.sum(axis=1), "confidence": self.predicted.certainty,
                 "parts_missing": (area == 0).sum(axis=1).astype(float)}
        if measure in known:
            return known[measure]
        if measure == "foreground_iou":
            return masks.foreground_ious(labels, photos.labels.numpy())
        return self._landmark_errors

    def ranked(self, measure, best_first=False):
        """Indices of the photos, the worst (or best) first. Those whose measure is not known come last."""
        badness = self.values(measure) * (1 if MEASURES[measure] == "lowest" else -1)
        return np.argsort(-badness if best_first else badness, kind="stable")

    def crops(self, part, n=12):
        """Where a part is strongest: squares of one size around the largest piece that it wins, outlined.

        Photos are ranked by the sum of the part's probability over the pixels that it wins (area x confidence).
        Returns uint8 (n' <= n, C, C, 3) and the photos' indices; none where the part wins no pixel.
        """
        parts, S = part_names.read_parts(self.run), self.run.cfg.image_size
        found = parts.merged(self.predicted)
        area = found.area[:, part - 1]
        strength = np.nan_to_num(area * found.confidence[:, part - 1])
        chosen = np.argsort(-strength, kind="stable")[:n]
        chosen = chosen[strength[chosen] > 0]
        if not len(chosen):
            return np.zeros((0, CROP_PX, CROP_PX, 3), np.uint8), chosen
        side = round(np.clip(2.5 * math.sqrt(np.median(area[chosen])) * S, S / 4, S))
        middles = [_middle_of_largest_piece(found.labels[i] == part) for i in chosen]
        corners = np.clip(np.rint(np.array(middles) - (side - 1) / 2), 0, S - side).astype(int)  # inside the photo
        windows = [(i, slice(y, y + side), slice(x, x + side)) for i, (y, x) in zip(chosen, corners, strict=True)]
        cut = np.concatenate([pictures.to_uint8(self.photos.images[i : i + 1, :, y, x]) for i, y, x in windows])
        is_part = np.stack([found.labels[i, y, x] == part for i, y, x in windows])
        color = parts.colors[part - 1]
        larger = zip(pictures.enlarge(cut, CROP_PX), pictures.enlarge(is_part, CROP_PX), strict=True)
        return np.stack([pictures.outline(picture, mask, color) for picture, mask in larger]), chosen

    @functools.cached_property
    def _landmark_errors(self):
        """Each photo's mean landmark error by a regression with bias, fitted on at most `limit` photos of the split."""
        cfg = self.run.cfg
        fit = load_pictures(cfg, "fit", min(cfg.fit_pictures or self.limit, self.limit))
        if fit.landmarks is None:
            return np.full(len(self.photos), np.nan)
        fitted = prediction.predict(self.model.network, fit.images, fit.boxes, keep_labels=False)
        x, fit_x = (landmarks.centroids_to_square(c) for c in (self.predicted.centroids, fitted.centroids.numpy()))
        y, fit_y = (landmarks.landmarks_to_square(p.landmarks, cfg.image_size) for p in (self.photos, fit))
        found = landmarks.regress(x, fit_x, fit_y, landmarks.fit_with_bias)
        return pd.DataFrame(landmarks.percent_errors(found, y, self.photos.eyes)).mean(axis=1).to_numpy()


def _middle_of_largest_piece(mask):
    """(y, x) of the centre of the largest connected piece. With two objects in a photo a part has two pieces."""
    pieces, _ = ndimage.label(mask)
    return np.argwhere(pieces == np.bincount(pieces[mask]).argmax()).mean(axis=0)


def view_file(run, model, source, part=None, strength=0.75):
    """The user's own photo as a View at its own size, OWN_PX at most, with the labels that `ganseg segment` gives it.

    Centroids are in pixels of the photo.
    source  whatever PhotoSegmenter.segment takes: a path, the bytes of a file, a PIL image or an array
    Raises UserError when it cannot be read.
    """
    try:
        photo, square = decode.open_upright(source), model.square(source)
    except ValueError as error:
        name = source if isinstance(source, str | os.PathLike) else "the uploaded file"
        raise UserError(f"photo: {name} cannot be read ({error}); choose a JPEG, PNG, WebP or TIFF file.") from None
    parts, logits = part_names.read_parts(run), model.logits(square[None])[0]
    labels = parts.apply(model.labels(logits, photo.size))
    confidence = model.confidence(logits, photo.size, parts)
    measured = model.measure(labels)
    rows = [_row(parts, k, area / labels.size, confidence[k - 1], x, y) for k, area, _, x, y in measured
            if k in parts.numbers]
    there = [area > 0 and part in (None, k) for k, area, *_ in measured]
    middles = [[2 * float(x or 0) / max(photo.width - 1, 1) - 1, 2 * float(y or 0) / max(photo.height - 1, 1) - 1]
               for *_, x, y in measured]
    scale, mask = max(1, max(photo.size) / OWN_PX), labels if part is None else np.where(labels == part, labels, 0)
    size = [max(1, round(side / scale)) for side in photo.size]
    pair = photo.resize(size), Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
    image, mask = (pictures.enlarge(np.asarray(one)[None], VIEW_PX) for one in pair)
    painted = pictures.overlay(image, mask, parts.colors, strength)[0]
    return View(pictures.number_parts(image[0], middles, there, parts.colors), painted, None, rows)


def _row(parts, k, share, confidence, x, y):
    """A row of View; a part of no pixels has its share alone."""
    seen = {"confidence": float(confidence), "x_px": float(x), "y_px": float(y)} if share else dict.fromkeys(
        ("confidence", "x_px", "y_px"))
    return {"part": k, "label": parts.labels[k - 1], "area_share": share} | seen


def _view(image, found, parts, part, strength, truth=None, landmarks=None):
    """A View of image (1, S, S, 3) and a Predicted of one, whose parts are taken for Parts of part_names.

    truth is (labels (S, S), how many parts they have).
    """
    found, K, S = parts.merged(found), len(parts.names), image.shape[1]
    large, labels = pictures.enlarge(image, VIEW_PX), pictures.enlarge(found.labels, VIEW_PX)
    shown = labels if part is None else np.where(labels == part, labels, 0)
    there = found.area[0] > 0
    if part is not None:
        there &= np.arange(1, K + 1) == part
    true = None
    if truth is not None:
        true = pictures.overlay(large, pictures.enlarge(truth[0][None], VIEW_PX), truth[1], 0.9)
    if landmarks is not None:
        true = pictures.draw_points(large if true is None else true, landmarks[None, :, None], radius=3)
    centroids = ((found.centroids[0] + 1) / 2 * (S - 1)).round(1).tolist()
    rows = [_row(parts, k, float(found.area[0, k - 1]), found.confidence[0, k - 1], *centroids[k - 1])
            for k in parts.numbers]
    photo = pictures.number_parts(large[0], found.centroids[0], there, parts.colors)
    painted = pictures.overlay(large, shown, parts.colors, strength)[0]
    return View(photo, painted, None if true is None else true[0], rows)
