"""A run's folder: outputs/<dataset>/<run>/ with its config, metrics, checkpoints and samples."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import textwrap
import zipfile
from pathlib import Path

import torch

from ganseg import config, parallel
from ganseg.errors import UserError

SHIPPED = Path(__file__).parent / "shipped"  # a small creatures model: config.yaml, gan.pt, segmenter.pt
NOT_WRITABLE = {errno.ENOSPC: "no room is left", errno.EDQUOT: "the quota is used up", errno.EROFS: "it is read-only",
                errno.EACCES: "it may not be written", errno.EPERM: "it may not be written"}
NUMBER = int | float
TIMES = {"time_s": NUMBER, "steps_per_s": NUMBER, "left_s": NUMBER}
ALWAYS = {  # what each line of a stage holds
    "train": TIMES, "distill": TIMES, "control": TIMES, "train_samples": {"background_share": NUMBER},
    "train_health": {"trouble": str},
}
_held = {}  # folder -> the open lock file of a run that this process writes
STAGES = {"gan": "train", "segmenter": "distill"}  # checkpoint name -> notebook that makes it


def outputs_root():
    """Where runs are kept: $GANSEG_OUTPUTS, or outputs/ in the project."""
    return Path(os.environ.get("GANSEG_OUTPUTS") or config.ROOT / "outputs")


def cache_folder(dataset):
    """Where a data set's decoded pictures and the path of its source are kept."""
    return outputs_root() / "cache" / dataset


def remember(dataset, **paths):
    """Keep where a data set lies (the config fields source and split_list) for runs that do not say."""
    folder = cache_folder(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "paths.json").write_text(json.dumps(paths))


def remembered(dataset):
    """The fields kept by remember, or {}."""
    path = cache_folder(dataset) / "paths.json"
    return _parse(path.read_text()) or {} if path.exists() else {}


def open_run(dataset, name, needs=None, **overrides):
    """The run outputs/<dataset>/<name>, new or as it was saved; nothing is written yet.

    needs      None, "gan" or "segmenter": the checkpoint that must be there
    overrides  config fields; None means not given. For a run that exists, what is given must agree with
               what it was made with, except where only the running changes (max_steps, device, ...).
    Raises UserError for settings that cannot be and for a missing stage, naming the command that makes it.
    """
    name = str(name)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UserError(f"run: {name!r} is not allowed; use letters, digits, '_', '-' and '.'.")
    folder = outputs_root() / dataset / name
    overrides = {k: v for k, v in overrides.items() if v is not None}
    if not (folder / "config.yaml").exists():
        fresh = config.load(dataset, **overrides)
        if fresh.source is None:
            fresh = fresh.model_copy(update={**remembered(dataset), **overrides})
        if needs is None:
            return Run(folder, fresh)
        if dataset != "tiny":
            raise missing(folder, needs)
        folder = _adopt_shipped(folder, fresh, needs)
    run = Run(folder, _reopened(folder, overrides))
    if needs and run.newest(needs) is None:
        raise missing(folder, needs)
    return run


def find(name):
    """The run called NAME, DATASET/NAME or by its folder; UserError where none or several are."""
    direct = [path for path in (Path(name), outputs_root() / name) if (path / "config.yaml").exists()]
    of_any_dataset = outputs_root().glob(f"*/{name}/config.yaml") if Path(name).name == name else []
    matches = direct[:1] or sorted(path.parent for path in of_any_dataset)
    if len(matches) == 1:
        return Run(matches[0], config.read(matches[0] / "config.yaml"))
    if matches:
        several = ", ".join(f"{path.parent.name}/{path.name}" for path in matches)
        raise UserError(f"run: {name!r} could be {several}; name one of them.")
    folders = sorted(path.parent for path in outputs_root().glob("*/*/config.yaml"))
    known = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    hint = config.nearest(name, known if "/" in name else [folder.name for folder in folders])
    listing = f"known are {', '.join(known)}" if known else "make one with: ganseg train"
    raise UserError(f"run: there is no {name!r} under {outputs_root()}{hint}; {listing}.")


