"""The widget of the inspector, without a browser."""

import asyncio
import re
from base64 import b64decode

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image
from test_inspector import changed, inspector  # noqa: F401  (a fixture)

from ganseg import part_names, runs
from ganseg.figures import pictures
from ganseg.model import loading
from ganseg.viewer import inspector_widget
from ganseg.viewer.inspector import LAYERS, Inspector, open_inspector


@pytest.fixture
def view(inspector):  # noqa: F811
    return inspector_widget.generated_inspector(inspector)


def press(widget, text):
    """Click the button that is called so."""
    for child in widget.children:
        if isinstance(child, ipywidgets.Button) and child.description == text:
            child.click()
        elif isinstance(child, ipywidgets.Box):
            press(child, text)


def dragged(view, part, dx):
    points = np.array(view.drag.points)
    points[part - 1, :, 0] += dx
    return points.tolist()


def test_dragging_in_the_browser_changes_the_masks_and_the_picture_shown(view):
    before, masks = view.drag.png, view.inspector.paint().masks
    view.drag.set_state({"points": dragged(view, 1, 0.5), "gesture": 1, "selected": 1})
    assert view.drag.png != before and not np.array_equal(view.inspector.paint().masks, masks)


def test_points_of_a_drag_are_not_sent_back(view):
    wanted = dragged(view, 1, 1 / 3)
    view.drag.set_state({"points": wanted, "gesture": 1})
    assert view.drag.points == wanted  # float32 would have rounded them


def test_touching_a_part_chooses_it(view):
    view.drag.set_state({"selected": 3})
    assert view.part.value == 3


def test_undo_takes_back_a_whole_drag_and_moves_the_points_in_the_browser(view):
    before = view.inspector.scene
    for dx in (0.1, 0.2):
        view.drag.set_state({"points": dragged(view, 2, dx), "gesture": 1})
    press(view, "Undo")
    assert view.inspector.scene is before and view.inspector.has_points(view.drag.points)
    press(view, "Undo")
    assert view.message.value == "There is nothing to undo."


def test_keys_and_buttons_undo_and_redo(view):
    before = view.inspector.scene
    view.drag.set_state({"points": dragged(view, 2, 0.2), "gesture": 1})
    after = view.inspector.scene
    def pressed(keys):
        view.drag._handle_custom_msg(keys, [])

    for undo, redo in ((lambda: pressed("undo"), lambda: pressed("redo")),
                       (lambda: press(view, "Undo"), lambda: press(view, "Redo"))):
        undo()
        assert view.inspector.scene is before
        undo()
        assert "nothing to undo" in view.message.value
        redo()
        assert view.inspector.scene is after and view.drag.points == after.points.tolist()
        redo()
        assert "nothing to redo" in view.message.value


def test_before_shows_the_sample_as_drawn_without_points_until_it_is_edited(view):
    drawn = view.drag.png
    view.drag.set_state({"points": dragged(view, 2, 0.3), "gesture": 1})
    edited = view.drag.png
    assert view.drag.labels == view.inspector.labels.tobytes() and edited != drawn
    view.before.value = True
    assert view.drag.png == drawn and view.drag.shown == []
    assert view.drag.labels == view.inspector.as_drawn().labels.tobytes()
    view.before.value = False
    assert view.drag.png == edited and view.drag.shown == [0, 1, 2]
    view.before.value = True
    view.part.value = 2
    press(view, "Reset part")
    assert not view.before.value and view.drag.shown == [0, 1, 2]
    assert torch.equal(view.inspector.scene.points, view.inspector.as_drawn().scene.points)


def test_a_chosen_part_is_chosen_on_the_picture_too_and_names_are_there(view):
    view.part.value = 3
    assert view.drag.selected == 3 and view.drag.names == ["part 1", "part 2", "part 3"]


def test_sliders_of_a_part_start_anew_for_the_next_part(view):
    view.angle.value = 90
    turned = view.inspector.scene.points
    view.part.value = 2
    assert view.angle.value == 0 and torch.equal(view.inspector.scene.points, turned)
    view.scale.value = 2
    assert view.angle.value == 0 and torch.equal(view.inspector.scene.points[0], turned[0])


def test_sliding_the_background_is_one_undo(view):
    before = view.inspector.scene
    for x in (0.2, 0.4):
        view.background_x.value = x
    assert view.inspector.scene.background_position[0] == pytest.approx(0.4)
    press(view, "Undo")
    assert view.inspector.scene is before
    assert view.background_x.value == pytest.approx(before.background_position[0].item(), abs=0.01)


def as_a_browser_rounds(slider):
    """What a browser makes of a value: the next of the slider's steps."""
    return slider.min + round((slider.value - slider.min) / slider.step) * slider.step


