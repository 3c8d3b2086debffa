"""Chooses among short trainings without any label: most of them stop early, and the best one goes on."""

import json
import math
import shutil

import numpy as np
import pandas as pd

from ganseg import config, files, records, runs
from ganseg.datasets.loading import load_pictures
from ganseg.errors import UserError
from ganseg.experiments import trials
from ganseg.experiments.findings import COMPARED
from ganseg.figures import pictures, report, tables
from ganseg.metrics.unlabelled import SCORES, matched_order, score
from ganseg.model import loading
from ganseg.model.consensus import N_COMPARED, Consensus, agreement
from ganseg.model.prediction import predict

FILE = "choice.json"  # in the run's folder: what each round found
ROUNDS = (1 / 20, 1 / 10)  # after these shares of the steps candidates are compared; half of them go on
OF_CANDIDATES = ("max_test_pictures", "fit_pictures")  # at most N_COMPARED each, for many are evaluated
N_LEAST = 20  # test pictures: fewer say nothing


def candidates(dataset, run, seeds, parts, share, consensus=1, **settings):
    """The Trials that are compared after a share of their steps: each seed with each number of parts.

    parts     list of numbers of parts, with which lambda_con grows; []: the data set's own
    consensus how many of them are to vote in the end
    settings  of all of them, as max_steps and distill_steps, both at full length
    Raises UserError where there are fewer than two, or than are to vote, and where `run` was made in another way.
    """
    folder = runs.outputs_root() / dataset / run
    if (folder / "config.yaml").exists() and not (folder / FILE).exists():
        raise UserError(f"run: {dataset}/{run} is there and was not chosen; give the choice another name.")
    sweep = trials.Sweep.model_construct(grid={"n_parts": parts} if parts else {},
                                         per_part=["lambda_con", "lambda_con_start"])
    wanted = trials.make_trials(sweep, dataset, run, seeds, **settings)
    if len(wanted) < 2:
        raise UserError("seeds: there is only one candidate; a choice takes two or more, such as -p seeds \"[0, 1]\".")
    if len(wanted) < consensus:
        raise UserError(f"consensus: {consensus} are to vote, and there are {len(wanted)} candidates; give more seeds.")
    cfg = wanted[0].cfg
    steps = {field: max(1, math.ceil(share * getattr(cfg, field))) for field in ("max_steps", "distill_steps")}
    few = {field: min(getattr(cfg, field) or N_COMPARED, N_COMPARED) for field in OF_CANDIDATES}
    return trials.make_trials(sweep, dataset, run, seeds, **{**settings, **steps, **few})


def missing(dataset, run, wanted):
    """Those Trials of a round that were not compared before, for ablations.run_all.

    Raises UserError where there are too few test pictures to compare any.
    """
    n = len(load_pictures(wanted[0].cfg, "test", N_COMPARED))
    if n < N_LEAST:
        raise UserError(f"source: there are {n} test pictures to compare candidates on; it takes {N_LEAST}.")
    before = _known(dataset, run).get(_round(wanted), {})
    return [trial for trial in wanted if trial.name not in before]


def compare(dataset, run, wanted):
    """Score the finished Trials of one round, and keep the scores in the folder of `run`.

    Those that were scored before may have trained on since. One that failed is left out.
    Returns {trial name: {metric: value}}, the best first, with `score` and all of SCORES that there are. Raises
    UserError where none is finished, and for a candidate of other photos.
    """
    known = _known(dataset, run)
    found = {name: values for name, values in known.get(_round(wanted), {}).items()
             if name in {trial.name for trial in wanted}}
    done = trials.evaluations(dataset, [trial for trial in wanted if trial.name not in found])
    found |= {name: {k: v for k, v in record.items() if isinstance(v, float)} | {"minutes": _minutes(dataset, name)}
              for name, record in done.items()}
    if not found:
        raise UserError(f"run: no candidate of {run} could be trained; see error.txt in their folders.")
    if done:
        _check_photos(dataset, found)
        networks = {name: loading.load_segmenter(runs.find(f"{dataset}/{name}")) for name in found}
        agreed = agreement(networks, load_pictures(wanted[0].cfg, "test", N_COMPARED))
        found = {name: values | ({"agreement": agreed[name]} if agreed else {}) for name, values in found.items()}
    found = {name: {**values, "score": score(values)} for name, values in found.items()}
    found = dict(sorted(found.items(), key=lambda item: -item[1]["score"]))
    text = json.dumps({**known, _round(wanted): found}, indent=1)
    files.write_text(runs.outputs_root() / dataset / run / FILE, text)
    return found