class Run:
    """One run: `folder` (Path) and `cfg` (Config)."""

    def __init__(self, folder, cfg):
        self.folder, self.cfg = Path(folder), cfg

    @property
    def label(self):
        return f"{self.folder.parent.name}/{self.folder.name}"

    def hold(self):
        """Keep other processes from training in this run until release() or the end of this process.

        Raises UserError, naming the process, where another one holds it. A process that was killed holds nothing;
        on a network disk that knows no flock, two processes are not told apart.
        """
        if parallel.rank():
            return
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / ".lock", "a+")
        self.release()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise UserError(
                f"run: {self.label} is being written by {holder}; wait for it, or give another name with --run."
            ) from None
        except OSError:  # no flock there
            pass
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        _held[self.folder.resolve()] = lock

    def release(self):
        """Let other processes train in this run."""
        if lock := _held.pop(self.folder.resolve(), None):
            lock.close()

    def start(self, device):
        """Make the folder and save the config with what it runs on.

        Of several processes of one training the first alone writes, here and below.
        """
        if parallel.rank():
            return
        with writing(self.folder):
            for name in ("checkpoints", "samples", "figures"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            config.write(self.cfg, self.folder / "config.yaml", _made_with(device))

    def log(self, stage, step, **values):
        """Append one line to metrics.jsonl and return it as a dict."""
        record = {"stage": stage, "step": step, **values}
        path = self.folder / "metrics.jsonl"
        if parallel.rank():
            return record
        with writing(path), open(path, "ab+") as file:
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")  # after a line that a crash cut short
            file.write((json.dumps(record) + "\n").encode())
        return record

    def records(self, stage):
        """What was logged in a stage, oldest first; a line that a crash cut short is passed over."""
        return [record for record in self._lines() if record["stage"] == stage]

    def _lines(self):
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return [record for record in map(_parse, lines) if _is_record(record)]

    def rewind(self, stages, step):
        """Forget what stages logged after a step: training repeats it from its checkpoint."""
        path = self.folder / "metrics.jsonl"
        if parallel.rank() or not path.exists():
            return
        kept = [r for r in self._lines() if r["stage"] not in stages or r["step"] <= step]
        partial = path.with_suffix(".partial")
        with writing(path):
            partial.write_text("".join(json.dumps(r) + "\n" for r in kept))
            partial.replace(path)

    def save(self, name, step, state):
        """Write checkpoints/<name>-<step>.pt whole or not at all, and delete the old ones that are not to be kept."""
        path = self.folder / "checkpoints" / f"{name}-{step:08d}.pt"
        if parallel.rank():
            return path
        partial = path.with_suffix(".partial")
        with writing(path, partial), open(partial, "wb") as file:
            torch.save({"step": step, "config": self.cfg.model_dump(), **state}, file)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave a name without its content
        partial.replace(path)
        for old in self.checkpoints(name)[: -self.cfg.keep_checkpoints]:
            if not self.cfg.keep_every_steps or step_of(old) % self.cfg.keep_every_steps:
                old.unlink()
        return path

    def checkpoints(self, name):
        """Paths of a stage's checkpoints, by step."""
        return sorted((self.folder / "checkpoints").glob(f"{name}-*.pt"))

    def newest(self, name):
        return next(reversed(self.checkpoints(name)), None)

    def load(self, name):
        """The newest checkpoint of a stage that is not damaged, or None where there is none; see intact."""
        return self.intact(name)[1]

    def intact(self, name):
        """(path, content) of the newest checkpoint of a stage that is not damaged; a warning names damaged ones.

        (None, None) where there is none; raises UserError where all are damaged.
        """
        paths = self.checkpoints(name)
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


@contextlib.contextmanager
def writing(path, partial=None):
    """Say in one sentence that a path cannot be written; partial is a file that is removed then."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # PyTorch wraps what writing a checkpoint raises
        causes = [error, error.__cause__, error.__context__]
        reason = next((NOT_WRITABLE[e.errno] for e in causes if getattr(e, "errno", None) in NOT_WRITABLE), None)
        if partial is not None:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        if reason is None and "PytorchStreamWriter" in str(error):
            reason = "no room is left"
        if reason is None:
            raise
        raise UserError(
            f"{path}: cannot be written, {reason}; make room, or set GANSEG_OUTPUTS to another folder. What was saved "
            "before is kept, and the same command goes on from there."
        ) from None


def step_of(path):
    """The step in a checkpoint's name."""
    return int(path.stem.split("-")[1])


def load_checkpoint(path):
    """A checkpoint's dict of tensors and plain values; never runs code that a file may hold."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                if file.testzip() is not None:  # PyTorch does not look at the checksums
                    raise ValueError("checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint.") from None
    except Exception as error:  # torch.load raises whatever the damage leads to
        reason = "is damaged or not a checkpoint"
        if "Unsupported global" in str(error):
            reason = "holds more than tensors and plain values"
        raise UserError(f"{path}: cannot be loaded, it {reason}; name an intact checkpoint.") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__} instead of named weights; name a checkpoint.")
    return state


def load_weights(module, state, source):
    """Load a state dict into a module; UserError where names or shapes differ."""
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        first = " ".join(str(error).split("\n\t")[1:2]) or str(error)
        first = textwrap.shorten(first, 200, placeholder=" ...")  # of what may be hundreds of names
        raise UserError(f"{source}: its weights do not fit this configuration: {first}") from None
    return module


def _reopened(folder, overrides):
    """The saved config with what may still be changed; UserError where something else was asked for."""
    saved = config.read(folder / "config.yaml")
    free = config.FREE | (set() if any(folder.glob("checkpoints/segmenter-*.pt")) else config.DISTILL)
    for field, value in overrides.items():
        old = getattr(saved, field, value)
        if field not in free and value != old:
            raise UserError(
                f"{field}: the run {folder.parent.name}/{folder.name} was made with {old!r}, not {value!r}; "
                "choose another run name or leave it out."
            )
    return config.check({**saved.model_dump(), **overrides})


def missing(folder, needs):
    """The UserError for a run without a checkpoint, naming the command that makes it."""
    stage = STAGES[needs]
    command = Run(folder, None).command(stage)
    return UserError(f"run: {folder.parent.name}/{folder.name} has no trained {needs}; make it with: {command}")


def _adopt_shipped(folder, fresh, needs):
    """A run folder with the model that ships with the package, made where it is not there yet."""
    asked, folder = folder, folder.parent / f"shipped-{needs}"
    label = f"{folder.parent.name}/{folder.name}"
    print(f"No run {folder.parent.name}/{asked.name} yet: {label} is the creatures model that ships with ganseg.")
    if (folder / "config.yaml").exists():
        return folder
    fields = ["max_train_pictures", "max_test_pictures", "fit_pictures"]
    names = ["gan", "segmenter"] if needs == "segmenter" else ["gan"]
    fields += [] if needs == "segmenter" else config.DISTILL
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in names:
        step = load_checkpoint(SHIPPED / f"{name}.pt")["step"]
        shutil.copyfile(SHIPPED / f"{name}.pt", folder / "checkpoints" / f"{name}-{step:08d}.pt")
    shipped = config.read(SHIPPED / "config.yaml").model_dump()
    cfg = config.check({**shipped, **{field: getattr(fresh, field) for field in fields}})
    config.write(cfg, folder / "config.yaml", _made_with("cpu"))
    return folder


def ship(run):
    """Make a small run's averaged generator and segmenter the model that ships with the package."""
    SHIPPED.mkdir(exist_ok=True)
    gan, segmenter = run.load("gan"), run.load("segmenter")
    torch.save({"step": gan["step"], "ema": gan["ema"]}, SHIPPED / "gan.pt")
    kept = ("step", "segmenter", "generator_weights", "backbone_weights")
    torch.save({name: segmenter[name] for name in kept}, SHIPPED / "segmenter.pt")
    shutil.copyfile(run.folder / "config.yaml", SHIPPED / "config.yaml")


def _parse(line):
    try:
        return json.loads(line, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))
    except (ValueError, RecursionError):
        return None


def _is_record(record):
    """Whether a parsed line has a stage, a step and what its stage always logs: anything may happen to a text file."""
    if not isinstance(record, dict) or type(record.get("step")) is not int or not isinstance(record.get("stage"), str):
        return False
    always = ALWAYS.get(record["stage"], {})
    of_name = dict(always)
    for name in record:
        if name.endswith(("_share", "_loss", "_penalty")):
            of_name[name] = NUMBER
        if name in ("left_out", "notes", "protocols"):
            of_name[name] = dict
    return all(isinstance(record.get(name), kind) for name, kind in of_name.items())


def _made_with(device):
    commit = subprocess.run(
        ["git", "-C", str(config.ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    return {"commit": commit or None, **versions, "device": str(device)}
