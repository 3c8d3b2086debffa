"""A generated picture that can be taken apart: its scene, the edits, and what is shown of it, without widgets."""

import json
import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ganseg import devices, files, part_names, runs
from ganseg.errors import UserError
from ganseg.figures import pictures
from ganseg.model import loading
from ganseg.model.generator import Scene

LAYERS = ("picture", "masks", "heatmaps", "foreground", "background")
SAMPLED = {  # what can be drawn anew alone -> fields of Scene
    "points": ["points"], "appearance": ["w"], "background": ["background_style", "background_position"],
}  # fmt: skip
SHAPE = ("n_parts", "n_per", "embedding_dim")  # what must agree between a saved scene and a model
GREY = 221  # of what no shown part holds
MAX_UNDO = 500
PAGE_PX = 256  # smallest width of pictures for people


class Painted(NamedTuple):
    """What a scene looks like; `image` is None as long as only level 2 has been computed."""

    heatmaps: np.ndarray  # (K, H, W) in [0, 1]
    masks: np.ndarray  # (K + 1, H, W), background first
    image: np.ndarray | None  # (H, W, 3) uint8


def open_inspector(run, seed=0):
    """The Inspector of a run (a Run, or its name as for runs.find) with the generator its segmenter learned from."""
    run = run if isinstance(run, runs.Run) else runs.find(str(run))
    G = loading.load_generator(run, run.cfg.distill_generator, devices.choose_device(run.cfg.device))
    return Inspector(G, seed, run.label, run.folder, part_names.read_parts(run))


