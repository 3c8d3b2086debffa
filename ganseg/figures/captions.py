"""What the title of a figure says of the run that it shows."""

from ganseg import checkpoints

# Creatures are learned the fastest, and after 50 steps they are found worse than by a box in the middle (foreground_iou
# 0.54 of 0.56, seed 0, 250 steps of distillation)
FEWEST_STEPS = 100
KINDS = {"gan": "steps", "segmenter": "distillation steps"}


def caption(run, needs="gan"):
    """DATASET/RUN with its caution, as in "tiny/try (20 steps: expect noise)"."""
    return run.label + caution(run, needs)


def caution(run, needs="gan"):
    """" (20 steps: expect noise)" where a run is barely trained, else "".

    needs  the checkpoint that a figure shows: "gan", or "segmenter", which depends on both
    """
    newest = {name: run.newest(name) for name in dict.fromkeys(("gan", needs))}
    notes = [noise(checkpoints.step_of(path), name) for name, path in newest.items() if path]
    return next(filter(None, notes), "")


def noise(steps, name="gan"):
    """The caution about a number of steps of a checkpoint's training, or ""."""
    return f" ({steps} {KINDS[name]}: expect noise)" if steps < FEWEST_STEPS else ""
