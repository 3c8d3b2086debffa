"""Measures the generator's translation equivariance: do masks and foreground move with the points, and only they?

Everything is measured on the final maps. The mode is evaluation, because batch statistics would mix positions. Points
move to the right by whole pixels of the final grid, so that maps are moved back without interpolation.
Source: GANSeg, supplement, section E: I(p - dt, x) = I(p, x + dt) for points p, pixels x and a shift dt.
"""

import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ganseg import devices
from ganseg.errors import UserError
from ganseg.figures import pictures
from ganseg.model import averaging, geometry, loading
from ganseg.model.layers import PositionalEmbedding, kaiming

FOREGROUND = 0.01  # a pixel is surely foreground where its background mask is below


class Painted(NamedTuple):
    """What is compared: masks (B, K + 1, H, W), image and foreground (B, 3, H, W) in [-1, 1]."""

    masks: torch.Tensor
    image: torch.Tensor
    foreground: torch.Tensor  # the image over an empty background, one whose features are 0


class _AbsoluteStart(nn.Module):
    """A start tensor plus an embedding of absolute pixel positions, with random frequencies."""

    def __init__(self, start, grid, seed):
        super().__init__()
        self.start = start
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = PositionalEmbedding(2, 2 * start.conv.out_channels).apply(kaiming)
        self.register_buffer("positions", grid.permute(2, 0, 1)[None])  # (1, 2, H, W)

    def forward(self, offsets):
        return self.start(offsets) + self.embedding(self.positions)


def variants(G):
    """Name -> generator: as designed, without margin, and with absolute coordinates in its start tensors.

    Margins have no weights, so the weights are the same; the statistics change and are measured anew.
    """
    no_margin, absolute = copy.deepcopy(G), copy.deepcopy(G)
    no_margin.cfg = G.cfg.model_copy(update={"margin": 0})
    grid = geometry.pixel_grid(G.cfg.resolutions[0], G.cfg.margin)
    for seed, name in enumerate(("mask_start", "foreground_start")):
        setattr(absolute, name, _AbsoluteStart(getattr(absolute, name), grid, seed).to(G.w_const.device))
    return {"as designed": G, "no margin": _recalibrated(no_margin), "absolute coordinates": _recalibrated(absolute)}


def load_generator(run, weights):
    """A run's generator on its device; weights raw | ema | untrained, the last with statistics of 8 pictures only."""
    device = devices.choose_device(run.cfg.device)
    if weights == "untrained":
        return _recalibrated(loading.build_generator(run.cfg).to(device))
    _check("weights", weights, weights in ("raw", "ema"), "raw, ema or untrained")
    return loading.load_generator(run, weights, device)


def measure_run(run, weights, generators, **settings):
    """Measure variants (name -> generator) of a run's weights; log and yield each record.

    settings  of measure_equivariance
    """
    if not (run.folder / "config.yaml").exists():
        run.start(devices.choose_device(run.cfg.device))
    (run.folder / "figures").mkdir(exist_ok=True)
    step = 0 if weights == "untrained" else run.load_state("gan")["step"]
    for name, G in generators.items():
        for record in measure_equivariance(G, **settings):
            yield run.log("equivariance", step, weights=weights, variant=name, **record)


@torch.inference_mode()
def measure_equivariance(G, n_samples=4, offsets_px=(1, 2, 4, 8), angles_deg=(30, 60, 90), moved_parts=None, seed=0):
    """What moves when points move: a list of records, one for each experiment and offset or angle.

    G            in evaluation mode
    offsets_px   whole pixels of the final grid, to the right
    moved_parts  how many parts, drawn by the seed, are moved one at a time; None: all
    Records {experiment, n_samples, seed, offset_px or angle_deg, name: value}; see the functions below.
    Raises UserError for offsets that are not whole or leave the picture, and for counts that cannot be.
    """
    S, K = G.cfg.image_size, G.cfg.n_parts
    moved_parts = K if moved_parts is None else moved_parts
    _check("n_samples", n_samples, n_samples >= 1, "at least 1")
    _check("moved_parts", moved_parts, 1 <= moved_parts <= K, f"from 1 to the number of parts, {K}")
    for s in offsets_px:
        _check("offsets_px", s, isinstance(s, int) and 0 <= s < S, f"whole pixels from 0 to {S - 1}")
    scene = make_scene(G, n_samples, seed)
    before = paint(G, scene)
    parts = torch.randperm(K, generator=devices.rng(seed, "parts"))[:moved_parts].tolist()
    records = [_measure_all_points(G, scene, before, s) for s in offsets_px]
    records += [measure_one_part(G, scene, before, s, parts) for s in offsets_px]
    records += [_measure_rotation(G, scene, before, angle, parts) for angle in angles_deg]
    records += [_measure_background(G, scene, before, s) for s in offsets_px[-1:]]
    return [{"n_samples": n_samples, "seed": seed, **record} for record in records]


