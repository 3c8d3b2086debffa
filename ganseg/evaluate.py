"""Measures a run's segmenter on the test split and draws what it detects."""

import math

import numpy as np
import torch

from ganseg import arguments, checkpoints, devices, files, metrics, records
from ganseg.datasets.labels import say_doubts
from ganseg.datasets.loading import load_pictures, spread_rows
from ganseg.errors import UserError
from ganseg.figures import pictures, report
from ganseg.model import loading
from ganseg.model.prediction import predict, predict_moved
from ganseg.training import trained_on

N_SAMPLES, N_DETECTIONS = 90, 120
N_MOVED = 200  # test pictures that are moved too
# Metrics that look at generated pictures
OF_SAMPLES = ("extent_px", "center_spread_px", "mask_entropy", "collapse", "certainty_gap")


def evaluate(run):
    """Measure the segmenter, and the control where there is one; log, draw, and return the record (dict).

    run  from runs.open_run(..., needs="segmenter")
    The record holds metrics by name, the control's with the prefix untrained_, `left_out` (name -> reason), `notes`
    (name -> fact) and `settings` (config field -> value, of those in records.SETTINGS).
    figures/samples.png and figures/detections.png are written. The samples are of the generator that the segmenter
    learned from. Where its checkpoint is gone, they and the metrics that look at them are left out.
    """
    cfg, device = run.cfg, devices.choose_device(run.cfg.device)
    test, fit = load_pictures(cfg, "test"), _load_fit(cfg)
    S, state = loading.read_segmenter(run, device=device)
    gan_step, generated = _samples(run, state, test, device)
    values, left_out, labels = _measure(S, cfg, test, fit, generated, _earlier_labels(run, state, test, device))
    notes = {"GAN steps": gan_step, **_notes(cfg, state, test, fit), report.SHOWN: _shown(labels, cfg.n_parts)}
    if generated is None:
        reason = f"the GAN's step {gan_step}, which the segmenter learned from, is no longer kept"
        mend = f"; distil anew with: {run.command('distill')}"
        if "members" in state:
            reason, mend = "several segmenters that vote have no generator of their own", ""
        print(f"Left out are {', '.join(OF_SAMPLES)}: {reason}{mend}", flush=True)
        values = {name: value for name, value in values.items() if name not in OF_SAMPLES}
        left_out |= dict.fromkeys(OF_SAMPLES, reason)
    notes |= {} if generated is None else {"GAN steps of the generated samples": gan_step}
    notes |= trained_on.count(run, test)
    _save_figures(run, test, labels, generated)
    if run.newest("control"):
        C, control = loading.read_segmenter(run, "control", device)
        notes["distillation steps of the control"] = control["step"]
        values |= {f"untrained_{name}": value for name, value in _measure(C, cfg, test, fit, None)[0].items()}
    settings = cfg.model_dump(include=records.SETTINGS)
    return run.log("evaluate", state["step"], **values, left_out=left_out, notes=notes, settings=settings)


def _notes(cfg, state, test, fit):
    """Facts about what is evaluated, by name; state is the segmenter's checkpoint."""
    return {
        "distillation steps": state["step"],
        "generator weights": state.get("generator_weights", "released"),
        "backbone weights": state.get("backbone_weights", "released") if cfg.segmenter != "unet" else "none",
        "features of the discriminator": cfg.features,
        "league": records.league(cfg, state),
        "test pictures": len(test),
        "test pictures told from training pictures by": test.split_by,
        "training pictures that fit regressions and matching": len(fit),
        "doubts about the masks": say_doubts(test, "test pictures"),
        "seed": cfg.seed,
    }


def _load_fit(cfg):
    """The training pictures that regressions and matching are fitted on; none where there is nothing to fit."""
    fit = load_pictures(cfg, "fit", cfg.fit_pictures)
    return fit.take([]) if fit.landmarks is None and (fit.labels is None or fit.only_foreground) else fit


def _samples(run, state, photos, device):
    """The step of the GAN that a segmenter learned from, and what that generates; None where it is not kept."""
    step = state.get("gan_step")  # None: released or by older code; then of the newest, as there is nothing else
    try:
        path, gan = run.intact("gan", step)
    except UserError:  # damaged
        path = None
    # A training that was rolled back may have come to the step again, with other weights
    if path is None or any(state.get(fact) not in (None, value) for fact, value in checkpoints.which_gan(gan).items()):
        return step, None
    return gan["step"], loading.paint(run, N_SAMPLES, photos.images, device=device, checkpoint=(path, gan))


