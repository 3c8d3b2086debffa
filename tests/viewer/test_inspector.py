"""A generated picture taken apart: edits of its scene, what is shown of it, and what is kept."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ganseg.errors import UserError
from ganseg.figures import pictures
from ganseg.model import loading, sampling
from ganseg.viewer.inspector import GREY, SAMPLED, Inspector

NAMES = ("points", "w", "background_style", "background_position")


@pytest.fixture
def inspector(tiny):
    return Inspector(loading.build_generator(tiny()), seed=3)


def changed(before, after):
    return {name for name, a, b in zip(NAMES, before, after, strict=True) if not torch.equal(a, b)}


def center(inspector, part):
    return inspector.scene.points[part - 1].mean(dim=0)


def move(inspector, part, *xy, point=slice(None)):
    """What dragging sends: a part's centre, or one of its points, put at (x, y)."""
    points = inspector.scene.points.clone()
    points[part - 1, point] += torch.tensor(xy) - points[part - 1, point].reshape(-1, 2).mean(dim=0)
    inspector.set_points(points.tolist())


# Edits


def test_a_sample_is_the_picture_that_sampling_paints_from_that_seed(inspector):
    expected = sampling.sample(inspector.G, 1, 3)
    assert np.array_equal(inspector.paint().image, pictures.to_uint8(expected.image)[0])
    np.testing.assert_allclose(inspector.paint().masks, expected.masks[0], atol=1e-6)


def test_an_edited_state_is_painted_as_the_generator_paints_it(inspector):
    move(inspector, 1, 0.4, -0.3)
    inspector.take_appearance(2, 9)
    inspector.move_background(0.5, 0.0)
    with torch.no_grad():
        expected = inspector.G.paint(inspector.scene.map(lambda value: value[None]))
    assert np.array_equal(inspector.paint().image, pictures.to_uint8(expected.image)[0])
    np.testing.assert_allclose(inspector.paint().heatmaps, expected.heatmaps[0], atol=1e-6)


def test_moving_a_centre_takes_the_points_along_and_leaves_the_other_parts(inspector):
    before = inspector.scene
    move(inspector, 2, 0.5, -0.25)
    torch.testing.assert_close(center(inspector, 2), torch.tensor([0.5, -0.25]))
    shift = inspector.scene.points - before.points
    torch.testing.assert_close(shift[1], shift[1, :1].expand(4, 2))
    assert not shift[[0, 2]].any() and changed(before, inspector.scene) == {"points"}


def test_moving_a_part_moves_its_heatmap(inspector):
    move(inspector, 1, 0.6, 0.6)
    y, x = np.unravel_index(inspector.paint().heatmaps[0].argmax(), (32, 32))
    assert abs(x - 1.6 / 2 * 31) < 1 and abs(y - 1.6 / 2 * 31) < 1


def test_moving_a_point_moves_the_centre_by_its_share_and_widens_the_heatmap(inspector):
    inspector.turn(1, scale=0.3)
    before, heat = center(inspector, 1), inspector.paint().heatmaps[0].sum()
    old = inspector.scene.points[0, 2].clone()
    move(inspector, 1, 0.9, 0.9, point=2)
    torch.testing.assert_close(center(inspector, 1), before + (torch.tensor([0.9, 0.9]) - old) / 4)
    assert inspector.paint().heatmaps[0].sum() > heat


def test_rotating_keeps_the_centre_and_distances_and_a_quarter_turn_is_clockwise(inspector):
    points, middle = inspector.scene.points[1], center(inspector, 2)
    inspector.turn(2, degrees=90)
    (x, y), (new_x, new_y) = (points - middle).T, (inspector.scene.points[1] - middle).T
    torch.testing.assert_close(new_x, -y)  # y points down: right goes to below
    torch.testing.assert_close(new_y, x)


def test_scaling_multiplies_distances_from_the_centre(inspector):
    before = inspector.scene.points[0] - center(inspector, 1)
    inspector.turn(1, scale=2.5)
    torch.testing.assert_close(inspector.scene.points[0] - center(inspector, 1), 2.5 * before)


def test_a_slider_of_one_gesture_starts_from_where_it_began_and_is_one_undo(inspector):
    before = inspector.scene
    for degrees in (10, 50, 0):
        inspector.turn(1, degrees=degrees, gesture="slide")
    torch.testing.assert_close(inspector.scene.points, before.points)
    inspector.turn(1, degrees=90, gesture="slide")
    assert inspector.undo() and inspector.scene is before and not inspector.undo()


