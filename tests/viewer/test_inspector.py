import json

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from ganseg import runs
from ganseg.errors import UserError
from ganseg.figures import pictures
from ganseg.model import loading, sampling
from ganseg.viewer import inspector, inspector_widget

NAMES = ("points", "w", "background_style", "background_position")


@pytest.fixture
def state(tiny):
    return inspector.Inspector(loading.build_generator(tiny()), seed=3)


def changed(before, after):
    return {name for name, a, b in zip(NAMES, before, after, strict=True) if not torch.equal(a, b)}


def center(state, part):
    return state.state.points[part - 1].mean(dim=0)


# State and edits


def test_a_sample_is_the_picture_that_sampling_paints_from_that_seed(state):
    expected = sampling.sample(state.G, 1, 3)
    assert np.array_equal(state.paint().image, pictures.to_uint8(expected.image)[0])
    np.testing.assert_allclose(state.paint().masks, expected.masks[0], atol=1e-6)


def test_an_edited_state_is_painted_as_the_generator_paints_it(state):
    state.move_part(1, 0.4, -0.3)
    state.take_appearance(2, 9)
    state.move_background(0.5, 0.0)
    with torch.no_grad():
        expected = state.G.paint(state.state.map(lambda value: value[None]))
    assert np.array_equal(state.paint().image, pictures.to_uint8(expected.image)[0])
    np.testing.assert_allclose(state.paint().heatmaps, expected.heatmaps[0], atol=1e-6)


def test_moving_a_centre_takes_the_points_along_and_leaves_the_other_parts(state):
    before = state.state
    state.move_part(2, 0.5, -0.25)
    torch.testing.assert_close(center(state, 2), torch.tensor([0.5, -0.25]))
    shift = state.state.points - before.points
    torch.testing.assert_close(shift[1], shift[1, :1].expand(4, 2))
    assert not shift[[0, 2]].any() and changed(before, state.state) == {"points"}


def test_moving_a_part_moves_its_heatmap(state):
    state.move_part(1, 0.6, 0.6)
    y, x = np.unravel_index(state.paint().heatmaps[0].argmax(), (32, 32))
    assert abs(x - 1.6 / 2 * 31) < 1 and abs(y - 1.6 / 2 * 31) < 1


def test_moving_a_point_moves_the_centre_by_its_share_and_widens_the_heatmap(state):
    state.turn(1, scale=0.3)
    before, heat = center(state, 1), state.paint().heatmaps[0].sum()
    old = state.state.points[0, 2].clone()
    state.move_point(1, 2, 0.9, 0.9)
    torch.testing.assert_close(center(state, 1), before + (torch.tensor([0.9, 0.9]) - old) / 4)
    assert state.paint().heatmaps[0].sum() > heat


def test_rotating_keeps_the_centre_and_distances_and_a_quarter_turn_is_clockwise(state):
    points, middle = state.state.points[1], center(state, 2)
    state.turn(2, degrees=90)
    (x, y), (new_x, new_y) = (points - middle).T, (state.state.points[1] - middle).T
    torch.testing.assert_close(new_x, -y)  # y points down: right goes to below
    torch.testing.assert_close(new_y, x)


def test_scaling_multiplies_distances_from_the_centre(state):
    before = state.state.points[0] - center(state, 1)
    state.turn(1, scale=2.5)
    torch.testing.assert_close(state.state.points[0] - center(state, 1), 2.5 * before)


def test_a_slider_of_one_gesture_starts_from_where_it_began_and_is_one_undo(state):
    before = state.state
    for degrees in (10, 50, 0):
        state.turn(1, degrees=degrees, gesture="slide")
    torch.testing.assert_close(state.state.points, before.points)
    state.turn(1, degrees=90, gesture="slide")
    assert state.undo() and state.state is before and not state.undo()


def test_two_gestures_are_two_undos(state):
    first = state.state.points + 0.1
    state.set_points(first, gesture=1)
    state.set_points(first + 0.1, gesture=2)
    state.set_points(first + 0.2, gesture=2)
    state.undo()
    torch.testing.assert_close(state.state.points, first)


