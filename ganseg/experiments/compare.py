"""Runs beside each other and beside published numbers: tables of what metrics.jsonl holds."""

import pandas as pd
import yaml

from ganseg import config, runs
from ganseg.errors import UserError

SETTINGS = ("n_parts", "n_per", "heatmap", "architecture", "image_size", "lambda_con", "lambda_area", "seed")
OTHER = {"stage", "step", "time_s", "left_out", "notes", "settings"}  # of a record: no numbers to compare
LESS_IS_BETTER = ("fid", "kid", "frechet", "collapse", "mask_entropy")
PENALTIES = ("concentration_loss", "area_loss", "gradient_penalty")


def all_runs(dataset=None):
    """Every run under outputs/ that can be opened, of one data set or of all."""
    found = []
    for path in sorted(runs.outputs_root().glob(f"{dataset or '*'}/*/config.yaml")):
        try:
            found.append(runs.find(str(path.parent)))
        except UserError as error:
            print(f"Left out: {error}")
    return found


def runs_table(of_runs):
    """A row for each run: data set, settings, GAN steps, minutes of training, then the newest value of each metric.

    Returns a DataFrame indexed by DATASET/RUN. Metrics come from the evaluate and fidelity stages.
    """
    rows = {run.label: _row(run) for run in of_runs}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame.dropna(axis="columns", how="all")


def _row(run):
    train = run.records("train")
    row = {"dataset": run.cfg.dataset, **{name: getattr(run.cfg, name) for name in SETTINGS}}
    row["GAN steps"] = train[-1]["step"] if train else 0
    row["minutes"] = train[-1]["time_s"] / 60 if train else None
    return row | _signals(run) | _metrics(run)


def _metrics(run):
    values = {}
    for stage in ("fidelity", "evaluate"):
        for record in run.records(stage):
            values |= {k: v for k, v in record.items() if k not in OTHER and isinstance(v, int | float)}
    return values


def _signals(run):
    """What a training tells without labels: its last penalties, and how it uses parts and background."""
    values = {}
    for record in run.records("train"):
        values |= {name: record[name] for name in PENALTIES if name in record}
    for record in run.records("train_samples")[-1:]:
        shares = [value for name, value in record.items() if name.startswith("part_")]
        values |= {"smallest part": min(shares), "generated background": record["background_share"]}
    return values


def load_published():
    """The numbers of params/published.yaml: a DataFrame with system, dataset, metric, value, source and setting."""
    rows = []
    for entry in yaml.safe_load((config.ROOT / "params" / "published.yaml").read_text()):
        for setting, *values in entry["rows"]:
            for (dataset, metric), value in zip(entry["columns"], values, strict=True):
                rows.append({"system": entry["system"], "dataset": dataset, "metric": metric, "value": value,
                             "source": entry["source"], "setting": setting})
    return pd.DataFrame(rows)


def beside_published(of_runs):
    """Our value beside each published one of the same data set, metric and setting (128 pixels, not cropped).

    Returns a DataFrame with run, metric, ours, system, published and source; empty where nothing is comparable.
    """
    numbers, rows = load_published(), []
    for run in of_runs:
        ours = _metrics(run)
        if run.cfg.image_size != 128 or run.cfg.crop != "squeeze":
            continue
        own = config.load(run.cfg.dataset)  # what the data set's setting {} stands for
        fields = ("n_parts", "n_per", "heatmap", "architecture")
        for line in numbers[numbers.dataset == run.cfg.dataset].itertuples():
            wanted = {name: getattr(own, name) for name in fields} | line.setting
            if line.metric in ours and all(getattr(run.cfg, name) == value for name, value in wanted.items()):
                rows.append({"run": run.label, "metric": line.metric, "ours": ours[line.metric],
                             "system": line.system, "published": line.value, "source": line.source})
    columns = ["run", "metric", "ours", "system", "published", "source"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates(["run", "metric", "system", "published"])


def best_pair(frame, metric, first=None, second=None):
    """Two runs: those that are named, then the best by a metric. Fewer where there are not two.

    frame  of `runs_table`
    """
    lower = metric.startswith(LESS_IS_BETTER) or "_error" in metric or metric.endswith("_mae")
    best = list(frame[metric].dropna().sort_values(ascending=lower).index) if metric in frame else []
    labels = dict.fromkeys(name for name in (first, second, *best, *frame.index) if name)
    return [runs.find(label) for label in list(labels)[:2]]


def differences(first, second):
    """Two runs side by side: the settings that differ, then what was measured of both, as a DataFrame of texts."""
    a, b = first.cfg.model_dump(), second.cfg.model_dump()
    settings = {name: (a[name], b[name]) for name in a if a[name] != b[name]}
    x, y = _metrics(first), _metrics(second)
    values = {name: (x.get(name), y.get(name)) for name in [*x, *(name for name in y if name not in x)]}
    rows = [("setting", name, *map(_text, pair)) for name, pair in settings.items()]
    rows += [("metric", name, *map(_text, pair)) for name, pair in values.items()]
    return pd.DataFrame(rows, columns=["kind", "name", first.label, second.label]).set_index(["kind", "name"])


def _text(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def over_steps(run):
    """What is known of a run's checkpoints without labels, by step: penalties, part usage, Frechet distances."""
    rows = {}
    for stage in ("train", "train_samples", "fidelity"):
        for record in run.records(stage):
            values = {k: v for k, v in record.items() if k not in OTHER and isinstance(v, float)}
            shares = [v for k, v in values.items() if k.startswith("part_")]
            if shares:
                values = {"smallest part": min(shares), "generated background": values["background_share"]}
            rows.setdefault(record["step"], {}).update(values)
    frame = pd.DataFrame.from_dict(rows, orient="index").sort_index()
    return frame[[name for name in frame if name not in ("steps_per_s", "left_s")]]


def correlations(of_runs, metrics):
    """Spearman's rank correlation of what is known without labels with metrics that need them, over runs.

    Returns a DataFrame of signals by metrics, with the column runs; empty with fewer than three evaluated runs. It says
    something only for runs of one data set.
    """
    frame = runs_table(of_runs)
    signals = [name for name in [*PENALTIES, "smallest part", "generated background"] if name in frame]
    signals += [name for name in frame if name.startswith(("fid", "frechet"))]
    present = [name for name in metrics if name in frame]
    evaluated = frame.dropna(subset=present, how="any") if present else frame.iloc[:0]
    if len(evaluated) < 3:
        return pd.DataFrame()
    ranks = evaluated[[*signals, *present]].corr(method="spearman")
    return ranks.loc[signals, present].assign(runs=len(evaluated))