def make_scene(G, n, seed):
    """Points, embeddings and backgrounds of n random pictures."""
    return G.make_scene(G.sample_latents(n, devices.rng(seed, "equivariance")))


def paint(G, scene, batch_size=4):
    """The pictures of a scene as Painted."""
    batches = []
    for i in range(0, len(scene.points), batch_size):
        out = G.paint(scene.map(lambda field, i=i: field[i : i + batch_size]))
        batches.append((out.masks, out.image, G.rgb((1 - out.masks[:, :1]) * out.foreground).tanh()))
    return Painted(*map(torch.cat, zip(*batches, strict=True)))


def _measure_all_points(G, scene, before, offset_px):
    """All points moved: PSNR of the new maps with the old ones moved alike (`_db`) and left there (`_still_db`).

    Valid are the columns that lie inside the picture before and after, all rows, no border left out. coarse_px is the
    move in pixels of the first resolution R, upsampled_px that after upsampling to S: S / R times as much, while R - 1
    gaps between coordinates became S - 1. So what the coarse grid decides moves a little less than offset_px.
    """
    S, R = G.cfg.image_size, G.cfg.resolutions[0]
    after = paint(G, scene._replace(points=moved(scene.points, offset_px, S)))
    coarse_px = offset_px * (R - 1) / (S - 1)
    values = {"offset_px": offset_px, "coarse_px": coarse_px, "upsampled_px": coarse_px * S / R}
    for name, peak in (("masks", 1), ("foreground", 2)):
        new, old = getattr(after, name)[..., offset_px:], getattr(before, name)
        values[f"{name}_db"] = psnr_db(new, old[..., : S - offset_px], peak)
        values[f"{name}_still_db"] = psnr_db(new, old[..., offset_px:], peak)
    return {"experiment": "all points", **values}


def measure_one_part(G, scene, before, offset_px, parts):
    """One part's points moved: the share of the image's squared change outside the part's old and new mask.

    Masks are soft: a pixel is outside by 1 - max(old mask, new mask). `outside_by_chance` is the share of a change
    spread evenly over the picture. Means over samples and parts; no change at all counts 0.
    """
    outside, by_chance = [], []
    for k in parts:
        after = paint(G, _with_part(scene, k, moved(scene.points[:, k], offset_px, G.cfg.image_size)))
        change = (after.image - before.image).square().mean(dim=1)  # (B, H, W)
        weight = 1 - torch.maximum(after.masks[:, k + 1], before.masks[:, k + 1])
        outside.append((change * weight).sum((1, 2)) / change.sum((1, 2)).clamp(min=1e-12))
        by_chance.append(weight.mean((1, 2)))
    means = {"outside": _mean(outside), "outside_by_chance": _mean(by_chance)}
    return {"experiment": "one part", "offset_px": offset_px, **means}


def _measure_rotation(G, scene, before, angle_deg, parts):
    """One part's points turned about their center: soft IoU (sum of minima / sum of maxima) of the part's masks.

    iou_turned     new mask and old mask turned by the same angle: high if the mask follows
    iou_still      new and old mask: high if it does not
    iou_round      old mask turned and not: near 1 for a round mask, of which nobody can say whether it turned
    extent_change  mean |new / old - 1| of the extent, which is measured along the axes and so changes with the angle
    Interpolation blurs what is turned: for masks of a few pixels iou_turned stays under 1 even where they follow.
    """
    values = {"iou_turned": [], "iou_still": [], "iou_round": [], "extent_change": []}
    for k in parts:
        points = torch.stack([scene.points[:, k], rotated(scene.points[:, k], angle_deg)], dim=1)
        centers, extent, _ = geometry.part_shape(points, "cone")  # (B, 2, ...): before and after
        new = G.make_masks(_with_part(scene, k, points[:, 1]).points, scene.w)[2][:, k + 1]
        old = before.masks[:, k + 1]
        turned, seen = turn_maps(old, centers[:, :1], angle_deg)
        for name, a, b in (("turned", new, turned), ("still", new, old), ("round", turned, old)):
            union = (torch.maximum(a, b) * seen).sum((1, 2)).clamp(min=1e-12)
            values[f"iou_{name}"].append((torch.minimum(a, b) * seen).sum((1, 2)) / union)
        values["extent_change"].append((extent[:, 1] / extent[:, 0] - 1).abs())
    return {"experiment": "rotation", "angle_deg": angle_deg, **{name: _mean(v) for name, v in values.items()}}