@pytest.mark.parametrize("change", ["interpolate", "sample", "Undo"])
def test_what_a_browser_rounds_and_sends_back_is_no_edit(view, change):
    view.background_x.value = 0.4
    if change == "interpolate":
        view.way.value = 0.34
    elif change == "sample":
        view.sample.value = 7
    else:
        press(view, "Undo")
    sliders = (view.angle, view.scale, *view.moved, view.way)
    scene, undos, values = view.inspector.scene, len(view.inspector._past), [field.value for field in sliders]
    for field in sliders:
        assert as_a_browser_rounds(field) == pytest.approx(field.value, abs=1e-9)
        field.set_state({"value": as_a_browser_rounds(field) + 1e-9})
    assert view.inspector.scene is scene and len(view.inspector._past) == undos
    assert [field.value for field in sliders] == pytest.approx(values, abs=1e-6)


def test_new_names_of_parts_are_shown_and_change_nothing_else(view):
    view.part.value, view.angle.value = 2, 30
    scene = view.inspector.scene
    settings = {1: {"name": "head", "color": "#ff0000"}, 3: {"hidden": True}}
    view.show_parts(part_names.make_parts(settings, 3))
    assert [label for label, _ in view.part.options] == ["1: head", "part 2", "part 3 (hidden)"]
    assert view.shown[0].tooltip == "show 1: head" and view.drag.colors[0] == "#ff0000"
    assert [button.value for button in view.shown] == [True, True, False] and len(view.drag.shown) == 2
    assert set(np.unique(view.inspector.labels)) <= {0, 1, 2}
    assert view.part.value == 2 and view.angle.value == 30 and view.inspector.scene is scene


def test_other_controls_do_their_edits(view):
    view.way.value = 1
    torch.testing.assert_close(view.inspector.scene, view.inspector.sample(4))
    view.sample.value = 7
    assert view.way.value == 0 and not changed(view.inspector.scene, view.inspector.sample(7))
    press(view, "its background")
    assert changed(view.inspector.scene, view.inspector.sample(7)) == {"background_style", "background_position"}
    press(view, "appearance of other sample")
    assert "sample 4" in view.message.value


def test_hidden_parts_lose_their_points_and_layers_change_the_picture(view):
    before = view.drag.png
    view.shown[1].value = False
    assert view.drag.shown == [0, 2] and view.drag.png != before
    shown = set()
    for layer in LAYERS:
        view.layer.value = layer
        shown.add(view.drag.png)
    assert len(shown) == len(LAYERS)


def test_text_brings_the_state_back_and_bad_text_is_a_message(view, tiny):
    press(view, "State as text")
    before = view.inspector.scene
    view.sample.value = 9
    press(view, "Load text")
    assert not changed(view.inspector.scene, before) and view.sample.value == 3
    view.text.value = "hello"
    press(view, "Load text")
    assert "not a saved state" in view.message.value
    view.text.value = Inspector(loading.build_generator(tiny(n_parts=5))).to_json()
    press(view, "Load text")
    assert "n_parts 5" in view.message.value and not changed(view.inspector.scene, before)


def test_what_is_saved_lies_in_the_run(trained):
    view = inspector_widget.generated_inspector(open_inspector(trained))
    folder, links = trained.folder / "figures", []
    for button in ("Save picture and masks", "Save GIF to other sample"):
        press(view, button)
        links += re.findall(r'download="(.*?)" href="data:image/(?:png|gif);base64,(.*?)"', view.saved.value)
    assert {name: b64decode(content) for name, content in links} == {
        path.name: path.read_bytes() for path in folder.glob("inspector*")}
    assert view.gif.value == (folder / "inspector.gif").read_bytes() and view.gif.layout.display is None
    names = {path.name for path in (trained.folder / "figures").glob("inspector*")}
    saved = pictures.read_picture(trained.folder / "figures" / "inspector.png")
    assert np.array_equal(saved, view.inspector.paint().image)
    masks = Image.open(trained.folder / "figures" / "inspector_masks.png")
    assert masks.mode == "P" and np.array_equal(np.asarray(masks), view.inspector.paint().masks.argmax(axis=0))
    assert names == {"inspector.png", "inspector_masks.png", "inspector.gif"} and "inspector.gif" in view.message.value


def test_a_slow_model_shows_its_masks_first_and_only_the_newest_picture(inspector, monkeypatch):  # noqa: F811
    monkeypatch.setattr(inspector_widget, "DEFER_S", -1.0)
    monkeypatch.setattr(inspector_widget, "PAUSE_S", 0.01)
    blends = []
    blend = inspector._blend
    monkeypatch.setattr(inspector, "_blend", lambda *args: blends.append(1) or blend(*args))

    async def play():
        view = inspector_widget.generated_inspector(inspector)
        for i in range(5):
            view.drag.set_state({"points": dragged(view, 1, 0.1), "gesture": i})
            assert view.inspector._painted[1].image is None
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
    shipped = open_inspector(runs.open_run("tiny", "shipped", needs="gan"))
    assert len(np.unique(shipped.labels)) > 4 and shipped.taken_for.names[0] == "part 1"
