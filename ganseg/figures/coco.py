"""Detections as COCO annotations."""

import json

import numpy as np

from ganseg import files


def as_coco(labels, names, n_parts, description, part_names=None):
    """Part masks as a dict that pycocotools' COCO reads: run-length encoded, one annotation per part present.

    labels      (N, S, S) integers, 0 background, parts 1..n_parts, below 0 what is no part of a photo
    names       N file names of the photos
    part_names  {part: name} of the categories; None: part_1 to part_K
    There is no score, as a label map has none. Sizes are those of the square the photos were fitted to.
    """
    labels, annotations = np.asarray(labels), []
    _, H, W = labels.shape
    for i, one in enumerate(labels, 1):
        annotations += annotate(one, i, len(annotations))
    square = f"Sizes, masks, areas and boxes are in pixels of the {W} x {H} square that each photo was fitted to."
    return {
        "info": {"description": f"{description}. {square}"},
        "images": [{"id": i, "file_name": str(name), "width": W, "height": H} for i, name in enumerate(names, 1)],
        "categories": categories(part_names or {k: f"part_{k}" for k in range(1, n_parts + 1)}),
        "annotations": annotations,
    }


def categories(names):
    """COCO's categories of {part: name}."""
    return [{"id": k, "name": name, "supercategory": "part"} for k, name in names.items()]


def annotate(labels, image_id, n_before):
    """COCO's annotations of the parts of one photo, labels (H, W), with ids after n_before."""
    from pycocotools import mask as rle  # slow, and only this function needs it

    annotations = []
    for k in [k for k in np.unique(labels).tolist() if k > 0]:
        code = rle.encode(np.asfortranarray(labels == k, np.uint8))
        box, area = rle.toBbox(code).tolist(), int(rle.area(code))
        segmentation = {"size": list(labels.shape), "counts": code["counts"].decode()}
        ids = {"id": n_before + len(annotations) + 1, "image_id": image_id, "category_id": k}
        annotations.append({**ids, "segmentation": segmentation, "area": area, "bbox": box, "iscrowd": 0})
    return annotations


def save_coco(content, path):
    files.write_text(path, json.dumps(content))
