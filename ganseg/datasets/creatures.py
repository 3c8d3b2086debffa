"""Drawn creatures: an embedded data set with exact part labels and keypoints, nothing to download.

A creature has a head, a torso, two arms and a pair of legs, and is posed, placed and coloured at random on
a textured background. The background uses the colours of the parts, and is brighter than the creature in half
of the pictures and darker in the other half, so colour alone tells neither the parts nor the foreground.
Shapes are signed distances on continuous coordinates, so the same creature can be drawn at any size.
"""

from typing import NamedTuple

import numpy as np
import torch

PART_NAMES = ("head", "torso", "left_arm", "right_arm", "legs")  # left and right as seen in the picture
KEYPOINT_NAMES = ("head", "torso", "left_arm", "left_hand", "right_arm", "right_hand",
                  "left_foot", "right_foot")
SPLITS = ("train", "test")
SIDES = (("left", -1, 0), ("right", 1, 1))  # name, sign of x, place in the parameter
PIXELS_PER_CHUNK = 2**17  # keeps the planes of a chunk near the cache

# A picture's parameters are uniform in these ranges, name: (how many, low, high).
# Lengths are in half picture widths, angles in radians, hues in turns. Order fixes the draws: add at the end.
RANGES = {
    "scale": (1, 0.94, 1.26),
    "shift": (2, -1.0, 1.0),  # of the room that the scale leaves
    "turn": (1, -0.2, 0.2),
    "nod": (1, -0.3, 0.3),
    "lift": (2, -0.75, 0.65),  # arm against the horizontal, up to down
    "arm": (2, 0.3, 0.44),
    "leg": (2, 0.18, 0.28),
    "stride": (2, -0.05, 0.45),  # leg against the vertical, outwards
    "girth": (3, 0.92, 1.1),  # head, torso, limbs
    "ear": (1, 0.06, 0.2),
    "hue": (5, -0.18, 0.18),  # around PART_HUES
    "saturation": (5, 0.4, 0.8),
    "value": (5, -0.15, 0.15),  # around the creature's tone
    "bright": (1, 0.0, 1.0),  # above 0.5: bright creature on a dark background
    "ground_hue": (2, 0.0, 1.0),
    "ground_saturation": (2, 0.3, 0.7),
    "ground_value": (2, -0.14, 0.14),
    "wave_angle": (4, 0.0, np.pi),
    "wave_phase": (4, 0.0, 2 * np.pi),
    "wave_length": (4, 0.7, 2.2),
}
PART_HUES = (0.06, 0.58, 0.33, 0.83, 0.14)  # orange, blue, green, violet, yellow
TONES = (0.53, 0.83)  # mean brightness of the darker and the brighter one of creature and background


class Drawing(NamedTuple):
    """N pictures with what is known about them."""

    images: torch.Tensor  # (N, 3, S, S) uint8
    labels: torch.Tensor  # (N, S, S) uint8 in 0..5
    keypoints: torch.Tensor  # (N, L, 2) float32, (x, y) in [-1, 1]


