"""How far generated pictures are from the training pictures: FID, KID, precision, recall and other Frechet distances.

What a number depends on is in its name: how many pictures were generated, averaged weights (_ema), a training set
that was cut down to N pictures (_vs_N), the size at which another network sees them. FID is what the Inception weights
of 2015 give, and nothing else.
"""

import hashlib
import importlib
import operator
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ganseg import checkpoints, devices, files
from ganseg.datasets.loading import load_pictures
from ganseg.errors import UserError
from ganseg.figures import pictures
from ganseg.metrics import frechet
from ganseg.model import features, loading

BATCH = 64  # not the config's: which latents a picture is made from depends on it
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # of torch-fidelity's file
NETWORKS = {"efficientnet_lite0": "ganseg.experiments.fidelity:efficientnet_lite0"}  # networks with a short name
NEAREST = f"{frechet.NEIGHBOURS} nearest neighbours, at most {frechet.MOST_NEIGHBOURS:,} pictures of either side"
KERNEL = f"kernel distance, mean of 100 random subsets of at most {frechet.KID_SUBSET:,}"


def measure_fidelity(run, n_generated=50_000, weights=None, inception_weights=None, feature_network="pixels",
                     feature_size=224, every_checkpoint=False):  # fmt: skip
    """Compare generated pictures with the run's training pictures; log and return one record (dict) per checkpoint.

    run                from runs.open_run(..., needs="gan")
    weights            raw, ema, or None: raw (the paper's), or ema where a checkpoint holds nothing else
    inception_weights  the file of the 2015 weights, "download", or None: no FID, KID, precision and recall
    feature_network    pixels, efficientnet_lite0, module:function (see `load_network`), or None
    feature_size       pixels, H = W, at which that network sees the pictures
    every_checkpoint   each checkpoint that the run kept, instead of the newest alone
    A record holds values by name, `left_out` (name -> reason) and `protocols` (name -> sentence).
    Raises UserError for what cannot be.
    """
    if not isinstance(n_generated, int) or n_generated <= frechet.NEIGHBOURS:
        raise UserError(f"n_generated: {n_generated!r} is not allowed; it should be a whole number of at least 4.")
    if weights not in (None, "raw", "ema"):
        raise UserError(f"weights: {weights!r} is not allowed; it should be raw or ema.")
    cfg, device = run.cfg, devices.choose_device(run.cfg.device)
    label, own = load_network(feature_network, feature_size, device) if feature_network else (None, None)
    inception, digest, reason = _load_inception(inception_weights, device)
    networks = {name: network for name, network in (("own", own), ("inception", inception)) if network}

    photos = load_pictures(cfg, "train")
    real = _extract_features((batch.to(device) for batch in photos.images.split(BATCH)), networks)
    of = {f"frechet_{label}": f"Frechet distance, {real['own'].shape[1]} features of {feature_network}"} if own else {}
    methods = of | _inception_methods(digest)
    records = []
    for path, state in _checkpoints(run, every_checkpoint):
        used = weights or ("raw" if "generator" in state else "ema")
        G = loading.generator_of(cfg, state, used, path).to(device)
        fake = _extract_features(generate_batches(G, n_generated, cfg.seed), networks)
        protocols = _protocols(cfg, n_generated, used, photos, methods)
        values = dict(zip(protocols, _distances(fake, real), strict=False))
        left_out = {name: reason for name in protocols if name not in values}
        facts = {"weights": used, "n_generated": n_generated, "n_training": len(photos)}
        facts["protocols"] = {name: protocols[name] for name in values}
        records.append(run.log("fidelity", state["step"], **values, **facts, left_out=left_out))
        print(f"step {state['step']}:", *(f"{name} {value:.4g}" for name, value in values.items()), flush=True)
    return records


def _distances(fake, real):
    """The values in their order: of the user's network first, then Inception's."""
    values = [frechet.frechet(fake["own"], real["own"])] if "own" in real else []
    if "inception" in real:
        pair = fake["inception"], real["inception"]
        values += [frechet.frechet(*pair), frechet.kid(*pair), *frechet.precision_recall(*pair)]
    return values


def _checkpoints(run, every):
    """(path, content) of the newest checkpoint, or of each by step. Damaged ones are passed over with a warning."""
    newest, content = run.intact("gan")
    for path in run.checkpoints("gan") if every else []:
        if path < newest:
            try:
                yield path, checkpoints.load_checkpoint(path)
            except UserError as error:
                print(f"Warning: {error} It is passed over.", flush=True)
    yield newest, content


def _protocols(cfg, n_generated, weights, photos, methods):
    """Name -> sentence, with all that a value depends on, of methods (name -> sentence) without it."""
    n_training = len(photos)
    # A training set is cut down before anybody knows which of its pictures cannot be read
    whole = cfg.max_train_pictures is None or n_training + len(photos.skipped) < cfg.max_train_pictures
    count = f"{n_generated // 1000}k" if n_generated % 1000 == 0 else str(n_generated)
    suffix = f"_{count}{'' if whole else f'_vs_{n_training}'}{'_ema' if weights == 'ema' else ''}"
    what = f"{n_generated:,} generated pictures ({weights} weights) against {'all' if whole else 'only'}"
    what += f" {n_training:,} training pictures, {cfg.image_size} pixels, {cfg.crop}"
    return {f"{name}{suffix}": f"{method}; {what}" for name, method in methods.items()}