def test_two_gestures_are_two_undos(inspector):
    first = inspector.scene.points + 0.1
    inspector.set_points(first, gesture=1)
    inspector.set_points(first + 0.1, gesture=2)
    inspector.set_points(first + 0.2, gesture=2)
    inspector.undo()
    torch.testing.assert_close(inspector.scene.points, first)


def test_appearance_is_taken_for_one_part_alone(inspector):
    before = inspector.scene
    inspector.take_appearance(3, 8)
    assert torch.equal(inspector.scene.w[:2], before.w[:2])
    assert torch.equal(inspector.scene.w[2], inspector.sample(8).w[2])
    assert changed(before, inspector.scene) == {"w"}


@pytest.mark.parametrize("what", SAMPLED)
def test_resampling_changes_that_alone(inspector, what):
    before = inspector.scene
    inspector.resample(what, 5)
    assert changed(before, inspector.scene) == set(SAMPLED[what])
    for field in SAMPLED[what]:
        assert torch.equal(getattr(inspector.scene, field), getattr(inspector.sample(5), field))


def test_interpolation_ends_in_the_two_samples_and_is_half_way_between(inspector):
    start, end = inspector.scene, inspector.sample(6)
    inspector.interpolate(6, 0.5, "way")
    torch.testing.assert_close(inspector.scene.w, (start.w + end.w) / 2)
    inspector.interpolate(6, 1.0, "way")
    torch.testing.assert_close(inspector.scene, end)
    inspector.interpolate(6, 0.0, "way")
    torch.testing.assert_close(inspector.scene, start)


def test_the_sample_as_it_was_drawn_comes_back_and_that_can_be_undone(inspector):
    move(inspector, 1, 0.9, 0.9)
    moved = inspector.scene
    inspector.new_sample(3)
    assert not changed(inspector.scene, inspector.sample(3))
    inspector.undo()
    assert inspector.scene is moved


def test_what_undo_took_back_is_made_again_until_another_edit(inspector):
    scenes = [inspector.scene]
    for x in (0.1, 0.2, 0.3):
        move(inspector, 1, x, x)
        scenes.append(inspector.scene)
    assert inspector.undo() and inspector.undo() and inspector.scene is scenes[1]
    assert inspector.redo() and inspector.scene is scenes[2] and inspector.undo() and inspector.redo()
    assert inspector.redo() and inspector.scene is scenes[3] and not inspector.redo()
    inspector.undo()
    move(inspector, 2, 0, 0)
    last = inspector.scene
    assert not inspector.redo() and inspector.scene is last
    assert inspector.undo() and inspector.scene is scenes[2]


def test_one_part_is_reset_alone_and_the_sample_as_drawn_is_there_beside_the_edits(inspector):
    drawn = inspector.scene
    for part in (1, 2):
        move(inspector, part, 0.9, 0.9)
        inspector.take_appearance(part, 7)
    edited = inspector.scene
    inspector.reset_part(2)
    assert changed(inspector.scene, edited) == {"points", "w"} and changed(inspector.as_drawn().scene, drawn) == set()
    for field in ("points", "w"):
        now, first, before = (getattr(scene, field) for scene in (inspector.scene, drawn, edited))
        assert torch.equal(now[1], first[1]) and torch.equal(now[0], before[0]) and torch.equal(now[2], before[2])
    inspector.undo()
    assert inspector.scene is edited
    with pytest.raises(UserError, match="part: 9 is not there"):
        inspector.reset_part(9)


def test_undoing_a_new_sample_brings_the_picture_back(inspector):
    before = inspector.scene
    inspector.new_sample(4)
    assert changed(before, inspector.scene)
    inspector.undo()
    assert inspector.scene is before


# What is shown


def test_masks_come_without_the_picture_and_agree_with_it_afterwards(inspector):
    first = inspector.paint(only_masks=True)
    assert first.image is None and inspector.layer("picture").shape == (32, 32, 3)
    whole = inspector.paint()
    assert whole.image is not None and whole.masks is first.masks


