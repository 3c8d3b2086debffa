"""The lines of a run's metrics.jsonl: one JSON object for each thing that was logged."""

import json
import os

from ganseg import files
from ganseg.errors import UserError

# What a model may be taught with beside the photos; a league is one of these or several, as "A, B"
LEAGUES = ("nothing", "ImageNet labels", "self-supervised features", "supervised foreground masks",
           "supervised part masks", "class labels", "not known")
OF_WEIGHTS = {"none": "nothing", "imagenet": "ImageNet labels", "released": "ImageNet labels"}  # others are not known
# Notes of an evaluation: where masks come from that no segmenter of the run made, and how many pictures have none
MASKS, WITHOUT = "masks", "test pictures without a mask"
CLUSTERED = "features that are clustered"  # the network of a run that has no GAN
OF_MASKS = ("n_parts", "source", "image_size", "crop")  # the settings that say something of such masks
NUMBER = int | float
_writers = {}  # (folder, stage) -> TensorBoard's, of this process
TIMES = {"time_s": NUMBER, "steps_per_s": NUMBER, "left_s": NUMBER}
ALWAYS = {  # what each line of a stage holds
    "train": TIMES, "distill": TIMES, "control": TIMES, "train_samples": {"background_share": NUMBER},
    "train_health": {"trouble": str},
}

# What a measurement depends on beside the networks: an evaluation counts as another's equal where these agree
SETTINGS = {"source", "split_list", "image_size", "crop", "ignore_label", "max_train_pictures", "max_test_pictures",
            "fit_pictures", "distill_generator", "untrained_control", "seed"}
PENALTIES = ("concentration_loss", "area_loss", "gradient_penalty")  # of a training, known without labels


def append(path, record, tensorboard=False):
    """Add a record (dict with stage and step) as one line, and its numbers to TensorBoard's files beside it."""
    with files.writing(path), _alone(path), open(path, "ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")  # after a line that a crash cut short
        file.write((json.dumps(record) + "\n").encode())
    if tensorboard:
        with files.writing(path):
            writer = tensorboard_writer(path.parent, record["stage"], record["step"])
            for name, value in record.items():
                if isinstance(value, NUMBER) and name != "step":
                    writer.add_scalar(name, value, record["step"])
            writer.flush()


def tensorboard_writer(folder, stage, step=None):
    """The writer of a run's stage, made once. Of an earlier process' numbers those of `step` and later ones are hidden.

    Raises UserError where the package is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # an option
    except ImportError:
        raise UserError("tensorboard: the package is missing; install it with pip install tensorboard, or leave "
                        "tensorboard out (-p tensorboard false).") from None
    if step is not None and (folder, stage) not in _writers:
        _writers[folder, stage] = SummaryWriter(folder / "tensorboard" / stage, purge_step=step)
    return _writers.get((folder, stage))


def read(path):
    """All records of a file, oldest first; a line that a crash cut short is passed over."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [record for record in map(parse, lines) if _is_record(record)]


def keep(path, is_kept):
    """Leave only the records that a function of one says yes to."""
    with files.writing(path), _alone(path):
        files.write_text(path, "".join(json.dumps(record) + "\n" for record in read(path) if is_kept(record)))


def _alone(path):
    """A lock of moments: a training takes back what it repeats while another process may add its results."""
    return files.locked(path.with_name(f".{path.name}.lock"))


def league(cfg, state=None):
    """What a run is taught with beside its photos, see LEAGUES.

    state  the content of its segmenter's checkpoint, which may say it itself; None: what the settings say.
           {"backbone_weights": "none"} asks for the generator alone
    """
    if state is None:
        state = {"backbone_weights": cfg.backbone_weights, **({"self_training": None} if cfg.self_training else {})}
    weights = [cfg.features_weights if cfg.features != "none" else "none",
               state.get("backbone_weights", "released") if cfg.segmenter != "unet" else "none",
               "imagenet" if "self_training" in state else "none"]
    said = {OF_WEIGHTS.get(name, "not known") for name in weights} | ({"not known"} if cfg.warm_start else set())
    return state.get("league") or joined(said)


def check_league(league):
    """Raise UserError where a league is none of LEAGUES, or several."""
    if unknown := set((league or "nothing").split(", ")) - set(LEAGUES):
        raise UserError(f"league: {unknown.pop()!r} is none; there are {', '.join(LEAGUES)}.")


def joined(leagues):
    """One league of several."""
    said = {name for one in leagues for name in one.split(", ")} - {"nothing"}
    return ", ".join(name for name in LEAGUES if name in said) or "nothing"


def gan_step(record):
    """The step of the GAN that a record of any stage but distill and control belongs to."""
    evaluated = record.get("notes", {}).get("GAN steps")
    return evaluated if type(evaluated) is int else record["step"]


def parse(text):
    """What a JSON text holds; None where it is damaged."""
    try:
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))
    except (ValueError, RecursionError):
        return None


def _is_record(record):
    """Whether a parsed line has a stage, a step and what its stage always logs: anything may happen to a text file."""
    if not isinstance(record, dict) or type(record.get("step")) is not int or not isinstance(record.get("stage"), str):
        return False
    of_name = dict(ALWAYS.get(record["stage"], {}))
    for name in record:
        if name.endswith(("_share", "_loss", "_penalty")):
            of_name[name] = NUMBER
        if name in ("left_out", "notes", "protocols", "settings"):
            of_name[name] = dict
    return all(isinstance(record.get(name), kind) for name, kind in of_name.items())


def clock(seconds):
    """Seconds as hours:minutes:seconds; there may be more than 24 hours."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
