"""How far colour alone gets on the creatures. With `pytest -s` it prints the README's numbers.

k-means on the RGB of 500 training pictures, used on 500 test pictures: 2 clusters for the foreground, once with
the cluster that fits better over all test pictures and once with the one that fits better in each picture (both
choices look at the truth, in favour of k-means); 6 clusters for NMI. Logistic regression: 6 classes, supervised.
"""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from ganseg.datasets import creatures
from ganseg.metrics import clustering


def pixels(drawing):
    return drawing.images.permute(0, 2, 3, 1).reshape(-1, 3).numpy() / 255.0


def iou(predicted, true):
    """Foreground IoU of each picture."""
    return (predicted & true).sum((1, 2)) / (predicted | true).sum((1, 2)).clip(1)


@pytest.fixture(scope="module")
def measured():
    fit, test = (creatures.draw(range(500), split, 0, 32) for split in ("train", "test"))
    X, T = pixels(fit), pixels(test)
    y, true = fit.labels.numpy().ravel(), test.labels.numpy()
    two = KMeans(2, n_init=3, random_state=0).fit(X).predict(T).reshape(true.shape)
    six = KMeans(6, n_init=3, random_state=0).fit(X).predict(T).reshape(true.shape)
    supervised = LogisticRegression(max_iter=200).fit(X[::4], y[::4]).predict(T).reshape(true.shape)
    by_cluster = np.stack([iou(two == cluster, true > 0) for cluster in (0, 1)])
    numbers = {
        "k-means foreground_iou, cluster chosen over all pictures": by_cluster.mean(axis=1).max(),
        "k-means foreground_iou, cluster chosen in each picture": by_cluster.max(axis=0).mean(),
        "k-means nmi_foreground": clustering.nmi_foreground(six.astype(np.uint8), true),
        "logistic regression foreground_iou": iou(supervised > 0, true > 0).mean(),
        "logistic regression nmi_foreground": clustering.nmi_foreground(supervised.astype(np.uint8), true),
    }
    print("", *(f"{name}: {value:.3f}" for name, value in numbers.items()), sep="\n")
    return numbers


def test_colour_alone_finds_neither_creatures_nor_parts(measured):
    assert measured["k-means foreground_iou, cluster chosen over all pictures"] < 0.6
    assert measured["k-means nmi_foreground"] < 0.35
    assert measured["logistic regression foreground_iou"] < 0.6
    assert measured["logistic regression nmi_foreground"] < 0.35
