"""What a run gives to other programs: its segmenter by `ganseg export model`, pairs by `ganseg export pairs`."""

import contextlib
import json
import os
import time
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from ganseg import checkpoints, files, records, runs
from ganseg.datasets.decode import PROGRESS_EVERY_S
from ganseg.devices import rng
from ganseg.errors import UserError
from ganseg.figures import pictures, report
from ganseg.model import exported, loading
from ganseg.model.autoencoder import AsSegmenter
from ganseg.model.geometry import to_float
from ganseg.part_names import part_labels

CARD = """---
library_name: ganseg
pipeline_tag: image-segmentation
tags: [part-segmentation, gan]
---
# Parts of {dataset} pictures, by GANSeg

A segmenter of {K} parts that a GAN found: no labels of parts were used, except as its league says. It learned from
generated pictures, whose part masks are known.

- run: {label}, GAN step {gan_step}, {steps} steps of distillation
- network: {segmenter}, photos as squares of {S} pixels (crop: {crop})
- league, what it was taught with beside the photos: {league}
- labels: {labels}

## Use

{use}

## Metrics

{metrics}

## Limits

{limits}
- A part is what the GAN found. Its name is a person's, its number means nothing beyond this model.
- It knows pictures like those it was trained on, with one object of their kind and size; others get labels too.
"""
USES = {
    "torch": """```
from ganseg import segment
labels = segment.load("FOLDER").segment("photo.jpg")  # (H, W), 0 background
```

or `ganseg segment PHOTOS --run FOLDER --out parts/`. FOLDER may be `hf:OWNER/NAME`, of the Hugging Face hub.""",
    "onnx": """```
square = Image.open("photo.jpg").convert("RGB").resize(({S}, {S}), Image.Resampling.LANCZOS)
session = onnxruntime.InferenceSession("model.onnx")
logits, = session.run(None, {{"squares": np.asarray(square)[None]}})
labels = logits.argmax(axis=1)[0]
```

In: uint8 (B, {S}, {S}, 3), RGB. Out: float32 (B, {n}, {S}, {S}).""",
}


def export_model(run, kind="torch", out=None):
    """Write a run's newest segmenter for other programs; the command `ganseg export model`. Returns the folder.

    run   the name of a run, as for runs.find
    kind  torch: safetensors, read by segment.load, for huggingface_hub's upload_folder; onnx: model.onnx, whose input
          `squares` is uint8 (B, S, S, 3) and whose output `logits` float32 (B, K + 1, S, S), background first
    out   a new folder; None: in the run's. config.json and a model card, README.md, lie beside the weights
    Raises UserError where there is no such segmenter, a package is missing or `out` holds something.
    """
    run = runs.find(str(run))
    network, state = loading.read_segmenter(run)
    with _new_folder(out or run.folder / f"export-{kind}") as (folder, target):
        exported.write(folder, run, network, state)
        if kind == "onnx":
            _write_onnx(folder / "model.onnx", network, run.cfg.image_size)
            (folder / exported.WEIGHTS).unlink()
        files.write_text(folder / "README.md", _card(run, state, kind))
    print(f"exported {run.label} -> {target}")
    return target


