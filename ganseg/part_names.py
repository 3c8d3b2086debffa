"""What people make of a run's parts: names, merges, colours, and parts left out, in parts.yaml of its folder."""

import json
import re
from typing import NamedTuple

import numpy as np
import yaml

from ganseg import files
from ganseg.errors import UserError
from ganseg.figures import colors as palette

LONGEST_NAME = 30
HEADER = """# What each part of this run is taken for; whatever is left out stays as it is.
# name: a text; merge: the number of the part that it becomes; hidden: true makes it background; color: "#rrggbb"
"""


class Parts(NamedTuple):
    """What K parts of a network are taken for. Without parts.yaml they are what they are."""

    names: list  # K texts, none twice
    colors: np.ndarray  # (K, 3) uint8; a merged part has that of the other
    lookup: np.ndarray  # (K + 1,) uint8: what each label of the network becomes, 0 for background

    @property
    def numbers(self):
        """The numbers of the parts that are left, in order."""
        return [k for k in range(1, len(self.lookup)) if self.lookup[k] == k]

    @property
    def labels(self):
        """K texts for tables and figures, always with the number: "part 1", "2: legs", "3: legs" where 3 became 2."""
        labels = []
        for k, (own, other) in enumerate(zip(self.names, self.lookup[1:], strict=True), start=1):
            name = self.names[other - 1] if other else f"{own} (hidden)"
            labels.append(name if own == f"part {k}" and other in (0, k) else f"{k}: {name}")
        return labels

    def apply(self, labels):
        """Labels of the network, integers of any shape, below 0 what is no part of a photo -> what they become."""
        labels = np.asarray(labels)
        return np.where(labels < 0, labels, self.lookup[labels]).astype(labels.dtype, copy=False)

    def merged(self, found):
        """A prediction.Predicted as arrays, of the network's K parts -> that of what they become.

        Confidences and centroids are means over the parts that became one, weighted by their areas; NaN where it is
        absent.
        """
        became = self.lookup[1:, None] == np.arange(1, len(self.lookup))  # (K of the network, K)
        area = found.area @ became
        with np.errstate(invalid="ignore"):
            share = found.area[:, :, None] * became / area[:, None]  # 0 / 0 is NaN
        return found._replace(
            labels=None if found.labels is None else self.apply(found.labels), area=area,
            centroids=np.einsum("nkj,nkx->njx", share, found.centroids),
            confidence=np.einsum("nkj,nk->nj", share, np.nan_to_num(found.confidence)))


def read_parts(run):
    """The Parts of a run, as parts.yaml says, or part_names.json of older runs. Raises UserError for a damaged file."""
    return make_parts(_read(run), run.cfg.n_parts)


def part_labels(run):
    """The labels of a run's Parts."""
    return read_parts(run).labels


def copy_parts(run, other):
    """Take a run's parts for another folder's too, a Run of as many parts."""
    change_parts(other, _read(run))


def change_parts(run, changes):
    """Keep in the run what its parts are taken for, and return its Parts.

    changes  {number: {field: value}}; what is not among them stays, and None (of a name also "") takes a field back
    Raises UserError, and changes nothing, for what cannot be.
    """
    known = _read(run)
    for k, fields in changes.items():
        fields = {**known.get(k, {}), **fields}
        known[k] = {field: value for field, value in fields.items() if value is not None and value != ""}
    parts = make_parts(known, run.cfg.n_parts)
    lines = yaml.safe_dump({k: known[k] for k in sorted(known) if known[k]}, default_flow_style=None, sort_keys=False,
                           allow_unicode=True, width=1000)
    files.write_text(run.folder / "parts.yaml", HEADER + lines)
    return parts


