"""CelebA, in the wild or aligned, with five landmarks. It is tested on MAFL, a subset with lists of its own.

In the wild a picture counts when the face's box covers 30 % of it or more. Left and right are as seen in the picture.
"""

import numpy as np
import torchvision
from PIL import Image

from ganseg.datasets.base import Listing, Wanted
from ganseg.datasets.decode import in_parallel
from ganseg.datasets.kinds import FORMATS, is_picture
from ganseg.datasets.source import parse_rows

ARCHIVES = {"img_align_celeba.zip": "img_align_celeba/"}
OBTAIN = (
    "CelebA is at https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: put the lists of Anno/ and Eval/ into a folder, "
    "with img_celeba/ (unpack img_celeba.7z.001, which joins its parts) or, for celeba_aligned, img_align_celeba.zip "
    "or what it unpacks to; add training.txt and testing.txt of MAFL, "
    "https://github.com/zhzhanp/TCDCN-face-alignment/tree/master/MAFL"
)
BOXES, PARTITION = "list_bbox_celeba.txt", "list_eval_partition.txt"
FIT, TEST = "training.txt", "testing.txt"  # MAFL
LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
MIN_FACE = 0.3  # share of the picture that the face's box covers

_LISTS = [
    Wanted(PARTITION, "the training split"),
    Wanted(FIT, "the regression of landmark_error"),
    Wanted(TEST, "the test split, which is kept out of training"),
]
WANTED = [
    Wanted("img_celeba/", "anything: the pictures"),
    Wanted("list_landmarks_celeba.txt", "landmark_error"),
    Wanted(BOXES, "the choice of pictures whose face is large enough"),
    *_LISTS,
]
WANTED_ALIGNED = [
    Wanted("img_align_celeba/", "anything: the pictures"),
    Wanted("list_landmarks_align_celeba.txt", "landmark_error"),
    *_LISTS,
]
PUBLISHED = {"train": 45_609, "fit": 5_379, "test": 283}  # in the wild, of large enough faces


def list_split(source, split, cfg):
    """One split: "train" is CelebA's without MAFL's test pictures, "test" is MAFL's.

    Regressions are fitted on MAFL's training pictures. Those of another part of CelebA are listed and not trained on.
    Returns a Listing. Raises UserError when a list is missing or malformed, or names pictures that are not there.
    """
    wild = cfg.reader == "celeba"
    pictures, landmark_list = (wanted.name for wanted in (WANTED if wild else WANTED_ALIGNED)[:2])
    folder = source.find(pictures, needed=True)
    there = {name[len(folder) :] for name in source.names if name.startswith(folder)}
    test = _read_table(source, TEST, 0)
    if split == "train":
        chosen_by, fit = PARTITION, _read_table(source, FIT, 0)
        train = {name for name, part in _read_table(source, PARTITION, 1).items() if part == 0}
        names = sorted((train | fit.keys()) - test.keys())
        source.check_all_in(there, list(fit), f"pictures of {FIT} in {pictures}")
    else:
        chosen_by, names = TEST, list(test)
    source.check_all_in(there, names, f"pictures of {chosen_by} in {pictures}")
    if wild:
        boxes = _read_table(source, BOXES, 4)
        source.check_all_in(boxes, names, f"pictures of {chosen_by} in {BOXES}")
        large = _has_large_face(source, [folder + name for name in names], [boxes[name] for name in names])
        names = [name for name, is_large in zip(names, large, strict=True) if is_large]
    landmarks = _read_table(source, landmark_list, 2 * len(LANDMARKS))
    source.check_all_in(landmarks, names, f"pictures of {chosen_by} in {landmark_list}")
    flags = {"train": train, "fit": fit} if split == "train" else {}
    return Listing(
        [folder + name for name in names],
        landmarks=np.array([landmarks[name] for name in names], np.float64).reshape(-1, len(LANDMARKS), 2),
        landmark_names=LANDMARKS,
        eyes=(0, 1),
        **{flag: np.array([name in of for name in names], bool) for flag, of in flags.items()},
    )


def download(folder, reader):
    """Fetch the aligned pictures and CelebA's lists by torchvision, which needs gdown. MAFL's lists are not among them.

    Raises RuntimeError when that fails.
    """
    if reader == "celeba":
        raise RuntimeError(f"torchvision has only the aligned pictures, the data set celeba_aligned. {OBTAIN}")
    torchvision.datasets.CelebA(folder, download=True)


def _read_table(source, name, n):
    """{picture: its n numbers} of a list, whose first two lines may be a header: how many pictures, and the columns."""
    path = source.find(name, needed=True)
    lines = source.read_lines(path)
    lines[:2] = [line if is_picture(line.strip().partition(" ")[0]) else "" for line in lines[:2]]
    form, where = "picture" + n * " number", f"{source.called}: {path} of {source.path}"
    rows = parse_rows(lines, where, form, _name, *n * [float])
    if not rows:
        raise source.error(f"has no picture in {path}.")
    return rows


def _name(text):
    if not is_picture(text):
        raise ValueError(text)
    return text


def _has_large_face(source, paths, boxes):
    """Whether each box (x, y, width, height) is a large enough part of its picture. Reads the headers of all."""

    def work(i):
        try:
            with source.open(paths[i]) as file, Image.open(file, formats=FORMATS) as picture:
                width, height = picture.size
        except Exception:  # damaged: decoding will say so and skip it
            return True
        return boxes[i][2] * boxes[i][3] >= MIN_FACE * width * height

    return in_parallel(work, len(paths), "measured")
