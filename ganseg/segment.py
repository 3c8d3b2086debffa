"""Parts of anybody's photos, with a run's segmenter: `segment.load("lfw/k8").segment("photo.jpg")`."""

import contextlib
import functools
import itertools
import os
import time
import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

from ganseg import devices, files, part_names, runs
from ganseg.datasets import decode
from ganseg.datasets.source import list_pictures, printable
from ganseg.errors import UserError
from ganseg.figures import exports, pictures, report, tables
from ganseg.model import exported, loading
from ganseg.model.geometry import to_float

BAND_PX = 2**20  # photos are labelled in bands of rows: the logits of 50 megapixels would take gigabytes
ENDS = ("_parts.png", "_overlay.jpg")  # of the files made of a photo
COLUMNS = ["photo", "mask", "part", "name", "area_px", "area_share", "centroid_x_px", "centroid_y_px", "confidence"]


def load(run, device="auto"):
    """The newest segmenter of a run (a Run, or its folder, DATASET/NAME or NAME) as a PhotoSegmenter.

    run may also be a folder of `ganseg export model`, or hf:OWNER/NAME of the Hugging Face hub. Raises UserError where
    there is no such run or it has no segmenter.
    """
    device = devices.choose_device(device)
    if not isinstance(run, runs.Run):
        if folder := exported.find(run):
            run, state, path = exported.read(folder)
            network = loading.ready(loading.segmenter_of(run.cfg, state, path), device)
            return PhotoSegmenter(run.cfg, network, device, run)
        run = runs.find(str(run))
    return PhotoSegmenter(run.cfg, loading.load_segmenter(run, device=device), device, run)


class PhotoSegmenter:
    """A trained segmenter for photos of any size; `cfg` is its run's config, `run` the Run, where it is of one."""

    def __init__(self, cfg, network, device, run=None):
        self.cfg, self.device, self.network, self.run = cfg, device, network, run

    @property
    def parts(self):
        """What its parts are taken for, see part_names: `model.parts.apply(model.segment(photo))`."""
        return part_names.read_parts(self.run) if self.run else part_names.make_parts({}, self.cfg.n_parts)

    def segment(self, photo):
        """The parts of one photo.

        photo  a path, bytes of a file, a PIL image (not turned by its EXIF), or an array (H, W), (H, W, 1), (H, W, 3)
               or (H, W, 4), uint8, uint16 or float in [0, 1]; what is transparent is over white
        Returns uint8 (H, W) at the photo's own upright size: 0 background, parts 1..K. With crop "center" all outside
        the middle square is background. Raises UserError when the photo cannot be read.
        """
        try:
            square, size = decode.read_square(photo, self.cfg.image_size, self.cfg.crop)
        except ValueError as error:
            name = photo if isinstance(photo, str | os.PathLike) else f"the given {type(photo).__name__}"
            raise UserError(f"photo: {name} cannot be read: {error}.") from None
        return self.labels(self.logits(square[None])[0], size)

    def square(self, photo):
        """A photo, as of segment, as in training: (S, S, 3) uint8."""
        return decode.read_square(photo, self.cfg.image_size, self.cfg.crop)[0]

    @torch.inference_mode()
    def logits(self, squares):
        """(B, S, S, 3) uint8 -> (B, K + 1, S, S) on the CPU."""
        images = torch.tensor(squares, device=self.device).permute(0, 3, 1, 2)
        return self.network(to_float(images)).float().cpu()

    def confidence(self, logits, size, parts=None):
        """How sure the segmenter is of each part of a photo, as of labels: (K,), NaN where the part is absent.

        The mean of the largest probability over the pixels of the square where that is the part's, or of a part that
        `parts`, of part_names, makes it.
        """
        x, y, across, down = decode.photo_box(size, self.cfg.image_size, self.cfg.crop)
        largest, labels = logits[:, y : y + down, x : x + across].softmax(dim=0).max(dim=0)
        labels = labels if parts is None else torch.from_numpy(parts.apply(labels))
        return np.array([largest[labels == k].mean().item() for k in range(1, self.cfg.n_parts + 1)])

    def measure(self, labels):
        """measure_parts of a photo's labels."""
        return measure_parts(labels, self.cfg.n_parts)

    def labels(self, logits, size):
        """Logits (K + 1, S, S) of a photo's square -> labels uint8 (H, W) of the photo of size (W, H)."""
        W, H = size
        x, y, across, down = decode.photo_box(size, self.cfg.image_size, self.cfg.crop)
        logits = logits[:, y : y + down, x : x + across]
        w, h = (min(size), min(size)) if self.cfg.crop == "center" else size
        left, top = (W - w) // 2, (H - h) // 2
        labels = np.zeros((H, W), np.uint8)
        labels[top : top + h, left : left + w] = _resized_labels(logits, w, h)
        return labels


