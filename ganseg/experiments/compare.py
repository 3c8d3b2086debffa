"""Runs beside each other and beside published numbers: tables of what metrics.jsonl holds.

A row belongs to one step of the GAN. A metric that was not measured as the data set's own settings say has another
name, e.g. "nmi (max_test_pictures 12 instead of None)".
"""

from pathlib import Path

import pandas as pd
import yaml

from ganseg import config, records, runs
from ganseg.datasets.loading import published_counts
from ganseg.errors import UserError
from ganseg.training import trained_on

SETTINGS = ("n_parts", "n_per", "heatmap", "architecture", "source", "image_size", "crop", "lambda_con", "lambda_area",
            "seed")
LESS_IS_BETTER = ("fid", "kid", "frechet", "collapse", "mask_entropy")
MODEL = ("n_parts", "n_per", "heatmap", "architecture", "classes")  # what a published setting may name
PROTOCOL = ("max_train_pictures", "max_test_pictures", "fit_pictures")


def all_runs(dataset=None, league=None):
    """Every run under outputs/ that can be opened, of one data set or of all. What is left out is printed.

    league  only runs that were taught with this, one of records.LEAGUES; None: all
    Raises UserError for another league.
    """
    if league not in (None, *records.LEAGUES):
        raise UserError(f"league: {league!r} is none{config.nearest(league, records.LEAGUES)}; there are "
                        f"{', '.join(records.LEAGUES)}.")
    found = []
    for path in sorted(runs.outputs_root().glob(f"{dataset or '*'}/*/config.yaml")):
        try:
            run = runs.find(str(path.parent))
            config.load(run.cfg.dataset)  # its own settings, which tell one protocol from another
            found += [run] if league in (None, *league_of(run).split(", ")) else []
        except UserError as error:
            print(f"Left out is {path.parent.parent.name}/{path.parent.name}: {error}")
    return found


def league_of(run, stage="evaluate"):
    """What the newest evaluation says, else what the settings say; of the generator alone for the stage fidelity."""
    if stage == "fidelity":
        return records.league(run.cfg, {"backbone_weights": "none"})
    evaluation = next(reversed(run.records("evaluate")), {})
    return str(evaluation.get("notes", {}).get("league") or records.league(run.cfg))


def runs_table(of_runs):
    """A row for each run: data set, settings, GAN steps, minutes of training, then what was measured at that step.

    Returns a DataFrame indexed by DATASET/RUN. The step is that of the newest evaluation, or else of the newest
    fidelity record, or of the training. Where fidelity was measured at other steps alone, a line says so.
    """
    rows = {}
    for run in of_runs:
        measured = measured_of(run)
        step = measured["GAN steps"]
        train, samples = ([record for record in run.records(stage) if record["step"] <= step]
                          for stage in ("train", "train_samples"))
        notes = next(reversed(run.records("evaluate")), {}).get("notes", {})
        row = {"dataset": run.cfg.dataset, "league": league_of(run), "GAN steps": step}
        row |= {name: getattr(run.cfg, name) for name in (records.OF_MASKS if records.MASKS in notes else SETTINGS)}
        row["minutes"] = train[-1]["time_s"] / 60 if train else None
        row |= {k: record[k] for record in train for k in records.PENALTIES if k in record}  # the last of each
        rows[run.label] = row | (_shares(samples[-1]) if samples else {}) | measured
        others = {record["step"] for record in run.records("fidelity")}
        if others and step not in others:
            print(f"{run.label} stands at GAN step {step}: its fidelity, of step {max(others)}, is left out.")
    return pd.DataFrame.from_dict(rows, orient="index").dropna(axis="columns", how="all")


def measured_of(run):
    """GAN steps, and by name the metrics that belong to that step."""
    fidelity, evaluation = run.records("fidelity"), next(reversed(run.records("evaluate")), {})
    step = evaluation.get("notes", {}).get("GAN steps")
    if type(step) is not int:
        step = (fidelity or run.records("train") or [{"step": 0}])[-1]["step"]
    used, own = evaluation.get("settings", {}), config.load(run.cfg.dataset)
    other = _differing({**own.model_dump(), **used, "classes": run.cfg.classes}, own, (*PROTOCOL, "classes"))
    other += [f"split_list {Path(str(used['split_list'])).name}"] if used.get("split_list") else []
    without = evaluation.get("notes", {}).get(records.WITHOUT)
    other += [f"{without} {records.WITHOUT}"] if without else []
    suffix = f" ({', '.join(other)})" if other else ""
    values = {k: v for record in fidelity if record["step"] == step for k, v in numbers_of(record).items()}
    return {"GAN steps": step, **values, **{name + suffix: value for name, value in numbers_of(evaluation).items()}}


def numbers_of(record):
    return {k: v for k, v in record.items() if isinstance(v, float) and k not in records.TIMES}


def _shares(record):
    """What a training's samples tell: the smallest part and the background."""
    shares = [value for name, value in record.items() if name.startswith("part_")]
    return {"smallest part": min(shares), "generated background": record["background_share"]} if shares else {}


def load_published():
    """The numbers of params/published.yaml: a DataFrame with system, league, split, dataset, metric, value, source and
    setting."""
    rows = []
    for entry in yaml.safe_load((config.ROOT / "params" / "published.yaml").read_text(encoding="utf-8")):
        for setting, *values in entry["rows"]:
            for (dataset, metric), value in zip(entry["columns"], values, strict=True):
                rows.append({"system": entry["system"], "dataset": dataset, "metric": metric, "value": value,
                             "source": entry["source"], "setting": setting, "league": entry["league"],
                             "split": entry.get("split", "as published")})
    return pd.DataFrame(rows)


