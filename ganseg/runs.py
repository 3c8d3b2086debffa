"""A run's folder: outputs/<dataset>/<run>/ with its config, metrics, checkpoints and samples."""

import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
from pathlib import Path

import psutil
import torch
from filelock import FileLock, Timeout

from ganseg import config, distributed, files, records, sources
from ganseg.checkpoints import load_checkpoint, step_of
from ganseg.errors import UserError
from ganseg.files import outputs_root

SHIPPED = Path(__file__).parent / "shipped"  # a small creatures model: config.yaml, gan.pt, segmenter.pt
# Its runs of the data set tiny, which notebooks open with, and their checkpoints; no training goes by these names
SHIPPED_RUNS = {"shipped": ("gan", "segmenter"), "shipped-gan": ("gan",)}
STAGES = {"gan": "train", "segmenter": "distill"}  # checkpoint name -> notebook that makes it
_held = {}  # folder -> (lock, who took it last) of a run that this process writes


def cache_folder(dataset):
    """Where a data set's decoded pictures are kept."""
    return outputs_root() / "cache" / dataset


def open_run(dataset, name, needs=None, **overrides):
    """The run outputs/<dataset>/<name>, new or as it was saved. Nothing is written yet.

    needs      None, "gan" or "segmenter": the checkpoint that must be there
    overrides  config fields; None means not given. For a run that exists, what is given must agree with
               what it was made with, except where only the running changes (max_steps, device, ...).
    tiny/shipped and tiny/shipped-gan hold the model that ships with the package, and are made where they are missing.
    Raises UserError for settings that cannot be and for a missing stage, naming the command that makes it.
    """
    name = str(name)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{,199}", name):
        raise UserError(f"run: {name!r} is not allowed; use up to 200 letters, digits, '_', '-' and '.'.")
    folder = outputs_root() / dataset / name
    overrides = {k: v for k, v in overrides.items() if v is not None}
    overrides = config.absolute_paths(sources.named(dataset, overrides))
    _check_backbone(folder, overrides)
    if dataset == "tiny" and name in SHIPPED_RUNS:
        print(f"tiny/{name} is the creatures model that ships with ganseg; the parameter run names one of your own.")
        _adopt_shipped(folder)
    elif not (folder / "config.yaml").exists():
        fresh = config.load(dataset, **sources.located(dataset, overrides))
        if needs is None:
            return Run(folder, fresh)
        raise missing(folder, needs)
    run = Run(folder, _reopened(folder, config.given(overrides)))
    if needs and run.newest(needs) is None:
        raise missing(folder, needs)
    return run


def find(name):
    """The run called NAME, DATASET/NAME or by its folder; UserError where none or several are."""
    direct = [path for path in (files.absolute(name), outputs_root() / name) if os.path.exists(path / "config.yaml")]
    there = [Run(path.parent, None) for path in sorted(outputs_root().glob("*/*/config.yaml"))]
    matches = [Run(path, None) for path in direct[:1]] or [run for run in there if run.folder.name == name]
    if len(matches) == 1:
        return Run(matches[0].folder, config.read(matches[0].folder / "config.yaml"))
    if matches:
        raise UserError(f"run: {name!r} could be {', '.join(run.label for run in matches)}; name one of them.")
    known = [run.label for run in there]
    hint = config.nearest(name, known if "/" in name else [run.folder.name for run in there])
    listing = f"known are {', '.join(known)}" if known else "make one with: ganseg train"
    raise UserError(f"run: there is no {name!r} under {outputs_root()}{hint}; {listing}.")


