"""Self-training: a segmenter's answers on photos, as far as frozen features can tell them, teach it further.

Pairs teach where parts lie as much as what they look like, and a photo's parts lie elsewhere. A linear discriminant
on features that were trained for something else cannot follow such errors: they differ from photo to photo, while what
is right does not.
"""

import math
import time
from dataclasses import replace

import torch
import torch.nn.functional as F

from ganseg.model.clusters import BATCH, CELLS, LITE0, Clusters, load_backbone
from ganseg.model.geometry import to_float
from ganseg.model.prediction import inside_boxes

N_PHOTOS = 500  # at most
SEEN_PX = 128  # photos are decoded at this size, or at the run's if that is larger, for the features
LEAST_FOREGROUND = 0.02  # of the photos: with less, all would become background; as of the metric `collapse`
FOREGROUND = 0.65  # how probable it has to be; chosen on training photos of people, birds and faces
N_COMPONENTS = 16  # principal components of the features; with 32 people's outlines were worse, their parts better


class SelfTraining:
    """The photos, and their labels, that are half of each batch in the last steps of a distillation.

    cfg     whose self_training is above 0
    photos  n_photos(cfg) Pictures or fewer; larger (N, 3, L, L) uint8, the same for the features
    kept    the labels that a checkpoint of this distillation holds, or None
    Raises UserError where the features' package is missing.
    """

    def __init__(self, cfg, photos, larger, kept=None):
        self.n_parts, self.first, self.photos, self.larger = cfg.n_parts, _first(cfg), photos, larger
        self.begins_s = time.monotonic() + 60 * (1 - cfg.self_training) * (cfg.max_minutes or math.inf)
        self.backbone = load_backbone(LITE0)
        self.labels = self.labelled = None
        if kept is not None and kept.shape == photos.images[:, 0].shape:
            self._label(kept)

    def photos_at(self, step, S):
        """The Pictures of a step, labelled by the segmenter S as it is at the first of them; None: no photos yet.

        Where max_minutes may end the distillation early, photos begin after the same share of these.
        """
        if step < self.first and self.labels is None and time.monotonic() < self.begins_s:
            return None
        if step == self.first or self.labels is None:
            self._label(relabel(S, self.photos, self.larger, Clusters(self.backbone, self.n_parts)))
            says = f"on {len(self.photos)} photos from step {step} on" if self.labelled else (
                "is left out: the segmenter finds next to nothing in photos. Look at samples/: are objects there as "
                "large as in photos? If not, train longer, or lower lambda_con")
            print(f"Self-training {says}.", flush=True)
        return self.labelled

    def _label(self, labels):
        self.labels, self.labelled = labels, replace(self.photos, labels=labels) if n_used(labels) else None


def _first(cfg):
    """The first step of a distillation in which photos are half of the batch."""
    return math.ceil((1 - cfg.self_training) * cfg.distill_steps)


def n_photos(cfg):
    """How many photos take part: no more than the steps look at."""
    return min(N_PHOTOS, (cfg.distill_steps - _first(cfg)) * (cfg.distill_batch_size // 2))


def n_used(labels):
    """How many photos with labels (N, S, S) teach a segmenter: all, or none where next to nothing is foreground."""
    return len(labels) if (labels > 0).sum() >= LEAST_FOREGROUND * (labels >= 0).sum() else 0


@torch.no_grad()
def relabel(S, photos, larger, C):
    """What a linear discriminant on frozen features, fitted to a segmenter's answers, makes of the same photos.

    S       segmenter of K parts, on its device
    photos  Pictures of N photos; larger (N, 3, L, L) uint8, the same for the features
    C       Clusters, whose axes are set here
    A cell counts for each label as much as the segmenter says. Which part a cell of the foreground is, the segmenter
    has half a say in: left and right have the same features. Returns labels (N, S, S) int16, -1 outside of photos.
    """
    size, device, was_training = photos.images.shape[-1], next(S.parameters()).device, S.training
    z = C.to(device).maps_of(larger)
    z = C.fit_axes(z.movedim(1, 3).flatten(0, 2))[:, :N_COMPONENTS]
    inside = inside_boxes(photos.boxes, len(photos), size)
    S.eval()
    found = [F.adaptive_avg_pool2d(S(to_float(batch.to(device))).softmax(dim=1).cpu() * where[:, None], CELLS)
             for batch, where in zip(photos.images.split(BATCH), inside.split(BATCH), strict=True)]
    S.train(was_training)
    of_cells = torch.cat(found).movedim(1, 3)  # (N, h, h, K + 1)
    posterior = discriminant(z, of_cells.flatten(0, 2)).view(of_cells.shape)
    parts = posterior[..., 1:] * of_cells[..., 1:].clamp(min=1e-4).sqrt()
    parts *= (1 - posterior[..., :1]) / parts.sum(dim=3, keepdim=True).clamp(min=1e-12)
    cells = torch.cat([posterior[..., :1], parts], dim=3).movedim(3, 1)
    labels = [_most_probable(F.interpolate(batch, size=(size, size), mode="bilinear", align_corners=False))
              for batch in cells.split(BATCH)]
    return torch.cat(labels).masked_fill(~inside, -1)


def _most_probable(posterior):
    """(N, K + 1, S, S) -> labels (N, S, S) int16: foreground where that is likely, and then its likeliest part.

    The likeliest of all is background too often where K parts share the foreground, and else not often enough.
    """
    return torch.where(1 - posterior[:, 0] > FOREGROUND, posterior[:, 1:].argmax(dim=1) + 1, 0).short()


def discriminant(z, weights):
    """Linear discriminant analysis with weights: features (M, D), weights (M, C) >= 0 of classes -> posterior (M, C).

    Classes are Gaussians of one covariance (Fisher 1936, Rao 1948). The first one, the background, is as probable as
    its weights' sum. The others share the rest evenly, or small parts would vanish.
    """
    n = weights.sum(dim=0).clamp(min=1e-3)
    means = weights.T @ z / n[:, None]
    covariance = ((z * weights.sum(dim=1, keepdim=True)).T @ z - (means.T * n) @ means) / n.sum()
    covariance += 1e-6 * covariance.diagonal().mean() * torch.eye(len(covariance))  # where few cells lie in a plane
    slopes = torch.linalg.solve(covariance, means.T)  # (D, C)
    prior = torch.cat([n[:1], n[1:].mean().expand(len(n) - 1)])
    return (z @ slopes - (means.T * slopes).sum(dim=0) / 2 + prior.log()).softmax(dim=1)
