"""Reads the checkpoints of the authors' released code into our modules.

The released code stores coordinates as (row, column) and background as the last mask channel; both are
converted here, in the weights, so that the modules speak our convention.
"""

import json
import re

import torch

from ganseg import checkpoints, config, files, runs, settings
from ganseg.errors import UserError
from ganseg.model.discriminator import Discriminator
from ganseg.model.generator import Generator
from ganseg.model.segmenter import DeepLab

BATCHNORM_EPS = 1e-5
# Our field -> that of parameters.json, where the values are the same
SAME = {"image_size": "image_size", "n_parts": "n_keypoints", "n_per": "n_per_kp", "embedding_dim": "n_embedding",
        "z_dim": "z_dim", "lambda_con": "con_penalty_coef", "lambda_area": "area_penalty_coef",
        "batch_size": "batch_size", "lr_generator": "lr_gen", "lr_discriminator": "lr_disc"}

# Released name -> ours, applied in this order.
GENERATOR_NAMES = [
    (r"^keypoints_embedding\.weight$", "w_const"),
    (r"^gen_keypoints_embedding_noise\.", "mlp_appearance."),
    (r"^gen_keypoints_layer\.", "mlp_points."),
    (r"^gen_background_embedding\.", "mlp_background."),
    (r"^(mlp_\w+\.\d)\.model\.0\.", r"\1.0."),
    (r"^mask_start\.pe\.", "mask_start.conv."),
    (r"^x_start\.pe\.", "foreground_start.conv."),
    (r"^bg_start\.pe\.", "background_start.conv."),
    (r"^adain_blocks\.(\d+)\.spade1\.conv\.", r"background_blocks.\1.hidden."),  # before those of other convolutions
    (r"^mask_spade_blocks\.", "mask_blocks."),
    (r"^spade_blocks\.", "foreground_blocks."),
    (r"^adain_blocks\.(\d+)\.spade1\.", r"background_blocks.\1."),
    (r"^adain_blocks\.(\d+)\.conv1\.", r"background_blocks.\1.conv."),
    (r"^conv\.0\.", "rgb.1."),
    (r"^conv\.2\.", "rgb.3."),
    (r"(spade1|spade2|spade_shortcut)\.conv\.", r"\1.hidden."),
    (r"_blocks\.(\d+)\.spade([12])\.norm\.", r"_blocks.\1.norm\2."),
]
DISCRIMINATOR_NAMES = [
    (r"^conv\.(\d+)\.net\.(\d)\.", r"blocks.\1.main.\2."),
    (r"^conv\.(\d+)\.downsample\.0\.", r"blocks.\1.main.4."),
    (r"^conv\.(\d+)\.conv_res\.", r"blocks.\1.skip."),
    (r"^fc\.0\.", "head.1."),
    (r"^fc\.2\.", "head.3."),
]


def load_generator(checkpoint, parameters=None, *, training=False):
    """The released generator as our Generator, with its config as `.cfg`.

    checkpoint  a released GAN checkpoint: its dict or its path
    parameters  the fields of parameters.json: a dict or a path; None: the file beside the checkpoint
    training    True: the weights as they are, for batch statistics. False: exact in evaluation mode. The two differ
                only where the two running statistics of one map differ, see _fold_statistics.
    Raises UserError when a file is missing, damaged or of another shape.
    """
    state, parameters, source = _read(checkpoint, parameters, "generator")
    state.pop("init_extend_coord", None)
    plain = _plain(parameters)
    try:
        cfg = config.check({**plain, **_lists(state, plain["resolutions"])})
        state = _convert(_renamed(state, GENERATOR_NAMES), len(cfg.resolutions), training)
    except KeyError as error:
        raise UserError(f"{source}: its generator has no weight {error}.") from None
    return checkpoints.load_weights(Generator(cfg), state, source)


def load_discriminator(checkpoint, parameters=None):
    """The released discriminator as our Discriminator; arguments as of load_generator."""
    state, parameters, source = _read(checkpoint, parameters, "discriminator")
    n_blocks = len([key for key in state if key.endswith("conv_res.weight")])
    channels = [state[f"conv.{i}.conv_res.weight"].shape[0] for i in range(n_blocks)]
    own = {"image_size": 2 ** (n_blocks + 1), "discriminator_channels": channels, "resolutions": None}
    cfg = config.check({**_plain(parameters), **own})
    return checkpoints.load_weights(Discriminator(cfg), _renamed(state, DISCRIMINATOR_NAMES), source)


def load_segmenter(checkpoint, n_parts):
    """The released segmenter as our DeepLab; checkpoint is its dict or its path."""
    state, source = _network(checkpoint, "detector")
    return checkpoints.load_weights(DeepLab(n_parts), state, source)


def make_run(checkpoint, parameters, dataset, name, segmenter=None, **overrides):
    """A run folder around released weights, for distill, evaluate and segment.

    checkpoint, parameters  as of load_generator
    dataset, name  as everywhere: outputs/<dataset>/<name>
    segmenter      path of the released segmenter, or None to distil one's own
    overrides      config fields such as source
    Raises UserError where the run has networks already: what was made of those would be taken for these ones'.
    """
    G, D = load_generator(checkpoint, parameters), load_discriminator(checkpoint, parameters)
    model = {field: getattr(G.cfg, field) for field in [*settings.ModelConfig.model_fields, *SAME, "area_target"]}
    run = runs.open_run(dataset, name, **{**model, "segmenter": "deeplabv3_resnet50", **overrides})
    if run.newest("gan") or run.newest("segmenter"):
        raise UserError(f"name: {run.label} has networks already; give another name, or delete {run.folder}.")
    run.start("cpu")
    state = {"generator": G.state_dict(), "discriminator": D.state_dict(), "ema": G.state_dict()}
    run.save("gan", run.cfg.max_steps, state)
    if segmenter is not None:
        state = load_segmenter(segmenter, run.cfg.n_parts).state_dict()
        run.save("segmenter", run.cfg.distill_steps, {"segmenter": state, "gan_step": run.cfg.max_steps})
    return run


