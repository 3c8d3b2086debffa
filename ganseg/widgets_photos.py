"""Notebook widgets for real photos and for a run that trains: shells over explore.py and follow.py."""

import asyncio
import io
import time
from html import escape
from pathlib import Path

import ipywidgets
from PIL import Image

from ganseg import explore, follow, pictures, runs
from ganseg.errors import UserError

WIDE = {"description_width": "initial"}
SHEET_PX = 640  # samples are shrunk to this width
EVERY_S, PATIENCE_S = 5.0, 3600  # a view looks for news so often, and gives up after so long without any
NO_STEP, ALL_PARTS = [("none", 0)], ("all of them", 0)  # None cannot be chosen
STAGES = {"GAN": "train", "segmenter": "distill", "segmenter of the control": "control"}


def photo_browser(run, split="test", limit=1000):
    """The run's segmenter on photos of a split (at most `limit`) or of one's own, as a PhotoBrowser.

    Where the run has no segmenter, a sentence with the command that makes it.
    """
    try:
        return PhotoBrowser(run, explore.load_model(run), split, limit)
    except UserError as error:
        return ipywidgets.HTML(_alert(error))


def training_view(run, every_s=EVERY_S):
    """A run's curves, samples and warnings as a TrainingView, renewed while another process trains it."""
    return TrainingView(run, every_s)


class _Panel(ipywidgets.VBox):
    """A widget that says in `message` what is wrong, where a traceback would help nobody."""

    def __init__(self):
        self.message, self._busy = ipywidgets.HTML(), False
        super().__init__()

    def _react(self, action, *fields):
        """Make an action follow each change of some fields; returns it as a function that never raises a UserError."""

        def observer(_=None):
            if self._busy:  # an action sets this field, and shows what follows from it itself
                return
            self._busy = True
            try:
                action()
                self.message.value = ""
            except (UserError, OSError) as error:
                self.message.value = _alert(error)
            finally:
                self._busy = False

        for field in fields:
            field.observe(observer, "value")
        return observer