def beside_published(of_runs, league=None):
    """Our value beside each published one of the same data set, metric, setting and protocol.

    league  only published numbers that were taught with this; None: all
    Returns a DataFrame with run, metric, ours, league, system, published, its league and source; empty where nothing is
    comparable. Prints why a run is left out that has the metric and the setting, but was trained or measured in another
    way.
    """
    numbers, rows = load_published(), []
    for run in of_runs:
        own = config.load(run.cfg.dataset)  # what the data set's setting {} stands for
        measured = [*run.records("fidelity"), *run.records("evaluate")]
        newest, why = {name: record for record in measured for name in numbers_of(record)}, {}
        for line in numbers[numbers.dataset == run.cfg.dataset].itertuples():
            wanted = {name: getattr(own, name) for name in MODEL} | line.setting
            record = newest.get(line.metric)
            if league not in (None, *line.league.split(", ")):
                continue
            if record is None or any(getattr(run.cfg, name) != value for name, value in wanted.items()):
                continue
            key = line.metric, line.split
            if key not in why and (why.setdefault(key, _other_protocol(run.cfg, own, record, line.split))):
                print(f"{run.label} does not stand beside published {line.metric}: {', '.join(why[key])}.")
            if not why[key]:
                rows.append({"run": run.label, "metric": line.metric, "ours": record[line.metric],
                             "league": league_of(run, record["stage"]), "system": line.system, "published": line.value,
                             "its league": line.league, "source": line.source})
    columns = ["run", "metric", "ours", "league", "system", "published", "its league", "source"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates(["run", "metric", "system", "published"])


def _other_protocol(cfg, own, record, split):
    """In what a record was not trained and measured as published, which is as the data set's file says: texts.

    split  what the published test pictures were told by
    """
    fields = ["image_size", "crop", "max_train_pictures", "max_steps"]
    if record["stage"] == "fidelity":
        return _differing({**cfg.model_dump(), "max_steps": record["step"]}, own, fields)
    notes, settings = record.get("notes", {}), record.get("settings")
    if settings is None:
        return ["its settings are not known, evaluate it again"]
    used = {**cfg.model_dump(), **settings, "max_steps": notes.get("GAN steps"), "distill_steps": record["step"]}
    other = _differing(used, own, [*fields, *PROTOCOL[1:], "distill_generator", "distill_steps"])
    told_by, n = notes.get("test pictures told from training pictures by"), notes.get("test pictures")
    if told_by not in ((split, "the user's split_list") if split == "as published" else (split,)):
        other.append(f"test pictures told from training pictures by {told_by}")
    if notes.get(trained_on.NOTE) not in (None, 0, "not known"):
        other.append(f"{notes[trained_on.NOTE]} of its test pictures were trained on")
    wanted = published_counts(cfg.model_copy(update={"split_list": used["split_list"]})).get("test", n)
    return other + ([f"{n} test pictures instead of {wanted}"] if n != wanted else [])


def _differing(used, own, fields):
    """'FIELD VALUE instead of VALUE' for each field that is not the data set's own."""
    pairs = {name: (used[name], getattr(own, name)) for name in fields}
    return [f"{name} {ours} instead of {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]


def best_first(frame, metric):
    """A `runs_table` with the best runs by a metric first, and last those that lack it."""
    lower = metric.startswith(LESS_IS_BETTER) or "_error" in metric or "_mae" in metric
    return frame.sort_values(metric, ascending=lower, kind="stable") if metric in frame else frame


def by_league(frame, metric):
    """A `runs_table` in groups of one league each, the best runs by a metric first in each."""
    return best_first(frame, metric).sort_values("league", kind="stable") if "league" in frame else frame


def best_pair(frame, metric, first=None, second=None):
    """Two runs: those that are named, then the best by a metric. Fewer where there are not two.

    frame  of `runs_table`
    """
    if metric not in frame and (near := [name for name in frame if name.startswith(metric)]):
        print(f"metric: no run has {metric}, but there are {', '.join(near)}.")
    named = [runs.find(name).label for name in (first, second) if name]  # a label, a name or a folder
    labels = dict.fromkeys([*named, *best_first(frame, metric).index])
    return [runs.find(label) for label in list(labels)[:2]]


def differences(first, second):
    """Two runs side by side: the settings that differ, then what was measured of both, as a DataFrame of texts."""
    rows = {}
    for kind, (a, b) in {"setting": (first.cfg.model_dump(), second.cfg.model_dump()),
                         "metric": (measured_of(first), measured_of(second))}.items():
        for name in {**a, **b}:
            if kind == "metric" or a[name] != b[name]:
                rows[kind, name] = [_as_text(values[name]) if name in values else "" for values in (a, b)]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=[first.label, second.label])
    return frame.set_index(pd.MultiIndex.from_tuples(rows, names=["kind", "name"]))


def _as_text(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def over_steps(run):
    """What is known of a run's checkpoints without labels, by step: penalties, part usage, Frechet distances."""
    rows = {}
    for stage in ("train", "train_samples", "fidelity"):
        for record in run.records(stage):
            rows.setdefault(record["step"], {}).update(_shares(record) or numbers_of(record))
    return pd.DataFrame.from_dict(rows, orient="index").sort_index()


