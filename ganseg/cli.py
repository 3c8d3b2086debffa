"""The command: `ganseg NOTEBOOK -p name value ... --run NAME`, and verbs without a notebook: segment, score ..."""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import psutil
import yaml

from ganseg import arguments, config, files, signals
from ganseg.arguments import DEFAULTS
from ganseg.errors import NotebookFailed, UserError

# The checkpoint that a notebook needs of its run
NEEDS = {"distill": "gan", "evaluate": "segmenter", "embeddings": "gan", "equivariance": "gan", "fidelity": "gan",
         "samples": "segmenter", "start": "segmenter", "inspector": "gan"}
NEXT = {
    "prepare": "ganseg train -p dataset {dataset}",
    "train": "ganseg distill -p dataset {dataset} --run {run}",
    "distill": "ganseg evaluate -p dataset {dataset} --run {run}",
    "evaluate": "look at {folder}/report.html, then: ganseg segment PHOTOS --run {dataset}/{run} --out parts/",
}  # fmt: skip
USAGE = "[-p NAME VALUE] [-p NAME VALUE] ... [--run RUN]"
OF_MANY_RUNS = {"compare"}  # its data set may be `all`, and its run is only a folder


def main(argv=None):
    """Entry point of the command `ganseg`."""
    argv = sys.argv[1:] if argv is None else argv
    own = OWN.get(next(iter(argv), None))
    arguments.exit_on_user_error(own or _notebook, argv[1:] if own else argv)