def draw(indices, split, seed, image_size):
    """Draw the pictures with the given indices of an endless split.

    indices     integers >= 0; a picture depends on its own index, not on the others
    split       "train" or "test": disjoint random streams
    image_size  side S in pixels; changes the resolution only
    Returns a Drawing; label k + 1 is PART_NAMES[k], 0 is background. -1 and 1 are the outer pixel centres.
    Raises ValueError for another split.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    indices = [int(index) for index in indices]
    step = max(1, PIXELS_PER_CHUNK // image_size**2)
    chunks = [indices[start:start + step] for start in range(0, max(1, len(indices)), step)]
    drawn = [_render(_parameters(chunk, SPLITS.index(split), seed), image_size) for chunk in chunks]
    return Drawing(*(torch.cat(field) for field in zip(*drawn, strict=True)))


def _parameters(indices, split_id, seed):
    """One random stream per picture, cut into the named ranges: name -> (how many, N, 1)."""
    counts = [many for many, _, _ in RANGES.values()]
    rows = [np.random.default_rng([seed, split_id, index]).random(sum(counts)) for index in indices]
    uniform = torch.from_numpy(np.float32(rows).reshape(len(rows), sum(counts)).T.copy())
    pieces = uniform[:, :, None].split(counts)
    return {name: low + (high - low) * piece
            for (name, (_, low, high)), piece in zip(RANGES.items(), pieces, strict=True)}


def _render(p, image_size):
    """Paint background, parts and face over each other; edges are antialiased by their signed distance."""
    line = torch.linspace(-1, 1, image_size)
    grid_y, grid_x = (plane.reshape(1, -1) for plane in torch.meshgrid(line, line, indexing="ij"))
    (scale,), (turn,) = p["scale"], p["turn"]
    shift_x, shift_y = p["shift"] * (1.02 - 0.8 * scale).clamp(min=0.04)  # keeps it inside, or nearly so
    x, y = _rotate((grid_x - shift_x) / scale, (grid_y - shift_y) / scale, -turn)  # (N, S * S), its own frame
    pixel = 2 / (image_size - 1) / scale
    joints = _skeleton(p)

    images = _ground(p, grid_x, grid_y)
    labels = torch.zeros(x.shape, dtype=torch.uint8)
    for label, distance, shade in _shapes(p, joints, x, y):
        rim = 0.75 + 0.25 * _inside(distance + 0.02, 0.04)  # a thin, darker outline inside the part
        images.lerp_(_part_colour(p, label) * (shade * rim)[:, :, None], _inside(distance, pixel)[:, :, None])
        labels[distance < 0] = label
    for distance, grey in _face(*_head_frame(p, joints, x, y)):
        images.lerp_(torch.full_like(images, grey), _inside(distance, pixel)[:, :, None])

    key_x, key_y = (torch.cat([joints[name][axis] for name in KEYPOINT_NAMES], dim=1) for axis in (0, 1))
    key_x, key_y = _rotate(key_x, key_y, turn)
    keypoints = torch.stack([scale * key_x + shift_x, scale * key_y + shift_y], dim=2)  # (N, L, 2)
    images = (255 * images.clamp(0, 1)).round().to(torch.uint8).reshape(-1, image_size, image_size, 3)
    return images.permute(0, 3, 1, 2).contiguous(), labels.reshape(-1, image_size, image_size), keypoints


def _skeleton(p):
    """Joints in the creature's frame, y down: name -> (x, y), each (N, 1)."""
    nod, head_girth = p["nod"][0], p["girth"][0]
    zero = torch.zeros_like(nod)
    neck = (zero, zero - 0.16)
    joints = {"head": _reach(neck, 0.23 * head_girth, nod - np.pi / 2), "torso": (zero, zero + 0.1)}
    for side, sign, i in SIDES:
        shoulder, hip = (zero + 0.2 * sign, zero + 0.02), (zero + 0.13 * sign, zero + 0.3)
        angle = p["lift"][i] if sign > 0 else np.pi - p["lift"][i]
        joints[f"{side}_shoulder"], joints[f"{side}_hip"] = shoulder, hip
        joints[f"{side}_arm"] = _reach(shoulder, 0.5 * p["arm"][i], angle)
        joints[f"{side}_hand"] = _reach(shoulder, p["arm"][i], angle)
        joints[f"{side}_foot"] = _reach(hip, p["leg"][i], np.pi / 2 - sign * p["stride"][i])
    return joints


def _shapes(p, joints, x, y):
    """Yield the parts from back to front: label, signed distance and brightness factor, both (N, S * S)."""
    head_girth, torso_girth, limb_girth = p["girth"]
    radii = 0.13 * limb_girth, 0.16 * limb_girth
    legs = [_capsule(x, y, joints[f"{side}_hip"], joints[f"{side}_foot"], *radii) for side, _, _ in SIDES]
    yield 5, torch.minimum(legs[0][0], legs[1][0]), 1.1 - 0.3 * torch.maximum(legs[0][1], legs[1][1])
    for side, _, i in SIDES:
        ends = joints[f"{side}_shoulder"], joints[f"{side}_hand"]
        distance, along = _capsule(x, y, *ends, 0.125 * limb_girth, 0.19 * limb_girth)
        yield 3 + i, distance, 0.95 + 0.12 * (9.5 * along).sin()  # banded sleeves
    belly = _ellipse(x, y - 0.16, 0.16 * torso_girth, 0.17 * torso_girth)
    yield 2, _ellipse(x, y - 0.1, 0.27 * torso_girth, 0.29 * torso_girth), 0.85 + 0.35 * _inside(belly, 0.04)

    x, y = _head_frame(p, joints, x, y)
    base, tip = (0.17 * head_girth, -0.15 * head_girth), (0.21 * head_girth, -0.15 * head_girth - p["ear"][0])
    ears, _ = _capsule(x.abs(), y, base, tip, 0.1, 0.075)
    yield 1, torch.minimum(ears, _ellipse(x, y, 0.3 * head_girth, 0.25 * head_girth)), 1.05 - 0.3 * y