def make_parts(settings, K):
    """Parts of a network of K from {number: {field: value}}. Raises UserError for what cannot be."""
    _check(settings, K)
    fields = {k: settings.get(k, {}) for k in range(1, K + 1)}
    names = [fields[k].get("name", "").strip() or f"part {k}" for k in fields]
    for k, name in enumerate(names):
        if name in names[:k]:
            raise UserError(f"parts: the name {name!r} is given twice; each part needs one of its own, and merge makes "
                            "two parts one.")
    ends = [_end(fields, k) for k in fields]
    lookup = np.array([0, *(0 if fields[k].get("hidden") else k for k in ends)], np.uint8)
    if not lookup.any():
        raise UserError("parts: all of them are hidden; leave one to be seen.")
    colors = palette.part_colors(K)
    for k in fields:
        if "color" in fields[k]:
            colors[k - 1] = [int(fields[k]["color"][i : i + 2], 16) for i in (1, 3, 5)]
    return Parts(names, colors[np.array(ends) - 1], lookup)


def _read(run):
    """{number: {field: value}} of a run's files, checked."""
    path, older = run.folder / "parts.yaml", run.folder / "part_names.json"
    path = older if older.exists() and not path.exists() else path
    try:
        if not path.exists():
            return {}
        text, K = path.read_text(encoding="utf-8"), run.cfg.n_parts
        settings = _of_names(json.loads(text), K) if path == older else yaml.safe_load(text) or {}
        make_parts(settings, K)
        numbers = [] if path == older or not settings else [key.value for key, _ in yaml.compose(text).value]
        if twice := [k for i, k in enumerate(numbers) if k in numbers[:i]]:
            raise UserError(f"parts: part {twice[0]} stands there twice; give it one line.")
        return {k: dict(fields) for k, fields in settings.items()}
    except (OSError, ValueError, yaml.YAMLError, UserError) as error:
        raise UserError(f"{path}: is damaged, mend or delete it: {files.one_line(error)}") from None


def _of_names(names, K):
    if not isinstance(names, list) or len(names) != K:
        raise UserError(f"part names: {str(names)[:80]} is not allowed; a run of {K} parts needs a list of {K} texts.")
    return {k: {"name": name} for k, name in enumerate(names, start=1)}


def _check(settings, K):
    """Raise UserError unless all parts are there and each value is one that its field can have."""
    def is_part(value):
        return type(value) is int and 1 <= value <= K

    allowed = {
        "name": (lambda value: isinstance(value, str) and len(value.strip()) <= LONGEST_NAME
                 and value.strip().isprintable(), f"one line of at most {LONGEST_NAME} letters, a number in quotes"),
        "merge": (is_part, f"the number of another part, 1 to {K}"),
        "hidden": (lambda value: isinstance(value, bool), "true or false"),
        "color": (lambda value: isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value),
                  'six digits in quotes, as "#e69f00"'),
    }  # fmt: skip
    if not isinstance(settings, dict):
        raise UserError(f"parts: {str(settings)[:80]!r} is not allowed; write lines as 1: {{name: head}}.")
    for k, fields in settings.items():
        if not is_part(k):
            raise UserError(f"parts: there is no part {str(k)[:80]!r}; the run has the parts 1 to {K}.")
        if not isinstance(fields, dict):
            raise UserError(f"parts: {str(fields)[:80]!r} of part {k} is not allowed; write {k}: {{name: head}}.")
        for field, value in fields.items():
            if field not in allowed:
                raise UserError(f"parts: there is no field {str(field)[:80]!r}; known are {', '.join(allowed)}.")
            is_allowed, wanted = allowed[field]
            if not is_allowed(value):
                raise UserError(f"parts: {field} {str(value)[:80]!r} of part {k} is not allowed; write {wanted}.")
        if "merge" in fields and fields.get("hidden"):
            raise UserError(f"parts: part {k} has both merge and hidden; leave one of them out.")


def _end(fields, k):
    """The number of the part that part k becomes, by merge after merge."""
    way = [k]
    while (other := fields[way[-1]].get("merge")) is not None:
        if other in way:
            circle = " into ".join(map(str, [*way, other]))
            raise UserError(f"parts: merge goes in a circle, {circle}; let one of these parts stay.")
        way.append(other)
    return way[-1]