def _measure_background(G, scene, before, offset_px):
    """The background moved: mean absolute change of the image where M_bg < 0.01, and elsewhere.

    None where there are no such pixels; foreground_share is how many there are.
    """
    position = moved(scene.background_position, offset_px, G.cfg.image_size)
    change = (paint(G, scene._replace(background_position=position)).image - before.image).abs().mean(dim=1)
    inside = before.masks[:, 0] < FOREGROUND
    values = {"foreground_share": inside.float().mean().item()}
    for name, where in (("change_foreground", inside), ("change_elsewhere", ~inside)):
        values[name] = change[where].mean().item() if where.any() else None
    return {"experiment": "background", "offset_px": offset_px, **values}


def moved(points, offset_px, image_size):
    """Points moved to the right by pixels of the final grid, which are 2 / (S - 1) apart."""
    return points + points.new_tensor([2 * offset_px / (image_size - 1), 0.0])


def rotated(points, angle_deg, center=None):
    """Points (B, n, 2) turned about a center (B, 1, 2), their own where None is given.

    The turn is from the x towards the y axis (clockwise: y points down).
    """
    center = points.mean(dim=1, keepdim=True) if center is None else center
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return (points - center) @ points.new_tensor([[c, s], [-s, c]]) + center


def turn_maps(maps, centers, angle_deg):
    """Maps (B, H, W) turned about centers (B, 1, 2), and 1 where what they show was inside before, both (B, H, W)."""
    grid = geometry.pixel_grid(maps.shape[-1], device=maps.device).flatten(0, 1)[None]  # (1, H W, 2)
    source = rotated(grid, -angle_deg, centers).unflatten(1, maps.shape[1:])  # (B, H, W, 2): the inverse turn
    # align_corners: -1 and 1 on the outer pixel centers, as in geometry
    turned = F.grid_sample(maps[:, None], source, mode="bilinear", align_corners=True)[:, 0]
    return turned, (source.abs() <= 1).all(dim=-1).float()


def psnr_db(a, b, peak):
    """Peak signal-to-noise ratio of two maps in dB, at most 120, as equal maps have (float32 ends about there)."""
    mse = (a - b).square().mean().item() / peak**2
    return -10 * math.log10(max(mse, 1e-12))


@torch.inference_mode()
def margin_errors(G, margins, seed=0):
    """How far into the masks of one picture zero padding reaches with these margins: list of records.

    error       largest difference from the masks with a margin 10 wider than the widest
    reached_px  width of the border in which masks differ by more than 1e-4; 0 where the margin is wide enough
    """
    scene, masks, G = make_scene(G, 1, seed), {}, copy.deepcopy(G)
    for margin in (wide := max(margins) + 10, *margins):
        G.cfg = G.cfg.model_copy(update={"margin": margin})
        masks[margin] = paint(G, scene).masks
    from_left = torch.arange(1, G.cfg.image_size + 1, device=G.w_const.device)
    from_side = torch.minimum(from_left, from_left.flip(0))
    depth_px = torch.minimum(from_side[:, None], from_side)  # (H, W), 1 at the border
    errors = {margin: (masks[margin] - masks[wide]).abs().amax(dim=(0, 1)) for margin in margins}  # each (H, W)
    return [{"margin": margin, "error": error.max().item(), "reached_px": (depth_px * (error > 1e-4)).max().item()}
            for margin, error in errors.items()]


@torch.inference_mode()
def error_sheet(generators, offset_px, seed=0):
    """One row per generator: a picture, the same with all points moved, the error of its masks moved back.

    The error is the largest over the K + 1 masks, from 0 (black) to 1 (white); grey came in from outside.
    Returns (H', W', 3) uint8.
    """
    rows = []
    for G in generators:
        scene, S = make_scene(G, 1, seed), G.cfg.image_size
        before, after = paint(G, scene), paint(G, scene._replace(points=moved(scene.points, offset_px, S)))
        error = (after.masks[..., offset_px:] - before.masks[..., : S - offset_px]).abs().amax(dim=1, keepdim=True)
        rows += [before.image, after.image, F.pad(2 * error - 1, (offset_px, 0)).expand(-1, 3, -1, -1)]
    return pictures.grid(pictures.enlarge(pictures.to_uint8(torch.cat(rows)), 160), 3)


def _with_part(scene, k, points):
    """The scene with other points (B, n_per, 2) for part k."""
    all_points = scene.points.clone()
    all_points[:, k] = points
    return scene._replace(points=all_points)


def _recalibrated(G):
    return averaging.recalibrate_batchnorm(G, G.cfg.model_copy(update={"batch_size": 4}), n_batches=2)


def _mean(batches):
    return torch.cat(batches).mean().item()


def _check(name, value, fine, allowed):
    if not fine:
        raise UserError(f"{name}: {value!r} is not allowed; it should be {allowed}.")