def _earlier_labels(run, state, test, device):
    """The labels (N, S, S) of the segmenter's checkpoint before, of the same teacher; None where there is none."""
    before = [path for path in run.checkpoints("segmenter") if checkpoints.step_of(path) < state["step"]]
    if not before:
        return None
    S, earlier = loading.read_segmenter(run, device=device, step=checkpoints.step_of(before[-1]))
    if any(earlier.get(fact) != state.get(fact) for fact in ("gan_step", "gan_attempt")):
        return None
    return predict(S, test.images, test.boxes).labels.numpy()


def _measure(S, cfg, test, fit, generated, earlier_labels=None):
    """Values and left-out reasons of all metrics, and the labels of the test pictures."""
    of_samples = {}
    if generated is not None:
        # A fixed heatmap's size does not depend on the points
        extent = generated.extent if cfg.heatmap != "fixed" else torch.tensor([cfg.fixed_sigma2**0.5])
        px = (cfg.image_size - 1) / 2
        entropy = torch.special.entr(generated.masks).sum(dim=1).mean(dim=(1, 2)) / math.log(cfg.n_parts + 1)
        of_samples = {"extents_px": (extent.flatten() * px).numpy(), "centers_px": (generated.centers * px).numpy(),
                      "mask_entropies": entropy.numpy(), "certainties_of_generated": _certainties(S, generated.image)}
    predictions = metrics.Predictions(
        n_parts=cfg.n_parts,
        image_size=cfg.image_size,
        true_foreground=None if test.labels is None else test.labels.sign().numpy(),
        eyes=test.eyes,
        frame_px=test.frame_px,
        images=test.images.numpy(),
        earlier_labels=earlier_labels,
        **_of_split(S, test),
        **_of_split(S, fit, "train_", keep_labels=fit.labels is not None and not fit.only_foreground),
        **of_samples,
    )
    rows = spread_rows(len(test), N_MOVED)
    moved = predict_moved(S, test.images[rows], torch.as_tensor(predictions.labels[rows]))
    predictions.moved_labels, predictions.labels_of_moved = (labels.numpy() for labels in moved)
    return *metrics.compute(predictions), predictions.labels


def _shown(labels, n_parts):
    """In which share of the pictures each part has a pixel, as [share of part 1, ...], from labels (N, S, S)."""
    return [round((labels == k).any(axis=(1, 2)).mean().item(), 4) for k in range(1, n_parts + 1)]


def _certainties(S, images):
    """How certain a segmenter is of each of some generated images (n, 3, S, S) in [-1, 1]: (n,)."""
    return predict(S, torch.as_tensor(pictures.to_uint8(images)).permute(0, 3, 1, 2)).certainty.numpy()


def _of_split(S, photos, prefix="", keep_labels=True):
    """The fields of Predictions with what is known and predicted of one split's pictures."""
    if not len(photos):
        return {}
    found = predict(S, photos.images, photos.boxes, keep_labels=keep_labels)
    known = {"labels": found.labels, "centroids": found.centroids, "landmarks": photos.landmarks,
             "true_labels": None if photos.only_foreground else photos.labels}
    known |= {} if prefix else {"certainties": found.certainty, "box_px": photos.box_px,
                                "part_labels": None if photos.landmarks is None else found.part_labels}
    return {prefix + name: np.asarray(value) for name, value in known.items() if value is not None}


def _save_figures(run, test, labels, generated):
    """figures/samples.png, and detections.png: test pictures with their detected parts and, where known, the truth."""
    folder, K = run.folder / "figures", run.cfg.n_parts
    with files.writing(folder):
        (folder / "samples.png").unlink(missing_ok=True)  # it may be of another generator
    if generated is not None:
        pictures.save(pictures.samples_sheet(generated), folder / "samples.png")
    chosen = torch.linspace(0, len(test) - 1, min(N_DETECTIONS, len(test))).round().long()
    photos = pictures.to_uint8(test.images[chosen])
    columns = [photos, pictures.overlay(photos, labels[chosen], K)]
    if test.labels is not None and (test.labels > 0).any():
        truth = test.labels[chosen].numpy()
        columns.append(pictures.overlay(photos, truth, int(test.labels.max()), strength=0.9))
    elif test.landmarks is not None:
        columns.append(pictures.draw_points(photos, test.landmarks[chosen][:, :, None].numpy(), radius=1))
    sheet = pictures.grid(pictures.enlarge(np.concatenate(columns, axis=2), 96 * len(columns)), 8)
    pictures.save(sheet, folder / "detections.png")


def _print_table(run):
    evaluate(run)
    print(*report.verdict(run), report.metrics_table(run), sep="\n")


def main(argv=None):
    """The command `python -m ganseg.evaluate`."""
    arguments.main("evaluate", _print_table, "segmenter", argv)


if __name__ == "__main__":
    main()