def test_appearance_is_taken_for_one_part_alone(state):
    before = state.state
    state.take_appearance(3, 8)
    assert torch.equal(state.state.w[:2], before.w[:2]) and torch.equal(state.state.w[2], state.sample(8).w[2])
    assert changed(before, state.state) == {"w"}


@pytest.mark.parametrize("what", inspector.SAMPLED)
def test_resampling_changes_that_alone(state, what):
    before = state.state
    state.resample(what, 5)
    assert changed(before, state.state) == set(inspector.SAMPLED[what])
    for field in inspector.SAMPLED[what]:
        assert torch.equal(getattr(state.state, field), getattr(state.sample(5), field))


def test_interpolation_ends_in_the_two_samples_and_is_half_way_between(state):
    start, end = state.state, state.sample(6)
    state.interpolate(6, 0.5, "way")
    torch.testing.assert_close(state.state.w, (start.w + end.w) / 2)
    state.interpolate(6, 1.0, "way")
    torch.testing.assert_close(state.state, end)
    state.interpolate(6, 0.0, "way")
    torch.testing.assert_close(state.state, start)


def test_reset_gives_the_sample_back_and_can_be_undone(state):
    state.move_part(1, 0.9, 0.9)
    moved = state.state
    state.reset()
    assert not changed(state.state, state.sample(3))
    state.undo()
    assert state.state is moved


def test_undoing_a_new_sample_brings_the_picture_back(state):
    before = state.state
    state.new_sample(4)
    assert changed(before, state.state)
    state.undo()
    assert state.state is before


# What is shown


def test_masks_come_without_the_picture_and_agree_with_it_afterwards(state):
    first = state.paint(only_masks=True)
    assert first.image is None and state.layer("picture").shape == (32, 32, 3)
    whole = state.paint()
    assert whole.image is not None and whole.masks is first.masks


def test_layers_are_what_they_say(state):
    painted, colors = state.paint(), pictures.part_colors(3).astype(float)
    assert np.array_equal(state.layer("picture"), painted.image)
    assert np.array_equal(state.layer("masks", opacity=0), painted.image)
    mixed = sum(mask[..., None] * color for mask, color in zip(painted.masks[1:], colors, strict=True))
    np.testing.assert_allclose(state.layer("masks"), mixed + painted.masks[0][..., None] * inspector.GREY, atol=0.51)
    weight = 1 - painted.masks[0][..., None]
    np.testing.assert_allclose(
        state.layer("foreground"), weight * painted.image + (1 - weight) * inspector.GREY, atol=0.51
    )


def test_no_parts_show_nothing_but_grey(state):
    for name in ("masks", "heatmaps", "foreground"):
        assert (state.layer(name, parts=[]) == inspector.GREY).all()


def test_a_subset_of_parts_is_shown_alone(state):
    state.paint()
    only = state.layer("masks", parts=[2]).astype(float)
    mask = state.paint().masks[2][..., None]
    np.testing.assert_allclose(only, mask * pictures.part_colors(3)[1] + (1 - mask) * inspector.GREY, atol=0.51)


def test_the_background_layer_does_not_depend_on_the_parts(state):
    before = state.layer("background")
    state.move_part(1, -0.8, 0.8)
    state.resample("appearance", 7)
    assert np.array_equal(state.layer("background"), before)
    state.resample("background", 7)
    assert not np.array_equal(state.layer("background"), before)


def test_a_sheet_shows_the_layers_side_by_side_with_numbers(state):
    sheet = state.sheet(("picture", "masks", "background"), smallest=64)
    assert sheet.shape == (64, 3 * 64 + 2 * 4, 3)
    assert not np.array_equal(sheet[:, :64], pictures.enlarge(state.layer("picture")[None], 64)[0])
    assert np.array_equal(sheet[:, -64:], pictures.enlarge(state.layer("background")[None], 64)[0])


