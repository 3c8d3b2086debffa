"""The vectors w_k of generated samples: their projection to the plane, and how well they tell the parts apart."""

from typing import NamedTuple

import numpy as np
import torch

from ganseg import config, devices
from ganseg.errors import UserError

METHODS = ("tsne", "umap", "pca")
N_FOLDS = 5


class Embeddings(NamedTuple):
    """The vectors of N samples, background and K parts each, sample by sample."""

    vectors: np.ndarray  # (N (K + 1), D) float32
    parts: np.ndarray  # (N (K + 1),) 0 background, parts 1..K
    samples: np.ndarray  # (N (K + 1),) number of the sample, as in sampling.sample(G, N, seed)

    def without_background(self):
        return Embeddings(*(array[self.parts > 0] for array in self))


@torch.no_grad()
def sample_embeddings(G, n, seed, constants=None):
    """w_k of n samples, and the background's style vector as part 0.

    constants  (K, D) in place of the learned w_const; ones leave what the appearance network alone gives
    Returns Embeddings. No picture is painted.
    """
    latents = G.sample_latents(n, devices.rng(seed, "samples"))
    constants = G.w_const if constants is None else constants.to(G.w_const)
    w = constants * G.mlp_appearance(latents.appearance)[:, None]  # (n, K, D)
    vectors = torch.cat([G.mlp_background(latents.background)[:, None], w], dim=1)  # (n, K + 1, D)
    samples, parts = np.indices(vectors.shape[:2]).reshape(2, -1)
    return Embeddings(vectors.flatten(0, 1).float().cpu().numpy(), parts, samples)


def project_to_plane(vectors, method="tsne", seed=0):
    """Vectors (N, D) -> (N, 2), by tsne | umap | pca; UserError for another method.

    t-SNE starts from PCA, with perplexity 30, and makes 500 steps, half of scikit-learn's default, to save time.
    """
    from sklearn.decomposition import PCA  # scikit-learn takes a second
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if method not in METHODS:
        hint = config.nearest(method, METHODS)
        raise UserError(f"method: {method!r} is not allowed{hint}; it should be {', '.join(METHODS)}.")
    if method == "umap":
        from umap import UMAP  # compiles itself at the first use, which takes seconds

        return UMAP(n_neighbors=min(15, len(vectors) - 1), random_state=seed, n_jobs=1).fit_transform(vectors)
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(vectors)
    tsne = TSNE(init="pca", perplexity=min(30, (len(vectors) - 1) / 3), max_iter=500, random_state=seed)
    with threadpool_limits(1):  # more would change the figure, and wait for each other on a busy machine
        return tsne.fit_transform(vectors)


def measure_separation(embeddings):
    """How well the vectors tell the parts apart: a dict of floats.

    silhouette      in [-1, 1], Euclidean, on the vectors as they are: 1 is tight and far apart
    probe_accuracy  of a logistic regression on samples that it was not fitted on (5 folds of whole samples)
    explained       share of the variance that lies between the parts' means, in [0, 1]
    chance          accuracy of guessing
    Raises UserError for fewer samples than folds.
    """
    from sklearn.linear_model import LogisticRegression  # scikit-learn takes a second
    from sklearn.metrics import silhouette_score
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    vectors, parts, samples = embeddings
    n_samples, groups = len(np.unique(samples)), np.unique(parts)
    if n_samples < N_FOLDS:
        raise UserError(f"n_samples: {n_samples} is not allowed; it should be at least {N_FOLDS}, one per fold.")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    accuracy = cross_val_score(probe, vectors, parts, groups=samples, cv=GroupKFold(N_FOLDS)).mean()
    means = np.stack([vectors[parts == k].mean(axis=0) for k in groups])  # every part has as many vectors
    return {
        "silhouette": float(silhouette_score(vectors, parts)),
        "probe_accuracy": float(accuracy),
        "explained": float(means.var(axis=0).sum() / vectors.var(axis=0).sum()),
        "chance": 1 / len(groups),
    }


def compare_separation(G, fresh, n, seed):
    """What training adds: separation by a generator, by a fresh one, and with their constants exchanged.

    Returns records (list of dict) with "vectors", naming the row, and what `measure_separation` returns.
    In the last row a sample's K vectors are one and the same, so that a probe is right for exactly one of them.
    """
    trained, ones = sample_embeddings(G, n, seed), torch.ones_like(G.w_const)
    rows = {
        "trained": trained,
        "untrained": sample_embeddings(fresh, n, seed),
        "trained networks, untrained constants": sample_embeddings(G, n, seed, fresh.w_const),
        "untrained networks, trained constants": sample_embeddings(fresh, n, seed, G.w_const),
    }
    if len(G.w_const) > 1:  # a single part is told from nothing
        rows["trained, parts only"] = trained.without_background()
        rows["trained, parts only, constants removed"] = sample_embeddings(G, n, seed, ones).without_background()
    return [{"vectors": name, **measure_separation(row)} for name, row in rows.items()]