class PhotoBrowser(_Panel):
    """Photos by rank, the worst first; parts, truth and table of one; where a part is strongest; its name."""

    def __init__(self, run, model, split, limit):
        super().__init__()
        self.run, self.model, self.limit = run, model, limit
        self.loaded, self.shown, self.own = {}, None, None  # Photos by split, the split, one's own photo
        self.split = ipywidgets.Dropdown(description="split", options=["test", "train"], value=split, style=WIDE)
        self.measure = ipywidgets.Dropdown(description="worst by", style=WIDE)
        self.best_first = ipywidgets.Checkbox(description="best first", indent=False)
        self.rank = ipywidgets.IntSlider(description="rank", value=1, min=1, max=1, style=WIDE)
        self.path = ipywidgets.Text(description="own photo", placeholder="path", continuous_update=False, style=WIDE)
        self.upload = ipywidgets.FileUpload(accept="image/*", description="or upload")
        self.part = ipywidgets.Dropdown(description="part", style=WIDE)
        self.name = ipywidgets.Text(description="its name", continuous_update=False, disabled=True, style=WIDE)
        self.strength = ipywidgets.FloatSlider(description="colours", value=0.75, max=1, step=0.05, style=WIDE)
        self.caption, self.table, self.crops_note = (ipywidgets.HTML() for _ in range(3))
        self.photo, self.parts, self.truth, self.crops = (_image("png") for _ in range(4))
        titles = {"centroids": self.photo, "parts": self.parts, "truth": self.truth}
        self.columns = [ipywidgets.VBox([ipywidgets.Label(title), image]) for title, image in titles.items()]
        rows = [[self.split, self.measure, self.best_first], [self.rank, self.path, self.upload],
                [self.part, self.name, self.strength], self.columns]
        rows = [ipywidgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in rows]
        self.children = [*rows[:3], self.message, self.caption, rows[3], self.table, self.crops_note, self.crops]
        self._react(self._list_parts)()
        self._react(self._choose_split, self.split)()
        self._react(self._choose_rank, self.measure, self.best_first, self.rank)
        self._react(self._choose_path, self.path)
        self._react(lambda: self._choose_own(bytes(self.upload.value[0]["content"])), self.upload)
        self._react(self._choose_part, self.part)
        self._react(self._rename, self.name)
        self._react(self._show, self.strength)

    @property
    def photos(self):
        return self.loaded[self.shown]

    def _choose_split(self):
        split = self.split.value
        try:
            if split not in self.loaded:
                self.loaded[split] = explore.Photos(self.run, self.model, split, self.limit)
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
        path = self.path.value.strip()
        if not path:
            self._choose_rank()
        else:
            self._choose_own(Path(path).expanduser())

    def _choose_own(self, source):
        before, self.own = self.own, source
        try:
            self._show()
        except UserError:
            self.own = before
            raise

    def _choose_part(self):
        k = self.part.value
        self.name.disabled = not k
        self.name.value = explore.part_names(self.run)[k - 1] if k else ""
        self._show()
        self._show_crops()

    def _rename(self):
        names, k = explore.part_names(self.run), self.part.value
        explore.name_parts(self.run, [*names[: k - 1], self.name.value, *names[k:]])
        self._list_parts()
        self._choose_part()

    def _list_parts(self):
        labels, chosen = explore.part_labels(self.run), self.part.value
        self.part.options = [ALL_PARTS, *zip(labels, range(1, len(labels) + 1), strict=True)]
        self.part.value = chosen or 0

    def _show(self):
        chosen = {"part": self.part.value or None, "strength": self.strength.value}
        if self.own is not None:
            view = explore.view_file(self.run, self.model, self.own, **chosen)
            name = "the uploaded photo" if isinstance(self.own, bytes) else self.own.name
            caption = f"{name}, as the square that the segmenter sees"
        elif self.shown is not None:
            measure, order = self.measure.value, "best" if self.best_first.value else "worst"
            i = self.photos.ranked(measure, self.best_first.value)[self.rank.value - 1]
            view = self.photos.view(i, **chosen)
            caption = f"{self.photos.photos.names[i]}: {measure} {self.photos.values(measure)[i]:.3g}"
            caption += f" ({self.rank.value} of {len(self.photos.photos)}, the {order} first)"
        else:
            return  # no photo yet
        self.caption.value = escape(caption)
        _put(self.photo, pictures.png(view.photo))
        _put(self.parts, pictures.png(view.parts))
        _put(self.truth, b"" if view.truth is None else pictures.png(view.truth))
        self.columns[2].layout.display = self.truth.layout.display  # its title goes with it
        self.table.value = _parts_table(view.rows)

    def _show_crops(self):
        self.crops_note.value = ""
        if not self.part.value or self.shown is None:
            _put(self.crops, b"")
            return
        crops, _ = self.photos.crops(self.part.value)
        among = f"the {len(self.photos.photos)} {self.shown} photos"
        note = f"where it is strongest among {among}" if len(crops) else f"it is in none of {among}"
        _put(self.crops, pictures.png(pictures.grid(crops, 6)) if len(crops) else b"")
        self.crops_note.value = escape(f"{self.part.label}: {note}")