def test_layers_are_what_they_say(inspector):
    painted, colors = inspector.paint(), pictures.part_colors(3).astype(float)
    assert np.array_equal(inspector.layer("picture"), painted.image)
    assert np.array_equal(inspector.layer("masks", opacity=0), painted.image)
    mixed = sum(mask[..., None] * color for mask, color in zip(painted.masks[1:], colors, strict=True))
    np.testing.assert_allclose(inspector.layer("masks"), mixed + painted.masks[0][..., None] * GREY, atol=0.51)
    weight = 1 - painted.masks[0][..., None]
    np.testing.assert_allclose(
        inspector.layer("foreground"), weight * painted.image + (1 - weight) * GREY, atol=0.51
    )


def test_no_parts_show_nothing_but_grey(inspector):
    for name in ("masks", "heatmaps", "foreground"):
        assert (inspector.layer(name, parts=[]) == GREY).all()


def test_a_subset_of_parts_is_shown_alone(inspector):
    inspector.paint()
    only = inspector.layer("masks", parts=[2]).astype(float)
    mask = inspector.paint().masks[2][..., None]
    np.testing.assert_allclose(only, mask * pictures.part_colors(3)[1] + (1 - mask) * GREY, atol=0.51)


def test_the_background_layer_does_not_depend_on_the_parts(inspector):
    before = inspector.layer("background")
    move(inspector, 1, -0.8, 0.8)
    inspector.resample("appearance", 7)
    assert np.array_equal(inspector.layer("background"), before)
    inspector.resample("background", 7)
    assert not np.array_equal(inspector.layer("background"), before)


def test_a_sheet_shows_the_layers_side_by_side_with_numbers(inspector):
    sheet = inspector.sheet(("picture", "masks", "background"), smallest=64)
    assert sheet.shape == (64, 3 * 64 + 2 * 4, 3)
    assert not np.array_equal(sheet[:, :64], pictures.enlarge(inspector.layer("picture")[None], 64)[0])
    assert np.array_equal(sheet[:, -64:], pictures.enlarge(inspector.layer("background")[None], 64)[0])


# Texts and files


def test_a_state_survives_json_and_another_inspector(inspector):
    move(inspector, 1, 0.3, 0.1)
    inspector.take_appearance(2, 9)
    other = Inspector(inspector.G, seed=1)
    other.from_json(inspector.to_json())
    assert not changed(inspector.scene, other.scene) and other.seed == 3
    assert np.array_equal(other.paint().image, inspector.paint().image)
    assert other.undo() and not changed(other.scene, other.sample(1))


@pytest.mark.parametrize("fields", [{"n_parts": 5}, {"n_per": 3}, {"embedding_dim": 6}])
def test_a_state_of_another_shape_is_refused_naming_both(inspector, tiny, fields):
    other = Inspector(loading.build_generator(tiny(**fields)))
    (name, theirs), before = next(iter(fields.items())), inspector.scene
    with pytest.raises(UserError, match=rf"state: it has .*{name} {theirs}.* this model has .*{name} [34]"):
        inspector.from_json(other.to_json())
    assert inspector.scene is before


@pytest.mark.parametrize("text", ["", "hello", "[1, 2]", "{}", "null", '{"seed": null}'])
def test_a_text_that_is_no_state_is_refused(inspector, text):
    with pytest.raises(UserError, match="not a saved state"):
        inspector.from_json(text)


@pytest.mark.parametrize("value", [[[0, 0]], "x", None, [[[float("nan"), 0.0]] * 4] * 3, [[[0.0, 0.0]] * 4, [0]]])
def test_a_state_with_damaged_points_is_refused_and_leaves_the_picture(inspector, value):
    before, saved = inspector.scene, json.loads(inspector.to_json())
    with pytest.raises(UserError, match=r"points: should be finite numbers of shape \(3, 4, 2\)"):
        inspector.from_json(json.dumps({**saved, "points": value}))
    assert inspector.scene is before


def test_parts_and_kinds_that_are_not_there_are_refused(inspector):
    for part in (0, 4, "nose"):
        with pytest.raises(UserError, match="the parts 1 to 3"):
            inspector.turn(part, 90)
    with pytest.raises(UserError, match="'colour' is not among points, appearance, background"):
        inspector.resample("colour", 1)


def test_the_way_to_another_sample_is_saved_as_a_gif(inspector, tmp_path):
    before = inspector.scene
    inspector.save_gif(tmp_path / "a.gif", seed=8, n_frames=4)
    gif = Image.open(tmp_path / "a.gif")
    assert gif.n_frames == 6 and gif.size == (2 * 128 + 4, 128) and inspector.scene is before
