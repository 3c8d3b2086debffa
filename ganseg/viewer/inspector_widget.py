"""Notebook widget: a generated picture whose parts can be moved, a shell over inspector.py."""

import asyncio
import contextlib
import functools
import time
from pathlib import Path

import anywidget
import ipywidgets
import traitlets

from ganseg.errors import UserError
from ganseg.figures import pictures
from ganseg.viewer.inspector import LAYERS, SAMPLED, Inspector, open_inspector
from ganseg.viewer.panel import WIDE, Panel, alert, downloads, image_widget, put

DEFER_S = 0.15  # a model whose masks take longer shows them first, and the picture when no newer edit waits
PAUSE_S = 0.1  # long enough for the browser to send what it held back


class _DragPoints(anywidget.AnyWidget):
    """A picture under points that a mouse, a finger or the keyboard moves; drag.js is its half in the browser."""

    _esm = Path(__file__).parent / "drag.js"
    png = traitlets.Bytes(b"").tag(sync=True)
    points = traitlets.List([]).tag(sync=True)  # K x n_per x 2 in [-1, 1]; both sides set it
    gesture = traitlets.Int(0).tag(sync=True)  # counts drags and key presses
    selected = traitlets.Int(1).tag(sync=True)  # the part touched last, from 1
    shown = traitlets.List([]).tag(sync=True)  # indices, from 0, of the parts whose points are there
    colors = traitlets.List([]).tag(sync=True)
    labels = traitlets.Bytes(b"").tag(sync=True)  # the part of each pixel, row by row, 0 background
    names = traitlets.List([]).tag(sync=True)  # of the parts, shown under the pointer
    size = traitlets.Int(420).tag(sync=True)  # width and height on the screen in pixels


def generated_inspector(run, seed=0):
    """A run's generator to play with, as a widget; where there is none, the sentence that says why.

    run  a Run, its name as for runs.find, or an Inspector
    """
    try:
        inspector = run if isinstance(run, Inspector) else open_inspector(run, seed)
    except UserError as error:
        return ipywidgets.HTML(alert(error))
    return _GeneratedInspector(inspector)


