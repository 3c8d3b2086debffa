"""A segmenter in a folder of its own, as `ganseg export model` writes it and huggingface_hub takes it: config.json with
all that a user of it must know, model.safetensors, parts.yaml as a run's, README.md."""

import json
from pathlib import Path

import safetensors.torch
import torch

from ganseg import config, files, part_names, records, runs
from ganseg.errors import UserError

HUB = "hf:"  # before OWNER/NAME
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def describe(run, state):
    """What config.json says of a run's segmenter, whose checkpoint holds `state`. The run's paths are left out."""
    cfg = run.cfg.model_copy(update={name: config.Config.model_fields[name].default for name in config.PATHS})
    return {"library_name": "ganseg", "run": run.label, "distillation_steps": state["step"],
            "gan_step": state.get("gan_step"), "league": records.league(run.cfg, state), "image_size": cfg.image_size,
            "crop": cfg.crop, "value_range": [-1, 1], "channels": "RGB",
            "labels": ["background", *part_names.part_labels(run)], "members": state.get("members"),
            "settings": cfg.model_dump()}


def write(folder, run, network, state):
    """Write a run's segmenter, but for README.md, into a folder that is there."""
    files.write_text(folder / CONFIG, json.dumps(describe(run, state), indent=1))
    # Clones: the format holds no tensor that shares another's memory
    weights = {name: value.cpu().clone(memory_format=torch.contiguous_format)
               for name, value in network.state_dict().items()}
    with files.whole(folder / WEIGHTS, "wb") as file:
        file.write(safetensors.torch.save(weights, {"format": "pt"}))
    part_names.copy_parts(run, runs.Run(folder, run.cfg))


def find(name):
    """The folder of an exported segmenter by its path, or by hf:OWNER/NAME, which is fetched; None: it is a run's name.

    Raises UserError where the hub does not give it.
    """
    if not str(name).startswith(HUB):
        folder = files.absolute(str(name))
        return folder if (folder / CONFIG).is_file() else None
    import huggingface_hub  # slow

    try:
        wanted = [CONFIG, WEIGHTS, "parts.yaml"]
        return Path(huggingface_hub.snapshot_download(str(name).removeprefix(HUB), allow_patterns=wanted))
    except Exception as error:  # of the network, the hub, a name that cannot be
        raise UserError(f"run: {name} cannot be fetched from the hub: {files.one_line(error)}") from None


def read(folder):
    """The exported segmenter of a folder: a Run without checkpoints, what config.json says with the weights as
    `segmenter`, for loading.segmenter_of, and their path.

    Raises UserError where the folder is damaged or holds another format.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder}: holds no {WEIGHTS}; export the model with --format torch.")
    known = records.parse((folder / CONFIG).read_text(encoding="utf-8", errors="replace"))
    if not isinstance(known, dict) or not isinstance(known.get("settings"), dict):
        raise UserError(f"{folder / CONFIG}: is damaged or of another library; export the model again.")
    try:
        weights = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {files.one_line(error)}; export the model again.") from None
    return runs.Run(folder, config.check(known["settings"])), {**known, "segmenter": weights}, path
