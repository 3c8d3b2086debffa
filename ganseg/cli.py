"""The command: `ganseg NOTEBOOK -p name value ... --run NAME` and `ganseg segment PHOTOS --run R --out DIR`."""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import yaml

from ganseg import config, parallel, runs
from ganseg.errors import UserError

# The checkpoint that a notebook needs of its run
NEEDS = {"distill": "gan", "evaluate": "segmenter", "embeddings": "gan", "equivariance": "gan", "fidelity": "gan",
         "samples": "segmenter", "inspector": "segmenter"}
DEFAULTS = {"dataset": "tiny", "run": "try"}


class NotebookFailed(Exception):
    """A notebook broke off for a reason that is no mistake of the user."""


def main(argv=None):
    """Entry point of the command `ganseg`."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["segment"]:
        _exit_on_user_error(_segment, argv[1:])
    else:
        _exit_on_user_error(_notebook, argv)


def run_stage(stage, argv=None):
    """Entry point of `python -m ganseg.<stage>`: the same work without a notebook."""
    argv = sys.argv[1:] if argv is None else argv
    _exit_on_user_error(_stage, [stage, *argv])


def _exit_on_user_error(function, argv):
    try:
        function(argv)
    except (UserError, NotebookFailed) as error:
        sys.exit(f"ganseg: {error}")  # prints to stderr, exit code 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)


def _parser(name_help):
    parser = argparse.ArgumentParser(
        prog="ganseg",
        description="Runs a notebook of notebooks/ with checked parameters: train, distill, evaluate, ... "
        "Also: ganseg segment PHOTOS --run R --out DIR.",
    )
    parser.add_argument("notebook", help=name_help)
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    parser.add_argument("--run", help="the run's name under outputs/<dataset>/")
    return parser


def _parameters(args, known):
    """The -p pairs as values; UserError names the nearest of the known names."""
    given = dict(args.p)
    if args.run is not None:
        given["run"] = args.run
    for name in given:
        if name not in known:
            raise UserError(f"{name}: there is no such parameter{config.nearest(name, known)}.")
    return {name: _value(name, text) for name, text in given.items()}


def _value(name, text):
    """What a parameter's text means: as it stands for text fields, else as YAML, with 1e-4 a number."""
    field = config.Config.model_fields.get(name)
    if text.lower() in ("none", "null"):
        return None
    if name in DEFAULTS or (field is not None and field.annotation in (str, str | None)):
        return text
    try:
        value = yaml.safe_load(text)
        return float(value) if isinstance(value, str) else value
    except (yaml.YAMLError, ValueError):
        return text  # the config says what is wrong with it


def _notebook(argv):
    args = _parser("prepare, train, distill, evaluate, or another notebook of notebooks/").parse_args(argv)
    folder = config.ROOT / "notebooks"
    names = sorted(path.stem for path in folder.glob("*.ipynb"))
    if args.notebook not in names:
        nearest = config.nearest(args.notebook, [*names, "segment"])
        raise UserError(f"{args.notebook}: there is no such notebook{nearest}; known are {', '.join(names)}, segment.")
    source = folder / f"{args.notebook}.ipynb"

    import papermill  # not at the top: training needs no notebook library

    tagged = papermill.inspect_notebook(str(source))
    values = _parameters(args, {*tagged, *config.Config.model_fields})
    overrides = {**(values.pop("overrides", None) or {})}
    overrides |= {name: values.pop(name) for name in list(values) if name not in tagged}
    if overrides:
        values["overrides"] = overrides
    defaults = {name: yaml.safe_load(tagged[name]["default"]) for name in DEFAULTS if name in tagged}
    needs = None if values.get("untrained_only") else NEEDS.get(args.notebook)
    run = _open({**DEFAULTS, **defaults, **values}, needs)  # refuses before anything is written
    print(f"{source.relative_to(config.ROOT)} -> {run.folder}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        executed = Path(scratch) / source.name
        try:
            _execute(papermill, source, executed, values)
        except UserError:  # a mistake leaves the run as it was
            raise
        except BaseException:
            _keep(executed, run)
            raise
        _keep(executed, run)


def _keep(executed, run):
    """Store an executed notebook in the run folder, where there is one."""
    if executed.exists() and run.folder.exists():
        shutil.copyfile(executed, run.folder / executed.name)


def _execute(papermill, source, executed, values):
    """Run a notebook, streaming what it prints; a UserError inside is raised as one here.

    Raises NotebookFailed for any other error inside.
    """
    import psutil  # like papermill not at the top

    asked = []

    def pass_on(number, _):  # the notebook's process gets no signal from the terminal
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        for child in psutil.Process().children():
            child.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        papermill.execute_notebook(
            str(source),
            str(executed),
            parameters=values,
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            store_widget_state=False,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # what it says is not for our users
        )
    except RuntimeError:  # the notebook's process was still starting when it was to stop
        if asked:
            raise KeyboardInterrupt from None
        raise
    except papermill.exceptions.PapermillExecutionError as error:
        if error.ename == "UserError":
            raise UserError(error.evalue) from None
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from None
        what = f"cell {error.exec_count} failed with {error.ename}: {error.evalue}"
        raise NotebookFailed(f"{source.name}: {what} (the executed copy in the run folder has the details)") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open(values, needs):
    """The run that notebook parameters speak of; UserError for anything they cannot mean."""
    settings = {k: v for k, v in values.items() if k in config.Config.model_fields and k != "dataset"}
    return runs.open_run(values["dataset"], values["run"], needs, **settings, **values.get("overrides", {}))


def _stage(argv):
    from ganseg import benchmark, distill, evaluate, report, train
    from ganseg.loop import progress

    stage, *rest = argv
    if parallel.size() > 1 and stage != "train":
        raise UserError(f"{stage} is done by one process: start it without torchrun.")
    args = _parser(argparse.SUPPRESS).parse_args([stage, *rest])
    values = DEFAULTS | _parameters(args, {*DEFAULTS, *config.Config.model_fields})
    run = _open(values, NEEDS.get(stage))
    for sentence in config.warnings(run.cfg):
        print(f"Warning: {sentence}")
    print(f"{stage} -> {run.folder}", flush=True)
    if stage == "train":
        for record in train.train(run):
            print(progress(record, run.cfg.max_steps), flush=True)
    if stage == "distill":
        for record in distill.distill_all(run):
            print(progress(record, run.cfg.distill_steps), flush=True)
    if stage == "evaluate":
        evaluate.evaluate(run)
        print(report.table(run))
    if stage == "benchmark":
        benchmark.measure(run)


def _segment(argv):
    from ganseg import segment

    parser = argparse.ArgumentParser(prog="ganseg segment", description="Segments photos with a run's segmenter.")
    parser.add_argument("photos", nargs="+", help="a folder, a zip or files")
    parser.add_argument("--run", required=True, help="DATASET/RUN, or a run's folder")
    parser.add_argument("--out", required=True, help="folder for masks, overlays and parts.csv")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    args = parser.parse_args(argv)
    segment.segment_photos(args.photos, args.run, args.out, device=args.device)
