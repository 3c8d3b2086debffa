"""Embedding vectors: what belongs to which part and sample, their projection, and how well they separate."""

import numpy as np
import pytest
import torch

from ganseg import devices
from ganseg.errors import UserError
from ganseg.experiments import embeddings
from ganseg.figures import pictures, plots
from ganseg.model import loading, sampling
from ganseg.viewer import embedding_widget

N = 12


@pytest.fixture
def G(tiny):
    return loading.build_generator(tiny()).eval()


def clusters(distance, n_samples=20, n_groups=4):
    """Made-up vectors: one normal cluster per part, so far from the others."""
    rng = np.random.default_rng(0)
    samples, parts = np.indices((n_samples, n_groups)).reshape(2, -1)
    vectors = rng.normal(size=(n_samples * n_groups, 5))
    vectors[:, :n_groups] += distance * np.eye(n_groups)[parts]
    return embeddings.Embeddings(vectors.astype(np.float32), parts, samples)


def test_vectors_are_those_of_the_samples_by_number_with_the_background_as_part_0(G):
    vectors, parts, samples = embeddings.sample_embeddings(G, N, seed=3)
    assert vectors.shape == (N * 4, 4) and list(parts[:5]) == [0, 1, 2, 3, 0] and list(samples[:5]) == [0, 0, 0, 0, 1]
    generated = sampling.sample(G, N, seed=3)
    for i, k in [(0, 1), (7, 3)]:
        (row,) = np.flatnonzero((samples == i) & (parts == k))
        np.testing.assert_allclose(vectors[row], generated.w[i, k - 1], rtol=1e-5, atol=1e-6)
    style = G.mlp_background(G.sample_latents(N, devices.rng(3, "samples")).background)
    np.testing.assert_allclose(vectors[parts == 0], style.detach(), rtol=1e-5, atol=1e-6)


def test_other_constants_take_the_place_of_the_learned_ones(G):
    vectors, parts, _ = embeddings.sample_embeddings(G, N, seed=0)
    doubled, _, _ = embeddings.sample_embeddings(G, N, seed=0, constants=2 * G.w_const)
    np.testing.assert_allclose(doubled[parts > 0], 2 * vectors[parts > 0], rtol=1e-5)
    np.testing.assert_array_equal(doubled[parts == 0], vectors[parts == 0])


def test_far_clusters_separate_and_clusters_in_one_place_do_not():
    far, near = embeddings.measure_separation(clusters(50)), embeddings.measure_separation(clusters(0))
    assert far["silhouette"] > 0.9 and far["probe_accuracy"] == 1 and far["explained"] > 0.95
    assert near["silhouette"] < 0.05 and near["probe_accuracy"] < 0.5 and near["explained"] < 0.1
    assert far["chance"] == near["chance"] == 0.25


def test_the_probe_is_judged_on_samples_that_it_has_not_seen():
    samples, parts = np.indices((20, 4)).reshape(2, -1)
    mark = np.eye(20)[samples] * parts[:, None]  # tells the part, but only to who knows the sample
    marked = embeddings.Embeddings(mark.astype(np.float32), parts, samples)
    assert embeddings.measure_separation(marked)["probe_accuracy"] == 0.25


def test_without_constants_the_vectors_of_a_sample_are_equal_and_a_probe_guesses(G, tiny):
    fresh = loading.build_generator(tiny(seed=1)).eval()
    rows = {row["vectors"]: row for row in embeddings.compare_separation(G, fresh, 30, seed=0)}
    removed = rows["trained, parts only, constants removed"]
    assert removed["probe_accuracy"] == pytest.approx(1 / 3) and removed["chance"] == pytest.approx(1 / 3)
    assert removed["silhouette"] == pytest.approx(-1 / 30, abs=1e-3) and removed["explained"] < 1e-6
    assert rows["trained, parts only"]["probe_accuracy"] > removed["probe_accuracy"]


def test_exchanging_constants_with_oneself_changes_nothing(G):
    rows = {row.pop("vectors"): row for row in embeddings.compare_separation(G, G, 10, seed=0)}
    assert rows["trained"] == rows["trained networks, untrained constants"] == rows["untrained"]


def test_exchanged_rows_take_networks_and_constants_from_where_they_say(G, tiny):
    fresh = loading.build_generator(tiny(seed=1)).eval()
    rows = {row.pop("vectors"): row for row in embeddings.compare_separation(G, fresh, 10, seed=0)}
    swapped = loading.build_generator(tiny()).eval()
    swapped.w_const = torch.nn.Parameter(fresh.w_const.detach().clone())
    expected = embeddings.measure_separation(embeddings.sample_embeddings(swapped, 10, seed=0))
    assert rows["trained networks, untrained constants"] == pytest.approx(expected)
    assert rows["untrained networks, trained constants"] != pytest.approx(expected)


