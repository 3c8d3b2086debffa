"""A scene as text (JSON), to carry it from one kernel to another."""

import json
import math

import torch

from ganseg.errors import UserError
from ganseg.model.generator import Scene

SHAPE = ("n_parts", "n_per", "embedding_dim")  # what must agree between a saved scene and a model


def scene_to_text(scene, cfg, label, seed):
    """The text of a Scene without batch; scene_from_text takes it back, float32 exactly."""
    shape = {name: getattr(cfg, name) for name in SHAPE}
    values = {name: value.double().tolist() for name, value in scene._asdict().items()}
    return json.dumps({"run": label, "seed": seed, **shape, **values})


def scene_from_text(text, cfg, like):
    """The Scene and the seed of a text; UserError for other texts and for models of another shape.

    like  a Scene of the model
    """
    try:
        saved = json.loads(text)
        seed, theirs = int(saved["seed"]), [saved[name] for name in SHAPE]
        values = [saved[name] for name in Scene._fields]
    except (ValueError, KeyError, TypeError):
        raise UserError("state: this text is not a saved state; paste all of what `State as text` gives.") from None
    ours = [getattr(cfg, name) for name in SHAPE]
    if theirs != ours:
        a, b = (", ".join(map("{} {}".format, SHAPE, of)) for of in (theirs, ours))
        raise UserError(f"state: it has {a} and this model has {b}; open it with a run of its own shape.")
    fields = zip(Scene._fields, values, like, strict=True)
    return Scene(*(as_tensor(name, value, now.shape) for name, value, now in fields)), seed


def as_tensor(name, values, shape):
    """Numbers as a float tensor of a shape; UserError where they are not."""
    try:
        tensor = torch.as_tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.tensor(math.nan)
    if tensor.shape != shape or not tensor.isfinite().all():
        raise UserError(f"{name}: should be finite numbers of shape {tuple(shape)}.")
    return tensor
