"""A segmenter's answers on square photos."""

from typing import NamedTuple

import torch

from ganseg.model.geometry import soft_centroids, to_float


class Predicted(NamedTuple):
    """A segmenter's answers on N square photos, as tensors on the CPU."""

    labels: torch.Tensor | None  # (N, S, S) uint8, 0 background; None where they are not kept
    centroids: torch.Tensor  # (N, K, 2) in [-1, 1], of the softmax without background
    area: torch.Tensor  # (N, K) share of the pixels whose most probable label is the part
    confidence: torch.Tensor  # (N, K) mean of the part's probability over these pixels, NaN where there are none
    certainty: torch.Tensor  # (N,) mean over all pixels of the largest probability

    def numpy(self):
        """The same as arrays."""
        return Predicted(*(None if field is None else field.numpy() for field in self))


@torch.inference_mode()
def predict(network, images, batch_size=64, keep_labels=True):
    """Predicted of photos (N, 3, S, S) uint8, batch by batch on the network's device.

    keep_labels  False saves memory where the labels of many photos are not needed
    """
    device = next(network.parameters()).device
    batches = [_summary(network(to_float(batch.to(device))).softmax(dim=1), keep_labels)
               for batch in images.split(batch_size)]
    return Predicted(*(None if field[0] is None else torch.cat(field) for field in zip(*batches, strict=True)))


def _summary(probabilities, keep_labels):
    """(B, K + 1, S, S) -> the fields of Predicted."""
    B, n_labels, S, _ = probabilities.shape
    largest, labels = (field.flatten(1) for field in probabilities.max(dim=1))  # (B, S^2)
    empty = torch.zeros(B, n_labels, device=labels.device)
    count = empty.scatter_add(1, labels, torch.ones_like(largest))[:, 1:]
    confidence = empty.scatter_add(1, labels, largest)[:, 1:] / count  # 0 / 0 is NaN
    kept = labels.view(B, S, S).byte() if keep_labels else None
    fields = (kept, soft_centroids(probabilities[:, 1:]), count / S**2, confidence, largest.mean(dim=1))
    return [None if field is None else field.cpu() for field in fields]