def test_a_single_part_is_compared_with_the_background_alone(tiny):
    G = loading.build_generator(tiny(n_parts=1)).eval()
    assert [row["chance"] for row in embeddings.compare_separation(G, G, 6, seed=0)] == [0.5] * 4


def test_too_few_samples_are_refused():
    with pytest.raises(UserError, match="n_samples: 4 .* at least 5"):
        embeddings.measure_separation(clusters(1, n_samples=4))


@pytest.mark.parametrize("method", ["tsne", "pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_projections_keep_far_clusters_apart_and_repeat_themselves(method):
    vectors, parts, _ = clusters(50)
    xy = embeddings.project_to_plane(vectors, method, seed=1)
    assert xy.shape == (80, 2) and np.isfinite(xy).all()
    np.testing.assert_array_equal(embeddings.project_to_plane(vectors, method, seed=1), xy)
    means = np.stack([xy[parts == k].mean(axis=0) for k in range(4)])
    nearest = np.linalg.norm(xy[:, None] - means, axis=-1).argmin(axis=1)
    assert (nearest == parts).mean() > 0.95


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="method: 't-sne' .*did you mean tsne"):
        embeddings.project_to_plane(np.zeros((9, 3)), "t-sne")


@pytest.fixture
def figure():
    xy = np.array([[0, 0], [1, 1], [2, 2], [3, 3], [4, 4.0]])
    return plots.embedding(xy, np.array([0, 1, 2, 1, 2]), np.array([0, 0, 0, 1, 1]), "Vectors")


def test_the_figure_has_a_trace_per_part_in_its_colour_that_names_samples(figure):
    assert [trace.name for trace in figure.data] == ["background", "part_1", "part_2"]
    assert list(figure.data[1].x) == [1, 3] and list(figure.data[1].customdata) == [0, 1]
    assert figure.data[2].marker.color == "rgb({}, {}, {})".format(*pictures.part_colors(2)[1])
    assert "sample %{customdata}, part_2" in figure.data[2].hovertemplate


def test_an_outline_is_the_inner_edge_of_the_mask():
    picture, mask = np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), bool)
    mask[2:7, 0:5] = True
    drawn = pictures.outline(picture, mask, (10, 20, 30), width=1)
    expected = mask.copy()
    expected[3:6, 1:4] = False
    np.testing.assert_array_equal((drawn == (10, 20, 30)).all(axis=-1), expected)
    assert not drawn[~expected].any() and not picture.any()


@pytest.fixture
def explorer(figure):
    """The widget over two black samples, whose parts 1 and 2 are the left and the right half of the picture."""
    labels = np.repeat([[1, 2]], 4, axis=1)[None].repeat(8, axis=1).repeat(2, axis=0)  # (2, 8, 8)
    labels[1] = 1  # sample 1 has no part 2
    return embedding_widget.embedding_explorer(figure, np.zeros((2, 8, 8, 3), np.uint8), labels)


def fields(explorer):
    view, (sample, part, note) = explorer.children[1].children[0], explorer.children[1].children[1].children
    return view, sample, part, note


def shown(view, tmp_path):
    (tmp_path / "view.png").write_bytes(view.value)
    return pictures.read_picture(tmp_path / "view.png")


def test_the_explorer_outlines_the_part_in_the_sample_that_the_fields_choose(explorer, tmp_path):
    view, sample, part, note = fields(explorer)
    part.value = 2
    picture = shown(view, tmp_path)
    assert picture.shape == (256, 256, 3) and not picture[:, :128].any()
    assert list(picture[0, -1]) == list(pictures.part_colors(2)[1]) and "32 of 64" in note.value
    sample.value = 1
    assert not shown(view, tmp_path).any() and "0 of 64" in note.value


def test_the_explorer_shows_names_of_parts_as_they_are():
    xy, names = np.zeros((2, 2)), ["1: <b>legs</b> & $x$"]
    figure = plots.embedding(xy, np.arange(2), np.zeros(2, int), "Vectors", names)
    explorer = embedding_widget.embedding_explorer(figure, np.zeros((1, 8, 8, 3), np.uint8), np.ones((1, 8, 8), int))
    _, _, part, note = fields(explorer)
    part.value = 1
    assert [label for label, _ in part.options] == ["background", *names] and note.value.startswith(f"{names[0]}: 64")


def test_a_click_on_a_vector_chooses_its_sample_and_part(explorer):
    _, sample, part, note = fields(explorer)
    chart = explorer.children[0]
    # what the browser sends for a click on the second vector of part 1
    points = {"trace_indexes": [1], "point_indexes": [1], "xs": [3], "ys": [3]}
    chart._js2py_pointsCallback = {
        "event_type": "plotly_click", "points": points, "device_state": None, "selector": None,
    }  # fmt: skip
    assert (sample.value, part.value) == (1, 1) and "part_1: 64 of 64" in note.value