def _notebook(argv):
    sources = {path.stem: path for path in sorted((config.ROOT / "notebooks").glob("*.ipynb"))}
    parser = arguments.add_parameters(argparse.ArgumentParser(prog="ganseg", add_help=False))
    parser.add_argument("notebook", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true", help="show this, or the parameters of the notebook")
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    args = parser.parse_args(argv)
    if args.version:
        print(f"ganseg {metadata.version('ganseg')}")
    elif args.notebook is None:
        others = "".join(f"\n       ganseg {name} --help" for name in ("NOTEBOOK", *OWN))
        parser.usage = f"ganseg NOTEBOOK {USAGE}{others}"
        parser.epilog = "\n".join(["notebooks:", *(f"  {name:13} {_title(path)}" for name, path in sources.items())])
        parser.print_help()
    elif args.notebook not in sources:
        known = [*sources, *OWN]
        nearest = config.nearest(args.notebook, known)
        raise UserError(f"{args.notebook}: there is no such notebook{nearest}; known are {', '.join(known)}.")
    else:
        _run_or_explain(args, sources[args.notebook], parser)


def _title(source):
    """The heading of a notebook."""
    return json.loads(source.read_text(encoding="utf-8"))["cells"][0]["source"][0].strip("# \n")


def _run_or_explain(args, source, parser):
    import papermill  # takes a second, for which --help need not wait

    tagged = papermill.inspect_notebook(str(source))
    if args.help:
        own = {name: tag for name, tag in tagged.items() if name != "overrides"}  # which is for plain papermill
        rows = [f"  {name} = {tag['default']}".ljust(32) + f" {tag['help']}" for name, tag in own.items()]
        parser.usage = f"ganseg {source.stem} {USAGE}"
        parser.description = "\n".join([_title(source), "", "parameters:", *rows])
        parser.print_help()
    else:
        _run(papermill, args, source, tagged)


def _run(papermill, args, source, tagged):
    types = {name: tag["inferred_type_name"] for name, tag in tagged.items()}
    values = arguments.parameters(args, {*tagged, *config.Config.model_fields}, types)
    overrides = values.pop("overrides", None) or {}
    overrides |= {name: values.pop(name) for name in list(values) if name not in tagged}
    if overrides:
        values["overrides"] = overrides
    defaults = {name: yaml.safe_load(tagged[name]["default"]) for name in DEFAULTS if name in tagged}
    folder = _run_folder(args.notebook, tagged, {**DEFAULTS, **defaults, **values})  # refuses before it writes
    print(f"{source.relative_to(config.ROOT)} -> {folder}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        executed = Path(scratch) / source.name
        try:
            _execute(papermill, source, executed, values)
        except UserError:  # a mistake leaves the run as it was
            raise
        except BaseException:
            with contextlib.suppress(UserError):  # why it failed matters more
                _keep(executed, folder)
            raise
        _keep(executed, folder)
    dataset, run = folder.parent.name, folder.name
    if args.notebook in NEXT:
        print("Next:", NEXT[args.notebook].format(dataset=dataset, run=run, folder=folder))


def _run_folder(notebook, tagged, values):
    """The folder that a notebook's results go to; UserError for parameters that cannot be.

    A parameter that is a list is the notebook's own, though a setting may have the same name.
    """
    from ganseg import runs  # imports PyTorch, for which --help need not wait

    if notebook in OF_MANY_RUNS:
        return runs.outputs_root() / values["dataset"] / values["run"]
    needs = None if values.get("untrained_only") else NEEDS.get(notebook)
    own = {name for name, tag in tagged.items() if tag["inferred_type_name"] == "list"}
    return arguments.open_run({name: value for name, value in values.items() if name not in own}, needs).folder


def _keep(executed, folder):
    """Store an executed notebook in the run folder, where there is one."""
    if executed.exists() and folder.exists():
        with files.whole(folder / executed.name, "wb") as file:
            file.write(executed.read_bytes())


def _execute(papermill, source, executed, values):
    """Run a notebook, streaming what it prints; a UserError inside is raised as one here.

    Raises NotebookFailed for any other error inside.
    """
    with signals.taken(_interrupt_notebook) as asked:
        try:
            papermill.execute_notebook(
                str(source), str(executed), values, kernel_name="python3", progress_bar=False,
                stdout_file=sys.stdout, stderr_file=sys.stderr, store_widget_state=False,
                coalesce_streams=True,  # else each printed line is an output of its own in the executed copy
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # what the kernel says is not for our users
            )  # fmt: skip
        except RuntimeError:  # the notebook's process was still starting when it was to stop
            if asked:
                raise KeyboardInterrupt from None
            raise
        except OSError as error:  # no room for the executed copy, or for the files of the notebook's process
            raise NotebookFailed(f"{source.name}: cannot be run: {files.one_line(error)}") from None
        except papermill.exceptions.PapermillExecutionError as error:
            if error.ename == "UserError":
                raise UserError(error.evalue) from None
            if error.ename == "KeyboardInterrupt":
                raise KeyboardInterrupt from None
            what = f"{source.name}: cell {error.exec_count} failed with {error.ename}: {error.evalue}"
            raise NotebookFailed(f"{what} (the executed copy in the run folder has the details)") from None


def _interrupt_notebook():
    """Interrupt the notebook's process, which gets no signal of its own from Ctrl-C or a scheduler."""
    for child in psutil.Process().children():
        child.send_signal(signal.SIGINT)


def _segment(argv):
    parser = argparse.ArgumentParser(prog="ganseg segment", description="Segments photos with a run's segmenter.")
    parser.add_argument("photos", nargs="+", help="a folder, a zip or files")
    parser.add_argument("--run", required=True, help="DATASET/RUN, or a run's folder")
    parser.add_argument("--out", required=True, help="folder for masks, overlays and parts.csv")
    parser.add_argument("--format", nargs="+", action="extend", default=[], metavar="FORMAT",
                        help="for other tools too: coco, yolo, voc, labelstudio")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    args = parser.parse_args(argv)

    from ganseg import segment  # imports PyTorch, for which --help need not wait

    segment.segment_photos(args.photos, args.run, args.out, device=args.device, formats=args.format)


def _name(argv):
    parser = argparse.ArgumentParser(
        prog="ganseg name", description="Names a run's parts: ganseg name --run folder/first 1 head 2 body. It prints "
                                        "what they are taken for; merge, hidden and color are set in the file named.")
    parser.add_argument("names", nargs="*", metavar="NUMBER NAME", help='a part and its name; "" takes a name back')
    parser.add_argument("--run", required=True, help="DATASET/RUN, or a run's folder")
    args = parser.parse_args(argv)

    from ganseg import part_names, runs  # import NumPy and PyTorch, for which --help need not wait

    run, numbers = runs.find(args.run), args.names[::2]
    wrong = [k for i, k in enumerate(numbers) if not k.isdecimal() or k in numbers[:i]]
    if wrong or len(args.names) % 2:
        raise UserError(f"names: {' '.join(args.names)!r} is not allowed; write each part's number once and its name "
                        "after it, as in: 1 head 2 'left wing'.")
    named = {int(k): {"name": name} for k, name in zip(numbers, args.names[1::2], strict=True)}
    labels = part_names.change_parts(run, named).labels
    print(f"{run.folder / 'parts.yaml'}: {', '.join(labels)}")


def _score(argv):
    parser = arguments.add_parameters(argparse.ArgumentParser(
        prog="ganseg score", description="Measures masks that anybody made of a data set's test pictures, by all "
                                         "metrics that need no network."))
    parser.add_argument("masks", help="a folder or zip of index PNGs named as the pictures, or COCO JSON")
    parser.add_argument("--resize", action="store_true", help="stretch masks of another size to that of their picture")
    parser.add_argument("--league", default="not known", help="what made the masks was taught with, as in compare")
    args = parser.parse_args(argv)
    values = {"run": "scored", **arguments.parameters(args, {*DEFAULTS, *config.Config.model_fields})}

    from ganseg import score  # imports PyTorch, for which --help need not wait

    score.print_score(arguments.open_run(DEFAULTS | values, None), args.masks, values.get("n_parts"), args.resize,
                      args.league)


def _parts(argv):
    parser = arguments.add_parameters(argparse.ArgumentParser(
        prog="ganseg parts", description="Finds the parts of own photos: prepares, trains, distils, evaluates and "
                                         "reports, and goes on where it stopped. -p minutes 40 limits all of it; "
                                         "-p seeds \"[0, 1, 2]\" trains the best of three, see ganseg choose."))
    parser.add_argument("photos", help="a folder or zip")
    args = parser.parse_args(argv)
    known = {"run", "minutes", "seeds", *config.Config.model_fields} - {"dataset", "source"}
    values = arguments.parameters(args, known, {"minutes": "float", "seeds": "list"})
    name, minutes = values.pop("run", "parts"), values.pop("minutes", None)

    # They import PyTorch, for which --help need not wait
    from ganseg import distill, evaluate, parts, prepare, train

    if values.pop("seeds", None) and not parts.is_there(name):
        if minutes is not None:
            raise UserError("seeds: a choice among them has no limit of minutes; leave minutes out.")
        parts.set_preset(name, values)
        given = {**dict(args.p), "dataset": "folder", "source": args.photos, "run": name,
                 "preset": values["preset"] or "none"}
        if "n_parts" in values:
            given["n_parts"] = f"[{given['n_parts']}]"  # a choice takes several
        _notebook(["choose", *(word for pair in given.items() for word in ("-p", *pair))])
        values = {}  # the chosen run has them
    run = parts.open_parts(args.photos, name, minutes, train.seconds_per_step, **values)
    prepare.say_what_is_there(run.cfg, prepare.build_cache(run))
    parts.find_parts(run, (train.train, distill.distill, evaluate.evaluate), minutes)


def _export(argv):
    parser = argparse.ArgumentParser(prog="ganseg export", description="Takes what a run learned to other programs.")
    kinds = parser.add_subparsers(dest="what", required=True)
    model = kinds.add_parser("model", help="the segmenter, with what its users must know beside it")
    model.add_argument("--format", default="torch", choices=["torch", "onnx"], help="torch is safetensors")
    pairs = kinds.add_parser("pairs", help="generated pictures with their part masks, which the data set folder reads")
    pairs.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                       help="n, how many (5000), and seed (without it the run's, as its segmenter saw them)")
    for kind in (model, pairs):
        kind.add_argument("--run", required=True, help="DATASET/RUN, or a run's folder")
        kind.add_argument("--out", help="a new folder; without: one in the run's folder")
    args = parser.parse_args(argv)

    from ganseg import export  # imports PyTorch, for which --help need not wait

    if args.what == "model":
        export.export_model(args.run, args.format, args.out)
    else:
        given = arguments.parameters(args, {"n", "seed", "run"}, {"n": "int"})
        export.export_pairs(given["run"], given.get("n", 5000), args.out, given.get("seed"))


OWN = {"parts": _parts, "segment": _segment, "name": _name, "score": _score,
       "export": _export}  # commands that run no notebook
