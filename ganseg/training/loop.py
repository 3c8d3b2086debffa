"""What the training loops share: resuming, values between log lines, the clock, checkpoints."""

import time

import torch

from ganseg import checkpoints, config, distributed, records, signals
from ganseg.devices import SharedCores, has_bf16, peak_gb, rng
from ganseg.errors import UserError
from ganseg.figures import pictures
from ganseg.records import clock
from ganseg.training import health

TIMED_STEPS = 20  # the estimate of the whole time rests on them
LONG_S = 60  # shorter trainings get no estimate, and no picture before its time
SPEAK_EVERY_S, SAVE_EVERY_S, DRAW_EVERY_S = 20, 300, 600  # at least, where steps are slow
MAX_ROLLBACKS = 3
NOTHING_TO_DO = "nothing to do"  # which a finished stage says


class Loop:
    """Steps of one stage of a run, from its newest checkpoint on.

    run        an opened and started run
    stage      under which values are logged: train, distill or control
    name       of the checkpoints: gan, segmenter or control
    parts      name -> network or optimiser: what a checkpoint holds
    max_steps  where the stage ends
    outdated   paths of checkpoints that are not gone on from; they are deleted once the first new one is written
    facts      plain values kept in each checkpoint
    """

    def __init__(self, run, stage, name, parts, max_steps, outdated=(), **facts):
        self.run, self.stage, self.name, self.parts, self.max_steps = run, stage, name, parts, max_steps
        self.outdated, self.facts = outdated, facts
        if run.cfg.tensorboard:  # a missing package is told before the first step
            records.tensorboard_writer(run.folder, stage)
        self.attempt, self.since = 0, 0  # how often this training was rolled back, and to which step
        networks = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
        self.device = next(networks[0].parameters()).device
        self.trouble = None  # the health.Trouble to roll back from before the next step
        self.done, self.window = 0, {}  # steps done; name -> {step: value} since the last log line
        self._load()
        self.spent_s = max((r["time_s"] for r in run.records(stage)), default=0.0)
        self.start = self.last = self.spoken = self.saved = time.monotonic()
        self.drawn = self.start if any((run.folder / "samples").glob("*.png")) else None  # when samples were, last
        self.stopping = self.late = self.undrawn = False
        self.cores = SharedCores(run.cfg.threads, self.device)
        if run.cfg.precision == "bf16" and not has_bf16(self.device):
            print("Note: this CPU has no instructions for precision bf16, which makes it several times slower than "
                  "float32.", flush=True)

    def _load(self):
        path, state = self.run.intact(self.name) if not self.outdated else (None, None)
        state = state or {"step": 0}
        self.done = self.last_done = state["step"]
        self.attempt, self.since = state.get("attempt", 0), state.get("since", 0)
        if path:
            self.run.set_aside(self.name, self.done)
        self.run.rewind({self.stage, f"{self.stage}_samples", f"{self.stage}_health"}, self.done)
        troubles = distributed.of_the_first(self.run.records(f"{self.stage}_health"))
        self.known = {record["trouble"] for record in troubles}
        self.window = state.get("window", {})
        for name, part in self.parts.items():
            if name in state:
                checkpoints.load_weights(part, state[name], path)
            elif path and isinstance(part, torch.nn.Module):  # released weights come without optimisers
                raise UserError(f"{self.run.label}: {path.name} holds no {name}, so its training cannot go on; train "
                                "a run of another name.")
            elif path:
                part.state.clear()  # an optimiser's, of the steps that are rolled back

    def steps(self):
        """Step numbers still to do, until max_steps or until max_minutes have passed.

        SIGINT and SIGTERM let the current step end, save it and raise KeyboardInterrupt. A second one raises at once.
        """
        first, begun = self.done, self.start
        if first >= self.max_steps:
            print(f"{self.run.label}: {self.stage} is already at step {first} of {self.max_steps}, {NOTHING_TO_DO}.",
                  flush=True)
        stopping = "Stopping after this step; once more stops at once."
        with signals.taken(lambda: print(stopping, flush=True)) as asked, self.cores:
            while self.done < self.max_steps:
                if self.done == first + 1:  # the first one warms up
                    begun = time.monotonic()
                if self.done == first + 1 + TIMED_STEPS:
                    self._say_how_long((time.monotonic() - begun) / TIMED_STEPS)
                self.done += 1
                minutes = (time.monotonic() - self.start) / 60
                time_is_up = minutes > (self.run.cfg.max_minutes or float("inf"))
                self.stopping = distributed.any_of(time_is_up or bool(asked), self.device)
                now, patience_s = time.monotonic(), DRAW_EVERY_S if self.drawn else LONG_S
                self.late = distributed.any_of(now - self.saved > SAVE_EVERY_S, self.device)
                late = now - (self.drawn or self.start) > patience_s
                step_s = (now - self.start) / max(self.done - first - 1, 1)
                soon = self._left_s(step_s) < patience_s  # the last step draws too
                self.undrawn = self.stopping or distributed.any_of(late and not soon, self.device)
                yield self.done - 1
                if self.trouble:
                    self._roll_back()
                elif self.stopping:
                    break
        if self.stopping and self.done < self.max_steps:
            why = "Stopped" if asked else "max_minutes passed"
            print(f"{why} at step {self.done}; the same command goes on from there.", flush=True)
        if asked:
            raise KeyboardInterrupt

    def random(self, step):
        """The CPU random generator of a step: always the same, but another one after a rollback."""
        return rng(self.run.cfg.seed, self.stage, step, *([self.attempt] if self.attempt else []))

    def _say_how_long(self, step_s):
        n, minutes = self.max_steps - self.done, self.run.cfg.max_minutes
        left_s = self._left_s(step_s)
        if left_s < n * step_s:
            said = f"{minutes:g} minutes give about {self.done + left_s / step_s:,.0f} of {self.max_steps:,} steps"
        elif left_s > LONG_S:
            said = f"{n} steps of {step_s:.2g} s take about {clock(left_s)[:-3]} hours:minutes"
        else:
            return
        print(f"{said}; memory at most {peak_gb():.1f} GB so far.", flush=True)

    def _left_s(self, step_s):
        """Seconds until max_steps at so many a step, or until max_minutes."""
        up_s = 60 * (self.run.cfg.max_minutes or float("inf")) - (time.monotonic() - self.start)
        return max(0.0, min(step_s * (self.max_steps - self.done), up_s))

    def add(self, **values):
        """Keep scalars (tensors) of this step for the next log line."""
        for name, value in values.items():
            self.window.setdefault(name, {})[self.done] = value.detach()

    def due(self, kind):
        """Whether this step is to log, sample or save. The last step does all three. A step in trouble only logs."""
        every = getattr(self.run.cfg, f"{kind}_every_steps")
        is_due = self.done % every == 0 or self.done == self.max_steps
        is_due |= kind == "save" and (self.stopping or self.late)
        return is_due and (kind == "log" or not self.trouble)

    def finish_step(self, prepare=None, draw=None):
        """Sample, log and save what is due after this step; returns the record of a log line, or None.

        prepare  called before a sample or a checkpoint
        draw     returns the Generated to save as samples; None: this stage has none
        What has gone wrong is found before it is saved. Raises UserError where the config says to stop then.
        """
        prepare = prepare or (lambda: None)
        if any(map(self.due, ("log", "sample", "save"))):
            self.check_finite()
        if self.due("sample") or self.due("save"):
            prepare()
        if draw and self.due("sample"):
            self.save_samples(draw())
        record = self.log() if self.due("log") else None
        if self.due("log") or self.due("sample"):
            self._look_after(prepare)
        if self.due("save"):
            self.save()
        if draw and self.undrawn:
            prepare()
            print(f"Samples: {self._save_sheet(draw())}", flush=True)
        if not record and time.monotonic() - self.spoken > SPEAK_EVERY_S and not distributed.rank():
            self.spoken = time.monotonic()
            said = {"step": self.done, **self._times()}
            if self.run.told:
                self.run.told(self.stage, said)
            else:
                print(progress(said, self.max_steps), flush=True)
        return record

    def _times(self):
        """The clock's part of a log record."""
        now = time.monotonic()
        rate = (self.done - self.last_done) / max(now - self.last, 1e-9)
        return {"time_s": round(self.spent_s + now - self.start, 3), "steps_per_s": round(rate, 4),
                "left_s": round(self._left_s(1 / rate), 1)}

    def log(self):
        """Write the means since the last log line to metrics.jsonl; returns the record."""
        means = {name: distributed.mean(_mean(values.values())).item() for name, values in self.window.items()}
        self.window, times = {}, self._times()
        self.last, self.last_done = time.monotonic(), self.done
        self.spoken = self.last
        self.cores.look()
        return self.run.log(self.stage, self.done, **means, **times)

    def _look_after(self, prepare):
        """Print, log and act on what has begun to go wrong since this training began or was rolled back."""
        records, shares = (
            [record for record in self.run.records(stage) if record["step"] > self.since]
            for stage in (self.stage, f"{self.stage}_samples")
        )
        found = distributed.of_the_first(health.troubles(self.run.cfg, records, shares))
        for kind, trouble in found.items():
            if kind not in self.known and not self.trouble:
                self.known.add(kind)
                self.run.log(f"{self.stage}_health", self.done, trouble=kind, sentence=trouble.sentence)
                print(f"Warning: {trouble.sentence}", flush=True)
                if len(self.known) == 1:
                    print(f"Such a change takes another run. Add it to: {self._another_run()}", flush=True)
                if kind in health.ADVICE:
                    continue
                if self.run.cfg.on_trouble == "stop":
                    prepare()
                    self.save()
                    raise UserError(f"{self.run.label}: stopped at step {self.done}, as on_trouble asks. "
                                    f"{trouble.sentence}")
                if self.run.cfg.on_trouble == "rollback":
                    self.trouble = trouble

    def _another_run(self):
        """The command of a new run with the settings of this one, and its weights where they are saved."""
        newest, apart = self.run.newest(self.name), config.FREE - {"source", "max_steps", "distill_steps"}
        given = {name: value for name, value in config.given_to(self.run.cfg).items() if name not in apart}
        given |= {"warm_start": str(newest)} if newest and self.stage == "train" else {}
        return f"{self.run.command('train')}-2 {config.as_words(given)}".rstrip()

    def _roll_back(self):
        """Go back to the newest checkpoint before the trouble began, with other random numbers from there on."""
        trouble, self.trouble = self.trouble, None
        before = [path for path in self.run.checkpoints(self.name) if checkpoints.step_of(path) < trouble.step]
        tried = self.attempt
        if not before or tried == MAX_ROLLBACKS:
            what = f"rolled back {tried} times" if before else "no checkpoint to go back to"
            raise UserError(f"{self.run.label}: stopped at step {self.done}, {what}. {trouble.sentence}")
        for path in self.run.checkpoints(self.name):
            if path not in before and not distributed.rank():
                path.unlink()
        distributed.wait_for_all()
        self._load()
        self.run.rewind({"fidelity", "evaluate"}, self.done)  # measured of checkpoints that are gone
        self.attempt, self.since = tried + 1, self.done
        self.run.log(f"{self.stage}_health", self.done, trouble=f"rolled back ({self.attempt})",
                     sentence=trouble.sentence)
        self.save()  # so that a training resumed here takes the other random numbers too
        print(f"Back to step {self.done}, attempt {self.attempt} of {MAX_ROLLBACKS}. What was measured of later "
              "steps went with them.", flush=True)

    def save(self):
        """Write a checkpoint of the parts and of the values not yet logged."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        facts = {"window": self.window, "attempt": self.attempt, "since": self.since, **self.facts}
        self.run.save(self.name, self.done, {**state, **facts}, outdated=self.outdated)
        self.outdated, self.saved = (), time.monotonic()

    def save_samples(self, generated):
        """Write samples/<step>.png of a Generated and log how its parts are used."""
        self._save_sheet(generated)
        background, *shares = generated.masks.mean(dim=(0, 2, 3)).tolist()
        of_parts = {f"part_{k}_share": share for k, share in enumerate(shares, start=1)}
        self.run.log(f"{self.stage}_samples", self.done, background_share=background, **of_parts)

    def _save_sheet(self, generated):
        """Write samples/<step>.png; returns its Path."""
        path = self.run.folder / "samples" / f"{self.done:08d}.png"
        self.drawn, self.undrawn = time.monotonic(), False
        if not distributed.rank():
            pictures.save(pictures.samples_sheet(generated, n_columns=5), path)
        return path

    def check_finite(self):
        """Raise UserError naming the first step whose loss is not finite, and the last good checkpoint.

        Where the config says rollback, and for a GAN, that is done before the next step instead.
        """
        by_step = [(step, name) for name, values in self.window.items() for step in values]
        by_step = sorted(by_step, key=lambda pair: pair[0])
        what = next((f"the {n} at step {step}" for step, n in by_step if not self.window[n][step].isfinite()), None)
        networks = [part for part in self.parts.values() if isinstance(part, torch.nn.Module)]
        if what is None and not all(p.isfinite().all() for network in networks for p in network.parameters()):
            what = f"a weight after step {self.done}"
        what = distributed.of_the_first(what)  # averaged gradients spread it to all processes
        if what and self.run.cfg.on_trouble == "rollback" and self.stage == "train":
            self.trouble = health.Trouble(f"{what} is not finite: lower the learning rate.", self.done)
        elif what:
            raise UserError(
                f"{self.run.label}: {what} is not finite, training stopped; the last good checkpoint is "
                f"{self.run.newest(self.name) or 'none'}. Try a lower learning rate or another seed."
            )


def _mean(values):
    """Mean of scalars. Those from a checkpoint are on the CPU, newer ones on the device."""
    values = list(values)
    return torch.stack([value.to(values[-1].device) for value in values]).mean()


def progress(record, max_steps):
    """A log record as one line for people."""
    left = clock(record["left_s"])
    values = {k: v for k, v in record.items() if k.endswith(("loss", "penalty", "accuracy"))}
    numbers = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items())
    return f"step {record['step']}/{max_steps}  {record['steps_per_s']:.2f} steps/s  {left} left  {numbers}"
