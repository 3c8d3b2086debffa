"""Where data sets lie, for runs that are not told: {name: fields} in outputs/<dataset>/sources.json.

Own pictures (the data set folder) may lie in several places, each under the name of its folder or file.
"""

import json
import os
from pathlib import Path

from ganseg import files
from ganseg.errors import UserError

FIELDS = {"source", "split_list"}
OWN = "folder"  # the data set of own pictures


def remember(dataset, **paths):
    """Keep where a data set lies (the config fields source and split_list), for runs that are not told."""
    known, name = _known(dataset), _name(paths["source"])
    if known.get(name, paths)["source"] != paths["source"] and dataset == OWN:
        name = f"{Path(paths['source']).parent.name}/{name}"
    if dataset != OWN:
        for before in [fields["source"] for fields in known.values() if fields["source"] != paths["source"]]:
            print(f"{dataset}: {paths['source']} takes the place of {before}.", flush=True)
        known = {}
    if dataset == OWN and known and name not in known:
        print(f"-p source {name} means {paths['source']} from now on; known before: {', '.join(known)}.", flush=True)
    files.write_text(_path(dataset), json.dumps({**known, name: paths}, indent=1))


def named(dataset, overrides):
    """Config fields, where the name of a kept source stands for its fields."""
    source = overrides.get("source")
    if not isinstance(source, str) or os.path.exists(files.absolute(source)) or source not in (k := _known(dataset)):
        return overrides
    return {**overrides, **k[source]}


def located(dataset, overrides):
    """Config fields of a new run, with those that were kept where it is not told.

    Raises UserError where several sources were kept and none is named, and for a damaged file.
    """
    known = _known(dataset)
    if len(known) > 1 and not overrides.get("source"):
        raise UserError(f"source: there are several collections, {', '.join(known)}; say which with -p source NAME.")
    return {**next(iter(known.values()), {}), **overrides} if len(known) == 1 else overrides


def _path(dataset):
    return files.outputs_root() / dataset / "sources.json"


def _name(source):
    return Path(source).name.split(".")[0] or "pictures"


def _known(dataset):
    """{name: fields} of a data set, of older code too."""
    path, older = _path(dataset), files.outputs_root() / "cache" / dataset / "paths.json"
    path = path if path.exists() or not older.exists() else older
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except ValueError:
        known = None
    if path == older and isinstance(known, dict) and isinstance(known.get("source"), str):
        known = {_name(known["source"]): known}
    if not isinstance(known, dict) or not all(
            isinstance(fields, dict) and "source" in fields and fields.keys() <= FIELDS for fields in known.values()):
        raise UserError(f"{path}: is damaged; name the pictures again with ganseg prepare -p dataset {dataset} "
                        "-p source PATH, or delete the file.")
    return known