def _round(wanted):
    return f"{wanted[0].cfg.max_steps} steps"


def _known(dataset, run):
    """What each round found so far: {round: {trial name: {metric: value}}}."""
    path = runs.outputs_root() / dataset / run / FILE
    found = records.parse(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else {}
    if not isinstance(found, dict):
        raise UserError(f"{path}: is damaged; delete it to have the candidates compared anew.")
    return found


def survivors(found, wanted, least=1):
    """The Trials that go on, the best first: the better half, and at least so many."""
    kept = list(found)[: max(least, len(found) // 2)]
    return sorted((trial for trial in wanted if trial.name in kept), key=lambda trial: kept.index(trial.name))


def table(found, wanted, kept):
    """A row for each candidate of a round, the best first: seed, parts, steps, time, scores and whether it goes on."""
    cfgs, rows = {trial.name: trial.cfg for trial in wanted}, {}
    for name, values in found.items():
        cfg = cfgs[name]
        rows[name] = {"seed": cfg.seed, "n_parts": cfg.n_parts, "GAN steps": cfg.max_steps,
                      "minutes": values["minutes"], "score": values["score"],
                      **{metric: values.get(metric) for metric in SCORES},
                      "goes on": "yes" if any(trial.name == name for trial in kept) else "no"}
    return pd.DataFrame.from_dict(rows, orient="index")


def go_on(dataset, run, best, **settings):
    """The Run called `run`, which continues the best candidate's training up to its full length.

    settings  as of candidates; what candidates have less of is taken from them: steps, and pictures to evaluate
    Its folder is a copy of the candidate's, which stays. One that is there already goes on, if it is of that candidate.
    """
    folder, candidate = runs.outputs_root() / dataset / run, runs.find(f"{dataset}/{best.name}")
    if not (folder / "config.yaml").exists():
        scratch = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(scratch, ignore_errors=True)
        with files.writing(folder):
            names = shutil.ignore_patterns("segmenter-*", "control-*", "*.ipynb", "report.html", ".lock", ".holder")
            shutil.copytree(candidate.folder, scratch, ignore=names)
            folder.mkdir(exist_ok=True)
            for path in scratch.iterdir():  # the config last, for it makes the folder a run
                if path.name != "config.yaml":
                    path.replace(folder / path.name)
            (scratch / "config.yaml").replace(folder / "config.yaml")
            scratch.rmdir()
    apart = ("max_steps", "distill_steps", *OF_CANDIDATES)
    given = {name: value for name, value in best.overrides.items() if name not in apart}
    full = config.load(dataset, **given, **{name: settings[name] for name in apart if settings.get(name) is not None})
    whole = {name: "none" if (value := getattr(full, name)) is None else value for name in apart}
    return runs.open_run(dataset, run, **given, **whole)


def strips(dataset, names, figure="detections"):
    """Name -> what a candidate detects in test pictures, or its `samples`, in two rows (H, W, 3), the best first."""
    rows = {}
    for name in names:
        run = runs.find(f"{dataset}/{name}")
        if (path := run.folder / "figures" / f"{figure}.png").exists():
            side = pictures.enlarge(np.zeros((1, run.cfg.image_size, run.cfg.image_size, 3), np.uint8)).shape[1]
            rows[name] = pictures.read_picture(path)[: 2 * side + 2]
    return rows


def write_page(dataset, run, rounds, said):
    """Write choice.html and choice.csv into the run's folder; returns the page's Path.

    rounds  {"first round": its table, ...}; said  sentences that stand first
    """
    folder, sections = runs.outputs_root() / dataset / run, {}
    for heading, frame in rounds.items():
        shown = frame.rename(columns=lambda name: name.replace("_", " "))  # which lets them wrap
        sections[heading.capitalize()] = tables.styled(shown).to_html()
        detected, painted = strips(dataset, frame.index), strips(dataset, frame.index, "samples")
        for name in frame.index:
            kinds = (("photos", detected), ("generated pictures", painted))
            sections[f"{name} ({heading})"] = "".join(
                f"<p>{kind}</p>{report.embedded(pictures.png(of[name]), kind)}" for kind, of in kinds if name in of)
    tables.save_csv(pd.concat(rounds, names=["round", "candidate"]), folder / "choice.csv")
    files.write_text(folder / "choice.html", report.page(f"GANSeg: candidates of {dataset}/{run}", said, sections))
    return folder / "choice.html"


def vote(dataset, name, members):
    """A run whose segmenter is the vote of several Runs' segmenters, their parts matched on test pictures.

    Parts have the first one's numbers. The run has the first one's settings and no GAN.
    Raises UserError where there are fewer than two or they differ in what all must share.
    """
    first, cfg = members[0], members[0].cfg
    shared = ("n_parts", "image_size", "crop", "segmenter", "segmenter_width", "architecture")
    for other in members[1:]:
        if differ := [field for field in shared if getattr(other.cfg, field) != getattr(cfg, field)]:
            raise UserError(f"consensus: {other.label} and {first.label} differ in {differ[0]}; only segmenters that "
                            "share it can vote.")
    if len(members) < 2:
        raise UserError("consensus: there is only one run; it takes two or more to vote.")
    test = load_pictures(cfg, "test", N_COMPARED)
    networks = [loading.load_segmenter(run) for run in members]
    labels = [predict(network, test.images, test.boxes).labels.numpy() for network in networks]
    orders = np.stack([matched_order(labels[0], of_member, cfg.n_parts) for of_member in labels])
    run = runs.Run(runs.outputs_root() / dataset / name, cfg)
    with run.held():
        run.start("cpu")
        state = Consensus(networks, orders).state_dict()
        facts = {"members": len(members), "generator_weights": cfg.distill_generator, "gan_step": cfg.max_steps,
                 "backbone_weights": cfg.backbone_weights,
                 "league": records.joined(records.league(member.cfg) for member in members)}
        run.save("segmenter", cfg.distill_steps, {"segmenter": state, **facts})
        files.write_text(run.folder / "members.txt", "".join(f"{member.label}\n" for member in members))
    return run


def compared(best, voted):
    """Whether a vote is better than the best run alone, as a sentence, from their newest evaluations.

    By the first metric of findings.COMPARED that both have, else by the label-free score.
    """
    alone, together = (run.records("evaluate")[-1] for run in (best, voted))
    metric, more = next(((name, more) for name, more in COMPARED.items() if {name} <= alone.keys() & together.keys()),
                        ("the label-free score", True))
    a, b = ((record.get(metric, score(record))) for record in (alone, together))
    better = "better" if a != b and (b > a) == more else "NOT better"
    return f"By {metric} the vote is {better} than {best.label} alone: {b:.3f} against {a:.3f}."


def advice(best, n_photos):
    """What to try next where even the best run is poor, as sentences; [] where it is not.

    best  {metric: value}, its evaluation at the end: after a tenth of the steps any run is poor
    """
    said = []
    if best.get("background_share", 0) > 0.9:
        said.append("The parts cover less than a tenth of the photos: crop closer to the object, or lower lambda_con.")
    if best.get("background_share", 1) < 0.2:
        said.append("The parts cover nearly all: raise lambda_con, or crop so that more background is seen.")
    if best.get("border_clear", 1) < 0.7:
        said.append("Parts lie along the edges of the photos: leave more room around the object, or try other seeds.")
    if best.get("parts_effective", 1) < 0.5:
        said.append("Few parts hold most of the object: try more seeds, or fewer parts.")
    if best.get("equivariance", 1) < 0.5:
        said.append("Parts change when photos are moved: train longer, or try other seeds.")
    if best.get("colors_explained", 1) < 0.2:
        said.append("Parts do not follow the colours: the object may be too small, or too much like its background.")
    if said and n_photos < 500:
        said.append(f"There are only {n_photos} photos; a thousand or more work better.")
    return said


def _minutes(dataset, name):
    """How long a candidate has trained and distilled so far."""
    run = runs.find(f"{dataset}/{name}")
    return sum(run.records(stage)[-1]["time_s"] for stage in ("train", "distill") if run.records(stage)) / 60


def _check_photos(dataset, found):
    """Raise UserError where a candidate was trained on other photos than the best one."""
    digests = {name: runs.find(f"{dataset}/{name}").load_state("gan").get("trained_on") for name in found}
    common = max(digests.values(), key=list(digests.values()).count)
    if others := [name for name, digest in digests.items() if digest != common]:
        raise UserError(f"run: {others[0]} was trained on other pictures than the other candidates; delete its folder "
                        "or choose another run name.")
