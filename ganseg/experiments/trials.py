"""Sweeps as params/ablations.yaml names them, and the trials that they consist of."""

import itertools
import math
import re
from dataclasses import dataclass

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ganseg import config, devices, files, records, runs, settings, sources
from ganseg.errors import UserError
from ganseg.model import geometry, loading

N_SIGMA2 = 5000  # a fixed sigma^2 is the mean over so many samples (S F.2)
# A trial says itself what its results depend on, so that nothing that was saved takes its place
ASKED = {"max_steps", "distill_steps", "max_test_pictures", *settings.EvaluateConfig.model_fields}
ASKED |= config.Config.model_fields.keys() - config.FREE - {"dataset", "preset"}


class _Finding(BaseModel):
    model_config = ConfigDict(extra="forbid")
    claim: str
    trial: dict
    than: dict | None = None


class Sweep(BaseModel):
    """One entry of params/ablations.yaml, which explains the fields."""

    model_config = ConfigDict(extra="forbid")
    grid: dict[str, list] = {}
    settings: list[dict] = []
    per_part: list[str] = []
    base: dict = {}
    findings: list[_Finding] = []

    @property
    def values(self):
        """Field -> the values that it takes in some trials."""
        of_settings = {field: [s[field] for s in self.settings if field in s] for s in self.settings for field in s}
        return {**of_settings, **self.grid}

    @property
    def points(self):
        """What each trial sets, {field: value}."""
        grid = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        return self.settings or grid


@dataclass
class Trial:
    """One run of a sweep."""

    setting: dict  # of Sweep.points
    overrides: dict  # everything that differs from the data set's own config, seed included, and all of ASKED
    name: str  # of the run
    cfg: config.Config  # with the overrides; where the trial comes after another, fixed_sigma2 is made up
    after: "Trial | None" = None  # the trial whose samples give this one's sigma^2

    @property
    def label(self):
        return ", ".join(f"{field} {value}" for field, value in self.setting.items()) or "the base"


def load_sweep(name, path=None):
    """The Sweep of a name in params/ablations.yaml, or in a file of the same form; UserError where it cannot be."""
    path = files.absolute(path or config.ROOT / "params" / "ablations.yaml")
    try:
        sweeps = yaml.safe_load(path.read_text(encoding="utf-8"))
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
    apart = {"seed": "seeds are a parameter of their own", "dataset": "the data set is a parameter of its own"}
    if bool(sweep.grid) == bool(sweep.settings):
        raise UserError(f"sweep {name}: it should have a grid or a list of settings, and not both.")
    for field in [*sweep.values, *sweep.base, *sweep.per_part]:
        if field in apart or field not in config.Config.model_fields:
            unknown = f"there is no such setting{config.nearest(field, config.Config.model_fields)}"
            raise UserError(f"sweep {name}: {field}: {apart.get(field, unknown)}.")
    if empty := [field for field, values in sweep.grid.items() if not values]:
        raise UserError(f"sweep {name}: {empty[0]}: the list of values is empty.")
    if wrong := [field for field in sweep.per_part if config.Config.model_fields[field].annotation is not float]:
        raise UserError(f"sweep {name}: per_part: {wrong[0]} is not a number with a fraction, such as lambda_con.")
    if twice := [field for field in sweep.per_part if field in sweep.values]:
        raise UserError(f"sweep {name}: {twice[0]} is in the {'grid' if sweep.grid else 'settings'} and in per_part, "
                        "which would replace its values.")
    settings = [setting for finding in sweep.findings for setting in (finding.trial, finding.than or {})]
    for field, value in itertools.chain(*map(dict.items, settings)):
        if value not in sweep.values.get(field, []):
            raise UserError(f"sweep {name}: findings: {field} {value} is in none of its trials; name one of them.")
    return sweep


def make_trials(sweep, dataset, prefix, seeds, **overrides):
    """The Trials of a sweep on a data set, each setting checked.

    prefix     runs are called <prefix>-<what differs from the data set's config>-seed<N>; equal ones are shared
    seeds      list of int
    overrides  settings of all trials, e.g. max_steps; None: not given
    """
    if not isinstance(seeds, list | tuple) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"seeds: {seeds!r} is not allowed; it should be a list of whole numbers, such as [0, 1].")
    overrides = {field: value for field, value in overrides.items() if value is not None}
    for field in overrides:
        if field == "seed" or field in sweep.values:
            instead = 'give -p seeds "[3]" for seed 3' if field == "seed" else "the sweep itself sets it"
            raise UserError(f"{field}: cannot be given to all trials of a sweep; {instead}.")
    shared = sources.located(dataset, {**_said(sweep.base), **sources.named(dataset, overrides)})
    own = config.load(dataset, **shared)
    made = []
    for setting, seed in itertools.product(sweep.points, seeds):
        wanted = {**shared, **_said(setting), "seed": seed}
        if isinstance(n_parts := setting.get("n_parts", own.n_parts), int):
            wanted |= {field: getattr(own, field) * (n_parts / own.n_parts) for field in sweep.per_part
                       if getattr(own, field) is not None}
        after, sigma2 = None, {}
        if setting.get("heatmap") == "fixed" and own.fixed_sigma2 is None and "fixed_sigma2" not in setting:
            after = _trial(dataset, prefix, own, {**setting, "heatmap": "paper"}, {**wanted, "heatmap": "paper"})
            made.append(after)
            sigma2 = {"fixed_sigma2": 1.0}
        made.append(_trial(dataset, prefix, own, setting, wanted, after, **sigma2))
    return list(by_name(made).values())