class Run:
    """One run: `folder` (Path) and `cfg` (Config)."""

    def __init__(self, folder, cfg):
        self.folder, self.cfg = Path(folder), cfg
        self.told = None  # function of stage and record, for lines between log lines; None: they are printed

    @property
    def label(self):
        return f"{self.folder.parent.name}/{self.folder.name}"

    @contextlib.contextmanager
    def held(self):
        """Keep other processes from training in this run inside the block.

        Raises UserError, naming the process, where another one holds it. A dead process holds nothing, however it
        ended. A later block of this process takes the run over, since a notebook may keep a training that an error
        ended. On a network disk without flock, filelock does what it can.
        """
        if distributed.rank():
            yield
            return
        folder, me = self.folder.resolve(), object()
        lock, _ = _held.get(folder) or (self._lock(), None)
        _held[folder] = lock, me
        try:
            yield
        finally:
            if _held.get(folder, (None, None))[1] is me:
                del _held[folder]
                lock.release()

    def _lock(self):
        """The lock of the folder, taken. What a killed process was writing is deleted."""
        lock, holder = FileLock(self.folder / ".lock", thread_local=False), self.folder / ".holder"
        try:
            with files.writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                lock.acquire(blocking=False)
        except Timeout:
            who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
            raise UserError(
                f"run: {self.label} is being written by {who}; wait for it, or give another name with --run."
            ) from None
        except NotImplementedError:  # no flock there
            return lock
        files.write_text(holder, f"process {os.getpid()} on {socket.gethostname()}")
        for left_over in self.folder.glob("*/*.*.partial"):
            writer = left_over.name.split(".")[-2]
            if writer.isdigit() and not psutil.pid_exists(int(writer)):  # else an evaluation is at work on it
                left_over.unlink(missing_ok=True)
        return lock

    def start(self, device, trains=False):
        """Make the folder and save the config with what it runs on.

        trains  whether the GAN is trained now; else the source stays that of its training, wherever the pictures are
        Of several processes of one training the first alone writes, here and below. Raises UserError where another
        command has trained a run of other settings here since this one was opened.
        """
        if distributed.rank():
            return
        if (self.folder / "config.yaml").exists() and any(self.folder.glob("checkpoints/*.pt")):
            _reopened(self.folder, self.cfg.model_dump())
            if not trains:
                saved = config.read(self.folder / "config.yaml")
                self.cfg = self.cfg.model_copy(update={"source": saved.source})
        with files.writing(self.folder):
            for name in ("checkpoints", "samples", "figures"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            config.write(self.cfg, self.folder / "config.yaml", _made_with(device))

    def log(self, stage, step, **values):
        """Append one line to metrics.jsonl and return it as a dict."""
        record = {"stage": stage, "step": step, **values}
        if not distributed.rank():
            records.append(self.folder / "metrics.jsonl", record, bool(self.cfg and self.cfg.tensorboard))
        return record

    def records(self, stage):
        """What was logged in a stage, oldest first. A line that a crash cut short is passed over."""
        return [record for record in records.read(self.folder / "metrics.jsonl") if record["stage"] == stage]

    def rewind(self, stages, step):
        """Delete what stages logged after a step, which a training repeats or gives up; evaluations by the GAN's."""
        path = self.folder / "metrics.jsonl"
        if not distributed.rank() and path.exists():
            records.keep(path, lambda record: record["stage"] not in stages or records.gan_step(record) <= step)

    def save(self, name, step, state, outdated=()):
        """Write checkpoints/<name>-<step>.pt whole or not at all, and delete the old ones that are not to be kept.

        outdated  paths that this checkpoint takes the place of
        """
        path = self.folder / "checkpoints" / f"{name}-{step:08d}.pt"
        if distributed.rank():
            return path
        with files.whole(path, "wb") as file:
            torch.save({"step": step, "config": self.cfg.model_dump(), **state}, file)
        for old in {*outdated} - {path}:
            old.unlink(missing_ok=True)
        for old in self.checkpoints(name)[: -self.cfg.keep_checkpoints]:
            if old != path and (not self.cfg.keep_every_steps or step_of(old) % self.cfg.keep_every_steps):
                old.unlink()
        return path

    def checkpoints(self, name):
        """Paths of a stage's checkpoints, by step."""
        return sorted((self.folder / "checkpoints").glob(f"{name}-*.pt"))

    def newest(self, name):
        """Path of a stage's last checkpoint, which may be damaged (see intact), or None."""
        return next(reversed(self.checkpoints(name)), None)

    def set_aside(self, name, step):
        """Rename a stage's checkpoints after a step, from which it goes on: they are damaged."""
        for path in self.checkpoints(name):
            if step_of(path) > step and not distributed.rank():
                path.replace(path.with_suffix(".damaged"))

    def load_state(self, name):
        """The newest checkpoint of a stage that is not damaged, or None where there is none; see intact."""
        return self.intact(name)[1]

    def intact(self, name, step=None):
        """(path, content) of a stage's newest checkpoint (of a step) that is not damaged; a warning names damaged ones.

        (None, None) where there is none; raises UserError where all are damaged.
        """
        paths = [path for path in self.checkpoints(name) if step in (None, step_of(path))]
        while paths:
            path = paths.pop()
            try:
                return path, load_checkpoint(path)
            except UserError as error:
                if not paths:
                    raise
                print(f"Warning: {error} {paths[-1].name} is used instead.", flush=True)
        return None, None

    def command(self, notebook):
        """The command that runs a notebook on this run."""
        return f"ganseg {notebook} -p dataset {self.folder.parent.name} --run {self.folder.name}"


def _reopened(folder, overrides):
    """The saved config with the overrides that may still change. Raises UserError for any other override."""
    saved = config.read(folder / "config.yaml")
    if not any(folder.glob("checkpoints/*.pt")):  # there is nothing yet that the settings must fit
        return config.changed(saved, overrides)
    # An auto-encoder holds its segmenter from the start
    is_distilled = saved.architecture != "gan" or any(folder.glob("checkpoints/segmenter-*.pt"))
    free = config.FREE | (set() if is_distilled else config.DISTILL)
    before = config.absolute_paths(saved.model_dump())  # older code saved paths as they were typed
    for field, value in overrides.items():
        old = before.get(field, value)
        if field not in free and value != old:
            raise UserError(
                f"{field}: the run {folder.parent.name}/{folder.name} was made with {old!r}, not {value!r}; "
                "choose another run name or leave it out."
            )
    # A limit of time is of one command, not of the run
    return config.check({**before, "max_minutes": None, **overrides})


def _check_backbone(folder, overrides):
    """Raise UserError where the weights that distillation is to start from, maybe hours later, are not there."""
    path = overrides.get("backbone_weights", "none")
    is_there = not isinstance(path, str) or path.lower() in config.NO_PATHS or os.path.isfile(path)
    if not is_there and not any(folder.glob("checkpoints/segmenter-*.pt")):
        raise UserError(f"backbone_weights: there is no file {path}; name one, imagenet or none.")


def missing(folder, needs):
    """The UserError for a run without a checkpoint, naming the command that makes it."""
    command, hint = Run(folder, None).command(STAGES[needs]), ""
    if not folder.exists():
        labels = {path.parent.name: Run(path.parent, None).label for path in outputs_root().glob("*/*/config.yaml")}
        hint = config.nearest(folder.name, labels, labels.get)
    return UserError(f"run: {folder.parent.name}/{folder.name} has no trained {needs}{hint}; make it with: {command}")


def _adopt_shipped(folder):
    """Make the folder of a run of SHIPPED_RUNS, where there is none yet."""
    if (folder / "config.yaml").exists():
        return
    names, fresh = SHIPPED_RUNS[folder.name], config.load("tiny")
    fields = ["max_train_pictures", "max_test_pictures", "fit_pictures"]
    fields += [] if "segmenter" in names else config.DISTILL
    with files.writing(folder):
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        for name in names:
            step = load_checkpoint(SHIPPED / f"{name}.pt")["step"]
            shutil.copyfile(SHIPPED / f"{name}.pt", folder / "checkpoints" / f"{name}-{step:08d}.pt")
    shipped = config.read(SHIPPED / "config.yaml").model_dump()
    cfg = config.check({**shipped, **{field: getattr(fresh, field) for field in fields}})
    config.write(cfg, folder / "config.yaml", _made_with("cpu"))


def _made_with(device):
    commit = subprocess.run(
        ["git", f"--git-dir={config.ROOT}/.git", "rev-parse", "HEAD"],
        capture_output=True, encoding="utf-8", check=False,
    ).stdout.strip()
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    return {"commit": commit or None, **versions, "device": str(device)}
