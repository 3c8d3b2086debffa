"""Detections as COCO annotations."""

import json

import numpy as np

from ganseg import files


def as_coco(labels, names, n_parts, description, part_names=None):
    """Part masks as a dict that pycocotools' COCO reads: run-length encoded, one annotation per part present.

    labels      (N, S, S) integers, 0 background, parts 1..n_parts, below 0 what is no part of a photo
    names       N file names of the photos
    part_names  K texts; None: part_1 to part_K
    There is no score, as a label map has none. Sizes are those of the square the photos were fitted to.
    """
    from pycocotools import mask as rle  # slow, and only this function needs it

    labels = np.asarray(labels)
    _, H, W = labels.shape
    annotations = []
    for i, k in [(i, int(k)) for i, one in enumerate(labels) for k in np.unique(one) if k > 0]:
        code = rle.encode(np.asfortranarray(labels[i] == k, np.uint8))
        box, area = rle.toBbox(code).tolist(), int(rle.area(code))
        segmentation = {"size": [H, W], "counts": code["counts"].decode()}
        ids = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": k}
        annotations.append({**ids, "segmentation": segmentation, "area": area, "bbox": box, "iscrowd": 0})
    square = f"Sizes, masks, areas and boxes are in pixels of the {W} x {H} square that each photo was fitted to."
    return {
        "info": {"description": f"{description}. {square}"},
        "images": [{"id": i, "file_name": str(name), "width": W, "height": H} for i, name in enumerate(names, 1)],
        "categories": [{"id": k, "name": part_names[k - 1] if part_names else f"part_{k}", "supercategory": "part"}
                       for k in range(1, n_parts + 1)],
        "annotations": annotations,
    }


def save_coco(content, path):
    files.write_text(path, json.dumps(content))
