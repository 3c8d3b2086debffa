"""Measures a run's segmenter on the test split and draws what it detects."""

import math

import torch

from ganseg import arguments, devices, metrics
from ganseg.datasets.loading import load_pictures
from ganseg.figures import pictures, report
from ganseg.model import autoencoder, loading, sampling
from ganseg.model.prediction import predict

N_SAMPLES, N_DETECTIONS = 90, 120
# What a measurement depends on beside the networks: an evaluation counts as another's equal where these agree
SETTINGS = ("source", "split_list", "image_size", "crop", "max_train_pictures", "max_test_pictures", "fit_pictures",
            "distill_generator", "untrained_control", "seed")


def evaluate(run):
    """Measure the segmenter, and the control where there is one; log, draw, and return the record (dict).

    run  from runs.open_run(..., needs="segmenter")
    The record holds metrics by name, the control's with the prefix untrained_, `left_out` (name -> reason), `notes`
    (name -> fact) and `settings` (config field -> value, of those in SETTINGS).
    figures/samples.png and figures/detections.png are written.
    """
    cfg = run.cfg
    device = devices.choose_device(cfg.device)
    test, fit = load_pictures(cfg, "test"), load_pictures(cfg, "fit", cfg.fit_pictures)
    if fit.landmarks is None and (fit.labels is None or fit.only_foreground):
        fit = fit.take([])  # there is nothing to fit
    (run.folder / "figures").mkdir(parents=True, exist_ok=True)

    S, state = loading.load_segmenter(run, device=device), run.load_state("segmenter")
    if isinstance(S, autoencoder.AsSegmenter):
        generated = autoencoder.reconstruct(S.autoencoder, test.images[:N_SAMPLES])
    else:
        generated = sampling.sample(loading.load_generator(run, cfg.distill_generator, device), N_SAMPLES, cfg.seed)
    pictures.save(pictures.samples_sheet(generated), run.folder / "figures" / "samples.png")

    values, left_out, labels = _measure(S, cfg, test, fit, generated)
    _save_detections(run, test, labels)
    if run.newest("control"):
        control, _, _ = _measure(loading.load_segmenter(run, "control", device), cfg, test, fit, None)
        values |= {f"untrained_{name}": value for name, value in control.items()}
    notes = {
        "GAN steps": state["gan_step"] if "gan_step" in state else run.load_state("gan")["step"],
        "distillation steps": state["step"],
        "generator weights": state.get("generator_weights", "released"),
        "backbone weights": state.get("backbone_weights", "released") if cfg.segmenter != "unet" else "none",
        "test pictures": len(test),
        "test pictures told from training pictures by": test.split_by,
        "training pictures that fit regressions and matching": len(fit),
        "seed": cfg.seed,
    }
    settings = {name: getattr(cfg, name) for name in SETTINGS}
    return run.log("evaluate", state["step"], **values, left_out=left_out, notes=notes, settings=settings)


def _measure(S, cfg, test, fit, generated):
    """Values and left-out reasons of all metrics, and the labels of the test pictures."""
    found = predict(S, test.images)
    fitted = predict(S, fit.images, keep_labels=fit.labels is not None and not fit.only_foreground)
    of_samples = {}
    if generated is not None:
        # A fixed heatmap's size does not depend on the points
        extent = generated.extent if cfg.heatmap != "fixed" else torch.tensor([cfg.fixed_sigma2**0.5])
        px = (cfg.image_size - 1) / 2
        entropy = torch.special.entr(generated.masks).sum(dim=1).mean(dim=(1, 2)) / math.log(cfg.n_parts + 1)
        of_samples = {"extents_px": (extent.flatten() * px).numpy(), "centers_px": (generated.centers * px).numpy(),
                      "mask_entropies": entropy.numpy()}
    predictions = metrics.Predictions(
        n_parts=cfg.n_parts,
        image_size=cfg.image_size,
        labels=found.labels.numpy(),
        centroids=found.centroids.numpy(),
        true_labels=None if test.only_foreground else _array(test.labels),
        true_foreground=None if test.labels is None else _array(test.labels != 0),
        masked=test.masked,
        landmarks=_array(test.landmarks),
        train_labels=_array(fitted.labels),
        train_centroids=fitted.centroids.numpy(),
        train_true_labels=None if fit.only_foreground else _array(fit.labels),
        train_masked=fit.masked,
        train_landmarks=_array(fit.landmarks),
        eyes=test.eyes,
        frame_px=test.frame_px,
        **of_samples,
    )
    values, left_out = metrics.compute(predictions)
    return values, left_out, found.labels


def _save_detections(run, test, labels):
    """figures/detections.png: test pictures, each with its detected parts and, where known, the truth."""
    K = run.cfg.n_parts
    chosen = torch.linspace(0, len(test) - 1, min(N_DETECTIONS, len(test))).round().long()
    photos = pictures.to_uint8(test.images[chosen])
    columns = [photos, pictures.overlay(photos, labels[chosen].numpy(), K)]
    if test.labels is not None:
        truth = test.labels[chosen].numpy()
        columns.append(pictures.overlay(photos, truth, int(test.labels.max()), strength=0.9))
    elif test.landmarks is not None:
        columns.append(pictures.draw_points(photos, test.landmarks[chosen][:, :, None].numpy(), radius=1))
    joined = columns[0]
    for column in columns[1:]:
        joined = pictures.pairs(joined, column)
    sheet = pictures.grid(pictures.enlarge(joined, 96 * len(columns)), 8)
    pictures.save(sheet, run.folder / "figures" / "detections.png")


def _array(tensor):
    return None if tensor is None else tensor.numpy()


def _print_table(run):
    evaluate(run)
    print(report.metrics_table(run))


def main(argv=None):
    """The command `python -m ganseg.evaluate`."""
    arguments.main("evaluate", _print_table, "segmenter", argv)


if __name__ == "__main__":
    main()
