"""What a metric is given, and the table of metrics by name."""

import dataclasses
import inspect

import numpy as np

TRUTHS = ("true_labels", "true_foreground", "train_true_labels")  # below 0 where not known
_METRICS = {}  # name -> (function, protocol)


class LeftOut(Exception):
    """Raised by a metric that means nothing on this data. Its sentence is the reason that a user reads."""


def _optional(missing):
    """An optional field; `missing` is what a user reads where it is not given."""
    return dataclasses.field(default=None, metadata={"missing": missing})


@dataclasses.dataclass(kw_only=True)
class Predictions:
    """All a metric may look at, as numpy arrays; N test and M training pictures. None or empty: not known."""

    n_parts: int  # K, background not counted
    image_size: int  # width in pixels of the square images that the landmarks' [-1, 1] spans
    # What the data set knows, and lacks: of several missing fields the first is the reason a user reads.
    # (N, H, W) and (M, H, W) integers: 0 background, true parts from 1, below 0 not known, which counts nowhere
    true_labels: np.ndarray | None = _optional("the test pictures have no true part labels")
    train_true_labels: np.ndarray | None = _optional("the training pictures have no true part labels")
    # (N, H, W), 0 background, below 0 not known; the sign of true_labels where only those are given
    true_foreground: np.ndarray | None = _optional("the test pictures have no true foreground masks")
    # (N, L, 2) and (M, L, 2) in [-1, 1], (x, y), NaN where a landmark is missing
    landmarks: np.ndarray | None = _optional("the test pictures have no landmarks")
    train_landmarks: np.ndarray | None = _optional("the training pictures have no landmarks")
    eyes: tuple[int, int] | None = _optional("the data set's landmarks name no pair of eyes")  # two of 0..L-1
    # (N, 2) width and height of the object's bounding box, in pixels of the square images
    box_px: np.ndarray | None = _optional("the data set names no bounding boxes of its objects")
    # Width of the frames whose pixels the data set's own protocol counts
    frame_px: float | None = _optional("the data set has no protocol of its own in pixels of its frames")
    # (N, H, W) and (M, H, W) uint8: 0 background, predicted parts 1..K
    labels: np.ndarray | None = _optional("no part labels were predicted for the test pictures")
    train_labels: np.ndarray | None = _optional("no part labels were predicted for the training pictures")
    # (N, H, W) uint8: the most probable part 1..K of each pixel, the background left out of the question
    part_labels: np.ndarray | None = _optional("no parts without background were predicted for the test pictures")
    # (N, K, 2) and (M, K, 2) in [-1, 1], (x, y): soft centroids of the predicted parts
    centroids: np.ndarray | None = _optional("no centroids were predicted for the test pictures")
    train_centroids: np.ndarray | None = _optional("no centroids were predicted for the training pictures")
    # Of generated samples: (n,) extents and (n, K, 2) centres in pixels, (n,) mean entropies of the masks in [0, 1]
    extents_px: np.ndarray | None = _optional("no extents of generated samples")
    centers_px: np.ndarray | None = _optional("no centers of generated samples")
    mask_entropies: np.ndarray | None = _optional("no masks of generated samples")
    # For what needs no truth: (N, 3, S, S) uint8; mean largest probabilities of test (N,) and generated pictures (n,)
    images: np.ndarray | None = _optional("the test pictures themselves are not given")
    certainties: np.ndarray | None = _optional("no probabilities were predicted for the test pictures")
    certainties_of_generated: np.ndarray | None = _optional("no probabilities were predicted for generated pictures")
    # (moves, N', S, S): labels moved as their photos were, -1 outside, and the labels of these moved photos
    moved_labels: np.ndarray | None = _optional("no test picture was moved")
    labels_of_moved: np.ndarray | None = _optional("no test picture was moved")
    earlier_labels: np.ndarray | None = _optional("no earlier checkpoint of the segmenter is kept")  # (N, S, S)

    def __post_init__(self):
        if self.true_foreground is None and self.true_labels is not None:
            self.true_foreground = np.sign(self.true_labels)


_FIELDS = {field.name: field for field in dataclasses.fields(Predictions)}


def metric(protocol):
    """Register a function under its own name.

    Its parameters are fields of Predictions. Those without a default are needed: where one is missing, the
    metric is left out. It returns one number, or raises LeftOut.
    protocol  one sentence that is printed next to the number
    Raises ValueError for a parameter that is no field.
    """

    def register(function):
        if unknown := inspect.signature(function).parameters.keys() - _FIELDS.keys():
            raise ValueError(f"{function.__name__}: not in Predictions: {sorted(unknown)}")
        _METRICS[function.__name__] = (function, protocol)
        return function

    return register


def protocols():
    """The sentence that belongs next to each metric's number, by name."""
    return {name: protocol for name, (_, protocol) in _METRICS.items()}


def compute(predictions, reasons=None):
    """Each registered metric that the predictions allow.

    reasons  field of Predictions -> what a user reads where it is missing, instead of the field's own sentence
    Returns two dicts: name -> float, and name -> the reason why it was left out. Each name is in one of them.
    """
    values, left_out = {}, {}
    given = {field: value for field, value in vars(predictions).items() if value is not None and np.size(value)}
    given = {field: value for field, value in given.items() if field not in TRUTHS or not (value < 0).all()}
    for name, (function, _) in _METRICS.items():
        parameters = inspect.signature(function).parameters
        known = {p: given[p] for p in parameters if p in given}
        needs = {p for p in parameters if parameters[p].default is inspect.Parameter.empty}
        absent = [field for field in _FIELDS if field in needs - known.keys()]
        if absent:
            left_out[name] = (reasons or {}).get(absent[0], _FIELDS[absent[0]].metadata["missing"])
            continue
        try:
            values[name] = float(function(**known))
        except LeftOut as reason:
            left_out[name] = str(reason)
    return values, left_out