@torch.no_grad()
def generate_batches(G, n, seed):
    """Yield n pictures in batches (B, 3, H, W) uint8, rounded as saved ones are. The first are the same for any n."""
    for i in range(-(-n // BATCH)):
        latents = G.sample_latents(BATCH, devices.rng(seed, "fidelity", i))[: n - i * BATCH]
        images = torch.from_numpy(pictures.to_uint8(G(latents).image))
        yield images.permute(0, 3, 1, 2).to(G.w_const.device)


@torch.no_grad()
def _extract_features(batches, networks):
    """Features by networks (name -> function) of batches (B, 3, H, W) uint8: name -> (N, D) float32 on the CPU.

    Raises UserError for features that are not finite.
    """
    rows = {name: [] for name in networks}
    for i, batch in enumerate(batches if networks else (), start=1):
        for name, network in networks.items():
            rows[name].append(network(batch).float().cpu())
            if not rows[name][-1].isfinite().all():
                raise UserError(f"feature_network: the {name} features are not finite; check the weights.")
        if i % 100 == 0:
            print(f"{i * BATCH} pictures seen", flush=True)
    return {name: torch.cat(batches) for name, batches in rows.items()}


def pixels(images):
    """Mean colours of 8 x 8 fields in [0, 1]: (B, 3, H, W) uint8 -> (B, 192). Knows layout and colours, no objects."""
    return F.adaptive_avg_pool2d(images.float() / 255, 8).flatten(1)


def efficientnet_lite0():
    """EfficientNet-lite0 up to its last feature map, taught with ImageNet's labels."""
    from torchvision.transforms import Normalize  # takes a second

    network = features.load_lite0("imagenet")
    network.forward = network.forward_features  # before the classifier
    return nn.Sequential(Normalize([0.5] * 3, [0.5] * 3), network)


def load_network(name, size, device):
    """The label (with the size) and the feature function of a network that a user names.

    name  pixels, efficientnet_lite0, or module:function of the user's environment: a function without arguments that
          returns an nn.Module with its weights, from pictures (B, 3, size, size) in [0, 1], resized bilinearly with
          antialiasing, to features (B, D) or to maps (B, D, h, w), which are averaged. It normalises for itself.
    Raises UserError where there is no such network, or it is called FID, which only Inception's distance is.
    """
    if name == "pixels":
        return name, pixels
    module, _, attribute = NETWORKS.get(name, str(name)).partition(":")
    if not (module and attribute):
        known = ", ".join(["pixels", *NETWORKS])
        raise UserError(f"feature_network: {name!r} is not known; it should be {known}, or module:function.")
    if not isinstance(size, int) or size < 1:
        raise UserError(f"feature_size: {size!r} is not allowed; it should be a whole number of pixels, e.g. 224.")
    if "fid" in attribute.lower():
        raise UserError(f"feature_network: {name} cannot be called so; only the distance of Inception is called FID.")
    try:
        network = operator.attrgetter(attribute)(importlib.import_module(module))()
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"feature_network: {name} cannot be loaded: {error}.") from None
    if not isinstance(network, nn.Module):
        raise UserError(f"feature_network: {name} gives a {type(network).__name__}; it should give an nn.Module.")
    network = network.to(device).eval()

    def of_batch(images):
        out = network(F.interpolate(images.float() / 255, (size, size), mode="bilinear", antialias=True))
        shape = tuple(getattr(out, "shape", ()))
        if len(shape) not in (2, 4) or shape[0] != len(images) or shape[1] < 2:
            raise UserError(f"feature_network: {name} gives {shape or type(out).__name__} of {len(images)} pictures; "
                            "it should give (B, D) or (B, D, h, w) with D above 1.")  # fmt: skip
        return out.flatten(2).mean(dim=2) if len(shape) == 4 else out

    return re.sub(r"\W+", "_", f"{name}_{size}px"), of_batch


def _load_inception(source, device):
    """The Inception network as a feature function, its weights' sha256, and the reason where there is none."""
    # Importing this takes seconds
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

    get = f"get {URL_INCEPTION_V3} (91 MB) and name it with -p inception_weights FILE"
    if source is None:
        return None, None, f"not computed: {get}, or let -p inception_weights download fetch it"
    path = files.absolute(source)
    if source == "download":
        try:
            path = _download(URL_INCEPTION_V3)
        except (OSError, RuntimeError) as error:  # no network, or other bytes than expected
            return None, None, f"not computed: the download failed ({error}); {get}"
    if not path.is_file():
        raise UserError(f"inception_weights: there is no file {path}; {get}.")
    checkpoints.load_checkpoint(path)  # torch-fidelity alone would run code that a file may hold
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path)).to(device)
    except (RuntimeError, TypeError, AttributeError):
        raise UserError(f"inception_weights: {path} holds other weights than Inception's; {get}.") from None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != INCEPTION_SHA256:
        print(f"Warning: {path} is not the file of the 2015 weights; what it gives is not called FID.")
    return lambda images: network(images)[0], digest, None


def _download(url):
    """The file that torch-fidelity's own download would make, fetched where it is missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=INCEPTION_SHA256, progress=False)
    return path


def _inception_methods(digest):
    """Name -> sentence of the values in their order. Other weights than those of 2015 give none that is called FID."""
    other = "" if digest in (None, INCEPTION_SHA256) else f"_inception_{digest[:8]}"
    of = f"Inception features, weights of sha256 {(digest or INCEPTION_SHA256)[:8]}"
    distance = f"{'frechet' if other else 'fid'}{other}"
    return {distance: f"Frechet distance, {of}", f"kid{other}": f"{KERNEL}, {of}",
            f"precision{other}": f"{NEAREST}, {of}", f"recall{other}": f"{NEAREST}, {of}"}
