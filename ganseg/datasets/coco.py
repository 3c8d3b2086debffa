"""Part masks out of COCO JSON, as index masks by the name of their picture."""

import json
from pathlib import Path

import numpy as np

from ganseg import files
from ganseg.errors import UserError

FORM = "images (id, file_name, width, height) and annotations (image_id, category_id, segmentation)"
MAX_SIDE = 2**15  # pixels


class CocoMasks:
    """The masks of a COCO JSON, as files of a Source.

    path  of the JSON: segmentations are polygons or run lengths, packed or not
    names  file names of its pictures, each of which has a mask: without annotations it is background
    n_parts  the largest category, used or not
    Raises UserError where it is no such file, or has categories other than 1 to 255.
    """

    def __init__(self, path):
        self.path = Path(path)
        try:
            content = json.loads(self.path.read_text(encoding="utf-8-sig"))
            self._size = {image["file_name"]: (image["width"], image["height"]) for image in content["images"]}
            name_of = {image["id"]: image["file_name"] for image in content["images"]}
            self._parts = {name: [] for name in self._size}
            for one in content["annotations"]:
                self._parts[name_of[one["image_id"]]].append((one["category_id"], one["segmentation"]))
            categories = {one["id"] for one in content.get("categories", [])}
            categories |= {category for parts in self._parts.values() for category, _ in parts}
            whole = [*categories, *(side for size in self._size.values() for side in size)]
            if len(name_of) != len(self._size) or any(type(number) is not int for number in whole):
                raise ValueError("ids, file names or numbers are wrong")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise self.error(f"is no COCO JSON with {FORM}: {files.one_line(error)}.") from None
        self.names, self.n_parts = list(self._size), max(categories, default=0)
        wrong = next((number for number in sorted(categories) if not 1 <= number <= 255), None)
        if wrong is not None:
            raise self.error(f"holds the category {wrong}; allowed are 1 to 255, for 0 is background.")

    def read(self, name):
        """The mask of a picture, uint8 (height, width): where annotations overlap, the later one counts.

        Raises ValueError, or whatever a damaged segmentation leads to.
        """
        from pycocotools import mask as rle  # slow, and only this function needs it

        width, height = self._size[name]
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
            raise ValueError(f"its size is {width} x {height}")
        labels = np.zeros((height, width), np.uint8)
        for category, shape in self._parts[name]:
            if isinstance(shape, list):  # polygons; far ones would take memory without end
                corners = np.concatenate([np.asarray(polygon, np.float64) for polygon in shape])
                if not (np.abs(corners) <= 2 * max(width, height)).all():
                    raise ValueError("a polygon lies far outside of its picture")
                shape = rle.merge(rle.frPyObjects(shape, height, width))
            elif isinstance(shape["counts"], list):
                shape = rle.frPyObjects(shape, height, width)
            inside = rle.decode(shape)
            if inside.shape != labels.shape:
                raise ValueError(f"a segmentation is {inside.shape[1]} x {inside.shape[0]} pixels, its picture {width} "
                                 f"x {height}")
            if np.count_nonzero(inside) != rle.area(shape):  # what lengths leave out is not set
                raise ValueError("the run lengths of a segmentation do not fill its picture")
            labels[inside > 0] = category
        return labels

    def error(self, sentence):
        """A UserError about this file."""
        return UserError(f"masks: {self.path} {sentence}")
