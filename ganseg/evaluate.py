"""Measures a run's segmenter on the test split and draws what it detects."""

import math

import torch

from ganseg import arguments, checkpoints, devices, files, measuring, part_names, records
from ganseg.datasets.loading import load_fit, load_pictures, spread_rows
from ganseg.errors import UserError
from ganseg.figures import pictures, report
from ganseg.model import loading
from ganseg.model.prediction import predict, predict_moved
from ganseg.training import self_training, trained_on

N_SAMPLES = 90
N_MOVED = 100  # test pictures that are moved too, each in the six ways of predict_moved
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
    test, fit = load_pictures(cfg, "test"), load_fit(cfg)
    S, state = loading.read_segmenter(run, device=device)
    gan_step, generated = _samples(run, state, test, device)
    values, left_out, labels = _measure(S, cfg, test, fit, generated, _earlier_labels(run, state, test, device))
    notes = {"GAN steps": gan_step, **_notes(cfg, state), **measuring.notes_on(cfg, test, fit, labels)}
    if generated is None:
        reason = f"the GAN's step {gan_step}, which the segmenter learned from, is no longer kept"
        mend = f"; distil anew with: {run.command('distill')}"
        if "members" in state:
            reason, mend = "several segmenters that vote have no generator of their own", ""
        if "network" in state:
            reason, mend = "clusters of features have no generator", ""
        print(f"Left out are {', '.join(OF_SAMPLES)}: {reason}{mend}", flush=True)
        values = {name: value for name, value in values.items() if name not in OF_SAMPLES}
        left_out |= dict.fromkeys(OF_SAMPLES, reason)
    notes |= {} if generated is None else {"GAN steps of the generated samples": gan_step}
    notes |= trained_on.count(run, test)
    with files.writing(run.folder / "figures"):
        (run.folder / "figures" / "samples.png").unlink(missing_ok=True)  # it may be of another generator
    if generated is not None:
        sheet = pictures.samples_sheet(generated, parts=part_names.read_parts(run))
        pictures.save(sheet, run.folder / "figures" / "samples.png")
    measuring.save_detections(run, test, labels)
    if run.newest("control"):
        C, control = loading.read_segmenter(run, "control", device)
        notes["distillation steps of the control"] = control["step"]
        values |= {f"untrained_{name}": value for name, value in _measure(C, cfg, test, fit, None)[0].items()}
    settings = cfg.model_dump(include=records.SETTINGS)
    return run.log("evaluate", state["step"], **values, left_out=left_out, notes=notes, settings=settings)


def _notes(cfg, state):
    """Facts about a segmenter, by name; state is its checkpoint."""
    if "network" in state:
        learned = {records.CLUSTERED: state["network"], "weights of the features": state["weights"],
                   "training pictures that were clustered": state["clustered"]}
    else:
        learned = {
            "distillation steps": state["step"],
            "generator weights": state.get("generator_weights", "released"),
            "backbone weights": state.get("backbone_weights", "released") if cfg.segmenter != "unet" else "none",
            "features of the discriminator": cfg.features,
        }
        if "self_training" in state:
            learned["photos of self-training"] = self_training.n_used(state["self_training"])
    return {**learned, "league": records.league(cfg, state), "seed": cfg.seed}


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
    found = predict(S, test.images, test.boxes)
    keep_labels = fit.labels is not None and not fit.only_foreground
    of_fit = predict(S, fit.images, fit.boxes, keep_labels=keep_labels) if len(fit) else None
    rows = spread_rows(len(test), N_MOVED)
    moved, of_moved = predict_moved(S, test.images[rows], found.labels[rows])
    values, left_out = measuring.measure(cfg, test, found, fit, of_fit, certainties=found.certainty.numpy(),
                                         moved_labels=moved.numpy(), labels_of_moved=of_moved.numpy(),
                                         earlier_labels=earlier_labels, **of_samples)
    return values, left_out, found.labels.numpy()


def _certainties(S, images):
    """How certain a segmenter is of each of some generated images (n, 3, S, S) in [-1, 1]: (n,)."""
    return predict(S, torch.as_tensor(pictures.to_uint8(images)).permute(0, 3, 1, 2)).certainty.numpy()


def _print_table(run):
    evaluate(run)
    print(*report.verdict(run), report.metrics_table(run), sep="\n")


def main(argv=None):
    """The command `python -m ganseg.evaluate`."""
    arguments.main("evaluate", _print_table, "segmenter", argv)


if __name__ == "__main__":
    main()
