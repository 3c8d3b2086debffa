"""From a folder of photos to parts by one command: `ganseg parts photos/ --run first -p minutes 40`."""

import time

from ganseg import devices, runs
from ganseg.errors import UserError
from ganseg.figures import report
from ganseg.records import clock

TRAIN, DISTILL = 0.75, 0.95  # of the minutes: where training ends, and where distillation does
LEAST_MINUTES = 2  # of which an evaluation takes a part
ENOUGH_STEPS = 700  # people at 32 pixels: foreground_iou 0.26 and 0.39 after 320 steps, 0.60 after 710


def open_parts(source, name, minutes=None, seconds_per_step=None, **settings):
    """The Run of find_parts, new or as it was: the preset is modern where there is no CUDA, unless one is given.

    seconds_per_step  the function train.seconds_per_step; where it says that the minutes are too few for ENOUGH_STEPS
                      at the preset's size, a new run takes pictures of half of that, if no size is given
    Raises UserError for settings that cannot be.
    """
    if minutes is not None and not minutes >= LEAST_MINUTES:
        raise UserError(f"minutes: {minutes} is not allowed; give {LEAST_MINUTES} or more, such as 40.")
    is_new, sized = not is_there(name), {"preset", "image_size"} & settings.keys()
    set_preset(name, settings)
    run = runs.open_run("folder", name, source=source, **settings)
    if minutes and seconds_per_step and is_new and not sized:
        S, steps = run.cfg.image_size, 60 * TRAIN * minutes / seconds_per_step(run.cfg)
        if steps < ENOUGH_STEPS:
            print(f"{minutes:g} minutes give about {steps:.0f} steps with pictures of {S} pixels here, which are too "
                  f"few: they are made {S // 2}. With more minutes, or -p image_size {S}, parts have finer outlines.")
            settings |= {"image_size": S // 2, "discriminator_channels": run.cfg.discriminator_channels[:-1]}
            run = runs.open_run("folder", name, source=source, **settings)
    return run


def is_there(name):
    """Whether there is a run of own photos of this name."""
    return (runs.outputs_root() / "folder" / name / "config.yaml").exists()


def set_preset(name, settings):
    """Set `preset` in the settings of a run that is not there yet, where they have none."""
    if settings.get("preset") is None and not is_there(name):
        is_gpu = devices.choose_device(settings.get("device") or "auto").type == "cuda"
        settings["preset"] = None if is_gpu else "modern"


def find_parts(run, stages, minutes=None):
    """Train, distil, evaluate and report a Run of own photos; the same call goes on where it stopped.

    stages   the functions train, distill and evaluate, each of a Run
    minutes  what all of it may take, earlier calls included; None: as many steps as the run's settings say
    Prints a line for each stage's news, with how much of the whole is done. Returns the Path of report.html.
    """
    say = _Progress(run, minutes)
    run.told = say.news  # also between log lines
    print(f"{run.label}: {run.cfg.preset or 'no preset'}, {run.cfg.n_parts} parts, {say.plan}", flush=True)
    train, distill, evaluate = stages
    for stage, work, until in (("train", train, TRAIN), ("distill", distill, DISTILL)):
        left = say.left_of(until)
        if left is not None and left <= 0 and run.newest("gan" if stage == "train" else "segmenter"):
            continue
        run.cfg = run.cfg.model_copy(update={"max_minutes": left and max(left, 0.1)})
        for record in work(run):
            say.news(stage, record)
    run.cfg = run.cfg.model_copy(update={"max_minutes": None})
    evaluate(run)
    path = report.write_report(run)
    print(*report.verdict(run), f"100 %: look at {path}, and at the pictures in {run.folder / 'samples'}.",
          f"Then: ganseg name --run {run.label}, ganseg segment PHOTOS --run {run.label} --out parts/", sep="\n")
    return path


class _Progress:
    """How much of the whole is done, by time where there is a limit, else by steps."""

    def __init__(self, run, minutes):
        self.run, self.minutes, self.start = run, minutes, time.monotonic()
        self.before_s = sum(records[-1]["time_s"] for stage in ("train", "distill") if (records := run.records(stage)))
        self.plan = f"{minutes:g} minutes" if minutes else f"{run.cfg.max_steps} and {run.cfg.distill_steps} steps"

    def left_of(self, share):
        """Minutes until a share of the limit is over; None without one."""
        return self.minutes and share * self.minutes - (self.before_s + time.monotonic() - self.start) / 60

    def news(self, stage, record):
        if self.minutes:
            left_s = max(0.0, 60 * self.left_of(1.0))
            done = 1 - left_s / (60 * self.minutes)
        else:
            first, last = (0.0, TRAIN) if stage == "train" else (TRAIN, DISTILL)
            steps = self.run.cfg.max_steps if stage == "train" else self.run.cfg.distill_steps
            done, left_s = first + (last - first) * record["step"] / steps, record["left_s"]
        print(f"{done:4.0%}  {stage}, step {record['step']}, {clock(left_s)} left"
              f"{'' if self.minutes else ' of this stage'}", flush=True)
