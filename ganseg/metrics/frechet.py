"""Distances between features (N, D) of generated and (M, D) of real pictures, float32 tensors; by torch-fidelity."""

import torch

NEIGHBOURS = 3  # of precision and recall
MOST_NEIGHBOURS = 10_000  # pictures of either side: the distances of all pairs are held in memory (400 MB)
KID_SUBSET = 1_000


def frechet(fake, real):
    """Frechet distance of the Gaussians with the features' means and covariances; 0 for equal features.

    With few pictures it comes out too large, and below D pictures much so: compare equal numbers only.
    """
    from torch_fidelity import metric_fid  # takes seconds

    statistics = [metric_fid.fid_features_to_statistics(f) for f in (fake, real)]
    return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]


def kid(fake, real):
    """Kernel distance, polynomial of degree 3: mean of 100 random subsets of 1,000, or of all where there are fewer.

    About 0, and as often below, where both come from the same distribution.
    """
    from torch_fidelity import metric_kid  # takes seconds

    size = min(KID_SUBSET, len(fake), len(real))
    out = metric_kid.kid_features_to_metric(fake, real, kid_subset_size=size, verbose=False)
    return out[metric_kid.KEY_METRIC_KID_MEAN]


def precision_recall(fake, real):
    """Two shares: of generated features within the real ones' distance to their 3rd neighbour, and the other way.

    Of more than 10,000 on a side an even spread is taken. Needs 4 on each.
    """
    from torch_fidelity import metric_prc  # takes seconds

    out = metric_prc.prc_features_to_metric(
        _spread(fake), _spread(real), prc_neighborhood=NEIGHBOURS, save_cpu_ram=True, verbose=False
    )
    return out[metric_prc.KEY_METRIC_PRECISION], out[metric_prc.KEY_METRIC_RECALL]


def _spread(features):
    n = min(len(features), MOST_NEIGHBOURS)
    return features[torch.arange(n) * len(features) // n]
