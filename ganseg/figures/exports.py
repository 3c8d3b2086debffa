"""The parts of photos in the formats of other tools, written photo by photo, each export whole or not at all."""

import contextlib
import json
from html import escape
from pathlib import PurePosixPath
from urllib.parse import quote

import contourpy
import numpy as np
import yaml
from scipy import ndimage
from scipy.spatial import KDTree

from ganseg import config, files
from ganseg.errors import UserError
from ganseg.figures import coco, pictures

TO_IMAGES = "# Put the photos into images/ beside this file, in the subfolders that labels/ has.\n"
LONGEST_RUN = 2**16  # what Label Studio's run of 16 bits holds


@contextlib.contextmanager
def exporting(out, formats, photos, parts, whose):
    """Exports out/<format>/ of photos; yields add(i, labels), which takes labels (H, W) uint8 of photo i.

    formats      names of FORMATS
    photos       [(name, stem)]: a photo's path within its folder, and the path that its masks have within out
    parts        from part_names; labels are those that it left, and names and colours are its
    whose        the run, as the exports name it
    An export is there once the block ends without an error. One photo at a time is in memory. Raises UserError for what
    cannot be, before anything is written, and where an export cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"format: there is no {name!r}{config.nearest(name, FORMATS)}; known are "
                            f"{', '.join(FORMATS)}.")
        if (out / name).exists() or any(PurePosixPath(stem).parts[0] == name for _, stem in photos):
            raise UserError(f"out: {out / name} is there already, or a folder of the photos has its name; move it "
                            "away, or name another folder with --out.")
    # Their readers find a photo's annotations by its name without extension
    alike = [name for name, stem in photos if str(PurePosixPath(name).with_suffix("")) != stem]
    if alike and {"yolo", "voc"} & set(formats):
        raise UserError(f"format: yolo and voc tell photos apart by their names without extension, and another one has "
                        f"that of {alike[0]}; rename it, or choose coco or labelstudio.")
    with contextlib.ExitStack() as stack:
        folders = {name: stack.enter_context(files.whole_folder(out / name)) for name in dict.fromkeys(formats)}
        adds = [stack.enter_context(FORMATS[name](folder, parts, whose)) for name, folder in folders.items()]
        yield lambda i, labels: [add(*photos[i], labels) for add in adds]


@contextlib.contextmanager
def _coco(folder, parts, whose):
    """annotations.json with run lengths; category = number of the part. Annotations go to the disk as they come."""
    images, n_written = [], 0
    with open(folder / "annotations.json", "w", encoding="utf-8") as file:
        file.write('{"annotations": [')

        def add(name, stem, labels):
            nonlocal n_written
            H, W = labels.shape
            images.append({"id": len(images) + 1, "file_name": name, "width": W, "height": H})
            for annotation in coco.annotate(labels, len(images), n_written):
                file.write((",\n" if n_written else "\n") + json.dumps(annotation))
                n_written += 1

        yield add
        rest = {"info": {"description": f"Parts detected by {whose}. Photos are upright, as their EXIF says."},
                "categories": coco.categories({k: parts.names[k - 1] for k in parts.numbers}), "images": images}
        file.write("], " + json.dumps(rest)[1:])


@contextlib.contextmanager
def _yolo(folder, parts, whose):
    """labels/<stem>.txt with a line per connected piece, "class x y x y ...", and data.yaml with the classes, from 0.

    Points are the middles of edge pixels over width and height, as readers that fill polygons pixel by pixel expect.
    """
    def add(name, stem, labels):
        lines, (H, W) = [], labels.shape
        for i, k, (rows, columns) in _boxes(labels, parts):
            for points in polygons(labels[rows, columns] == k):
                shares = (points + (columns.start, rows.start)) / (W, H)
                lines.append(f"{i} {' '.join(f'{share:.6f}' for share in shares.ravel().tolist())}\n")
        _write(folder / "labels" / f"{stem}.txt", "".join(lines))

    yield add
    names = {i: parts.names[k - 1] for i, k in enumerate(parts.numbers)}
    data = yaml.safe_dump({"train": "images", "val": "images", "names": names}, sort_keys=False, allow_unicode=True)
    _write(folder / "data.yaml", TO_IMAGES + data)


@contextlib.contextmanager
def _voc(folder, parts, whose):
    """Pascal VOC, an object per part: Annotations/, SegmentationClass/ (pixel = number of the part),
    SegmentationObject/ (pixel = place in the XML), trainval.txt of the photos, and labelmap.txt as of CVAT."""
    stems = []

    def add(name, stem, labels):
        (H, W), objects, nth = labels.shape, "", np.zeros(256, np.uint8)
        for n, (_, k, (rows, columns)) in enumerate(_boxes(labels, parts), start=1):
            nth[k] = n
            box = {"xmin": columns.start + 1, "ymin": rows.start + 1, "xmax": columns.stop, "ymax": rows.stop}
            box = "".join(f"<{side}>{px}</{side}>" for side, px in box.items())  # the first pixel is 1
            objects += f"<object><name>{escape(parts.names[k - 1])}</name><bndbox>{box}</bndbox></object>\n"
        size = f"<size><width>{W}</width><height>{H}</height><depth>3</depth></size><segmented>1</segmented>"
        xml = f"<annotation><filename>{escape(name)}</filename>{size}\n{objects}</annotation>\n"
        _write(folder / "Annotations" / f"{stem}.xml", xml)
        for kind, pixels in (("SegmentationClass", labels), ("SegmentationObject", nth[labels])):
            _write(folder / kind / f"{stem}.png", pictures.encoded(pictures.indexed(pixels, parts.colors), "PNG"))
        stems.append(stem)

    yield add
    _write(folder / "ImageSets" / "Segmentation" / "trainval.txt", "".join(f"{stem}\n" for stem in stems))
    colors = [("background", (0, 0, 0)), *((parts.names[k - 1], parts.colors[k - 1]) for k in parts.numbers)]
    lines = [f"{name.replace(':', ' ')}:{r},{g},{b}::\n" for name, (r, g, b) in colors]
    _write(folder / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(lines))


@contextlib.contextmanager
def _label_studio(folder, parts, whose):
    """tasks.json with brush masks as predictions, for photos in its local storage, and config.xml of the project."""
    labels_xml = "".join('<Label value="{}" background="#{:02x}{:02x}{:02x}"/>'.format(
        escape(parts.names[k - 1]), *parts.colors[k - 1].tolist()) for k in parts.numbers)
    xml = f'<Image name="image" value="$image"/><BrushLabels name="parts" toName="image">{labels_xml}</BrushLabels>'
    _write(folder / "config.xml", f"<View>{xml}</View>\n")
    with open(folder / "tasks.json", "w", encoding="utf-8") as file:
        file.write("[")
        separator = "\n"

        def add(name, stem, labels):
            nonlocal separator
            H, W = labels.shape
            form = {"from_name": "parts", "to_name": "image", "type": "brushlabels", "image_rotation": 0,
                    "original_width": W, "original_height": H}
            values = [(k, {"format": "rle", "rle": brush(labels == k), "brushlabels": [parts.names[k - 1]]})
                      for _, k, _ in _boxes(labels, parts)]
            result = [{"id": f"part-{k}", **form, "value": value} for k, value in values]
            task = {"data": {"image": f"/data/local-files/?d={quote(name)}"},
                    "predictions": [{"model_version": whose, "result": result}]}
            file.write(separator + json.dumps(task))
            separator = ",\n"

        yield add
        file.write("\n]\n")


FORMATS = {"coco": _coco, "yolo": _yolo, "voc": _voc, "labelstudio": _label_studio}


def _write(path, content):
    """Write text or bytes; not by files.whole, for the folder itself comes whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _boxes(labels, parts):
    """(place among the parts, number, (slice of rows, slice of columns)) of each part that is there."""
    boxes = dict(enumerate(ndimage.find_objects(labels), start=1))
    return [(i, k, boxes[k]) for i, k in enumerate(parts.numbers) if boxes.get(k)]