def _read(checkpoint, parameters, part):
    """State dict of one network, the parameters, and a name for error messages."""
    if parameters is None:
        if isinstance(checkpoint, dict):
            raise UserError("parameters: give the fields of parameters.json with a checkpoint's dict.")
        parameters = files.absolute(checkpoint).parent / "parameters.json"
    if not isinstance(parameters, dict):
        try:
            parameters = dict(json.loads(files.absolute(parameters).read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError) as error:
            raise UserError(f"{parameters}: cannot be read as JSON of fields ({error}).") from None
    state, source = _network(checkpoint, part)
    return {key.removeprefix("module."): value for key, value in state.items()}, parameters, source


def _network(checkpoint, part):
    """State dict of one network of a released checkpoint, its dict or its path, and a name for error messages."""
    is_dict = isinstance(checkpoint, dict)
    source = "checkpoint" if is_dict else files.absolute(checkpoint)
    state = checkpoint if is_dict else checkpoints.load_checkpoint(source)
    if not isinstance(state.get(part), dict):
        raise UserError(f"{source}: has no entry {part!r}; name a released checkpoint that has one.")
    return state[part], source


def _plain(parameters):
    """The fields that need no weights."""
    try:
        return {
            "dataset": "released",
            "reader": "folder",
            **{ours: parameters[theirs] for ours, theirs in SAME.items()},
            "heatmap": "cone" if parameters["use_linear"] else "gaussian",
            "area_target": "heatmap" if parameters["smaller_init_mask"] else "extent",
            "rgb_head": "conv1x1" if parameters["single_final"] else "two_conv3x3",
            "resolutions": json.loads(f"[{parameters['feature_map_sizes']}]"),
        }
    except KeyError as error:
        raise UserError(f"parameters: the field {error} of the released parameters.json is missing.") from None
    except ValueError:
        raise UserError("parameters: feature_map_sizes should be numbers with commas, such as 32,32,64,128.") from None


def _lists(state, resolutions):
    """The number of blocks and the channels of a released generator, read off its weights."""
    blocks = range(len(resolutions))
    channels = [state[f"spade_blocks.{i}.conv1.weight"].shape[1] for i in blocks]
    channels.append(state[f"spade_blocks.{len(blocks) - 1}.conv2.weight"].shape[0])
    return {"n_blocks": len(blocks) if len(blocks) in settings.RESOLUTIONS else 4, "channels": channels,
            "mask_channels": [state[f"mask_spade_blocks.{i}.conv1.weight"].shape[1] for i in blocks]}


def _renamed(state, names):
    """A state dict under our names."""
    for pattern, replacement in names:
        state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    return state


def _convert(state, n_blocks, training):
    """Join gamma and beta and the norms of a block, swap (row, column) to (x, y), put the background first."""
    for key in [key for key in state if ".conv_gamma." in key]:
        gamma, beta = state.pop(key), state.pop(key.replace("conv_gamma", "conv_beta"))
        state[key.replace("conv_gamma", "gamma_beta")] = torch.cat([gamma, beta])
    for key in [key for key in state if key.endswith(".spade_shortcut.norm.running_var")]:
        _fold_statistics(state, key.removesuffix(".spade_shortcut.norm.running_var"), training)
    for name in ("weight", "bias"):
        key = f"mlp_points.4.{name}"
        pairs = state[key].unflatten(0, (-1, 2))  # outputs are (part, point, row/column)
        state[key] = pairs.flip(1).flatten(0, 1)
        for conv in ("conv2", "conv_shortcut"):
            key = f"mask_blocks.{n_blocks - 1}.{conv}.{name}"
            state[key] = state[key].roll(1, dims=0)
    for start in ("mask_start", "foreground_start", "background_start"):
        key = f"{start}.conv.weight"
        state[key] = state[key].unflatten(1, (-1, 2)).flip(2).flatten(1, 2)
    return state


def _fold_statistics(state, block, training):
    """Let a block's shortcut use the running statistics of spade1, which normalises the same map.

    Released checkpoints hold both. With n normalised by those of spade1, the shortcut's own are a n + b, and
    (1 + gamma) (a n + b) + beta = (1 + gamma') n + beta' with gamma' = a (1 + gamma) - 1, beta' = beta + b (1 + gamma).
    Batch statistics are the same for both, so that nothing may be folded for training.
    """
    norms = (f"{block}.spade_shortcut.norm", f"{block}.norm1")
    names = ("running_mean", "running_var")
    own, shared = ({name: state[f"{norm}.{name}"].double() for name in names} for norm in norms)
    for key in [key for key in state if key.startswith(f"{block}.spade_shortcut.norm.")]:
        del state[key]
    if training:
        return
    std = (own["running_var"] + BATCHNORM_EPS).sqrt()
    a = (shared["running_var"] + BATCHNORM_EPS).sqrt() / std
    b = (shared["running_mean"] - own["running_mean"]) / std
    for name, one in (("weight", 0), ("bias", 1)):
        key = f"{block}.spade_shortcut.gamma_beta.{name}"
        gamma, beta = state[key].double().chunk(2)
        a, b = (x.view(-1, *[1] * (gamma.dim() - 1)) for x in (a, b))
        folded = torch.cat([a * (one + gamma) - one, beta + b * (one + gamma)])
        state[key] = folded.to(state[key].dtype)