def _head_frame(p, joints, x, y):
    """Coordinates around the head's centre, upright with the head."""
    return _rotate(x - joints["head"][0], y - joints["head"][1], -p["nod"][0])


def _face(x, y):
    """Yield eyes, pupils, snout and nose in the head's frame: signed distance and grey level."""
    yield _ellipse(x.abs() - 0.125, y + 0.02, 0.08, 0.09), 1.0
    yield _ellipse(x.abs() - 0.115, y + 0.005, 0.045, 0.055), 0.08
    yield _ellipse(x, y - 0.135, 0.1, 0.065), 0.9
    yield _ellipse(x, y - 0.11, 0.05, 0.032), 0.12


def _part_colour(p, label):
    """(N, 1, 3), the part's own colour in each picture."""
    tone, k = torch.where(p["bright"][0] > 0.5, TONES[1], TONES[0]), label - 1
    return _hsv(PART_HUES[k] + p["hue"][k], p["saturation"][k], tone + p["value"][k])


def _ground(p, x, y):
    """Background (N, S * S, 3): two colours mixed by three slow waves, under stripes of low contrast."""
    tone = torch.where(p["bright"][0] > 0.5, TONES[0], TONES[1])
    first, second = _hsv(p["ground_hue"], p["ground_saturation"], tone + p["ground_value"])  # (N, 1, 3) each
    length = p["wave_length"] * torch.tensor([1, 1, 1, 0.3]).reshape(4, 1, 1)  # the last is the stripes
    across = x * p["wave_angle"].cos() + y * p["wave_angle"].sin()  # (4, N, S * S)
    waves = (2 * np.pi * across / length + p["wave_phase"]).sin()
    mix = torch.sigmoid(1.3 * waves[:3].sum(0))[:, :, None]
    return torch.lerp(first, second, mix) * (1 + 0.08 * waves[3])[:, :, None]


def _reach(start, length, angle):
    """The point at a distance and direction from start."""
    return start[0] + length * angle.cos(), start[1] + length * angle.sin()


def _rotate(x, y, angle):
    """Element by element: a matrix product would round differently with the size of the batch."""
    return x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()


def _ellipse(x, y, radius_x, radius_y):
    """Signed distance to an ellipse around 0, exact to first order at its edge."""
    u, v = x / radius_x, y / radius_y
    norm = torch.hypot(u, v)
    return norm * (norm - 1) / torch.hypot(u / radius_x, v / radius_y).clamp(min=1e-6)


def _capsule(x, y, start, end, radius_start, radius_end):
    """Signed distance to a tapered capsule, and the position along it in [0, 1]."""
    x, y, length_x, length_y = x - start[0], y - start[1], end[0] - start[0], end[1] - start[1]
    along = ((x * length_x + y * length_y) / (length_x**2 + length_y**2)).clamp(0, 1)
    distance = torch.hypot(x - along * length_x, y - along * length_y)
    return distance - radius_start - (radius_end - radius_start) * along, along


def _inside(distance, softness):
    """1 inside, 0 outside, with a ramp as wide as softness across the edge."""
    return (0.5 - distance / softness).clamp(0, 1)


def _hsv(hue, saturation, value):
    """HSV to RGB in [0, 1]: any shape -> (..., 3)."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6
    fall = torch.minimum(k, 4 - k).clamp(0, 1)
    return value[..., None] * (1 - saturation[..., None] * fall)
