"""How far what is known without labels agrees with metrics that need them, over finished runs."""

import itertools

import numpy as np
import pandas as pd

from ganseg.datasets.loading import load_pictures
from ganseg.metrics import protocols
from ganseg.metrics.unlabelled import SCORES, score
from ganseg.model import loading
from ganseg.model.consensus import N_COMPARED, agreement
from ganseg.records import PENALTIES

SCORE = "label-free score"


def with_agreement(frame, of_runs):
    """compare.runs_table with a column agreement: that with the other runs of the same source and image size."""
    groups, found = {}, {}
    for run in of_runs:
        if run.newest("segmenter"):
            groups.setdefault((run.cfg.dataset, run.cfg.source, run.cfg.image_size, run.cfg.crop), []).append(run)
    for members in groups.values():
        networks = {run.label: loading.load_segmenter(run) for run in members}
        found |= agreement(networks, load_pictures(members[0].cfg, "test", N_COMPARED))
    return frame.assign(agreement=pd.Series(found, dtype=float)) if found else frame


def correlations(frame, metrics):
    """Spearman's rank correlation of what is known without labels with metrics that need them, over runs.

    The signals: the training's losses and shares, Frechet distances, label-free metrics, and the `label-free score`.

    frame  of compare.runs_table or with_agreement, of one data set: over several it says nothing
    Returns a DataFrame of signals by metrics, with the column runs: how many a row rests on. A signal that fewer than
    three evaluated runs have is left out.
    """
    signals = [name for name in [*PENALTIES, "smallest part", "generated background"] if name in frame]
    signals += [name for name in frame if name.startswith(("fid", "frechet"))]
    label_free = [name for name, sentence in protocols().items() if sentence.startswith("Label-free")]
    present = [name for name in metrics if name in frame]
    signals += [name for name in [*label_free, "agreement"] if name in frame and name not in present]
    if set(signals) & set(SCORES):
        frame = frame.assign(**{SCORE: frame[_scored(frame)].apply(score, axis="columns")})
        signals.append(SCORE)
    evaluated = frame.dropna(subset=present, how="any") if present else frame.iloc[:0]
    known = evaluated[signals].notna().sum()
    signals = [name for name in signals if known[name] >= 3]  # two runs always agree or disagree wholly
    if not signals:
        return pd.DataFrame()
    ranks = evaluated[[*signals, *present]].corr(method="spearman")
    return ranks.loc[signals, present].assign(runs=known[signals])


def left_out(frame, metrics):
    """Whether the best combination of scores on all other data sets is good on the one that is left out.

    A combination is the geometric mean of some of SCORES; the best has the highest mean correlation, over data sets,
    with the first of the metrics that each has.

    frame    of with_agreement, of several data sets
    metrics  in order: name -> whether more is better
    Returns a DataFrame with a row for each data set and source of three evaluated runs or more: the metric, runs, the
    combination chosen on the others and its correlation here, that of the score of all, and how near the metric of the
    run with the highest score comes to the best run's.
    """
    sets, rows = {}, {}
    if frame.empty:
        return frame
    known = tuple(name for name in SCORES if name in frame)
    source = frame["source"].fillna("") if "source" in frame else ""
    for name, runs in frame.groupby(frame["dataset"] + " " + source):
        metric = next((metric for metric in metrics if metric in runs and runs[metric].notna().sum() >= 3), None)
        scored = runs[_scored(runs)]
        if metric and scored[metric].notna().sum() >= 3:
            sets[name.strip()] = metric, scored.dropna(subset=[metric])
    subsets = [names for n in range(1, len(known) + 1) for names in itertools.combinations(known, n)]
    ranks = {(name, names): _rank(runs, names, runs[metric] * (1 if metrics[metric] else -1))
             for name, (metric, runs) in sets.items() for names in subsets}
    for name, (metric, runs) in sets.items():
        others = [other for other in sets if other != name]
        best = max(subsets, key=lambda names: np.mean([ranks[other, names] for other in others])) if others else known
        chosen = runs[metric][runs.apply(score, axis="columns").idxmax()]
        ratio = chosen / runs[metric].max() if metrics[metric] else runs[metric].min() / chosen
        rows[name] = {"metric": metric, "runs": len(runs), "chosen on the others": ", ".join(best),
                      "its correlation": ranks[name, best], "correlation of all": ranks[name, known],
                      "chosen run of the best": ratio}
    return pd.DataFrame.from_dict(rows, orient="index")


def _scored(frame):
    """Which runs have any of SCORES: older evaluations have none, which is not a score of 0."""
    return frame.reindex(columns=list(SCORES)).notna().any(axis="columns")


def _rank(runs, names, wanted):
    """Spearman's correlation of the geometric mean of some scores with what is wanted; 0 where either is constant."""
    rank = runs.apply(score, axis="columns", names=names).corr(wanted, method="spearman")
    return 0.0 if rank != rank else rank
