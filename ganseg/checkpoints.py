"""Reads checkpoint files, without running code that they may hold, and loads them into modules."""

import textwrap
import zipfile

import torch

from ganseg.errors import UserError


def step_of(path):
    """The step in a checkpoint's name."""
    return int(path.stem.split("-")[1])


def which_gan(state):
    """What tells a GAN's checkpoint, by its content, from others of its run: gan_step and gan_attempt, as a dict.

    A training that was rolled back comes to the same step again with other weights, in another attempt. The step that
    it went back to is as it was before.
    """
    attempt = state.get("attempt", 0)
    return {"gan_step": state["step"], "gan_attempt": attempt - (attempt > 0 and state.get("since") == state["step"])}


def load_checkpoint(path):
    """A checkpoint's dict of tensors and plain values; never runs code that a file may hold."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                if file.testzip() is not None:  # PyTorch does not compare the checksums
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
        first = textwrap.shorten(first, 200, placeholder=" ...")  # there may be hundreds of names
        raise UserError(f"{source}: its weights do not fit this configuration: {first}") from None
    return module