class Inspector:
    """One generated picture and its edits. Parts are numbered 1..K, as in masks, where 0 is the background.

    `scene` is a Scene without batch. Edits of one `gesture` (any value but None), one after another, are a single
    step for undo. Those that say so start from where the gesture began, so that a slider can go back. An edit that
    cannot be made raises UserError.
    """

    def __init__(self, G, seed=0, label="", folder=None, taken_for=None):
        self.G, self.cfg, self.label, self.folder = G.eval(), G.cfg, label, folder
        self.taken_for = taken_for or part_names.make_parts({}, G.cfg.n_parts)  # for names and colours
        self.seed, self._past, self._undone, self._gesture, self._painted = seed, [], [], None, (None, None)
        self.scene = self.sample(seed)

    @torch.inference_mode()
    def sample(self, seed):
        """The Scene of the first picture of sampling.sample(G, n, seed) for n = 1."""
        latents = self.G.sample_latents(1, devices.rng(seed, "samples"))
        return self.G.make_scene(latents).map(lambda field: field[0].float().cpu())

    # Edits

    def new_sample(self, seed):
        """Another sample, or the same one as it was drawn; undo takes the picture back."""
        self.seed = seed
        self._edit(self.sample(seed))

    def undo(self):
        """Take the last edit back; False where there is none."""
        return self._go(self._past, self._undone)

    def redo(self):
        """Make the edit again that undo took back last; False where there is none, as after another edit."""
        return self._go(self._undone, self._past)

    def _go(self, scenes, back):
        if scenes:
            back.append(self.scene)
            self.scene, self._gesture = scenes.pop(), None
            return True
        return False

    def as_drawn(self):
        """An Inspector of the sample before all edits."""
        return Inspector(self.G, self.seed, self.label, self.folder, self.taken_for)

    def set_points(self, points, gesture=None):
        """All points at once, (K, n_per, 2), as they come from dragging."""
        self._edit(self.scene._replace(points=_as_tensor("points", points, self.scene.points.shape)), gesture)

    def has_points(self, points):
        """Whether these are the points, up to float32."""
        now = self.scene.points
        return np.shape(points) == now.shape and torch.allclose(torch.tensor(points), now, rtol=0, atol=1e-6)

    def turn(self, part, degrees=0.0, scale=1.0, gesture=None):
        """Rotate (clockwise as seen) and scale a part about its centre, from where the gesture began."""
        points, k = self._start(gesture).points.clone(), self._index(part)
        center = points[k].mean(dim=0)
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        points[k] = center + scale * (points[k] - center) @ torch.tensor([[cos, sin], [-sin, cos]])
        self._edit(self.scene._replace(points=points), gesture)

    def reset_part(self, part):
        """Points and appearance of one part as the sample was drawn."""
        self._take(part, self.seed, "points", "w")

    def take_appearance(self, part, seed):
        """Give one part the appearance it has in another sample."""
        self._take(part, seed, "w")

    def _take(self, part, seed, *fields):
        other, k = self.sample(seed), self._index(part)
        taken = {name: getattr(self.scene, name).clone() for name in fields}
        for name, value in taken.items():
            value[k] = getattr(other, name)[k]
        self._edit(self.scene._replace(**taken))

    def resample(self, what, seed):
        """Take points, appearance or background, and nothing else, from another sample."""
        if what not in SAMPLED:
            raise UserError(f"resample: {what!r} is not among {', '.join(SAMPLED)}.")
        other = self.sample(seed)
        self._edit(self.scene._replace(**{field: getattr(other, field) for field in SAMPLED[what]}))

    def move_background(self, x, y, gesture=None):
        self._edit(self.scene._replace(background_position=torch.tensor([x, y], dtype=torch.float32)), gesture)

    def interpolate(self, seed, t, gesture=None):
        """Go the share t in [0, 1] of the way from where the gesture began to another sample, in every field."""
        self._edit(_between(self._start(gesture), self.sample(seed), t), gesture)

    def _start(self, gesture):
        return self._past[-1] if gesture is not None and gesture == self._gesture else self.scene

    def _edit(self, scene, gesture=None):
        if gesture is None or gesture != self._gesture:
            self._past = [*self._past, self.scene][-MAX_UNDO:]
        self._undone = []
        self.scene, self._gesture = scene, gesture

    def _index(self, part):
        if part not in range(1, self.cfg.n_parts + 1):
            raise UserError(f"part: {part!r} is not there; the model has the parts 1 to {self.cfg.n_parts}.")
        return part - 1

    # What is shown

    @torch.inference_mode()
    def paint(self, only_masks=False):
        """The scene as Painted, computed only once; only_masks leaves the picture out if it is new.

        On a CPU a large model makes the masks in a third of the time.
        """
        scene, painted = self._painted
        with devices.few_threads(self.cfg.image_size):
            if scene is not self.scene:
                points, w = (field[None].to(self.G.w_const.device) for field in (self.scene.points, self.scene.w))
                _, *maps = self.G.make_masks(points, w)  # heatmaps, masks
                painted = Painted(*(of_one[0].float().cpu().numpy() for of_one in maps), None)
            if painted.image is None and not only_masks:
                painted = painted._replace(image=self._blend(self.scene, torch.from_numpy(painted.masks)[None]))
        self._painted = (self.scene, painted)
        return painted

    def layer(self, name, parts=None, opacity=1.0):
        """One layer of the picture: (H, W, 3) uint8.

        name     picture     as generated
                 masks       colours of the parts, mixed as the soft masks are; grey where no shown part is
                 heatmaps    the colour of the strongest heatmap, fading into grey
                 foreground  the picture where the shown parts are, grey elsewhere, mixed by the soft masks
                 background  what the model paints with no part anywhere: mask channel 0 set to 1
        parts    which parts are shown, from 1; None: all that are not hidden
        opacity  of masks and heatmaps over the picture
        Until the picture is there, masks and heatmaps stand alone, and masks stand in for the other layers.
        """
        painted = self._painted[1] if self._painted[0] is self.scene else self.paint()
        shown = np.isin(self.parts, self.seen if parts is None else parts)[:, None, None]
        masks, colors = painted.masks[1:] * shown, self.taken_for.colors.astype(np.float32)
        if name == "heatmaps":
            heat = painted.heatmaps * shown
            strongest, weight = heat.argmax(axis=0), heat.max(axis=0)[..., None]
            mixed = weight * colors[strongest] + (1 - weight) * GREY
        else:
            mixed = np.einsum("khw,kc->hwc", masks, colors) + (1 - masks.sum(axis=0))[..., None] * GREY
        if painted.image is None:
            return _uint8(mixed)
        if name in ("masks", "heatmaps"):
            return _uint8(opacity * mixed + (1 - opacity) * painted.image)
        if name == "foreground":
            weight = masks.sum(axis=0)[..., None]
            return _uint8(weight * painted.image + (1 - weight) * GREY)
        return painted.image if name == "picture" else self._without_parts()

    @property
    def parts(self):
        return list(range(1, self.cfg.n_parts + 1))

    @property
    def seen(self):
        """The parts that are not hidden."""
        return [k for k in self.parts if self.taken_for.lookup[k]]

    @property
    def labels(self):
        """What the part of each pixel is taken for: (H, W) uint8, 0 background."""
        return self.taken_for.apply(self.paint(only_masks=True).masks.argmax(axis=0).astype(np.uint8))

    def sheet(self, layers=LAYERS[:4], parts=None, smallest=PAGE_PX, points=True):
        """Layers side by side, enlarged, each with the parts' numbers and, if wanted, points: (H', W', 3) uint8."""
        there, sides = np.isin(self.parts, self.seen if parts is None else parts), []
        shown = np.where(there[:, None, None], self.scene.points.numpy(), np.nan)[None]
        for name in layers:
            side = pictures.enlarge(self.layer(name, parts)[None], smallest)
            if name in LAYERS[:3]:
                colors = self.taken_for.colors
                side = pictures.draw_points(side, shown, max(2, side.shape[2] // 80), colors) if points else side
                side = pictures.number_parts(side[0], self.scene.centers.numpy(), there, colors)[None]
            sides.append(side)
        return pictures.grid(np.concatenate(sides), len(sides), gap=4)

    def _blend(self, scene, masks):
        """Level 3 for masks (1, K + 1, H, W): (H, W, 3) uint8."""
        device = self.G.w_const.device
        given = (scene.centers, scene.w, scene.background_style, scene.background_position)
        image, _, _ = self.G.blend(masks.to(device), *(field[None].to(device) for field in given))
        return pictures.to_uint8(image)[0]

    @torch.inference_mode()
    def _without_parts(self):
        S = self.cfg.image_size
        masks = torch.zeros(1, self.cfg.n_parts + 1, S, S)
        masks[:, 0] = 1
        with devices.few_threads(S):
            return self._blend(self.scene, masks)

    # Texts and files

    def to_json(self):
        """The scene as text that from_json of another kernel reads; float32 comes back exactly."""
        shape = {name: getattr(self.cfg, name) for name in SHAPE}
        values = {name: value.double().tolist() for name, value in self.scene._asdict().items()}
        return json.dumps({"run": self.label, "seed": self.seed, **shape, **values})

    def from_json(self, text):
        """Take the scene from a text by to_json; UserError for other texts and for models of another shape."""
        try:
            saved = json.loads(text)
            seed, theirs = int(saved["seed"]), [saved[name] for name in SHAPE]
            values = [saved[name] for name in Scene._fields]
        except (ValueError, KeyError, TypeError):
            raise UserError("state: this text is not a saved state; paste all of what `State as text` gives.") from None
        ours = [getattr(self.cfg, name) for name in SHAPE]
        if theirs != ours:
            a, b = (", ".join(map("{} {}".format, SHAPE, of)) for of in (theirs, ours))
            raise UserError(f"state: it has {a} and this model has {b}; open it with a run of its own shape.")
        self._edit(Scene(*map(_as_tensor, Scene._fields, values, [now.shape for now in self.scene])))
        self.seed = seed

    def save_gif(self, path, seed, n_frames=16, frame_ms=80):
        """Write the way from the picture as it is to another sample and back, picture and masks side by side."""
        way, end, frames = Inspector(self.G, self.seed, taken_for=self.taken_for), self.sample(seed), []
        for t in np.linspace(0, 1, n_frames).tolist():
            way.scene = _between(self.scene, end, t)
            way.paint()
            frames.append(Image.fromarray(way.sheet(("picture", "masks"), smallest=128, points=False)))
        frames += frames[-2:0:-1]
        with files.whole(path, "wb") as file:
            frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=frame_ms, loop=0)


def _as_tensor(name, values, shape):
    """Numbers as a float tensor of a shape; UserError where they are not."""
    try:
        tensor = torch.as_tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.tensor(math.nan)
    if tensor.shape != shape or not tensor.isfinite().all():
        raise UserError(f"{name}: should be finite numbers of shape {tuple(shape)}.")
    return tensor


def _between(first, second, t):
    return Scene(*(a.lerp(b, t) for a, b in zip(first, second, strict=True)))


def _uint8(picture):
    return (picture + 0.5).clip(0, 255).astype(np.uint8)
