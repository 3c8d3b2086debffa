"""Sweeps as params/ablations.yaml names them, and the trials that they consist of."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ganseg import checkpoints, config, files, runs
from ganseg.errors import UserError


class Finding(BaseModel):
    model_config = ConfigDict(extra="forbid")
    claim: str
    trial: dict
    than: dict | None = None


class Sweep(BaseModel):
    """One entry of params/ablations.yaml, which explains the fields."""

    model_config = ConfigDict(extra="forbid")
    grid: dict[str, list] = Field(min_length=1)
    per_part: list[str] = []
    base: dict = {}
    findings: list[Finding] = []


@dataclass
class Trial:
    """One run of a sweep."""

    setting: dict  # the point of the grid
    overrides: dict  # everything that differs from the data set's own config, seed included
    name: str  # of the run
    after: str | None = None  # the run whose samples give this one's sigma^2

    @property
    def label(self):
        return ", ".join(f"{field} {value}" for field, value in self.setting.items())


def load_sweep(name, path=None):
    """The Sweep of a name in params/ablations.yaml, or in a file of the same form; UserError where it cannot be."""
    path = Path(path or config.ROOT / "params" / "ablations.yaml")
    try:
        sweeps = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"sweeps_file: {path} cannot be read as YAML: {files.one_line(error)}") from None
    if not isinstance(sweeps, dict) or name not in sweeps:
        known = list(sweeps) if isinstance(sweeps, dict) else []
        raise UserError(f"sweep: there is no {name!r} in {path.name}{config.nearest(name, known)}; "
                        f"known are {', '.join(map(str, known)) or 'none'}.")
    try:
        sweep = Sweep.model_validate(sweeps[name])
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"sweep {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    for field in [*sweep.grid, *sweep.base, *sweep.per_part]:
        if field not in config.Config.model_fields or field == "seed":
            what = "seeds are a parameter of their own" if field == "seed" else "there is no such setting"
            raise UserError(f"sweep {name}: {field}: {what}{config.nearest(field, config.Config.model_fields)}.")
    if empty := [field for field, values in sweep.grid.items() if not values]:
        raise UserError(f"sweep {name}: {empty[0]}: the list of values is empty.")
    return sweep


def make_trials(sweep, dataset, prefix, seeds, **overrides):
    """The Trials of a sweep on a data set, each setting checked.

    prefix     runs are called <prefix>-<what differs from the data set's config>-seed<N>; equal ones are shared
    overrides  settings of all trials, e.g. max_steps
    """
    if not seeds:
        raise UserError("seeds: the list is empty; give at least one number.")
    overrides = {**sweep.base, **{k: v for k, v in overrides.items() if v is not None}}
    own = config.load(dataset, **overrides)
    made = {}
    for values, seed in itertools.product(itertools.product(*sweep.grid.values()), seeds):
        setting = dict(zip(sweep.grid, values, strict=True))
        wanted = {**overrides, **setting, "seed": seed}
        for field in sweep.per_part:
            wanted[field] = getattr(own, field) / own.n_parts * setting.get("n_parts", own.n_parts)
        trial = Trial(setting, wanted, _name(prefix, setting, own, seed))
        if setting.get("heatmap") == "fixed" and own.fixed_sigma2 is None and "fixed_sigma2" not in setting:
            estimated = {**setting, "heatmap": "paper"}
            trial.after = _name(prefix, estimated, own, seed)
            made.setdefault(trial.after, Trial(estimated, {**wanted, "heatmap": "paper"}, trial.after))
            config.load(dataset, **wanted, fixed_sigma2=1.0)
        else:
            config.load(dataset, **wanted)
        made[trial.name] = trial
    return list(made.values())


def base_trials(dataset, prefix, seeds, **overrides):
    """Trials of the data set's own configuration. They tell whether the number of steps is enough."""
    own = config.load(dataset, **{k: v for k, v in overrides.items() if v is not None})
    return make_trials(Sweep(grid={"n_parts": [own.n_parts]}), dataset, prefix, seeds, **overrides)


def _name(prefix, setting, own, seed):
    parts = [f"{field}-{value}" for field, value in setting.items() if value != getattr(own, field)]
    return "-".join([prefix, *(parts or ["base"]), f"seed{seed}"]).replace(" ", "").replace("[", "").replace("]", "")


def is_finished(dataset, trial):
    """Whether a trial is trained, distilled and evaluated to its end."""
    folder = runs.outputs_root() / dataset / trial.name
    if not (folder / "config.yaml").exists():
        return False
    run = runs.open_run(dataset, trial.name, **trial.overrides)  # refuses another configuration
    paths = {name: run.newest(name) for name in ("gan", "segmenter")}
    steps = {name: checkpoints.step_of(path) if path else -1 for name, path in paths.items()}
    return steps["gan"] == run.cfg.max_steps and any(
        record["step"] == steps["segmenter"] == _last_step(run.cfg, record["notes"])
        for record in run.records("evaluate") if record.get("notes", {}).get("GAN steps") == run.cfg.max_steps
    )


def _last_step(cfg, notes):
    """The last step of the segmenter that was evaluated. An auto-encoder segments by itself."""
    return cfg.max_steps if notes.get("generator weights") == "auto-encoder" else cfg.distill_steps


def newest_evaluation(dataset, trial):
    """The newest evaluation of a finished trial, or None."""
    if not is_finished(dataset, trial):
        return None
    return runs.find(f"{dataset}/{trial.name}").records("evaluate")[-1]