class TrainingView(_Panel):
    """A run's last log line, curves, samples by step, and warnings; a button and a timer read them again.

    The timer needs an event loop, as a notebook has. It ends with the widget (close), with the stage, or after an
    hour without news; the button starts it again. `timer` is its asyncio.Task or None.
    """

    def __init__(self, run, every_s):
        super().__init__()
        self.run, self.every_s, self.timer, self.progress, self.news = run, every_s, None, None, 0.0
        self.stage = ipywidgets.Dropdown(description="stage", options=STAGES, style=WIDE)
        self.again = ipywidgets.Button(description="Refresh")
        self.step = ipywidgets.SelectionSlider(description="samples of step", options=NO_STEP, style=WIDE)
        self.warnings, self.table = ipywidgets.HTML(), ipywidgets.HTML()
        self.curves, self.samples = _image("png"), _image("jpeg")
        fields = ipywidgets.HBox([self.stage, self.again])
        self.children = [fields, self.message, self.warnings, self.table, self.curves, self.step, self.samples]
        self.again.on_click(lambda _: self.refresh())
        self.stage.observe(lambda _: self.refresh(), "value")
        self._react(self._show_samples, self.step)
        self._read_again = self._react(self._read)
        self.refresh()

    def refresh(self):
        """Read the run's folder and show what is there; go on doing so where there is an event loop."""
        self.progress = None
        self._read_again()
        if self.timer is None or self.timer.done():
            try:
                self.timer = asyncio.get_running_loop().create_task(self._keep_reading())
            except RuntimeError:  # a plain Python program: the button remains
                self.timer = None

    async def _keep_reading(self):
        while self.comm is not None and not (self.progress and self.progress.finished):  # no comm: closed
            if time.monotonic() - self.news > PATIENCE_S:
                return
            await asyncio.sleep(self.every_s)
            self._read_again()

    def _read(self):
        if self.comm is None:
            return
        command = self.run.command("train" if self.stage.value == "train" else "distill")
        before, now = self.progress, follow.progress(self.run, self.stage.value)
        self.progress = now
        self.warnings.value = "".join(map(_alert, follow.warnings(now, command)))
        nothing = f"{self.run.label}: nothing is logged yet; what makes it is: {command}"
        self.table.value = _progress_table(now) if now.records else escape(nothing)
        if before is None or before[:-2] != now[:-2]:  # all but the time since the last line
            self.news = time.monotonic()
            self._list_steps(now.sample_steps if self.stage.value == "train" else [])
            saved = runs.Run(self.run.folder, now.cfg)  # opened early, this view may know another number of parts
            curves = follow.curves(now, explore.part_labels(saved))
            _put(self.curves, b"" if curves is None else _encoded(Image.fromarray(curves).quantize(64), "PNG"))
        self._show_samples()

    def _list_steps(self, steps):
        """The slider's steps; one that stood at the newest moves on to the newest."""
        options = [(str(step), step) for step in steps] or NO_STEP
        stay = self.step.index < len(self.step.options) - 1 and self.step.value in steps
        chosen = self.step.value if stay else options[-1][1]
        self.step.options = options
        self.step.value = chosen

    def _show_samples(self):
        try:
            step = self.step.value
            _put(self.samples, _shrunk(follow.sample_sheet(self.run, step)) if step else b"")
        except UserError:
            _put(self.samples, b"")  # rather than those of another step
            raise


def _alert(text):
    return f'<p role="alert" style="border-left: 4px solid #D55E00; padding-left: 0.6em">{escape(str(text))}</p>'


def _parts_table(rows):
    """Rows of a View as HTML."""
    lines = ["<tr><th></th><th>part</th><th>area</th><th>confidence</th><th>centroid, px</th></tr>"]
    for row, (r, g, b) in zip(rows, pictures.part_colors(len(rows)), strict=True):
        absent = row["confidence"] is None
        numbers = ["-"] * 3 if absent else [
            f"{row['area_share']:.1%}", f"{row['confidence']:.2f}", f"{row['x_px']:.1f}, {row['y_px']:.1f}"]
        label = escape(row["label"])
        cells = "".join(f'<td style="text-align: right; padding: 0 0.6em">{number}</td>' for number in numbers)
        lines.append(f'<tr><td style="background: rgb({r}, {g}, {b}); width: 1.5em"></td><td>{label}</td>{cells}</tr>')
    note = "Confidence: the part's mean probability over the pixels where it is the most probable."
    return f'<table>{"".join(lines)}</table><small>{note}</small>'


def _progress_table(now):
    """The last log line of a Progress as HTML."""
    values = {name: value for name, value in now.records[-1].items() if name != "stage"}
    head, line = ("".join(f"<{tag} style='padding: 0 0.6em'>{escape(str(cell))}</{tag}>" for cell in cells)
                  for tag, cells in (("th", [name.replace("_", " ") for name in values]),
                                     ("td", [f"{v:.4g}" if isinstance(v, float) else v for v in values.values()])))
    state = "finished" if now.finished else f"last line {now.silent_s:.0f} s ago"
    return f"<table><tr>{head}</tr><tr>{line}</tr></table><small>{state}</small>"


def _image(kind):
    """An Image widget, hidden while it is empty: browsers draw a broken one."""
    return ipywidgets.Image(format=kind, layout={"display": "none"})


def _put(image, data):
    image.value, image.layout.display = data, None if data else "none"


def _shrunk(sheet):
    image = Image.fromarray(sheet)
    image.thumbnail((SHEET_PX, 4 * SHEET_PX))
    return _encoded(image, "JPEG", quality=85)


def _encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
