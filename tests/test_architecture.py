"""The house rules that a reader relies on: imports go down, no circle, short files and functions."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "ganseg"
FILES = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
         for path in ROOT.rglob("*.py") if path.name != "__main__.py"}  # which only calls cli.main

# From the bottom up: a module may import from its own layer and from those below. A folder stands for its modules.
LAYERS = [
    ["errors"],
    ["config", "files", "settings", "signals"],
    ["checkpoints", "devices", "distributed", "figures", "generator", "metrics", "model", "part_names", "records",
     "runs", "sources"],
    ["arguments", "datasets", "measuring", "training"],
    ["distill", "evaluate", "export", "official", "parts", "prepare", "score", "segment", "train"],
    ["cli", "experiments", "viewer"],
]  # fmt: skip
LONGEST_CHAIN = 7  # imports, one after another
LONGEST_FILE, LONGEST_FUNCTION = 300, 40  # lines

# Longer functions, each with the reason
LONG_FUNCTIONS = {}
# Imports inside functions must name a reason in a comment on their line: the library is slow or optional
SLOW_OR_OPTIONAL = {f"ganseg.{name}" for name in (  # of our own: they bring PyTorch or NumPy
    "distill", "evaluate", "export", "part_names", "parts", "prepare", "runs", "score", "segment", "train")}


def imports_of(tree, wanted=ast.walk):
    """Full names of the ganseg modules that a syntax tree imports."""
    found = set()
    for node in wanted(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in FILES}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ganseg":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in names}
    return found - {"ganseg"}


@cache
def graph():
    return {name: imports_of(ast.parse(path.read_text())) - {name} for name, path in FILES.items() if name != "ganseg"}


def layer(name):
    top = name.split(".")[1]
    (number,) = [i for i, names in enumerate(LAYERS) if top in names]
    return number


def test_every_module_has_a_layer():
    assert {name.split(".")[1] for name in graph()} == {top for names in LAYERS for top in names}


def test_imports_go_down():
    up = [(name, other) for name, others in graph().items() for other in others if layer(other) > layer(name)]
    assert up == []


def test_no_import_goes_in_a_circle_and_chains_are_short():
    def chain(name, above=()):
        assert name not in above, f"circle: {' -> '.join((*above, name))}"
        longest = max((chain(other, (*above, name)) for other in graph()[name]), key=len, default=())
        return (name, *longest)

    longest = max(map(chain, graph()), key=len)
    assert len(longest) - 1 <= LONGEST_CHAIN, " -> ".join(longest)


def test_imports_inside_functions_say_why():
    silent = []
    for name, path in FILES.items():
        lines = path.read_text().splitlines()
        for function in [node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.FunctionDef)]:
            inner = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
            ours = imports_of(function) - SLOW_OR_OPTIONAL
            silent += [(name, other) for other in ours]
            reasons = [line.lineno for line in inner if "#" in lines[line.lineno - 1] or "#" in lines[line.lineno - 2]]
            if inner and not reasons:
                silent.append((name, function.name))
    assert silent == []


def test_every_text_file_names_its_encoding():
    silent = []
    for name, path in FILES.items():
        for call in [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]:
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            called, whose = getattr(call.func, "attr", getattr(call.func, "id", "")), getattr(call.func, "value", None)
            mode = given.get("mode") or next(iter(call.args[whose is None :]), ast.Constant("r"))
            texts = {"open": whose is None or getattr(mode, "value", None) in ("r", "w", "a", "x"), "fdopen": True,
                     "read_text": not call.args, "write_text": getattr(whose, "id", "") != "files"}
            is_text = texts.get(called, False) and "b" not in str(getattr(mode, "value", ""))
            is_text |= getattr(given.get("text"), "value", None) is True  # of a subprocess
            if is_text and "encoding" not in given:
                silent.append(f"{name}:{call.lineno}")
    assert silent == []


def test_files_are_short():
    lengths = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_functions_are_short():
    long = {}
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION:
                long[f"{name}.{node.name}"] = node.end_lineno - node.lineno + 1
    assert long.keys() == LONG_FUNCTIONS.keys() and len(long) <= 3, long


def test_the_architecture_of_a_run_is_asked_for_in_few_places():
    asked = [name for name, path in FILES.items() for line in path.read_text().splitlines()
             if re.search(r"cfg\.architecture [!=]=", line)]
    assert len(asked) <= 4, asked


@pytest.mark.parametrize("name", ["ganseg.generator", "ganseg.official", "ganseg.segment", "ganseg.train"])
def test_the_paths_that_users_import_are_there(name):
    assert name in FILES


def test_the_layers_are_those_of_the_map_for_contributors():
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    assert all(f"{top}" in text for names in LAYERS for top in names)
