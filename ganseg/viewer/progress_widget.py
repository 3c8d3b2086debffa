"""Notebook widget: a run that trains elsewhere, followed by its folder."""

import asyncio
import contextlib
import time
from html import escape

import ipywidgets
import pandas as pd
from PIL import Image

from ganseg import runs
from ganseg.errors import UserError
from ganseg.figures import curves, pictures
from ganseg.records import clock
from ganseg.viewer import progress
from ganseg.viewer.panel import WIDE, Panel, alert, image_widget, put

EVERY_S, PATIENCE_S = 5.0, 3600  # how often a view looks for news, and how long it goes on without any
NO_STEP = [("none", 0)]  # a SelectionSlider cannot choose None
STAGES = {"GAN": "train", "segmenter": "distill", "segmenter of the control": "control"}


class TrainingView(Panel):
    """A run's last log line, curves, samples by step, and warnings, renewed while another process trains it.

    A list offers all runs, with how far each is.

    A button and a timer read them again. The timer needs an event loop, as a notebook has. It ends with the widget
    (close), at the stage's last step, or after an hour without news; the button starts it again. `timer` is its
    asyncio.Task or None.
    """

    def __init__(self, run, every_s=EVERY_S):
        super().__init__()
        self.run, self.every_s, self.timer, self.progress, self.news = run, every_s, None, None, 0.0
        self.which = ipywidgets.Dropdown(description="run", style=WIDE)
        self.stage = ipywidgets.Dropdown(description="stage", options=STAGES, style=WIDE)
        self.again = ipywidgets.Button(description="Refresh")
        self.step = ipywidgets.SelectionSlider(description="samples of step", options=NO_STEP, style=WIDE,
                                                 layout={"width": "40em"})
        self.warnings, self.table = ipywidgets.HTML(), ipywidgets.HTML()
        self.curves, self.samples = image_widget("png"), image_widget("jpeg")
        fields = ipywidgets.HBox([self.which, self.stage, self.again], layout={"flex_flow": "row wrap"})
        self.children = [fields, self.message, self.warnings, self.table, self.curves, self.step, self.samples]
        self.again.on_click(lambda _: self.refresh())
        self.stage.observe(lambda _: self.refresh(), "value")
        self._list_runs = self._react(self._read_runs)
        self._react(self._choose_run, self.which)
        self._react(self._show_samples, self.step)
        self._read_again = self._react(self._read)
        self.refresh()

    def refresh(self):
        """Read the run's folder and show what is there; go on doing so where there is an event loop."""
        self.progress = None
        self._list_runs()
        self._read_again()
        if self.timer is None or self.timer.done():
            with contextlib.suppress(RuntimeError):  # a plain Python program has no loop: the button remains
                self.timer = asyncio.get_running_loop().create_task(self._keep_reading())

    def _read_runs(self):
        there = progress.list_runs()
        if self.run.label not in dict(map(reversed, there)):
            there.append((f"{self.run.label}: not begun", self.run.label))
        self.which.options = there
        self.which.value = self.run.label

    def _choose_run(self):
        self.run, self.progress = runs.find(self.which.value), None
        self._read()

    async def _keep_reading(self):
        while self.comm is not None and not (self.progress and self.progress.at_end):  # no comm: closed
            if time.monotonic() - self.news > PATIENCE_S:
                return
            await asyncio.sleep(self.every_s)
            self._read_again()

    def _read(self):
        if self.comm is None:
            return
        command = self.run.command("train" if self.stage.value == "train" else "distill")
        before, now = self.progress, progress.read_progress(self.run, self.stage.value)
        self.progress = now
        self.warnings.value = "".join(map(alert, progress.warnings(now, command)))
        nothing = f"{self.run.label}: nothing is logged yet; what makes it is: {command}"
        self.table.value = _progress_table(now) if now.records else escape(nothing)
        if before is None or before[:-1] != now[:-1]:  # all but the time since the last line
            self.news = time.monotonic()
            self._list_steps(now.sample_steps if self.stage.value == "train" else [])
            saved = runs.Run(self.run.folder, now.cfg)  # opened early, this view may know another number of parts
            drawn = curves.stage_curves(saved, self.stage.value)
            put(self.curves, pictures.encoded(Image.fromarray(drawn).quantize(64), "PNG") if now.records else b"")
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
            sheet = self.step.value and progress.read_sample_sheet(self.run, self.step.value)
            put(self.samples, pictures.encoded(sheet, "JPEG", quality=85) if sheet else b"")
        except UserError:
            put(self.samples, b"")  # rather than those of another step
            raise


def _progress_table(now):
    """The last log line of a Progress as HTML."""
    line = {name.replace("_", " "): value for name, value in now.records[-1].items() if name != "stage"}
    line = {name.removesuffix(" s"): clock(v) if name in ("time s", "left s") else v for name, v in line.items()}
    state = "finished" if now.at_end else "a later stage has begun" if now.passed else (
        f"last line {now.silent_s:.0f} s ago")
    table = pd.DataFrame([line]).to_html(index=False, border=0, float_format="{:.4g}".format)
    return f"{table}<small>{state}</small>"