def base_trials(sweep, dataset, prefix, seeds, **overrides):
    """Trials of what all trials of a sweep share. They tell whether the number of steps is enough."""
    return make_trials(Sweep.model_construct(grid={}, base=sweep.base), dataset, prefix, seeds, **overrides)


def by_name(wanted):
    """Run name -> Trial, equal ones once. Raises UserError where trials that are not equal have one name."""
    found = {}
    for trial in wanted:
        other = found.setdefault(trial.name, trial)
        if differ := [field for field, value in trial.cfg if value != getattr(other.cfg, field)]:
            raise UserError(f"run: two trials that differ in {', '.join(differ)} are both called {trial.name}; "
                            "give them to two sweeps, each with a name of its own.")
    return found


def _said(settings):
    """Settings of which None says that there is none, as config.load takes them: for it None is not given."""
    return {field: "none" if value is None and field != "preset" else value for field, value in settings.items()}


def _trial(dataset, prefix, own, setting, wanted, after=None, **made_up):
    """A Trial with its settings checked; own  the config of what all trials share."""
    cfg = config.load(dataset, **wanted, **made_up)
    asked = _said({field: getattr(cfg, field) for field in ASKED - ({"fixed_sigma2"} if after else set())})
    differs = {field: value for field, value in setting.items() if value != getattr(own, field)}
    parts = [f"{field}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', str(value)).strip('_')}" for field, value in differs.items()]
    name = "-".join([prefix, *(parts or ["base"]), f"seed{wanted['seed']}"])
    return Trial(setting, config.absolute_paths({**wanted, **asked}), name, cfg, after)  # workers may be elsewhere


def evaluations(dataset, wanted):
    """The newest evaluation of each trial that is trained, distilled and evaluated as asked: run name -> record.

    Nothing is written. Raises UserError for a trial that cannot be run: its name, a run of another configuration, or
    of more steps.
    """
    found = {name: _evaluation(dataset, trial) for name, trial in by_name(wanted).items()}
    return {name: record for name, record in found.items() if record is not None}


def _evaluation(dataset, trial):
    """The newest evaluation of one finished trial, or None."""
    run = _open_trial(dataset, trial)
    gan, segmenter = _intact(run, "gan"), _intact(run, "segmenter")
    by_itself = segmenter.get("generator_weights") == "auto-encoder"  # which is not distilled
    for field, state in (("max_steps", gan), ("distill_steps", segmenter)):
        last = run.cfg.max_steps if by_itself else getattr(run.cfg, field)
        if state["step"] > last:
            raise UserError(f"{field}: {run.label} has made {state['step']} steps, more than {last}; give as many, or "
                            "choose another run name.")
        if state["step"] < last:
            return None
    asked = {"step": segmenter["step"], "settings": {name: getattr(run.cfg, name) for name in records.SETTINGS}}
    found = [record for record in run.records("evaluate")
             if asked.items() <= record.items() and record.get("notes", {}).get("GAN steps") == gan["step"]]
    if not found or (trial.after and not _is_equal(run.cfg.fixed_sigma2, _sigma2_before(dataset, trial))):
        return None
    return found[-1]


def _intact(run, name):
    """The newest checkpoint of a stage that is not damaged; of step -1 where there is none."""
    try:
        return run.intact(name)[1] or {"step": -1}
    except UserError:  # all are damaged: the trial itself will say so
        return {"step": -1}


def _open_trial(dataset, trial, fixed_sigma2=1.0):
    """The Run of a trial, new or as it was saved; nothing is written.

    fixed_sigma2  for a new run of a trial that comes after another
    """
    saved = (runs.outputs_root() / dataset / trial.name / "config.yaml").exists()
    sigma2 = {"fixed_sigma2": fixed_sigma2} if trial.after and not saved else {}
    return runs.open_run(dataset, trial.name, **trial.overrides, **sigma2)


def start_trial(dataset, trial):
    """The Run of a trial that is to be trained; UserError where the trial before it does not give its sigma^2."""
    if trial.after is None:
        return _open_trial(dataset, trial)
    sigma2, before = _sigma2_before(dataset, trial), trial.after.name
    if sigma2 is None:
        raise UserError(f"fixed_sigma2: comes from {before}, which is not finished; give the same command again.")
    run = _open_trial(dataset, trial, sigma2)
    if not _is_equal(run.cfg.fixed_sigma2, sigma2):
        raise UserError(f"fixed_sigma2: {run.label} was made with {run.cfg.fixed_sigma2:.4g}, but {before} now gives "
                        f"{sigma2:.4g}; delete the folder {run.folder} to have it made anew.")
    return run


def _sigma2_before(dataset, trial):
    """sigma^2 of the trial that a trial comes after; None where that one is not finished."""
    return mean_sigma2(_open_trial(dataset, trial.after)) if _evaluation(dataset, trial.after) else None


def _is_equal(saved, sigma2):
    """Whether two sigma^2 differ by no more than rounding."""
    return sigma2 is not None and math.isclose(saved, sigma2, rel_tol=1e-5)


@torch.no_grad()
def mean_sigma2(run):
    """Mean over N_SIGMA2 samples and all parts of a trained run's sigma^2 (heatmap paper or gaussian)."""
    G = loading.load_generator(run, run.cfg.distill_generator)
    latents = G.sample_latents(N_SIGMA2, devices.rng(run.cfg.seed, "sigma2"))
    points, _ = G.make_points(latents)
    return geometry.part_shape(points, run.cfg.heatmap).spread.mean().item()
