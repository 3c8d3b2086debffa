"""What there is for a data set: the best run of each kind, controls, published numbers, and how to make the runs."""

import shlex

import pandas as pd

from ganseg import config, records, runs
from ganseg.experiments.compare import league_of, load_published, measured_of, numbers_of
from ganseg.experiments.findings import COMPARED
from ganseg.figures.report import BASELINES

# The metrics of a data set's contenders, in this order
CONTESTED = ("foreground_iou", "nmi", "nmi_foreground", "ari_foreground", "part_miou", "landmark_error",
             "landmark_error_with_bias", "keypoint_error_percent", "keypoint_error_box", "nmi_keypoints",
             "nmi_keypoints_parts", "ari_keypoints_parts", "taichi_mae", "fid_50k")


def contenders(of_runs):
    """What there is for each data set and source: the best run of each kind, controls, and published numbers.

    The kinds are a GAN alone, with pretrained networks or with corrected masks, clusters of a network's features or of
    colours, and masks that somebody made. The best is that by the first metric of findings.COMPARED that it has.
    Returns a DataFrame indexed by data set and kind, with run or system, league, picture size, and those of CONTESTED
    that there are, in columns of their own where they were measured otherwise. Published numbers are of the data set in
    their own settings. Empty where no run was evaluated.
    """
    groups, tables = {}, {}
    for run in of_runs:
        groups.setdefault(" ".join(filter(None, (run.cfg.dataset, run.cfg.source))), []).append(run)
    for name, members in groups.items():
        rows = [*_best_of_each_kind(members), *_controls(members)]
        if rows:
            rows += _published_rows(members[0].cfg.dataset)
            tables[name] = pd.DataFrame(rows).set_index("kind")
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, names=["data set", "kind"])
    wanted = [column for name in ("run or system", "league", "image_size", *CONTESTED) for column in table
              if column.split(" (")[0] == name]
    return table[wanted]


def _best_of_each_kind(of_runs):
    best = {}
    for run in of_runs:
        record = next(reversed(run.records("evaluate")), {})
        values = numbers_of(record)
        metric = next((name for name in COMPARED if name in values), None)
        if metric:
            rank, kind = values[metric] * (1 if COMPARED[metric] else -1), _kind(run, record.get("notes", {}))
            best[kind] = max(best.get(kind, (rank, run)), (rank, run), key=lambda entry: entry[0])
    return [{"kind": kind, "run or system": run.label, "league": league_of(run), "image_size": run.cfg.image_size}
            | measured_of(run) for kind, (_, run) in sorted(best.items())]


def _kind(run, notes):
    """What made the parts of a run."""
    if records.MASKS in notes:
        return "masks"
    if network := notes.get(records.CLUSTERED):
        return "clusters of colours" if network == "colors" else "clusters of features"
    if run.cfg.architecture != "gan":
        return "auto-encoder"
    if "supervised part masks" in league_of(run):
        return "GAN with corrected masks"
    return "GAN" if league_of(run) == "nothing" else "GAN with pretrained networks"


def _controls(of_runs):
    """A row for each of report.BASELINES that the newest run has."""
    values = {name: value for run in of_runs for name, value in
              numbers_of(next(reversed(run.records("evaluate")), {})).items()}
    return [{"kind": "control", "run or system": what, "league": "nothing", metric: values[control]}
            for metric, control, what, _ in BASELINES if control in values]


def _published_rows(dataset):
    """A row for each published system and setting."""
    rows, numbers = {}, load_published()
    for line in numbers[numbers.dataset == dataset].itertuples():
        setting = ", ".join(f"{name} {value}" for name, value in line.setting.items() if value is not None)
        system = f"{line.system} ({setting})" if setting else line.system
        row = rows.setdefault(system, {"kind": "published", "run or system": system, "league": line.league})
        row[line.metric] = line.value
    return list(rows.values())


def commands(table):
    """A line for each run of a table of contenders: the commands that make it again, on pictures in the same place."""
    names = [name for name in table.get("run or system", ()) if (runs.outputs_root() / name / "config.yaml").exists()]
    return [f"{name}: {_command(runs.find(name))}" for name in dict.fromkeys(names)]


def _command(run):
    notes = next(reversed(run.records("evaluate")), {}).get("notes", {})
    given = config.given_to(run.cfg)
    if records.MASKS in notes:
        first = f"ganseg score {shlex.quote(notes[records.MASKS])}"
    elif network := notes.get(records.CLUSTERED):
        first, given = "ganseg features", {**given, "network": network}
    else:
        first = "ganseg train"
    words = config.as_words({"dataset": run.cfg.dataset, **given})
    later = [run.command(stage) for stage in ("distill", "evaluate")] if first == "ganseg train" else []
    return "; ".join([f"{first} {words} --run {run.folder.name}", *later])
