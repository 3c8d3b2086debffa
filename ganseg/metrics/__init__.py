"""Metrics by name: `values, left_out = metrics.compute(Predictions(...))`; one file per family."""

from ganseg.metrics import clustering, landmarks, masks, unlabelled  # importing a family registers its metrics
from ganseg.metrics.registry import LeftOut, Predictions, compute, metric, protocols

__all__ = ["LeftOut", "Predictions", "clustering", "compute", "landmarks", "masks", "metric", "protocols",
           "unlabelled"]
