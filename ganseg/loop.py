"""What the two training loops share: resuming, values between log lines, the clock, checkpoints."""

import datetime
import time

import torch

from ganseg import memory, pictures, runs
from ganseg.errors import UserError

TIMED_STEPS = 20  # from which the whole time is estimated
LONG_S = 60  # worth an estimate


class Loop:
    """Steps of one stage of a run, from its newest checkpoint on.

    run        an opened and started run
    stage      under which values are logged: train, distill or control
    name       of the checkpoints: gan, segmenter or control
    parts      name -> network or optimiser: what a checkpoint holds
    max_steps  where the stage ends
    facts      plain values kept in each checkpoint
    """

    def __init__(self, run, stage, name, parts, max_steps, **facts):
        self.run, self.stage, self.name, self.parts, self.max_steps = run, stage, name, parts, max_steps
        self.facts = facts
        self.done, self.window = 0, {}  # steps done; name -> {step: value} since the last log line
        self._resume()
        self.spent_s = max((r["time_s"] for r in run.records(stage)), default=0.0)
        self.start = self.last = time.monotonic()
        self.last_done = self.done
        self.time_is_up = False

    def _resume(self):
        state = self.run.load(self.name) or {"step": 0}
        self.done = state["step"]
        self.run.rewind({self.stage, f"{self.stage}_samples"}, self.done)
        self.window = state.get("window", {})
        for name, part in self.parts.items():
            if name in state:  # released weights come without optimisers
                runs.load_weights(part, state[name], self.run.newest(self.name))

    def steps(self):
        """Step numbers still to do, until max_steps or until max_minutes have passed."""
        first, begun = self.done, self.start
        for step in range(first, self.max_steps):
            if step == first + 1:  # the first one warms up
                begun = time.monotonic()
            if step == first + 1 + TIMED_STEPS:
                self._say_how_long((time.monotonic() - begun) / TIMED_STEPS)
            self.done = step + 1
            minutes = (time.monotonic() - self.start) / 60
            self.time_is_up = minutes > (self.run.cfg.max_minutes or float("inf"))
            yield step
            if self.time_is_up:
                print(f"max_minutes passed at step {self.done}; the same command goes on from there.", flush=True)
                return

    def _say_how_long(self, step_s):
        left_s = step_s * (self.max_steps - self.done)
        if left_s > LONG_S:
            left = str(datetime.timedelta(minutes=round(left_s / 60)))[:-3]
            print(f"{self.max_steps - self.done} steps of {step_s:.2g} s take about {left} hours:minutes; "
                  f"memory at most {memory.peak_gb():.1f} GB so far.", flush=True)

    def add(self, **values):
        """Keep scalars (tensors) of this step for the next log line."""
        for name, value in values.items():
            self.window.setdefault(name, {})[self.done] = value.detach()

    def due(self, kind):
        """Whether this step is to log, sample or save; the last step does all of them."""
        every = getattr(self.run.cfg, f"{kind}_every_steps")
        return self.done % every == 0 or self.done == self.max_steps or (kind == "save" and self.time_is_up)

    def log(self):
        """Write the means since the last log line to metrics.jsonl; returns the record."""
        means = {name: _mean(values.values()) for name, values in self.window.items()}
        self.window = {}
        now = time.monotonic()
        rate = (self.done - self.last_done) / max(now - self.last, 1e-9)
        self.last, self.last_done = now, self.done
        left_s = (self.max_steps - self.done) / rate
        spent_s = self.spent_s + now - self.start
        times = {"time_s": round(spent_s, 3), "steps_per_s": round(rate, 4), "left_s": round(left_s, 1)}
        return self.run.log(self.stage, self.done, **means, **times)

    def save(self):
        """Write a checkpoint of the parts and of the values not yet logged."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        self.run.save(self.name, self.done, {**state, "window": self.window, **self.facts})

    def save_samples(self, generated):
        """Write samples/<step>.png of a Generated and log how its parts are used."""
        sheet = pictures.samples_sheet(generated, n_columns=5)
        pictures.save(sheet, self.run.folder / "samples" / f"{self.done:08d}.png")
        background, *shares = generated.masks.mean(dim=(0, 2, 3)).tolist()
        of_parts = {f"part_{k}_share": share for k, share in enumerate(shares, start=1)}
        self.run.log(f"{self.stage}_samples", self.done, background_share=background, **of_parts)

    def check_finite(self):
        """Raise UserError naming the first step whose loss is not finite, and the last good checkpoint."""
        by_step = [(step, name) for name, values in self.window.items() for step in values]
        for step, name in sorted(by_step, key=lambda pair: pair[0]):
            if not self.window[name][step].isfinite():
                raise self._not_finite(f"the {name} at step {step}")
        networks = [part for part in self.parts.values() if isinstance(part, torch.nn.Module)]
        if not all(p.isfinite().all() for network in networks for p in network.parameters()):
            raise self._not_finite(f"a weight after step {self.done}")

    def _not_finite(self, what):
        return UserError(
            f"{self.run.label}: {what} is not finite, training stopped; the last good checkpoint is "
            f"{self.run.newest(self.name) or 'none'}. Try a lower learning rate or another seed."
        )


def _mean(values):
    """Mean of scalars, of which a checkpoint's are on the CPU and the newer ones on the device."""
    values = list(values)
    return torch.stack([value.to(values[-1].device) for value in values]).mean().item()


def progress(record, max_steps):
    """A log record as one line for people."""
    left = time.strftime("%H:%M:%S", time.gmtime(record["left_s"]))
    values = {k: v for k, v in record.items() if k.endswith(("loss", "penalty", "accuracy"))}
    numbers = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items())
    return f"step {record['step']}/{max_steps}  {record['steps_per_s']:.2f} steps/s  {left} left  {numbers}"