@torch.no_grad()
def export_pairs(run, n, out=None, seed=None):
    """Write n generated pictures with their labels; the command `ganseg export pairs`. Returns the folder.

    seed  of the latents; None: the run's, which gives the pairs that its segmenter learned from, not augmented
    out   a new folder for images/ and masks/, which the data set `folder` reads, and manifest.json; None: in the run's
    A batch at a time is in memory. Raises UserError where there is no GAN or `out` holds something.
    """
    if n < 1:
        raise UserError(f"n: {n} is not allowed; it should be 1 or more.")
    if seed is not None and (type(seed) is not int or seed < 0):
        raise UserError(f"seed: {seed!r} is not allowed; it should be a whole number, 0 or more.")
    run = runs.find(str(run))
    path, state = run.intact("gan")
    if path is None:
        raise runs.missing(run.folder, "gan")
    weights = run.cfg.distill_generator
    cfg, seed = run.cfg, run.cfg.seed if seed is None else seed
    G, B, spoken = loading.generator_of(cfg, state, weights, path), cfg.distill_batch_size, time.monotonic()
    with _new_folder(out or run.folder / "pairs") as (folder, target):
        for name in ("images", "masks"):
            (folder / name).mkdir()
        for i in range(n):
            if i % B == 0:
                painted = G(G.sample_latents(B, rng(seed, "distill", i // B)))  # as distill.generate_pairs
                images, labels = pictures.to_uint8(painted.image), painted.masks.argmax(dim=1).byte().numpy()
            Image.fromarray(images[i % B]).save(folder / "images" / f"{i:06}.png")
            pictures.indexed(labels[i % B], cfg.n_parts).save(folder / "masks" / f"{i:06}.png")
            if time.monotonic() - spoken > PROGRESS_EVERY_S:
                spoken = time.monotonic()
                print(f"{i + 1:,} of {n:,} pairs", flush=True)
        facts = {"run": run.label, "n": n, "seed": seed, **checkpoints.which_gan(state), "weights": weights,
                 "league": records.league(cfg, {"backbone_weights": "none"}), "image_size": cfg.image_size,
                 "labels": ["background", *part_labels(run)],
                 "command": f"ganseg export pairs --run {run.label} -p n {n} -p seed {seed} --out {target.name}"}
        files.write_text(folder / "manifest.json", json.dumps(facts, indent=1, ensure_ascii=False))
    print(f"exported {n:,} pairs of {run.label} -> {target}")
    return target


@contextlib.contextmanager
def _new_folder(path):
    """A folder that takes the place of the one asked for, and that one's Path; UserError where it holds something."""
    target = Path(os.path.expanduser(path)).absolute()
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"out: {target} holds something already, perhaps another export; name a new folder.")
    with files.whole_folder(target) as folder:
        yield folder, target


class _OfSquares(nn.Module):
    """A segmenter for uint8 squares (B, S, S, 3)."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, squares):
        return self.network(to_float(squares.permute(0, 3, 1, 2)))


def _write_onnx(path, network, S):
    """Write model.onnx; UserError where a package is missing, or for what has no form in it."""
    if isinstance(network, AsSegmenter) and network.autoencoder.finds_points:
        raise UserError("format: an auto-encoder of points cannot be exported as onnx; use --format torch.")
    try:
        import onnx  # noqa: F401  # an option, as is the next
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"format: onnx needs the package {error.name}; install it with pip install onnx onnxscript, "
                        "and onnxruntime to use the model.") from None
    squares = torch.zeros(2, S, S, 3, dtype=torch.uint8)  # of one, the exporter would take the size for fixed
    program = torch.onnx.export(_OfSquares(network).eval(), (squares,), input_names=["squares"],
                                output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True,
                                verbose=False)
    with files.whole(path, "wb") as file:
        file.write(program.model_proto.SerializeToString())


def _card(run, state, kind):
    """README.md of an exported model."""
    cfg, known = run.cfg, exported.describe(run, state)
    record = next(reversed(run.records("evaluate")), {})
    is_its = record.get("step") == state["step"]
    notes = [f"- {name}: {note}" for name, note in record.get("notes", {}).items()]
    metrics = [f"```\n{report.metrics_table(run)}\n```", *notes]
    if record and not is_its:
        metrics.insert(0, f"Measured after {record['step']} steps of distillation, not of this segmenter:\n")
    return CARD.format(
        dataset=cfg.dataset, K=cfg.n_parts, label=run.label, gan_step=known["gan_step"] or "not known",
        steps=state["step"], segmenter=cfg.segmenter, S=cfg.image_size, crop=cfg.crop, league=known["league"],
        labels=", ".join(f"{k} {name}" for k, name in enumerate(known["labels"])),
        use=USES[kind].format(S=cfg.image_size, n=cfg.n_parts + 1), metrics="\n".join(metrics),
        limits="\n".join(f"- {sentence}" for sentence in report.verdict(run)))