def segment_photos(paths, run, out, device="auto", batch_size=16, formats=()):
    """Segment many photos into a folder; the command `ganseg segment PHOTOS --run R --out DIR`.

    paths       a folder, zip or photo, or a list of them; run and device as for load, or run is a PhotoSegmenter
    out         folder for <name>_parts.png (pixel value = label), <name>_overlay.jpg and parts.csv (COLUMNS,
                in pixels of the photo, (0, 0) upper left; mask is the path of <name>_parts.png within out;
                confidence is that of PhotoSegmenter.confidence, low where a photo should be looked at).
                Subfolders are kept. <name> is the photo's without extension; where that is taken, with extension;
                where that is taken too, with a number. In the table a name that begins like a formula of a
                spreadsheet, as "=a.jpg", has a ' in front.
    batch_size  squares at a time; of the photos themselves one at a time is in memory
    formats     names of exports.FORMATS: further folders in out, for other tools
    Parts are taken for what parts.yaml of the run says. Returns [(name, reason)] of the photos that cannot be read.
    Raises UserError when none can, and at the end, with the others and parts.csv written, where files of one cannot be.
    """
    model = run if isinstance(run, PhotoSegmenter) else load(run, device)
    paths = [Path(os.path.expanduser(p)) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    out = Path(os.path.expanduser(out))
    listing, skipped, unwritten, rows, parts = _list_photos(paths, out), [], [], [], model.parts
    stems = _output_names(names := [name for name, _ in listing])
    _keep_inputs(paths, out, stems)
    with files.writing(out):
        out.mkdir(parents=True, exist_ok=True)
    start = printed = time.monotonic()
    whose = model.run.label if model.run else "ganseg"
    with exports.exporting(out, formats, list(zip(names, stems, strict=True)), parts, whose) as export:
        for i, photo, labels, confidence in _segment_all(model, listing, batch_size, skipped, parts):
            reason = _save_parts(photo, labels, parts, out / stems[i], functools.partial(export, i, labels))
            if reason:
                unwritten.append((names[i], reason))
                if reason in files.FULL.values():
                    break
                continue
            rows += [[names[i], stems[i] + ENDS[0], *row] for row in _rows(labels, confidence, parts)]
            if time.monotonic() - printed > decode.PROGRESS_EVERY_S:
                printed = time.monotonic()
                print(f"{i + 1:,} of {len(listing):,} photos in {printed - start:.0f} s", flush=True)
        done = f"{len(rows) // len(parts.numbers):,} of {len(listing):,} photos"
        _finish(model.run, out, rows, skipped, unwritten, done, formats, time.monotonic() - start)
    return skipped


def _finish(run, out, rows, skipped, unwritten, done, formats, time_s):
    """Say how far the run can be trusted and what is left out, and write the table of the others.

    Raises UserError where a photo's files are not written.
    """
    if not rows and not unwritten:
        raise UserError("photos: none of {:,} can be read; {}: {}.".format(len(skipped), *skipped[0]))
    print(f"segmented {done} in {time_s:.0f} s: see {out}")
    for sentence in report.without_labels(run) if run else []:
        print(f"{run.label}: {sentence}")
    for what, left_out in (("read", skipped), ("written", unwritten)):
        for name, reason in left_out:
            print(f"left out, cannot be {what}: {name}: {reason}")
    tables.save_csv(pd.DataFrame(rows, columns=COLUMNS), out / "parts.csv", index=False)
    if unwritten:
        name, reason = unwritten[0]
        done += " only, and no export" if formats else " only"
        raise UserError(f"out: {out} holds the parts of {done}, for those of {name} cannot be written: {reason}.")


def _rows(labels, confidence, parts):
    """The rows of measure_parts that are left, with their names and the confidence, "" where the part is absent."""
    rows = zip(measure_parts(labels, len(confidence)), parts.names, confidence, strict=True)
    return [[k, name, *row, "" if c != c else f"{c:.4f}"] for (k, *row), name, c in rows if k in parts.numbers]


def measure_parts(labels, n_parts):
    """[part, area_px, area_share, x, y] of each part of labels (H, W); x and y are "" where it is absent."""
    rows = []
    for k in range(1, n_parts + 1):
        is_part = labels == k
        area = np.count_nonzero(is_part)
        x, y = (is_part.sum(axis=i) @ np.arange(labels.shape[1 - i]) / max(area, 1) for i in (0, 1))
        rows.append([k, area, f"{area / labels.size:.6f}", *([f"{x:.2f}", f"{y:.2f}"] if area else ["", ""])])
    return rows


def _resized_labels(logits, W, H):
    """Argmax of logits (C, h, w), resized bilinearly: uint8 (H, W)."""
    S = logits.shape[-2]
    wide = F.interpolate(logits[None], size=(S, W), mode="bilinear", align_corners=False)[0]
    y = ((torch.arange(H) + 0.5) * S / H - 0.5).clamp(0, S - 1)
    above, below = y.floor().long(), y.ceil().long()
    bands = torch.arange(H).split(max(1, BAND_PX // W))
    # lerp of (C, rows, W) with weights (rows, 1). max finds the largest in a quarter of argmax's time.
    labels = [torch.lerp(wide[:, above[i]], wide[:, below[i]], (y % 1)[i, None]).max(dim=0).indices for i in bands]
    return torch.cat([band.byte() for band in labels]).numpy()


def _list_photos(paths, out):
    """(name, opener) of all photos; of several paths their own names come first, and more of each if two are alike."""
    if str(out).startswith("~"):  # expanduser leaves ~nobody as it is
        raise UserError(f"out: {out} names the folder of a user who is not there; name another folder.")
    if os.path.isfile(out) or any(out.resolve().is_relative_to(path.resolve()) for path in paths):
        raise UserError(f"out: {out} is a file or among the photos; name another folder.")
    whole = list(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))  # each once
    if len(whole) == 1:
        return list_pictures(paths[0], called="photos")
    above = os.path.commonpath(whole)
    is_clear = len({path.name for path in whole}) == len(whole)
    listing = []
    for path in whole:
        own = printable(path.name if is_clear else path.relative_to(above).as_posix())
        for name, opener in list_pictures(path, called="photos"):
            listing.append((own if path.is_file() and name == printable(path.name) else f"{own}/{name}", opener))
    return listing


def _keep_inputs(paths, out, stems):
    """Raise UserError where a photo would be overwritten by what another one gives."""
    given = {path.resolve() for path in paths}
    made = {(out / f"{stem}{end}").resolve() for stem in stems for end in ENDS}
    if lost := sorted(given & made):
        raise UserError(f"out: {lost[0]} is a photo and would be overwritten; name another folder with --out.")


def _output_names(names):
    """A path within the output folder for each photo, none twice, whatever a zip calls its members."""
    taken, outputs = set(), []
    for name in names:
        path = PurePosixPath(*(part for part in PurePosixPath(name).parts if part.strip("/") not in ("", "..")))
        numbered = (f"{path}-{i}" for i in itertools.count(2))
        candidates = itertools.chain([str(path.with_suffix("")), str(path)], numbered)
        outputs.append(next(c for c in candidates if _folded(c) not in taken))
        taken.add(_folded(outputs[-1]))
    return outputs


def _folded(name):
    """What names have in common that are one on a Mac: A and a, and a letter with its accent in one code or two."""
    return unicodedata.normalize("NFC", name.casefold())


def _segment_all(model, listing, batch_size, skipped, parts):
    """Yield (position, photo, labels, confidence) of the photos that can be read. The others go to `skipped`."""
    for start in range(0, len(listing), batch_size):
        batch = range(start, min(start + batch_size, len(listing)))
        # A photo is decoded again, at its own size, when its turn comes: only the squares are kept
        squares = {i: _read(listing[i], model.square, skipped) for i in batch}
        squares = {i: square for i, square in squares.items() if square is not None}
        if squares:
            for i, logits in zip(squares, model.logits(np.stack(list(squares.values()))), strict=True):
                photo = _read(listing[i], decode.open_upright, skipped)
                if photo is not None:
                    labels = parts.apply(model.labels(logits, photo.size))
                    yield i, photo, labels, model.confidence(logits, photo.size, parts)


def _read(file, reader, skipped):
    """What a reader makes of a (name, opener); None, and a line in `skipped`, where it cannot be read."""
    name, opener = file
    try:
        return reader(opener())
    except Exception as error:  # a damaged zip member or file raises nearly anything
        skipped.append((name, files.one_line(error)))


def _save_parts(photo, labels, parts, stem, export):
    """Write the two files of a photo and its exports, or none; why they cannot be written, or None."""
    colored = pictures.indexed(labels, parts.colors)
    painted = Image.blend(photo, colored.convert("RGB"), 0.6)  # in less memory than by numpy
    mask, overlay = (f"{stem}{end}" for end in ENDS)
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        colored.save(mask)
        painted = Image.composite(painted, photo, Image.fromarray(labels > 0))
        pictures.outlined(painted, labels).save(overlay, quality=90)
        export()
    except OSError as error:
        for path in (mask, overlay):
            with contextlib.suppress(OSError):
                os.unlink(path)
        return files.NOT_WRITABLE.get(error.errno) or files.one_line(error)
