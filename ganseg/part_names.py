"""The names that people give to a run's parts, kept in part_names.json of its folder."""

import json

from ganseg import files
from ganseg.errors import UserError

LONGEST_NAME = 30


def part_names(run):
    """The K names of the run's parts; a part without one is "part k". Raises UserError for a damaged file."""
    path = run.folder / "part_names.json"
    try:
        names = json.loads(path.read_text(encoding="utf-8")) if path.exists() else [""] * run.cfg.n_parts
        return _checked_names(names, run)
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{path}: is damaged, mend or delete it: {error}") from None


def part_labels(run):
    """The parts' names as tables and figures show them, always with the number: "part 1", "2: legs"."""
    names = enumerate(part_names(run), start=1)
    return [name if name == f"part {k}" else f"{k}: {name}" for k, name in names]


def name_parts(run, names):
    """Keep K names in the run. An empty one means "part k". Raises UserError for what cannot be a name."""
    names = _checked_names(names, run)
    files.write_text(run.folder / "part_names.json", json.dumps(names, ensure_ascii=False))
    return names


def _checked_names(names, run):
    K = run.cfg.n_parts
    if not isinstance(names, list) or len(names) != K or not all(isinstance(name, str) for name in names):
        raise UserError(f"part names: {str(names)[:80]} is not allowed; a run of {K} parts needs a list of {K} texts.")
    names = [name.strip() or f"part {k}" for k, name in enumerate(names, start=1)]
    for k, name in enumerate(names):
        if len(name) > LONGEST_NAME or not name.isprintable():
            allowed = f"one line of at most {LONGEST_NAME} letters"
            raise UserError(f"part names: {name[:80]!r} is not allowed; write {allowed}.")
        if name in names[:k]:
            raise UserError(f"part names: {name!r} is given twice; each part needs a name of its own.")
    return names
