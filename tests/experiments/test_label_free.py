"""What is known without labels against metrics that need them, over runs of several data sets."""

import pandas as pd
import pytest

from ganseg.experiments import trust

WANTED = {"nmi_foreground": True, "landmark_error": False}


def frame(dataset, source, **columns):
    table = pd.DataFrame(columns, index=[f"{dataset}/{i}" for i in range(len(next(iter(columns.values()))))])
    return table.assign(dataset=dataset, source=source)


def test_the_combination_is_chosen_on_the_other_data_sets():
    good, bad = [0.2, 0.4, 0.6, 0.8], [0.9, 0.1, 0.5, 0.2]
    first = frame("a", None, equivariance=good, parts_effective=bad, colors_explained=bad, nmi_foreground=good)
    # equivariance says the opposite here, and the first of the runs that look best is half as good as the best
    second = frame("b", "photos", equivariance=good, parts_effective=good[::-1], colors_explained=good,
                   landmark_error=[10.0, 12.0, 16.0, 20.0])
    second.loc["b/3", "parts_effective"] = 0.9
    table = trust.left_out(pd.concat([first, second]), WANTED)
    assert list(table.index) == ["a", "b photos"] and list(table.metric) == ["nmi_foreground", "landmark_error"]
    assert table.loc["b photos", "chosen on the others"] == "equivariance"
    assert table.loc["b photos", "its correlation"] == pytest.approx(-1)  # an error grows with it
    assert table.loc["b photos", "chosen run of the best"] == pytest.approx(10 / 20)
    # on the second, parts_effective 0.8, 0.6, 0.4, 0.9 has a correlation of -0.2 and all else has about -1
    assert table.loc["a", "chosen on the others"] == "parts_effective"
    assert table.loc["a", "its correlation"] == pytest.approx(-0.4)  # ranks 4 1 3 2 with 1 2 3 4
    assert table.loc["a", "chosen run of the best"] == pytest.approx(0.2 / 0.8)


def test_a_run_without_scores_has_no_score_of_zero():
    some = frame("b", None, equivariance=[0.3, 0.2, 0.1, None], nmi_foreground=[0.3, 0.2, 0.1, 0.9])
    ranks = trust.correlations(some, ["nmi_foreground"])
    assert ranks.loc[trust.SCORE, "nmi_foreground"] == pytest.approx(1) and ranks.loc[trust.SCORE, "runs"] == 3


def test_too_few_runs_and_unmeasured_ones_are_left_out():
    few = frame("a", None, equivariance=[0.1, 0.2], nmi_foreground=[0.1, 0.2])
    some = frame("b", None, equivariance=[0.3, 0.2, 0.1, 0.9], nmi_foreground=[0.3, 0.2, 0.1, None])
    table = trust.left_out(pd.concat([few, some]), WANTED)
    assert list(table.index) == ["b"] and table.loc["b", "runs"] == 3
    assert table.loc["b", "correlation of all"] == pytest.approx(1)
    some.loc["b/2", "equivariance"] = None  # evaluated by older code, without scores
    assert trust.left_out(some, WANTED).empty
    assert trust.left_out(few, WANTED).empty and trust.left_out(pd.DataFrame(), WANTED).empty
    some.loc["b/2", "equivariance"] = 0.1
    assert list(trust.left_out(some.drop(columns="source"), WANTED).index) == ["b"]  # as where no run has one
