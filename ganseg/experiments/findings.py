"""The results of a sweep: its table, its samples, and the paper's claims beside the numbers."""

import numpy as np
import pandas as pd

from ganseg import runs
from ganseg.figures import pictures

TRAINED = ("nmi_foreground", 0.4)  # what the data set's own configuration must reach before anything is claimed
# What trials are compared by: the first that the data set has, and whether more is better
COMPARED = {"nmi_foreground": True, "landmark_error": False, "taichi_mae": False, "keypoint_error_percent": False,
            "foreground_iou": True}


def sweep_table(dataset, wanted, done):
    """A row for each setting: mean and standard deviation over the seeds, or why there is none.

    done  what trials.evaluations returns, here and below: run name -> evaluation of the finished ones
    Returns a DataFrame indexed by the setting, with columns seeds, status (finished, missing or error), and for each
    metric `metric` and `metric_std`. The standard deviation of one seed is NaN.
    """
    rows = {}
    for trial in wanted:
        rows.setdefault(trial.label, []).append(trial)
    table = pd.DataFrame({"seeds": {label: sum(t.name in done for t in of_seeds) for label, of_seeds in rows.items()},
                          "status": {label: _status(dataset, of_seeds, done) for label, of_seeds in rows.items()}})
    values = pd.DataFrame({trial.name: _numbers(done[trial.name]) for trial in wanted if trial.name in done}).T
    of_setting = values.groupby({trial.name: trial.label for trial in wanted})
    return table.join(of_setting.mean()).join(of_setting.std().add_suffix("_std"))


def formatted_table(frame, names):
    """The named metrics of a `sweep_table` as texts, mean ± standard deviation, beside seeds and status."""
    texts = frame[["seeds", "status"]].copy()
    for name in [name for name in names if name in frame]:
        pairs = zip(frame[name], frame[f"{name}_std"], strict=True)
        texts[name] = ["" if m != m else f"{m:.3f}" if s != s else f"{m:.3f} ± {s:.3f}" for m, s in pairs]
    return texts


def sample_strips(dataset, wanted, done):
    """Ten generated pictures with their parts for each setting, of its first finished seed: label -> (H, W, 3)."""
    strips = {}
    for trial in wanted:
        path = runs.outputs_root() / dataset / trial.name / "figures" / "samples.png"
        if trial.label not in strips and trial.name in done:
            sheet = pictures.read_picture(path)
            strips[trial.label] = sheet[: (sheet.shape[1] + 2) // 20 - 2]  # the first row of ten pairs
    return strips


def checked_claims(sweep, wanted, base, done):
    """What the paper says and what came out: a DataFrame with claim, result, seeds and numbers.

    base  Trials of the data set's own configuration, one for each seed: where one is undertrained, nothing is claimed
          of its seed
    """
    said = []
    name, enough = TRAINED
    trained = {trial.overrides["seed"]: done.get(trial.name) for trial in base}
    short = {seed for seed, record in trained.items() if record is None or record.get(name, np.inf) < enough}
    for finding in sweep.findings:
        here, there = (_by_seed(wanted, setting, done) for setting in (finding.trial, finding.than))
        run = here.keys() & (there.keys() if finding.than else here.keys())
        seeds = sorted(run - short)
        line = {"claim": finding.claim, "seeds": len(seeds)}
        if not run:
            line["result"] = "not run"
        elif not seeds:
            line["result"] = f"undertrained: {name} of the data set's own configuration below {enough}"
        else:
            yes, line["numbers"] = _compared([(here[seed], there.get(seed)) for seed in seeds])
            result = "reproduced" if all(yes) else "not reproduced" if not any(yes) else "mixed"
            left_out = "".join(f", seed {seed} undertrained" for seed in sorted(run & short))
            line["result"] = f"{result} ({sum(yes)} of {len(yes)} seeds{left_out})" if yes else "not measured"
        said.append(line)
    return pd.DataFrame(said, columns=["claim", "result", "seeds", "numbers"])


def _compared(pairs):
    """Whether the first of two records (the second None: whether it collapsed) is worse, for each pair, and a text.

    Nothing where the data set has no metric to compare by.
    """
    if pairs[0][1] is None:
        yes = [bool(record["collapse"]) for record, _ in pairs if "collapse" in record]
        return yes, f"collapse {', '.join(str(int(value)) for value in yes)}" if yes else ""
    metric = next((name for name in COMPARED if all(name in record for pair in pairs for record in pair)), None)
    values = [(a[metric], b[metric]) for a, b in pairs] if metric else []
    text = f"{metric} " + ", ".join(f"{a:.3f} against {b:.3f}" for a, b in values) if metric else ""
    return [a < b if COMPARED[metric] else a > b for a, b in values], text


def _by_seed(wanted, setting, done):
    """Seed -> evaluation of the finished trials of one setting."""
    of_setting = [trial for trial in wanted if setting and setting.items() <= trial.setting.items()]
    return {trial.overrides["seed"]: done[trial.name] for trial in of_setting if trial.name in done}


def _numbers(record):
    return {k: v for k, v in record.items() if isinstance(v, float) and not k.startswith("untrained_")}


def _status(dataset, of_seeds, done):
    """The worst status among the seeds' trials."""
    open_ones = [trial for trial in of_seeds if trial.name not in done]
    for trial in open_ones:
        error = runs.outputs_root() / dataset / trial.name / "error.txt"
        if error.exists():
            return "error: " + error.read_text(encoding="utf-8").strip()
    return f"missing: {len(open_ones)} of {len(of_seeds)}" if open_ones else "finished"