def polygons(mask):
    """The pieces of a mask (H, W) bool that hang together by their sides, each as (n, 2) integers x, y, n >= 3.

    A polygon goes through the outermost pixels of its piece. A hole is joined to it by a line there and back.
    """
    # Just below 1 a line of equal value passes the pixels inside, and pixels that touch at a corner are apart
    lines = contourpy.contour_generator(z=np.pad(mask, 1).astype(float), fill_type="OuterOffset")
    found = []
    for points, offsets in zip(*lines.filled(0.999, 2), strict=True):
        points = np.rint(points).astype(int) - 1
        ring, *holes = (points[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True))
        for hole in holes:
            distance, nearest = KDTree(ring).query(hole)
            j = distance.argmin()
            i = nearest[j]
            ring = np.concatenate([ring[: i + 1], hole[j:], hole[1 : j + 1], ring[i:]])
        found.append(_corners(ring))
    return found


def _corners(ring):
    """The points of a closed line (n, 2) where it turns, at least 3."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)] if np.ptp(ring, axis=0).any() else ring[:1]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    ring = ring[turns | ((before * after).sum(axis=1) < 0)] if len(ring) > 1 else ring
    return ring if len(ring) > 2 else np.resize(ring, (3, 2))


def brush(mask):
    """A mask (H, W) bool as the bytes, 0 to 255, of Label Studio's brush: four equal channels in run lengths.

    Source: thi.ng/rle-pack, whose bits are 32 for the number of values, 5 for the size of a value less 1, four times 4
    for the sizes of lengths less 1; then for each run a 1, 2 bits that choose a size, the length less 1, the value.
    """
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = 4 * np.diff(starts, append=flat.size)
    pieces = -(-lengths // LONGEST_RUN)
    split = np.full(pieces.sum(), LONGEST_RUN)
    split[pieces.cumsum() - 1] = lengths - (pieces - 1) * LONGEST_RUN
    runs = 0b111 << 24 | (split - 1) << 8 | (255 * flat[starts].astype(int)).repeat(pieces)
    header = 4 * flat.size << 21 | 7 << 16 | 0xFFFF  # values of 8 bits, and four times lengths of 16 bits
    bits = [np.array([header])[:, None] >> np.arange(52, -1, -1) & 1, runs[:, None] >> np.arange(26, -1, -1) & 1]
    return np.packbits(np.concatenate([part.ravel() for part in bits])).tolist()
