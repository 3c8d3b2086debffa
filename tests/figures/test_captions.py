"""What the title of a figure says of its run."""

import pytest

from ganseg.figures import captions


@pytest.mark.parametrize("gan, segmenter, of_gan, of_both", [
    (20, None, "(20 steps: expect noise)", "(20 steps: expect noise)"),
    (20, 20, "(20 steps: expect noise)", "(20 steps: expect noise)"),
    (1200, 20, "", "(20 distillation steps: expect noise)"),
    (1200, 600, "", ""),
    (None, None, "", ""),
])  # fmt: skip
def test_a_caption_warns_of_a_barely_trained_run(tiny_run, gan, segmenter, of_gan, of_both):
    run = tiny_run()
    run.start("cpu")
    for name, step in (("gan", gan), ("segmenter", segmenter)):
        if step:
            run.save(name, step, {})
    assert captions.caption(run) == f"creatures/run {of_gan}".strip()
    assert captions.caption(run, "segmenter") == f"creatures/run {of_both}".strip()
