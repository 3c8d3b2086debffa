"""Grids, part shapes and heatmaps, by hand."""

import math

import pytest
import torch
from torch.testing import assert_close

from ganseg.model import geometry
from ganseg.model.geometry import part_shape

KINDS = ["cone", "gaussian", "paper", "fixed"]
SQUARE = torch.tensor([[[[0.1, 0.2], [0.5, 0.2], [0.1, 0.6], [0.5, 0.6]]]])  # half a side is 0.2, centre 0.3, 0.4


def random_points(*shape):
    return torch.rand(*shape, 2, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


def test_the_outer_pixel_centres_are_at_minus_one_and_one_as_x_and_y():
    grid = geometry.pixel_grid(5)
    assert grid.shape == (5, 5, 2)
    assert grid[0, 0].tolist() == [-1, -1] and grid[0, 4].tolist() == [1, -1] and grid[4, 0].tolist() == [-1, 1]
    assert grid[2, 3].tolist() == [0.5, 0]


def test_a_margin_continues_the_spacing_outside():
    grid = geometry.pixel_grid(5, margin=2)
    assert grid.shape == (9, 9, 2) and grid[0, 0].tolist() == [-2, -2] and grid[8, 7].tolist() == [1.5, 2]
    assert torch.equal(grid[2:-2, 2:-2], geometry.pixel_grid(5))


def test_offsets_are_point_minus_pixel_with_coordinates_fastest():
    points = torch.tensor([[[0.25, 0.5], [-1.0, 1.0]]])
    offsets = geometry.offsets(points, geometry.pixel_grid(3, margin=1))
    assert offsets.shape == (1, 4, 5, 5)
    assert offsets[0, :, 1, 3].tolist() == [0.25 - 1, 0.5 + 1, -1 - 1, 1 + 1]


@pytest.mark.parametrize("kind, spread", [("cone", 0.2 + 1e-6), ("gaussian", 1e-6), ("fixed", 0.01),
                                          ("paper", 4 * 0.08 / 3 + 1e-6)])
def test_centre_extent_and_spread_of_a_square_are_as_by_hand(kind, spread):
    shape = part_shape(SQUARE, kind, fixed_sigma2=0.01)
    assert_close(shape.centers, torch.tensor([[[0.3, 0.4]]]))
    assert_close(shape.extent, torch.tensor([[0.2]]))
    assert_close(shape.spread, torch.tensor([[spread]]), atol=1e-9, rtol=1e-5)


def test_the_gaussian_spread_is_the_unbiased_variance_of_the_distances():
    points = torch.tensor([[[[0.0, 0.0], [0.3, 0.0], [-0.3, 0.0], [0.0, 0.0]]]])  # distances 0, 0.3, 0.3, 0
    assert_close(part_shape(points, "gaussian").spread, torch.tensor([[4 * 0.15**2 / 3 + 1e-6]]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_heatmap_is_one_at_its_centre_and_falls_outwards(kind):
    shape = part_shape(random_points(2, 3, 4), kind, fixed_sigma2=0.01)
    at_center = torch.stack([geometry.heatmaps(shape, shape.centers[b, k].view(1, 1, 2), kind)[b, k]
                             for b in range(2) for k in range(3)])
    assert_close(at_center, torch.ones_like(at_center))
    maps = geometry.heatmaps(shape, geometry.pixel_grid(16, 2), kind)
    assert maps.shape == (2, 3, 20, 20) and 0 <= maps.min() and maps.max() <= 1


def test_the_cone_falls_evenly_to_zero_at_its_radius():
    x = torch.tensor([0.0, 0.1, 0.2, 0.3]) + 0.3
    line = torch.stack([x, torch.full_like(x, 0.4)], dim=-1)[None]  # (1, 4, 2), rightwards from the centre
    cone = geometry.heatmaps(part_shape(SQUARE, "cone"), line, "cone")[0, 0, 0]
    assert_close(cone, torch.tensor([1.0, 0.5, 0.0, 0.0]), atol=1e-5, rtol=0)


def test_the_other_heatmaps_are_exp_of_minus_squared_distance_over_spread():
    grid = torch.tensor([[[0.3, 0.5]]])  # 0.1 below the centre
    value = geometry.heatmaps(part_shape(SQUARE, "fixed", 0.02), grid, "fixed").item()
    assert value == pytest.approx(math.exp(-0.01 / 0.02), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_centers_extent_and_spread_ignore_the_order_of_points_within_a_part(kind):
    points = random_points(2, 3, 5)
    before, after = part_shape(points, kind, 0.01), part_shape(points[:, :, [3, 0, 4, 2, 1]], kind, 0.01)
    for name, a, b in zip(before._fields, before, after, strict=True):
        assert_close(a, b, msg=name)
    swapped = part_shape(points.transpose(1, 2).reshape(2, 3, 5, 2), kind, 0.01)  # points of other parts
    assert not torch.allclose(before.centers, swapped.centers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resolution", [9, 33])  # odd: the pixel is exact in floating point
def test_moving_all_points_by_one_pixel_of_a_grid_moves_that_grids_heatmaps_by_one_pixel(kind, resolution):
    points = (random_points(1, 3, 4) * 64).round() / 64  # on a raster, so that sums are exact
    shift = torch.tensor([2 / (resolution - 1), -4 / (resolution - 1)])  # one to the right, two up
    grid = geometry.pixel_grid(resolution, margin=3)
    before, after = (geometry.heatmaps(part_shape(p, kind, 0.01), grid, kind) for p in (points, points + shift))
    assert torch.equal(after[..., :-2, 1:], before[..., 2:, :-1])
    assert not torch.equal(after, before)


def test_the_length_of_a_vector_is_its_norm_and_its_gradient_at_zero_is_zero():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    length = geometry.safe_norm(vectors)
    length.sum().backward()
    assert length.tolist() == [5, 0] and torch.equal(vectors.grad, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_where_all_points_coincide_on_a_pixel(kind):
    points = torch.zeros(1, 2, 4, 2, requires_grad=True)
    geometry.heatmaps(part_shape(points, kind, 0.01), geometry.pixel_grid(5), kind).sum().backward()
    assert points.grad.isfinite().all()


def test_the_area_of_an_extent_is_the_disc_of_that_diameter_in_pixels():
    assert_close(geometry.extent_area(torch.tensor([0.0, 0.5]), 128), torch.tensor([0.0, math.pi * 32**2]))


def test_the_centroid_of_one_pixel_is_the_pixel_and_of_two_their_weighted_mean():
    masks = torch.zeros(1, 2, 5, 5)
    masks[0, 0, 1, 4] = 0.5
    masks[0, 1, 2, 0], masks[0, 1, 2, 4] = 1.0, 3.0
    expected = torch.tensor([[[1.0, -0.5], [0.5, 0.0]]])
    assert_close(geometry.soft_centroids(masks), expected, atol=1e-5, rtol=0)
