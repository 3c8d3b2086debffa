"""What the commands share: their -p parameters, the run that these name, one sentence for a user's mistake."""

import argparse
import builtins
import contextlib
import os
import sys
import textwrap

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ganseg import config, settings
from ganseg.errors import NotebookFailed, UserError

DEFAULTS = {"dataset": "tiny", "run": "try"}
RUNS = {None: "try", "gan": "shipped-gan", "segmenter": "shipped"}  # the default run, by the checkpoint that it needs
EXAMPLES = {"int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list, as [1, 2]",
            "dict": "names and values, as {lambda_con: 5}"}


def main(stage, work, needs=None, argv=None):
    """Entry point of `python -m ganseg.<stage>`: the same work as its notebook's, without notebook libraries.

    work   function of the opened Run, which prints its own progress
    needs  the checkpoint that the run must have: None, "gan" or "segmenter"
    argv   the arguments after the module's name; None: those of the process
    """
    exit_on_user_error(_work_on_run, stage, work, needs, sys.argv[1:] if argv is None else argv)


def exit_on_user_error(function, *args):
    """Call a function; print what stopped it as one sentence, without a traceback, and exit.

    What it prints never makes it fail: the work matters more, and its results are in files.
    """
    streams = (_Output(stream or open(os.devnull, "w", encoding="utf-8")) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(next(streams)), contextlib.redirect_stderr(next(streams)):
        try:
            function(*args)
        except (UserError, NotebookFailed) as error:
            sys.exit(f"ganseg: {error}")  # prints to stderr, exit code 1
        except KeyboardInterrupt:
            print("Stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
            sys.exit(130)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


class _Output:
    """A text stream that no printing fails on: what it cannot show is escaped.

    Once its reader has gone away (`| head -1`), its terminal is closed or its disk is full, it is silent.
    """

    def __init__(self, stream):
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        return self._try(self.stream.write, text)

    def flush(self):
        self._try(self.stream.flush)

    def _try(self, function, *args):
        try:
            return function(*args)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # for what is still to be flushed too


def add_parameters(parser):
    """Let a parser take -p NAME VALUE and --run NAME. Its help names all settings."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    known = textwrap.fill(", ".join(config.Config.model_fields), 100, initial_indent="  ", subsequent_indent="  ")
    parser.epilog = f"settings, which are parameters too ({settings.__file__} explains them):\n{known}"
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    parser.add_argument("--run", help="the run's name under outputs/<dataset>/")
    return parser


def parameters(args, known, types=None):
    """The -p pairs of parsed arguments as values; UserError names the nearest of the known names.

    types  name -> name of a built-in type, of a notebook's parameters: those that are no settings must be of it
    """
    given = dict(args.p)
    if args.run is not None:
        given["run"] = args.run
    for name in given:
        if name not in known:
            raise UserError(f"{name}: there is no such parameter{config.nearest(name, known)}.")
    return {name: _value(name, text, (types or {}).get(name)) for name, text in given.items()}


def open_run(values, needs):
    """The run that parameters speak of; UserError for anything they cannot mean."""
    from ganseg import runs  # imports PyTorch, for which --help need not wait

    settings = {k: v for k, v in values.items() if k in config.Config.model_fields and k != "dataset"}
    return runs.open_run(values["dataset"], values["run"], needs, **settings, **values.get("overrides", {}))


def _work_on_run(stage, work, needs, argv):
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and stage != "train":
        raise UserError(f"{stage} is done by one process: start it without torchrun.")
    args = add_parameters(argparse.ArgumentParser(prog=f"python -m ganseg.{stage}")).parse_args(argv)
    run = open_run(DEFAULTS | {"run": RUNS[needs]} | parameters(args, {*DEFAULTS, *config.Config.model_fields}), needs)
    for sentence in config.warnings(run.cfg):
        print(f"Warning: {sentence}")
    print(f"{stage} -> {run.folder}", flush=True)
    work(run)


def _value(name, text, kind=None):
    """What a parameter's text means: as it stands for text fields, else as YAML, with 1e-4 a number."""
    field = config.Config.model_fields.get(name)
    if text.lower() in ("none", "null"):
        return None if field is None else "none"  # see config.given
    if name in DEFAULTS or (kind == "str" if field is None else field.annotation in (str, str | None)):
        return text
    try:
        value = yaml.safe_load(text)
        value = float(value) if isinstance(value, str) else value
    except (yaml.YAMLError, ValueError):
        value = text
    if kind is not None and (field is None or kind == "list"):  # of a setting the config says what is wrong
        try:
            TypeAdapter(getattr(builtins, kind), config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError:
            raise UserError(f"{name}: {text!r} is not allowed; it should be {EXAMPLES[kind]}.") from None
    return value
