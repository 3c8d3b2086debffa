"""What a run's segmenter is worth on the test split: metrics, and the pictures to look at."""

import math

import torch

from ganseg import autoencoder, datasets, metrics, pictures, sampling, segmenter
from ganseg.geometry import soft_centroids

N_SAMPLES, N_DETECTIONS = 90, 120


def evaluate(run):
    """Measure the segmenter, and the control where there is one; log, draw, and return the record (dict).

    run  from runs.open_run(..., needs="segmenter")
    The record holds metrics by name, the control's with the prefix untrained_, `left_out` (name -> reason)
    and `notes` (name -> fact). figures/samples.png and figures/detections.png are written.
    """
    cfg = run.cfg
    device = sampling.choose_device(cfg.device)
    test, fit = datasets.load(cfg, "test"), datasets.load(cfg, "fit", cfg.fit_pictures)
    if fit.landmarks is None and (fit.labels is None or fit.only_foreground):
        fit = fit.take([])  # there is nothing to fit
    (run.folder / "figures").mkdir(parents=True, exist_ok=True)

    S, state = segmenter.load(run, device=device), run.load("segmenter")
    if cfg.architecture == "gan":
        G = sampling.load_generator(run, cfg.distill_generator, device)
        generated = sampling.sample(G, N_SAMPLES, cfg.seed)
    else:
        generated = autoencoder.reconstruct(S.autoencoder, test.images[:N_SAMPLES])
    pictures.save(pictures.samples_sheet(generated), run.folder / "figures" / "samples.png")

    values, left_out, labels = _measure(S, cfg, test, fit, generated)
    _save_detections(run, test, labels)
    if run.newest("control"):
        control, _, _ = _measure(segmenter.load(run, "control", device), cfg, test, fit, None)
        values |= {f"untrained_{name}": value for name, value in control.items()}
    notes = {
        "GAN steps": state["gan_step"] if "gan_step" in state else run.load("gan")["step"],
        "distillation steps": state["step"],
        "generator weights": state.get("generator_weights", "released"),
        "backbone weights": state.get("backbone_weights", "released") if cfg.segmenter != "unet" else "none",
        "test pictures": len(test),
        "test pictures told from training pictures by": test.split_by,
        "training pictures that fit regressions and matching": len(fit),
        "seed": cfg.seed,
    }
    return run.log("evaluate", state["step"], **values, left_out=left_out, notes=notes)


@torch.no_grad()
def predict(S, images, batch_size=64, keep_labels=True):
    """Part labels and soft centroids of pictures.

    images  (N, 3, H, W) uint8, on the CPU
    Returns labels (N, H, W) uint8 with 0 background, or None where they are not to be kept, and centroids (N, K, 2) of
    the softmax without background.
    """
    device = next(S.parameters()).device
    labels, centroids = [], []
    for batch in images.split(batch_size):
        probabilities = S(batch.to(device).float() / 127.5 - 1).softmax(dim=1)
        if keep_labels:
            labels.append(probabilities.argmax(dim=1).to("cpu", torch.uint8))
        centroids.append(soft_centroids(probabilities[:, 1:]).cpu())
    return torch.cat(labels) if keep_labels else None, torch.cat(centroids)


def _measure(S, cfg, test, fit, generated):
    """Values and left-out reasons of all metrics, and the labels of the test pictures."""
    labels, centroids = predict(S, test.images)
    fit_labels, fit_centroids = predict(S, fit.images, keep_labels=fit.labels is not None and not fit.only_foreground)
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
        labels=labels.numpy(),
        centroids=centroids.numpy(),
        true_labels=None if test.only_foreground else _array(test.labels),
        true_foreground=None if test.labels is None else _array(test.labels != 0),
        masked=test.masked,
        landmarks=_array(test.landmarks),
        train_labels=_array(fit_labels),
        train_centroids=fit_centroids.numpy(),
        train_true_labels=None if fit.only_foreground else _array(fit.labels),
        train_masked=fit.masked,
        train_landmarks=_array(fit.landmarks),
        eyes=test.eyes,
        frame_px=test.frame_px,
        **of_samples,
    )
    values, left_out = metrics.compute(predictions)
    return values, left_out, labels


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


def main(argv=None):
    from ganseg import cli

    cli.run_stage("evaluate", argv)


if __name__ == "__main__":
    main()