def test_part_colours_never_repeat_up_to_32_and_the_first_eight_differ_for_colour_blind_readers():
    assert len({tuple(color) for color in pictures.part_colors(32)}) == 32
    # sRGB -> what protanopes, deuteranopes and tritanopes see, in linear light (Machado et al. 2009, severity 1)
    seen = [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
    srgb = pictures.part_colors(8) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    for matrix in (np.eye(3), *map(np.array, seen)):
        lab = _lab(np.clip(linear @ matrix.T, 0, 1))
        distances = np.linalg.norm(lab[:, None] - lab, axis=-1)[np.triu_indices(8, 1)]
        assert distances.min() > 10, distances.min()  # 2.3 is just noticeable


def _lab(linear):
    """Linear sRGB (N, 3) -> CIELAB (N, 3), white D65."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ np.array(matrix).T / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


# Texts and files


def test_a_state_survives_json_and_another_inspector(state):
    state.move_part(1, 0.3, 0.1)
    state.take_appearance(2, 9)
    other = inspector.Inspector(state.G, seed=1)
    other.from_json(state.to_json())
    assert not changed(state.state, other.state) and other.seed == 3
    assert np.array_equal(other.paint().image, state.paint().image)
    assert other.undo() and not changed(other.state, other.sample(1))


@pytest.mark.parametrize("fields", [{"n_parts": 5}, {"n_per": 3}, {"embedding_dim": 6}])
def test_a_state_of_another_shape_is_refused_naming_both(state, tiny, fields):
    other = inspector.Inspector(loading.build_generator(tiny(**fields)))
    (name, theirs), before = next(iter(fields.items())), state.state
    with pytest.raises(UserError, match=rf"state: it has .*{name} {theirs}.* this model has .*{name} [34]"):
        state.from_json(other.to_json())
    assert state.state is before


@pytest.mark.parametrize("text", ["", "hello", "[1, 2]", "{}", "null", '{"seed": null}'])
def test_a_text_that_is_no_state_is_refused(state, text):
    with pytest.raises(UserError, match="not a saved state"):
        state.from_json(text)


@pytest.mark.parametrize("value", [[[0, 0]], "x", None, [[[float("nan"), 0.0]] * 4] * 3, [[[0.0, 0.0]] * 4, [0]]])
def test_a_state_with_damaged_points_is_refused_and_leaves_the_picture(state, value):
    before, saved = state.state, json.loads(state.to_json())
    with pytest.raises(UserError, match=r"points: should be finite numbers of shape \(3, 4, 2\)"):
        state.from_json(json.dumps({**saved, "points": value}))
    assert state.state is before


def test_parts_and_kinds_that_are_not_there_are_refused(state):
    for part in (0, 4, "nose"):
        with pytest.raises(UserError, match="the parts 1 to 3"):
            state.move_part(part, 0, 0)
    with pytest.raises(UserError, match="'colour' is not among points, appearance, background"):
        state.resample("colour", 1)


def test_picture_masks_and_gif_are_saved(state, tmp_path):
    state.save_picture(tmp_path / "a.png")
    assert np.array_equal(pictures.read_picture(tmp_path / "a.png"), state.paint().image)
    state.save_masks(tmp_path / "m.png")
    masks = Image.open(tmp_path / "m.png")
    assert masks.mode == "P" and np.array_equal(np.asarray(masks), state.paint().masks.argmax(axis=0))
    before = state.state
    state.save_gif(tmp_path / "a.gif", seed=8, n_frames=4)
    gif = Image.open(tmp_path / "a.gif")
    assert gif.n_frames == 6 and gif.size == (2 * 128 + 4, 128) and state.state is before


# The widget, without a browser


@pytest.fixture
def view(state):
    return inspector_widget.generated_inspector(state)


def dragged(view, part, dx):
    points = np.array(view.drag.points)
    points[part - 1, :, 0] += dx
    return points.tolist()


def test_dragging_in_the_browser_changes_the_masks_and_the_picture_shown(view):
    before, masks = view.drag.png, view.state.paint().masks
    view.drag.set_state({"points": dragged(view, 1, 0.5), "gesture": 1, "selected": 1})
    assert view.drag.png != before and not np.array_equal(view.state.paint().masks, masks)


def test_points_of_a_drag_are_not_sent_back(view):
    wanted = dragged(view, 1, 1 / 3)
    view.drag.set_state({"points": wanted, "gesture": 1})
    assert view.drag.points == wanted  # float32 would have rounded them


def test_touching_a_part_chooses_it(view):
    view.drag.set_state({"selected": 3})
    assert view.part.value == 3


def test_undo_takes_back_a_whole_drag_and_moves_the_points_in_the_browser(view):
    before = view.state.state
    for dx in (0.1, 0.2):
        view.drag.set_state({"points": dragged(view, 2, dx), "gesture": 1})
    view._undo()
    assert view.state.state is before and view.state.has_points(view.drag.points)
    view._undo()
    assert view.status.value == "There is nothing to undo."


def test_sliders_of_a_part_start_anew_for_the_next_part(view):
    view.angle.value = 90
    turned = view.state.state.points
    view.part.value = 2
    assert view.angle.value == 0 and torch.equal(view.state.state.points, turned)
    view.scale.value = 2
    assert view.angle.value == 0 and torch.equal(view.state.state.points[0], turned[0])


def test_sliding_the_background_is_one_undo(view):
    before = view.state.state
    for x in (0.2, 0.4):
        view.background_x.value = x
    assert view.state.state.background_position[0] == pytest.approx(0.4)
    view._undo()
    assert view.state.state is before
    assert view.background_x.value == pytest.approx(before.background_position[0].item(), abs=1e-3)


def test_other_controls_do_their_edits(view):
    view.way.value = 1
    torch.testing.assert_close(view.state.state, view.state.sample(4))
    view.sample.value = 7
    assert view.way.value == 0 and not changed(view.state.state, view.state.sample(7))
    view._resample("background")
    assert changed(view.state.state, view.state.sample(7)) == {"background_style", "background_position"}
    view._take_appearance()
    assert "sample 4" in view.status.value


def test_hidden_parts_lose_their_points_and_layers_change_the_picture(view):
    before = view.drag.png
    view.shown[1].value = False
    assert view.drag.shown == [0, 2] and view.drag.png != before
    shown = set()
    for layer in inspector.LAYERS:
        view.layer.value = layer
        shown.add(view.drag.png)
    assert len(shown) == len(inspector.LAYERS)


def test_text_brings_the_state_back_and_bad_text_is_a_message(view, tiny):
    view._to_text()
    before = view.state.state
    view.sample.value = 9
    view._from_text()
    assert not changed(view.state.state, before) and view.sample.value == 3
    view.text.value = "hello"
    view._from_text()
    assert "not a saved state" in view.status.value
    view.text.value = inspector.Inspector(loading.build_generator(tiny(n_parts=5))).to_json()
    view._from_text()
    assert "n_parts 5" in view.status.value and not changed(view.state.state, before)


def test_what_is_saved_lies_in_the_run(trained):
    view = inspector_widget.generated_inspector(inspector.open_inspector(trained))
    view._save()
    view._save_gif()
    names = {path.name for path in (trained.folder / "figures").glob("inspector*")}
    assert names == {"inspector.png", "inspector_masks.png", "inspector.gif"} and "inspector.gif" in view.status.value


def test_a_slow_model_shows_its_masks_first_and_only_the_newest_picture(state, monkeypatch):
    import asyncio

    monkeypatch.setattr(inspector_widget, "DEFER_S", -1.0)
    monkeypatch.setattr(inspector_widget, "PAUSE_S", 0.01)
    blends = []
    blend = state._blend
    monkeypatch.setattr(state, "_blend", lambda *args: blends.append(1) or blend(*args))

    async def play():
        view = inspector_widget.generated_inspector(state)
        for i in range(5):
            view.drag.set_state({"points": dragged(view, 1, 0.1), "gesture": i})
            assert view.state._painted[1].image is None
        masks = view.drag.png
        await asyncio.sleep(0.2)
        assert view.drag.png != masks and len(blends) == 1

    asyncio.run(play())


def test_without_a_run_the_widget_is_the_sentence_that_helps(tiny_run):
    tiny_run("untrained").start("cpu")
    for run, sentence in [("no/such", "there is no"), (tiny_run("untrained"), "make it with: ganseg train")]:
        message = inspector_widget.generated_inspector(run)
        assert isinstance(message, ipywidgets.HTML) and sentence in message.value


def test_the_shipped_model_opens(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    state = inspector.open_inspector(runs.open_run("tiny", "try", needs="gan"))
    assert len(np.unique(state.labels)) > 4 and state.names[0] == "part 1"
