"""Taichi: video frames of 256 pixels of the MSCS release, with 18 joints and, for the test frames, masks.

The landmark tables are pickles. A pickle can run any code, so they are opened with a short list of allowed names.
"""

import io
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from ganseg.datasets.base import Listing, Wanted

ARCHIVES = {}
OBTAIN = (
    "the videos of Taichi can no longer be downloaded, so that only those who have the frames of the MSCS release can "
    "use it: put its train/, eval_images/, taichi_train_gt.pkl, taichi_test_gt.pkl and taichi-test-masks/ into a folder"
)
TABLES = {"train": "taichi_train_gt.pkl", "test": "taichi_test_gt.pkl"}
MASKS = "taichi-test-masks/"
WANTED = [
    Wanted("train/", "anything: the pictures to train on"),
    Wanted("eval_images/", "all metrics: the pictures to fit and to test on"),
    Wanted(TABLES["train"], "the regression of taichi_mae"),
    Wanted(TABLES["test"], "the test split"),
    Wanted(MASKS, "foreground_iou", required=False),
]
PUBLISHED = {}
N_JOINTS = 18
JOINTS = tuple(f"joint_{j:02d}" for j in range(N_JOINTS))
FRAME_PX = 256  # width and height of the frames

# All that a table of texts, numbers and arrays is made of, as pandas 1 to 3 and numpy 1 and 2 name it.
ALLOWED = {(module, name) for module, names in {
    "builtins": "slice",
    "__builtin__": "slice",
    "_codecs": "encode",
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "pandas": "DataFrame Index RangeIndex StringDtype",
    "pandas.arrays": "StringArray",
    "pandas._libs.arrays": "__pyx_unpickle_NDArrayBacked",
    "pandas._libs.internals": "_unpickle_block",
    "pandas.core.frame": "DataFrame",
    "pandas.core.indexes.base": "_new_Index Index",
    "pandas.core.indexes.numeric": "Int64Index",
    "pandas.core.indexes.range": "RangeIndex",
    "pandas.core.internals": "BlockManager",
    "pandas.core.internals.managers": "BlockManager",
}.items() for name in names.split()}  # fmt: skip


def list_split(source, split, cfg):
    """One split: "train" is the frames of train/ and those that regressions are fitted on, "test" the test frames.

    Returns a Listing. Raises UserError when a file is missing, malformed or unsafe, or names frames that are not there.
    """
    evaluation, masks_folder, pictures = source.find("eval_images/", needed=True), source.find(MASKS), source.pictures()
    beside = evaluation.removesuffix("eval_images/") + "train/"  # eval_images/ may hold another train/
    shown = [name for name in pictures if name.startswith(beside)]
    if not shown:
        raise source.error(f"lacks {beside}, a folder of pictures.")
    names, landmarks = _read_table(source, TABLES[split])
    # Names may repeat in eval_images/taichi/train/ and test/. The split's own folder comes first.
    frames = _find_pictures(source, names, f"frames of {TABLES[split]}", evaluation, prefix=f"{split}/")
    facts = {"landmark_names": JOINTS, "frame_px": FRAME_PX}
    if split == "train":
        # The GAN sees the frames to fit on too: they come from the training videos.
        landmarks = np.concatenate([np.full((len(shown), N_JOINTS, 2), np.nan), landmarks])
        return Listing(shown + frames, landmarks=landmarks, fit=np.arange(len(landmarks)) >= len(shown), **facts)
    if masks_folder is not None:
        paths = [frame.removeprefix(evaluation) for frame in frames]
        masks = _find_pictures(source, paths, "masks of test frames", masks_folder)
        facts |= {"masks": masks, "to_labels": to_labels, "only_foreground": True}
    return Listing(frames, landmarks=landmarks, **facts)


def to_labels(mask, resize):
    """Foreground of a mask: what is not black, transparency left out.

    mask    PIL image
    resize  function (image, resample) that makes a square of S pixels
    Returns uint8 (S, S): 1 foreground, 0 background.
    """
    values = np.asarray(mask.convert("RGB") if "A" in mask.getbands() else mask)
    foreground = (values != 0).reshape(*values.shape[:2], -1).any(axis=-1)
    return np.asarray(resize(Image.fromarray(foreground.astype(np.uint8)), Image.Resampling.NEAREST))


def _read_table(source, table):
    """File names and landmarks (N, 18, 2) of a pickled table, NaN where missing."""
    path = source.find(table, needed=True)
    columns = _unpickle(source, path)
    if not {"file_name", "value"} <= columns.keys():
        raise source.error(f"has the columns {', '.join(columns)} in {path}; it should have file_name and value.")
    names, landmarks = [str(name).replace("\\", "/") for name in columns["file_name"]], []
    for name, value in zip(names, columns["value"], strict=True):
        try:
            points = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            points = np.empty(0)
        if points.shape not in ((N_JOINTS, 2), (2 * N_JOINTS,)):
            raise source.error(f"has a malformed value in {path}: that of {name} is not {N_JOINTS} joints x, y.")
        landmarks.append(points.reshape(N_JOINTS, 2))
    landmarks = np.array(landmarks).reshape(-1, N_JOINTS, 2)
    return names, np.where((landmarks == -1).any(axis=-1, keepdims=True), np.nan, landmarks)


def _unpickle(source, path):
    """{column: list} of a pickled table of texts, numbers and arrays; anything else in it is refused."""
    import pandas as pd  # slow to import, and needed nowhere else

    try:
        from pandas.compat.pickle_compat import Unpickler  # reads what older pandas wrote
    except ImportError:
        from pickle import Unpickler

    class Careful(Unpickler):
        def find_class(self, module, name):
            if (module, name) not in ALLOWED:
                raise source.error(f"holds code in {path}, {module}.{name}, and it is not opened.")
            return super().find_class(module, name)

    def columns(data):
        table = Careful(io.BytesIO(data)).load()
        if not isinstance(table, pd.DataFrame):
            raise TypeError(f"it holds a {type(table).__name__}, not a table of pandas")
        return {str(column): table[column].tolist() for column in table.columns}

    return source.parse(path, columns)


def _find_pictures(source, names, what, folder, prefix=""):
    """The picture in a folder for each name: the one that shares the longest ending with prefix + name."""
    known = {}
    for picture in source.pictures():
        if picture.startswith(folder):
            for ending in _endings(picture):
                known.setdefault(ending, []).append(picture)
    found = {name: next((known[e] for e in _endings(prefix + name) if e in known), []) for name in names}
    source.check_all_in({name for name, hits in found.items() if hits}, names, f"{what} in {folder}")
    for name, hits in found.items():
        if len(hits) > 1:
            raise source.error(f"has several files in {folder} for {name} of the {what}: {', '.join(hits[:3])}.")
    return [found[name][0] for name in names]


def _endings(path):
    """The endings of a path, with and without its extension: of a/b.png a/b.png, a/b, b.png and b."""
    parts = PurePosixPath(path).parts
    for ending in (PurePosixPath(*parts[first:]) for first in range(len(parts))):
        yield from dict.fromkeys((str(ending), str(ending.with_suffix(""))))
