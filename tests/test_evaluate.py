"""What an evaluation says it was computed from, and what it leaves out where that does not belong together."""

import pytest

from ganseg import distill, evaluate, records

SMALL = {"segmenter": "unet", "segmenter_width": 4, "distill_steps": 2, "distill_batch_size": 4, "fit_pictures": 8}


@pytest.fixture
def segmented(trained, tiny_run):
    """A tiny run of two GAN steps with a segmenter."""
    run = tiny_run("trained", max_test_pictures=6, **SMALL)
    list(distill.distill(run))
    return run


def test_an_evaluation_says_with_which_settings_it_measured(segmented):
    settings = evaluate.evaluate(segmented)["settings"]
    assert set(settings) == set(evaluate.SETTINGS)
    few = {"max_train_pictures": 16, "max_test_pictures": 6, "fit_pictures": 8, "distill_generator": "ema"}
    assert few.items() <= settings.items()


def test_a_record_whose_settings_are_damaged_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for settings in ({"fit_pictures": 8}, "none", None, [1]):
        records.append(path, {"stage": "evaluate", "step": 1, "settings": settings})
    assert [record["settings"] for record in records.read(path)] == [{"fit_pictures": 8}]
