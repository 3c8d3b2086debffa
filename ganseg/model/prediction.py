"""A segmenter's answers on square photos."""

import itertools
from typing import NamedTuple

import torch
from torchvision.transforms import v2

from ganseg.model.geometry import soft_centroids, to_float

NEAREST = v2.InterpolationMode.NEAREST


class Predicted(NamedTuple):
    """A segmenter's answers on N square photos, as tensors on the CPU."""

    labels: torch.Tensor | None  # (N, S, S) uint8, 0 background; with boxes int16, -1 outside; None: not kept
    part_labels: torch.Tensor | None  # as labels, of the parts alone: 1..K, no pixel is background
    centroids: torch.Tensor  # (N, K, 2) in [-1, 1], of the softmax without background
    area: torch.Tensor  # (N, K) share of the pixels whose most probable label is the part
    confidence: torch.Tensor  # (N, K) mean of the part's probability over these pixels, NaN where there are none
    certainty: torch.Tensor  # (N,) mean over all pixels of the largest probability; as all of these, inside of boxes

    def numpy(self):
        """The same as arrays."""
        return Predicted(*(None if field is None else field.numpy() for field in self))


@torch.inference_mode()
def predict(network, images, boxes=None, batch_size=None, keep_labels=True):
    """Predicted of photos (N, 3, S, S) uint8, batch by batch on the network's device.

    boxes        (N, 4) left, top, width, height: what of each square counts; None: all
    batch_size   None: 64, or on the CPU 16, which its caches hold
    keep_labels  False saves memory where the labels of many photos are not needed
    """
    device = next(itertools.chain(network.parameters(), network.buffers())).device
    batch_size = batch_size or (16 if device.type == "cpu" else 64)
    inside = inside_boxes(boxes, len(images), images.shape[-1])
    batches = [_summary(network(to_float(batch.to(device))).softmax(dim=1), where.to(device), keep_labels)
               for batch, where in zip(images.split(batch_size), inside.split(batch_size), strict=True)]
    return Predicted(*(None if field[0] is None else torch.cat(field) for field in zip(*batches, strict=True)))


def predict_moved(network, images, labels):
    """What a segmenter says of moved photos, beside its labels moved alike.

    images (N, 3, S, S) uint8, labels (N, S, S) of predict: below 0 outside of a photo
    Returns two tensors (moves, N, S, S), int16: the moved labels, -1 where nothing of the photo came, and the labels of
    the moved photos. The moves: mirrored, turned by 15 degrees both ways, scaled by 0.8 and 1.25, recoloured.
    """
    labels = labels.short()
    moved = [(v2.functional.horizontal_flip(images), v2.functional.horizontal_flip(labels))]
    for angle, scale in ((15, 1.0), (-15, 1.0), (0, 0.8), (0, 1.25)):
        moved.append((_warped(images, angle, scale), _warped(labels, angle, scale)))
    darker = v2.functional.adjust_contrast(v2.functional.adjust_brightness(images, 0.8), 0.8)
    moved.append((darker, labels))
    found = [predict(network, photos).labels.short() for photos, _ in moved]
    return torch.stack([of_before for _, of_before in moved]), torch.stack(found)


def _warped(x, angle, scale):
    """Photos (N, 3, S, S), whose edges are mirrored outwards, or labels (N, S, S), -1 there, turned and scaled."""
    S, pad = x.shape[-1], x.shape[-1] // 4
    move = {"angle": angle, "translate": [0, 0], "scale": scale, "shear": [0.0, 0.0]}
    if x.ndim == 3:
        return v2.functional.affine(x[:, None], **move, interpolation=NEAREST, fill=-1)[:, 0]
    wide = v2.functional.pad(x, [pad] * 4, padding_mode="reflect")
    wide = v2.functional.affine(wide, **move, interpolation=v2.InterpolationMode.BILINEAR)
    return v2.functional.center_crop(wide, [S, S])


def inside_boxes(boxes, n, S):
    """Where the boxes (n, 4) of n squares of S pixels are, (n, S, S) bool; boxes None: everywhere."""
    if boxes is None:
        return torch.ones(1, 1, 1, dtype=torch.bool).expand(n, S, S)
    pixels, boxes = torch.arange(S), torch.as_tensor(boxes)
    x, y = ((pixels >= first[:, None]) & (pixels < (first + across)[:, None])
            for first, across in zip(boxes.T[:2], boxes.T[2:], strict=True))
    return x[:, None, :] & y[:, :, None]


def _summary(probabilities, inside, keep_labels):
    """(B, K + 1, S, S) and where they count, (B, S, S) bool -> the fields of Predicted."""
    B, n_labels, S, _ = probabilities.shape
    probabilities = probabilities * inside[:, None]  # all are 0 outside, and the largest is the background's
    largest, labels = (field.flatten(1) for field in probabilities.max(dim=1))  # (B, S^2)
    empty = torch.zeros(B, n_labels, device=labels.device)
    count = empty.scatter_add(1, labels, torch.ones_like(largest))[:, 1:]
    confidence = empty.scatter_add(1, labels, largest)[:, 1:] / count  # 0 / 0 is NaN
    n_pixels = inside.flatten(1).sum(dim=1)
    both = labels.view(B, S, S), probabilities[:, 1:].argmax(dim=1) + 1
    both = [kind.byte() if inside.all() else kind.short().masked_fill(~inside, -1) for kind in both]
    fields = (*(both if keep_labels else (None, None)), soft_centroids(probabilities[:, 1:]), count / n_pixels[:, None],
              confidence, largest.sum(dim=1) / n_pixels)
    return [None if field is None else field.cpu() for field in fields]
