"""The rival: parts by clustering the features of a network that was trained for something else."""

import time

import torch
from sklearn.cluster import KMeans

from ganseg import devices, files, records
from ganseg.datasets.loading import load_pictures
from ganseg.errors import UserError
from ganseg.model.clusters import COLORS, LITE0, N_CLUSTERS, Clusters, load_backbone
from ganseg.training import trained_on

N_FITTED = 500  # photos: twice as many change the result by less than the seed does
AT_BORDER = 0.5  # of its even share of the cells at the border: clusters with less are foreground


def make_run(run, network=LITE0, weights=None, league=None):
    """Cluster the features of a run's training photos, and save the clusters as its segmenter.

    run      from runs.open_run, without any network but those of this function
    network, weights  as of clusters.load_backbone
    league   what taught the network, one or several of records.LEAGUES; None: as its name says
    Raises UserError for a run with trained networks, for networks that cannot be had, and for too few photos.
    """
    newest = run.newest("segmenter")
    if run.newest("gan") or newest and "network" not in run.load_state("segmenter"):
        raise UserError(f"run: {run.label} holds a trained model; give another name with --run.")
    records.check_league(league)
    cfg, start, device = run.cfg, time.monotonic(), devices.choose_device(run.cfg.device)
    weights = weights and str(files.absolute(weights))
    photos = load_pictures(cfg, "train", N_FITTED)
    if len(photos) < cfg.n_parts:
        raise UserError(f"n_parts: there are {len(photos)} training photos for {cfg.n_parts} parts; give more photos.")
    S = Clusters(load_backbone(network, weights), cfg.n_parts).to(device).eval()
    with run.held():
        share = fit(S, photos, cfg.seed)
        run.start(device)
        trained_on.keep(run, photos)
        facts = {"network": network, "weights": weights or "the network's own", "league": league or _league(
            network, weights), "clustered": len(photos), "foreground_share": share}
        run.save("segmenter", cfg.distill_steps, {"segmenter": S.state_dict(), **facts})
    print(f"Clustered {len(photos):,} training photos in {time.monotonic() - start:.0f} s; {share:.0%} of their cells "
          "are foreground.", flush=True)


def _league(network, weights):
    """What taught a network, as far as its name says."""
    if network == COLORS:
        return "nothing"
    if weights:
        return "not known"
    return "ImageNet labels" if network == LITE0 else "self-supervised features" if "dino" in network else "not known"


@torch.inference_mode()
def fit(S, photos, seed):
    """Set the buffers of a Clusters from Pictures, the K-means by a seed. Returns the share of foreground cells.

    Raises UserError where there are too few features. Says so where nothing keeps away from the photos' borders.
    """
    maps = S.maps_of(photos.images)
    inside, border = _cells(photos.boxes, len(photos), maps.shape[-1], photos.images.shape[-1])
    cells = maps.permute(0, 2, 3, 1)[inside]  # (M, n)
    z = S.fit_axes(cells)
    clusters, of_cells = _k_means(z, N_CLUSTERS, seed, "features")
    size_of = of_cells.bincount(minlength=N_CLUSTERS).clamp(min=1)
    at_border = of_cells[border[inside]].bincount(minlength=N_CLUSTERS) / size_of
    is_foreground = at_border < AT_BORDER * border.sum() / inside.sum()  # not all: their mean is the even share
    if not is_foreground.any():
        print("No cluster of features keeps away from the photos' borders: the half that does most is taken as "
              "foreground. Crop wider, so that background is seen around the object.", flush=True)
        is_foreground = at_border <= at_border.median()
    S.clusters.copy_(clusters), S.is_foreground.copy_(is_foreground)
    found = z[is_foreground[of_cells]]
    parts, of_found = _k_means(found, len(S.parts), seed, "foreground features")
    S.parts.copy_(parts), S.variance.fill_((found - parts[of_found]).square().mean())
    return len(found) / len(z)


def _k_means(z, k, seed, what):
    """Centroids (k, D) and clusters (M,) of features (M, D)."""
    if len(z) < k:
        raise UserError(f"n_parts: there are {len(z)} {what} for {k} clusters; give more photos or fewer parts.")
    found = KMeans(k, n_init=3, random_state=seed).fit(z.numpy())
    return torch.tensor(found.cluster_centers_), torch.tensor(found.labels_).long()


def _cells(boxes, n, h, size):
    """Which cells (n, h, h) lie in the photos' boxes (n, 4) of squares of some size, and which at their borders."""
    middles = (torch.arange(h) + 0.5) * size / h
    boxes = torch.tensor([[0, 0, size, size]]).expand(n, 4) if boxes is None else torch.as_tensor(boxes)
    inside, within = (_between(middles, boxes, edge) for edge in (0, size / h))
    return inside, inside & ~within


def _between(middles, boxes, edge):
    """Which cells lie in boxes that are smaller by an edge on each side."""
    x, y = ((middles > first[:, None] + edge) & (middles < (first + across)[:, None] - edge)
            for first, across in zip(boxes.T[:2], boxes.T[2:], strict=True))
    return y[:, :, None] & x[:, None, :]
