"""Settings from params/, presets, a user and a run's folder, checked and merged into one config."""

import difflib
import json
import re
import shlex
from pathlib import Path

import yaml
from pydantic import ValidationError

from ganseg import files
from ganseg.errors import UserError
from ganseg.files import ROOT
from ganseg.settings import Config, DistillConfig, EvaluateConfig, short

NOT_DATASETS = ("ablations", "published")  # files of params/ that are no data sets

OPTIONAL = {name for name, field in Config.model_fields.items() if field.default is None}

# Settings that may change when a run is opened again: how long, where and how often it runs, not what it learns.
FREE = {"max_steps", "distill_steps", "max_minutes", "device", "source", "max_test_pictures", "keep_checkpoints",
        "keep_every_steps", "on_trouble", "devices", "threads", "fast", "ignore_label", "tensorboard", "finetune_on",
        "finetune_steps"}
FREE |= {"log_every_steps", "sample_every_steps", "save_every_steps", *EvaluateConfig.model_fields}
DISTILL = set(DistillConfig.model_fields)
PATHS = ("source", "split_list", "warm_start", "features_weights", "backbone_weights", "finetune_on")
NO_PATHS = ("none", "imagenet")  # words that stand for weights


def load(dataset, preset=None, **overrides):
    """The config of a data set.

    dataset    the name of a file params/<dataset>.yaml
    preset     the name of a file params/presets/<preset>.yaml, which goes over the data set's, or None
    overrides  field = value; None keeps what the file or the default says, "none" sets an optional field to None
    Raises UserError, with field, value and what is allowed, for anything that cannot be.
    """
    values = {**_read_yaml(_params_file("dataset", dataset)), "dataset": dataset}
    if preset is not None:
        values |= {**_read_yaml(_params_file("preset", preset)), "preset": preset}
    return check(absolute_paths({**values, **given(overrides)}))


def absolute_paths(values):
    """Fields with each path as files.absolute finds it, so that it means the same from every folder."""
    return {field: str(files.absolute(value)) if field in PATHS and isinstance(value, str) and value
            and value.lower() not in NO_PATHS else value for field, value in values.items()}


def changed(cfg, overrides):
    """A config with other values. Lists that were filled in are filled in anew, and a preset is read again."""
    values = cfg.model_dump() | dict.fromkeys(_filled_in(cfg))
    if overrides.get("preset"):
        values |= _read_yaml(_params_file("preset", overrides["preset"]))
    return check({**values, "max_minutes": None, **overrides})


def given_to(cfg):
    """The settings with which load makes a config from its data set's and its preset's."""
    plain, filled_in = load(cfg.dataset, cfg.preset), _filled_in(cfg)
    return {name: value for name, value in cfg if value != getattr(plain, name) and name not in filled_in} | (
        {"preset": cfg.preset} if cfg.preset else {})


def as_words(given):
    """Settings as a command takes them: -p NAME VALUE ..."""
    texts = {name: value if isinstance(value, str) else "none" if value is None else json.dumps(value)
             for name, value in given.items()}
    return " ".join(f"-p {name} {shlex.quote(text)}" for name, text in texts.items())


def _filled_in(cfg):
    """The lists that follow from other settings."""
    lists = ("resolutions", "channels", "mask_channels", "discriminator_channels")
    usual = check({**cfg.model_dump(), **dict.fromkeys(lists)})
    return [name for name in lists if getattr(cfg, name) == getattr(usual, name)]


def given(overrides):
    """The overrides that are given: None is not, and the word none sets an optional field back to None."""
    return {field: None if field in OPTIONAL and str(value).lower() == "none" else value
            for field, value in overrides.items() if value is not None}


def check(values):
    """A Config from a dict of fields; UserError names the first field that is wrong."""
    try:
        return Config(**values)
    except ValidationError as error:
        raise UserError(_sentence(error.errors()[0])) from None


def warnings(cfg):
    """Sentences on settings that are allowed but known to go wrong."""
    if cfg.n_per == 2:
        yield "n_per is 2: the paper saw its parts collapse at 2 points per part; 4 is the default."


def datasets():
    """Names of the data sets that have parameters."""
    return sorted(path.stem for path in (ROOT / "params").glob("*.yaml") if path.stem not in NOT_DATASETS)


def nearest(name, known, label=str):
    """' (did you mean x?)' or ''; label: what to call a known name."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" (did you mean {label(close[0])}?)" if close else ""


def read(path):
    """The config a run was saved with."""
    values = _read_yaml(path)
    values.pop("made_with", None)
    try:
        return check(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def write(cfg, path, made_with):
    """Save a config with what it was made with (commit, versions, device)."""
    values = {**cfg.model_dump(), "made_with": made_with}
    files.write_text(path, yaml.safe_dump(values, sort_keys=False, default_flow_style=None))


def _params_file(kind, name):
    folder = ROOT / ("params" if kind == "dataset" else "params/presets")
    known = datasets() if kind == "dataset" else sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(f"{kind}: there is no {name!r}{nearest(name, known)}; known are {', '.join(known)}.")
    return folder / f"{name}.yaml"


def _read_yaml(path):
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {files.one_line(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold lines 'field: value'.")
    return values


def _sentence(error):
    """One pydantic error as field, value and what is allowed."""
    if error["type"] == "value_error":  # one of ours
        return str(error["ctx"]["error"])
    field = ".".join(str(part) for part in error["loc"] if part != "list[constrained-int]")
    if error["type"] == "extra_forbidden":
        return f"{field}: there is no such setting{nearest(field, Config.model_fields)}."
    if error["type"] == "missing":
        return f"{field}: is missing."
    value, hint = error["input"], ""
    if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value, re.IGNORECASE):
        hint = " (YAML reads 1e-4 as text: write 1.0e-4)" if "e" in value.lower() else " (write it without quotes)"
    message = error["msg"].removeprefix("Input ")
    return f"{field}: {short.repr(value)} is not allowed; it {message}{hint}."
