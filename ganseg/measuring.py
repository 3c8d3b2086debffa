"""What is measured of parts and drawn of them, whether a segmenter found them or masks tell them."""

import numpy as np
import torch

from ganseg import metrics, part_names
from ganseg.datasets.labels import say_doubts
from ganseg.figures import pictures, report

N_DETECTIONS = 120


def measure(cfg, test, found, fit, of_fit, reasons=None, **more):
    """All metrics that Pictures and the parts found in them allow: values and left-out reasons, by name.

    found, of_fit  with labels (N, S, S) and centroids (N, K, 2), as of predict; of_fit is None where nothing is fitted
    reasons        see metrics.compute
    more           further fields of metrics.Predictions
    """
    predictions = metrics.Predictions(
        n_parts=cfg.n_parts,
        image_size=cfg.image_size,
        true_foreground=None if test.labels is None else test.labels.sign().numpy(),
        eyes=test.eyes,
        frame_px=test.frame_px,
        images=test.images.numpy(),
        **_of_split(test, found),
        **_of_split(fit, of_fit, "train_"),
        **more,
    )
    return metrics.compute(predictions, reasons)


def _of_split(photos, found, prefix=""):
    """The fields of Predictions with what is known and found, if anything, in one split's pictures."""
    known = {"landmarks": photos.landmarks, "true_labels": None if photos.only_foreground else photos.labels}
    known |= {} if found is None else {"labels": found.labels, "centroids": found.centroids}
    known |= {} if prefix else {"box_px": photos.box_px}
    if not prefix and photos.landmarks is not None:
        known["part_labels"] = found.part_labels
    return {prefix + name: np.asarray(value) for name, value in known.items() if value is not None}


def notes_on(cfg, test, fit, labels):
    """Facts about what is measured, by name: Pictures, and the labels (N, S, S) of the test pictures."""
    shown = [round((labels == k).any(axis=(1, 2)).mean().item(), 4) for k in range(1, cfg.n_parts + 1)]
    return {
        "test pictures": len(test),
        "test pictures told from training pictures by": test.split_by,
        "training pictures that fit regressions and matching": len(fit),
        "doubts about the masks": say_doubts(test, "test pictures"),
        report.SHOWN: shown,
    }


def save_detections(run, test, labels):
    """Draw figures/detections.png: test pictures with their parts (N, S, S) and, where known, the truth."""
    parts = part_names.read_parts(run)
    chosen = torch.linspace(0, len(test) - 1, min(N_DETECTIONS, len(test))).round().long()
    photos = pictures.to_uint8(test.images[chosen])
    columns = [photos, pictures.overlay(photos, parts.apply(labels[chosen]), parts.colors)]
    if test.labels is not None and (test.labels > 0).any():
        truth = test.labels[chosen].numpy()
        columns.append(pictures.overlay(photos, truth, int(test.labels.max()), strength=0.9))
    elif test.landmarks is not None:
        columns.append(pictures.draw_points(photos, test.landmarks[chosen][:, :, None].numpy(), radius=1))
    sheet = pictures.grid(pictures.enlarge(np.concatenate(columns, axis=2), 96 * len(columns)), 8)
    pictures.save(sheet, run.folder / "figures" / "detections.png")
