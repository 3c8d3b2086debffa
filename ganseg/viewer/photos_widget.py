"""Notebook widget: a run's segmenter on real photos, a shell over photos.py."""

import os
from html import escape
from pathlib import Path

import ipywidgets

from ganseg import part_names, segment
from ganseg.errors import UserError
from ganseg.figures import pictures
from ganseg.viewer import photos
from ganseg.viewer.panel import WIDE, Panel, alert, image_widget, put

ALL_PARTS = ("all of them", 0)  # a Dropdown cannot choose None


def photo_browser(run, changed=lambda parts: None):
    """The run's segmenter on photos of a split (at most 1,000) or on the user's own, as a widget.

    changed  called with the Parts of part_names after one was named, merged, hidden or coloured
    Where the run has no segmenter, a sentence with the command that makes it.
    """
    try:
        return _PhotoBrowser(run, segment.load(run, run.cfg.device), changed)
    except UserError as error:
        return ipywidgets.HTML(alert(error))


class _PhotoBrowser(Panel):
    """Photos by rank, the worst first; parts, truth and table of one; where a part is strongest; its name."""

    def __init__(self, run, model, changed):
        super().__init__()
        self.run, self.model, self.changed = run, model, changed
        self.loaded, self.shown, self.own = {}, None, None  # Photos by split, the split, the user's own photo
        self.split = ipywidgets.Dropdown(description="split", options=["test", "train"], style=WIDE)
        self.measure = ipywidgets.Dropdown(description="worst by", style=WIDE)
        self.best_first = ipywidgets.Checkbox(description="best first", indent=False)
        self.rank = ipywidgets.IntSlider(description="rank", value=1, min=1, max=1, style=WIDE)
        self.path = ipywidgets.Text(description="own photo", placeholder="path", continuous_update=False, style=WIDE)
        self.upload = ipywidgets.FileUpload(accept="image/*", description="or upload")
        self.part = ipywidgets.Dropdown(description="part", style=WIDE)
        self.name = ipywidgets.Text(description="its name", continuous_update=False, disabled=True, style=WIDE)
        self.strength = ipywidgets.FloatSlider(description="colours", value=0.75, max=1, step=0.05, style=WIDE)
        self.caption, self.table, self.crops_note = (ipywidgets.HTML() for _ in range(3))
        self.photo, self.parts, self.truth, self.crops = (image_widget("png") for _ in range(4))
        titles = {"centroids": self.photo, "parts": self.parts, "truth": self.truth}
        self.columns = [ipywidgets.VBox([ipywidgets.Label(title), image]) for title, image in titles.items()]
        self.merge = ipywidgets.Dropdown(description="merge into", disabled=True, style=WIDE)
        self.hidden = ipywidgets.Checkbox(description="hidden", indent=False, disabled=True)
        self.color = ipywidgets.ColorPicker(description="colour", value="#000000", disabled=True, style=WIDE)
        rows = [[self.split, self.measure, self.best_first], [self.rank, self.path, self.upload],
                [self.part, self.name, self.merge, self.hidden, self.color, self.strength], self.columns]
        rows = [ipywidgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in rows]
        self.children = [*rows[:3], self.message, self.caption, rows[3], self.table, self.crops_note, self.crops]
        self._react(self._list_parts)()
        self._react(self._choose_split, self.split)()
        self._react(self._choose_rank, self.measure, self.best_first, self.rank)
        self._react(self._choose_path, self.path)
        self._react(self._take_upload, self.upload)
        self._react(self._choose_part, self.part)
        self._react(lambda: self._change(name=self.name.value), self.name)
        self._react(lambda: self._change(merge=self.merge.value), self.merge)
        self._react(lambda: self._change(hidden=self.hidden.value or None), self.hidden)
        self._react(lambda: self._change(color=self.color.value), self.color)
        self._react(self._show, self.strength)

    @property
    def photos(self):
        return self.loaded[self.shown]

    def _choose_split(self):
        split = self.split.value
        try:
            if split not in self.loaded:
                self.loaded[split] = photos.Photos(self.run, self.model, split)
        except UserError:
            self.split.value = self.shown or split  # what is still to be seen
            raise
        self.shown = split
        measures, before = self.photos.measures(), self.measure.value
        self.measure.options = measures
        self.measure.value = before if before in measures else measures[0]
        self.rank.value, self.rank.max = 1, len(self.photos.photos)
        self._choose_rank()
        self._show_crops()

    def _choose_rank(self):
        self.own, self.path.value = None, ""
        self._show()

    def _choose_path(self):
        if path := self.path.value.strip():
            self._choose_own(Path(os.path.expanduser(path)))
        else:
            self._choose_rank()

    def _choose_own(self, source):
        self._show(source)
        self.own = source  # now that it could be read

    def _take_upload(self):
        content = bytes(self.upload.value[0]["content"])
        self.upload.value = ()  # else the same file, uploaded again, would be no change
        self._choose_own(content)

    def _choose_part(self):
        self._show_fields()
        self._show()
        self._show_crops()

    def _show_fields(self):
        """What the chosen part is taken for."""
        k, parts = self.part.value, part_names.read_parts(self.run)
        for field in (self.name, self.merge, self.hidden, self.color):
            field.disabled = not k
        others = [(label, other) for other, label in enumerate(parts.labels, start=1) if other != k]
        self.merge.options = [("none", None), *others]
        self.name.value = parts.names[k - 1] if k else ""
        self.merge.value = int(parts.lookup[k]) if k and parts.lookup[k] not in (0, k) else None
        self.hidden.value = bool(k and not parts.lookup[k])
        self.color.value = "#{:02x}{:02x}{:02x}".format(*parts.colors[k - 1 if k else 0].tolist())

    def _change(self, **fields):
        try:
            self.changed(part_names.change_parts(self.run, {self.part.value: fields}))
        finally:
            self._list_parts()
            self._choose_part()

    def _list_parts(self):
        labels, chosen = part_names.part_labels(self.run), self.part.value
        self.part.options = [ALL_PARTS, *zip(labels, range(1, len(labels) + 1), strict=True)]
        self.part.value = chosen or 0

    def _show(self, own=None):
        own = self.own if own is None else own
        chosen = {"part": self.part.value or None, "strength": self.strength.value}
        if own is not None:
            view = photos.view_file(self.run, self.model, own, **chosen)
            name = "the uploaded photo" if isinstance(own, bytes) else own.name
            caption = f"{name}, at its own size, with the labels of ganseg segment"
        elif self.shown is not None:
            measure, order = self.measure.value, "best" if self.best_first.value else "worst"
            i = self.photos.ranked(measure, self.best_first.value)[self.rank.value - 1]
            view = self.photos.view(i, **chosen)
            caption = f"{self.photos.photos.names[i]}: {measure} {self.photos.values(measure)[i]:.3g}"
            caption += f" ({self.rank.value} of {len(self.photos.photos)}, the {order} first)"
        else:
            return  # no photo yet
        self.caption.value = escape(caption)
        put(self.photo, pictures.png(view.photo))
        put(self.parts, pictures.png(view.parts))
        put(self.truth, b"" if view.truth is None else pictures.png(view.truth))
        self.columns[2].layout.display = self.truth.layout.display  # its title goes with it
        self.table.value = _parts_table(view.rows, part_names.read_parts(self.run).colors)

    def _show_crops(self):
        self.crops_note.value, crops = "", []
        if self.part.value and self.shown:
            crops, _ = self.photos.crops(self.part.value)
            where = "where it is strongest among" if len(crops) else "it is in none of"
            among = f"the {len(self.photos.photos)} {self.shown} photos"
            self.crops_note.value = escape(f"{self.part.label}: {where} {among}")
        put(self.crops, pictures.png(pictures.grid(crops, 6)) if len(crops) else b"")


def _parts_table(rows, colors):
    """Rows of a View as HTML; colors (K, 3) of the parts."""
    lines = ["<tr><th></th><th>part</th><th>area</th><th>confidence</th><th>centroid, px</th></tr>"]
    for row in rows:
        (r, g, b), absent = colors[row["part"] - 1], row["confidence"] is None
        numbers = ["-"] * 3 if absent else [
            f"{row['area_share']:.1%}", f"{row['confidence']:.2f}", f"{row['x_px']:.1f}, {row['y_px']:.1f}"]
        label = escape(row["label"])
        cells = "".join(f'<td style="text-align: right; padding: 0 0.6em">{number}</td>' for number in numbers)
        lines.append(f'<tr><td style="background: rgb({r}, {g}, {b}); width: 1.5em"></td><td>{label}</td>{cells}</tr>')
    note = "Confidence: the part's mean probability over the pixels where it is the most probable."
    return f'<table>{"".join(lines)}</table><small>{note}</small>'
