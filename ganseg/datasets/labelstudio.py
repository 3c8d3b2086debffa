"""Masks that a person drew or corrected in Label Studio, out of its JSON export, as own pictures with masks/."""

import io
import json
import re
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

from ganseg import files
from ganseg.datasets.source import Source
from ganseg.errors import UserError

FORM = "the export named JSON of a project with brush labels"
UPLOADED = re.compile(r"[0-9a-f]{8}-")  # what Label Studio writes before the name of an uploaded file


def unpack(path, photos, numbers, folder):
    """Write the photos that an export annotates, with their masks, into images/ and masks/ of a new folder.

    path     of the export; a photo without annotations is left out, and of several the newest is taken
    photos   the folder or zip that the photos are from; they are found by their path, or by their name if one has it
    numbers  {name of a label: its number}, 1 to 255; where labels overlap, the one drawn last counts
    Returns the number of photos. Raises UserError for what is no such export, another label or another photo.
    """
    def error(sentence):
        return UserError(f"finetune_on: {path} {sentence}")

    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
        drawn = {task["data"]["image"]: _newest(task) for task in tasks}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as reason:
        raise error(f"is not {FORM}: {files.one_line(reason)}.") from None
    drawn = {image: result for image, result in drawn.items() if result is not None}
    with Source(photos) as source, files.whole_folder(folder):
        partial = folder.with_name(f"{folder.name}.partial")
        for image, result in drawn.items():
            name = _photo_of(image, source, error)
            try:
                labels = _labels(result, numbers)
            except (ValueError, LookupError, TypeError, AttributeError) as reason:
                raise error(f"has an annotation of {name} that cannot be used: {files.one_line(reason)}.") from None
            if labels is None:  # nothing drawn: all of it is background
                with Image.open(io.BytesIO(source.read(name))) as photo:
                    turned = photo.getexif().get(0x0112, 1) > 4
                    labels = np.zeros(photo.size if turned else photo.size[::-1], np.uint8)
            mask = io.BytesIO()
            Image.fromarray(labels).save(mask, "PNG")
            for kind, to, content in (("images", name, source.read(name)),
                                      ("masks", PurePosixPath(name).with_suffix(".png"), mask.getvalue())):
                target = partial / kind / to
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
    return len(drawn)


def _newest(task):
    """What the newest annotation of a task says, a list; None where there is none, as of a task that was skipped."""
    done = [one for one in task["annotations"] if not one.get("was_cancelled")]
    return max(done, key=lambda one: one.get("updated_at", ""))["result"] if done else None


def _photo_of(image, source, error):
    """The name within the source of a task's image: a path or a URL, with local files in its query."""
    url = urlsplit(image)
    path = parse_qs(url.query).get("d", [unquote(url.path)])[0]
    folders, _, file = path.rpartition("/")
    for wanted in (path, f"{folders}/{UPLOADED.sub('', file, count=1)}"):
        # The longest end of the path that is a photo's name: what lies before is the server's
        steps = wanted.strip("/").split("/")
        for i in range(len(steps)):
            if (name := "/".join(steps[i:])) in source.names:
                return name
        same = [name for name in source.names if name.rpartition("/")[2] == steps[-1]]
        if len(same) == 1:
            return same[0]
    raise error(f"annotates {path}, which is no photo of {source.path}; name the folder that it is from as source.")


def _labels(result, numbers):
    """(H, W) uint8 of an annotation; None where it has no region. Raises ValueError and its like."""
    labels = None
    for region in result:
        if region["type"] != "brushlabels":
            raise ValueError(f"it holds {region['type']}, and brushlabels are read")
        if region.get("image_rotation"):
            raise ValueError(f"its photo was turned by {region['image_rotation']} degrees there")
        value, size = region["value"], (region["original_height"], region["original_width"])
        unknown = next((name for name in value["brushlabels"] if name not in numbers), None)
        if unknown is not None or not value["brushlabels"]:
            raise ValueError(f"it has the label {unknown!r}; the run's parts are {', '.join(numbers)}")
        if labels is None:
            labels = np.zeros(size, np.uint8)
        if labels.shape != size:
            raise ValueError("its labels are of different sizes")
        labels[decode_brush(value["rle"], size)] = numbers[value["brushlabels"][0]]
    return labels


def decode_brush(code, size):
    """The bytes of Label Studio's brush -> mask (H, W) bool, where opacity is above half; see figures.exports.brush.

    Raises ValueError where they do not fill the size.
    """
    bits = "".join(f"{byte:08b}" for byte in bytes(code))
    at = 0

    def take(n):
        nonlocal at
        at += n
        if at > len(bits):
            raise ValueError("the run lengths of a brush end too early")
        return int(bits[at - n : at], 2)

    n, value_bits = take(32), take(5) + 1
    length_bits = [take(4) + 1 for _ in range(4)]
    if n != 4 * size[0] * size[1] or value_bits != 8:
        raise ValueError(f"a brush holds {n} values, and {size[1]} x {size[0]} pixels have {4 * size[0] * size[1]}")
    values = np.empty(n, np.uint8)
    filled = 0
    while filled < n:
        is_run = take(1)
        length = take(length_bits[take(2)]) + 1
        values[filled : filled + length] = take(8) if is_run else [take(8) for _ in range(min(length, n - filled))]
        filled += length
    return values.reshape(*size, 4)[..., 3] > 127