class _GeneratedInspector(Panel):
    """A shell over `inspector`, an Inspector: each control makes one edit, then everything is shown anew."""

    def __init__(self, inspector):
        super().__init__()
        self.inspector, self._gesture, self._pending = inspector, 0, None
        self.drag = _DragPoints()
        self.sheet = ipywidgets.Image(format="png")
        self.sample = _number("sample", inspector.seed)
        self.other = _number("other sample", inspector.seed + 1)
        self.part = ipywidgets.Dropdown(description="part", style=WIDE)
        self.angle = _slider("rotate", 0, -180, 180, 1)
        self.scale = _slider("scale", 1, 0.2, 3, 0.05)
        self.background_x = _slider("background x", 0, -1, 1, 0.02)
        self.background_y = _slider("background y", 0, -1, 1, 0.02)
        self.moved = (self.background_x, self.background_y)
        # A model that never moved its background up or down has learned nothing that this could show
        self.background_y.disabled = inspector.cfg.background_position == "horizontal"
        self.way = _slider("interpolate", 0, 0, 1, 0.02)
        self.layer = ipywidgets.Dropdown(description="layer", options=LAYERS, value="masks", style=WIDE)
        self.opacity = _slider("opacity", 0.6, 0, 1, 0.05)
        self.before = ipywidgets.ToggleButton(description="Before", tooltip="show the sample as it was drawn",
                                              layout={"width": "auto"})
        self.saved, self.gif = ipywidgets.HTML(), image_widget("gif")
        self.shown = [ipywidgets.ToggleButton(description=str(k), layout={"width": "3.2em"}) for k in inspector.parts]
        self.text = ipywidgets.Textarea(description="state", placeholder="a state as text (JSON)", style=WIDE,
                                        continuous_update=False, layout={"width": "98%"})
        self.children = self._arranged()
        self.add_class("ganseg-inspector")  # where drag.js hears Ctrl+Z
        self._take_parts(inspector.taken_for)
        self._render()
        self._listen()

    def show_parts(self, parts):
        """Take the parts for these Parts of part_names, as when they were given names, colours or merges."""
        self._take_parts(parts)
        self._show()

    def _take_parts(self, parts):
        chosen, self.inspector.taken_for = self.part.value or 1, parts
        self.drag.colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in parts.colors.tolist()]
        self.drag.names = parts.labels

        def show():
            self.part.options = list(zip(parts.labels, self.inspector.parts, strict=True))
            self.part.value = chosen
            for k, label, color, button in zip(self.inspector.parts, parts.labels, self.drag.colors, self.shown,
                                               strict=True):
                button.tooltip, button.layout.border_bottom = f"show {label}", f"5px solid {color}"
                button.value = k in self.inspector.seen

        self._react(show)()  # that the list changes is no choice of a part

    def _arranged(self):
        """The rows of controls around the picture."""
        def row(*fields):
            return ipywidgets.HBox(fields, layout={"flex_flow": "row wrap"})

        def button(text, action):
            made = ipywidgets.Button(description=text, layout={"width": "auto"})
            made.on_click(self._react(lambda: self._edit(action)))
            return made

        anew = [button(f"its {what}", functools.partial(self._resample, what)) for what in SAMPLED]
        right = ipywidgets.VBox([
            row(self.sample, button("Undo", self._undo), button("Redo", self._redo),
                button("Reset", lambda: self.inspector.new_sample(self.inspector.seed)), self.before),
            row(self.part, button("Reset part", lambda: self.inspector.reset_part(self.part.value)),
                button("appearance of other sample", self._take_appearance)),
            row(self.angle, self.scale),
            row(self.other, *anew),
            row(self.way),
            row(self.background_x, self.background_y),
            row(self.layer, self.opacity),
            row(ipywidgets.Label("parts shown"), *self.shown),
        ], layout={"flex": "1 1 24em"})
        files = row(button("State as text", self._to_text), button("Load text", self._from_text),
                    button("Save picture and masks", self._save), button("Save GIF to other sample", self._save_gif))
        order = ipywidgets.Label("From the left: " + ", ".join(LAYERS[:4]))
        return [row(self.drag, right), self.message, self.sheet, order, self.text, files, self.saved, self.gif]

    def _listen(self):
        """Connect each control with its edit.

        One undo takes back a gesture: a drag, or one slider until another control is used.
        """
        def on(fields, edit=lambda: None, keep=()):
            return self._react(lambda: self._edit(edit, keep), *fields)

        scene, sample, part, other, way = self.inspector, self.sample, self.part, self.other, self.way
        turned, moved = (self.angle, self.scale), self.moved
        on([sample], lambda: scene.new_sample(sample.value))
        on(turned, lambda: scene.turn(part.value, *(f.value for f in turned), ("turn", self._gesture)), keep=turned)
        on(moved, lambda: scene.move_background(*(f.value for f in moved), ("moved", self._gesture)), keep=moved)
        on([way], lambda: scene.interpolate(other.value, way.value, ("way", self._gesture)), keep=[way])
        on([part, other], lambda: setattr(self.drag, "selected", part.value))
        self._react(self._show, self.before)
        on([self.layer, self.opacity, *self.shown], keep=[*turned, way])
        self.drag.observe(on([], lambda: scene.set_points(self.drag.points, ("drag", self.drag.gesture))), "points")
        self.drag.observe(lambda change: setattr(part, "value", change.new), "selected")
        edits = {"undo": self._undo, "redo": self._redo}
        keys = {key: self._react(functools.partial(self._edit, edit)) for key, edit in edits.items()}
        self.drag.on_msg(lambda _, pressed, buffers: keys[pressed]())

    def _edit(self, edit, keep=()):
        said, self.before.value = edit(), False
        self._render(keep)
        return said

    def _take_appearance(self):
        self.inspector.take_appearance(self.part.value, self.other.value)
        return f"{self.part.label} looks as in sample {self.other.value}."

    def _resample(self, what):
        self.inspector.resample(what, self.other.value)
        return f"The {what} of sample {self.other.value}. Another number gives others."

    def _undo(self):
        return "" if self.inspector.undo() else "There is nothing to undo."

    def _redo(self):
        return "" if self.inspector.redo() else "There is nothing to redo."

    def _to_text(self):
        self.text.value = self.inspector.to_json()
        return "Copy the text below; Load text brings the state back, in another session too."

    def _from_text(self):
        self.inspector.from_json(self.text.value)
        return "The state is as the text says."

    def _save(self):
        folder = self._folder()
        masks = pictures.indexed(self.inspector.labels, self.inspector.taken_for.colors)
        made = {"inspector.png": self.inspector.paint().image, "inspector_masks.png": masks}
        for name, picture in made.items():
            pictures.save(picture, folder / name)
        self.saved.value = downloads({name: ("image/png", (folder / name).read_bytes()) for name in made})
        return f"Saved inspector.png and inspector_masks.png (pixel value = part) in {folder}"

    def _save_gif(self):
        path = self._folder() / "inspector.gif"
        self.inspector.save_gif(path, self.other.value)
        put(self.gif, path.read_bytes())
        self.saved.value = downloads({path.name: ("image/gif", self.gif.value)})
        return f"Saved inspector.gif in {self._folder()}"

    def _folder(self):
        return Path(self.inspector.folder or ".") / "figures"

    # What is shown

    def _render(self, keep=()):
        """Show the scene: at once where the model is fast, else its masks and soon the picture."""
        self._neutral(keep)
        start = time.perf_counter()
        self.inspector.paint(only_masks=True)
        if time.perf_counter() - start > DEFER_S:
            self._show()
            if self._pending:
                self._pending.cancel()
            with contextlib.suppress(RuntimeError):  # a plain Python program has no later
                self._pending = asyncio.get_running_loop().call_later(PAUSE_S, self._finish)
                return
        self._finish()

    def _finish(self):
        self.inspector.paint()
        self._show()

    def _neutral(self, keep):
        """Bring the controls in line with the scene; sliders of finished gestures go back to where they do nothing."""
        position = zip(self.moved, self.inspector.scene.background_position.tolist(), strict=True)
        values = {self.sample: self.inspector.seed} | {field: _on_step(field, v) for field, v in position}
        values |= {field: value for field, value in ((self.angle, 0), (self.scale, 1), (self.way, 0))
                   if field not in keep}
        if not keep:
            self._gesture += 1
        for field, value in values.items():
            field.value = value

    def _show(self):
        parts = [k for k, button in zip(self.inspector.parts, self.shown, strict=True) if button.value]
        seen = self.inspector.as_drawn() if self.before.value else self.inspector
        with self.drag.hold_sync():
            self.drag.png = pictures.png(seen.layer(self.layer.value, parts, self.opacity.value))
            self.drag.labels = seen.labels.tobytes()
            self.drag.shown = [] if self.before.value else [k - 1 for k in parts]
            if not self.inspector.has_points(self.drag.points):  # sent back, they would overtake a drag that goes on
                self.drag.points = self.inspector.scene.points.tolist()
        self.sheet.value = pictures.png(seen.sheet(parts=parts, smallest=160, points=False))


def _number(description, value):
    return ipywidgets.BoundedIntText(value, description=description, max=2**31 - 1, style=WIDE,
                                     layout={"width": "13em"})


def _slider(description, value, low, high, step):
    return ipywidgets.FloatSlider(value, description=description, min=low, max=high, step=step, style=WIDE,
                                  layout={"flex": "1 1 20em"})


def _on_step(slider, value):
    """The step of a slider next to a value. A browser would round to it, and send that back as an edit."""
    n = round((min(max(value, slider.min), slider.max) - slider.min) / slider.step)
    return round(slider.min + n * slider.step, 6)
