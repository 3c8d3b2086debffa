"""A choice among short trainings: who goes on, what is not run twice, and that the best one goes on as if alone."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY

from ganseg import distill, evaluate, runs, segment, train
from ganseg.errors import UserError
from ganseg.experiments import ablations, choose
from ganseg.metrics.unlabelled import matched_order, score
from ganseg.model import loading
from ganseg.model.geometry import to_float
from ganseg.training import trained_on

SETTINGS = {**TINY, "max_steps": 4, "distill_steps": 2, "max_test_pictures": 20, "fit_pictures": 4, "segmenter": "unet",
            "segmenter_width": 4, "distill_batch_size": 2}  # fmt: skip


@pytest.fixture
def ran(tmp_path, monkeypatch, quick):
    """The names of the trials that have run, where those in `ran.failing` fail."""
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))

    class Ran(list):
        failing = set()

    ran = Ran()
    return ran


def compare(ran, wanted):
    """What the notebook does in a round, in this process."""
    for trial in choose.missing("creatures", "best", wanted):
        ran.append(trial.name)
        if trial.name not in ran.failing:
            assert ablations.run_trial("creatures", trial, str(runs.outputs_root()), 1) is None
    return choose.compare("creatures", "best", wanted)


def candidates(seeds=(0, 1), parts=(), share=0.5, **more):
    return choose.candidates("creatures", "best", list(seeds), list(parts), share, **{**SETTINGS, **more})


def test_candidates_are_seeds_times_parts_with_a_share_of_the_steps():
    wanted = candidates([3, 4], [4, 8], share=0.3, max_steps=100, distill_steps=11, lambda_con=10.0, n_parts=None)
    made = [(trial.cfg.seed, trial.cfg.n_parts, trial.cfg.lambda_con) for trial in wanted]
    assert made == [(3, 4, 5), (4, 4, 5), (3, 8, 10), (4, 8, 10)]
    assert {(t.cfg.max_steps, t.cfg.distill_steps) for t in wanted} == {(30, 4)}
    assert wanted[0].name == "best-n_parts-4-seed3"
    assert {trial.cfg.lambda_con_start for trial in wanted} == {None}
    held = candidates([3], [4, 8], lambda_con=10.0, lambda_con_start=60.0, n_parts=None)
    assert [trial.cfg.lambda_con_start for trial in held] == [30, 60]
    assert (wanted[0].cfg.max_test_pictures, wanted[0].cfg.fit_pictures) == (20, 4)
    many = candidates(max_test_pictures="none", fit_pictures=9000)[0].cfg
    assert (many.max_test_pictures, many.fit_pictures) == (200, 200)


def test_one_candidate_is_no_choice():
    with pytest.raises(UserError, match="only one candidate; .*-p seeds"):
        candidates([0])


def test_a_run_that_was_trained_by_itself_is_no_choice(tiny_run):
    tiny_run("best").start("cpu")
    with pytest.raises(UserError, match="creatures/best is there and was not chosen; give the choice another name"):
        candidates()


def test_half_of_the_candidates_go_on_and_at_least_one():
    wanted = candidates([0, 1, 2, 3, 4])
    found = {f"best-base-seed{seed}": {"score": 1 - 0.1 * i} for i, seed in enumerate([4, 2, 0, 1, 3])}
    assert [trial.cfg.seed for trial in choose.survivors(found, wanted)] == [4, 2]
    assert [trial.cfg.seed for trial in choose.survivors(found, wanted, 3)] == [4, 2, 0]
    assert [trial.cfg.seed for trial in choose.survivors(dict(list(found.items())[:1]), wanted)] == [4]


def test_candidates_are_scored_once_and_a_failed_one_is_left_out(ran):
    wanted = candidates([0, 1, 2])
    ran.failing = {"best-base-seed1"}
    found = compare(ran, wanted)
    assert ran == ["best-base-seed0", "best-base-seed1", "best-base-seed2"]
    assert set(found) == {"best-base-seed0", "best-base-seed2"}
    scores = [values["score"] for values in found.values()]
    assert scores == sorted(scores, reverse=True)
    assert all(values["score"] == score(values) and "agreement" in values for values in found.values())
    ran.clear()
    ran.failing = set()
    again = compare(ran, wanted)
    assert ran == ["best-base-seed1"] and set(again) == {trial.name for trial in wanted}


def test_a_second_round_goes_on_and_the_first_is_not_run_again(ran):
    first, second = candidates(), candidates(share=1)
    compare(ran, first)
    found = compare(ran, second)
    assert runs.find("creatures/best-base-seed0").load_state("gan")["step"] == 4
    ran.clear()
    compare(ran, first)  # though its candidates have more steps by now
    assert compare(ran, second) == found and ran == []


def test_all_must_not_fail(ran):
    ran.failing = {"best-base-seed0", "best-base-seed1"}
    with pytest.raises(UserError, match="no candidate of best could be trained; see error.txt"):
        compare(ran, candidates())


def test_too_few_photos_say_nothing(ran):
    with pytest.raises(UserError, match="there are 19 test pictures to compare candidates on; it takes 20"):
        compare(ran, candidates(max_test_pictures=19))
    assert ran == []


def test_a_candidate_of_other_photos_is_named(ran, monkeypatch):
    digests = iter(["a", "b", "a"])
    monkeypatch.setattr(trained_on, "digest", lambda checksums: next(digests))
    with pytest.raises(UserError, match="best-base-seed1 was trained on other pictures than the other candidates"):
        compare(ran, candidates([0, 1, 2]))


def test_the_best_goes_on_as_if_it_had_been_trained_alone(ran, tiny_run):
    wanted = candidates()
    best = choose.survivors(compare(ran, wanted), wanted)[0]
    run = choose.go_on("creatures", "best", best, max_steps=4, distill_steps=2)
    assert (run.folder.name, run.cfg.seed, run.cfg.max_steps) == ("best", best.cfg.seed, 4)
    assert run.newest("segmenter") is None  # it is distilled anew
    list(train.train(run))
    list(distill.distill(run))
    alone = tiny_run("alone", **{**SETTINGS, "seed": best.cfg.seed})
    list(train.train(alone))
    for name, value in alone.load_state("gan")["generator"].items():
        assert torch.equal(value, run.load_state("gan")["generator"][name])
    assert runs.find(f"creatures/{best.name}").load_state("gan")["step"] == 2  # the candidate stays
    assert choose.go_on("creatures", "best", best, max_steps=4, distill_steps=2).load_state("gan")["step"] == 4


def test_without_a_number_of_steps_the_best_goes_on_to_the_data_sets_own(ran):
    wanted = candidates()
    compare(ran, wanted)
    run = choose.go_on("creatures", "best", wanted[0], fit_pictures=600, lambda_con=99.0)
    assert (run.cfg.max_steps, run.cfg.fit_pictures, run.cfg.lambda_con) == (1200, 600, wanted[0].cfg.lambda_con)
    assert run.cfg.max_test_pictures is None  # of candidates alone


def test_the_page_shows_all_candidates_and_why(ran):
    wanted = candidates()
    found = compare(ran, wanted)
    rounds = {"first round": choose.table(found, wanted, choose.survivors(found, wanted))}
    path = choose.write_page("creatures", "best", rounds, ["Said <first>."])
    page = path.read_text()
    assert "Said &lt;first&gt;." in page and page.count("data:image/png") == 4  # photos and samples
    assert all(name in page for name in found)
    table = pd.read_csv(path.with_name("choice.csv"))
    assert table["candidate"].tolist() == list(found) and table["goes on"].tolist() == ["yes", "no"]


@pytest.fixture
def distilled(tiny_run, quick):
    """Two runs with segmenters."""
    made = [tiny_run(f"m{seed}", **{**SETTINGS, "max_steps": 2, "seed": seed}) for seed in (0, 1)]
    for run in made:
        list(train.train(run))
        list(distill.distill(run))
    return made


def test_a_vote_is_the_mean_of_its_members_and_a_run_like_any(distilled, tmp_path):
    voted = choose.vote("creatures", "best-consensus", distilled)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    networks = [loading.load_segmenter(run) for run in distilled]
    first, second = (network(to_float(images)).softmax(dim=1) for network in networks)
    network = loading.load_segmenter(runs.find("creatures/best-consensus"))
    assert network.orders[0].tolist() == [0, 1, 2, 3] and sorted(network.orders[1].tolist()) == [0, 1, 2, 3]
    expected = (first + second[:, network.orders[1]]) / 2
    torch.testing.assert_close(network(to_float(images)).softmax(dim=1), expected)
    evaluate.evaluate(distilled[0])
    record = evaluate.evaluate(voted)
    assert record["notes"]["league"] == record["notes"]["backbone weights"].replace("none", "nothing") == "nothing"
    assert "vote" in record["left_out"]["extent_px"] and 0 <= record["foreground_iou"] <= 1
    assert choose.compared(distilled[0], voted).startswith("By nmi_foreground the vote is ")
    assert segment.load("creatures/best-consensus").segment(images[0].permute(1, 2, 0).numpy()).shape == (32, 32)


def test_parts_are_matched_before_they_vote():
    labels = np.random.default_rng(0).integers(0, 5, (3, 8, 8))
    numbering = np.array([0, 3, 1, 4, 2])
    assert (matched_order(labels, numbering[labels], 4) == numbering).all()
    one_part = np.where(labels > 0, 2, 0)  # which leaves three without a match
    assert sorted(matched_order(labels, one_part, 4)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("alone, together, said", [
    ({"nmi_foreground": 0.5, "foreground_iou": 0.9}, {"nmi_foreground": 0.6, "foreground_iou": 0.8},
     "By nmi_foreground the vote is better than creatures/a alone: 0.600 against 0.500."),
    ({"landmark_error": 9.0}, {"landmark_error": 9.0},
     "By landmark_error the vote is NOT better than creatures/a alone: 9.000 against 9.000."),
    ({"equivariance": 0.5}, {"equivariance": 0.7},
     "By the label-free score the vote is better than creatures/a alone: 0.700 against 0.500."),
])  # fmt: skip
def test_it_is_said_whether_a_vote_is_better(tiny_run, alone, together, said):
    made = [tiny_run("a"), tiny_run("b")]
    for run, values in zip(made, (alone, together), strict=True):
        run.start("cpu")
        run.log("evaluate", 2, **values)
    assert choose.compared(*made) == said


def test_what_cannot_vote_is_refused(tiny_run):
    with pytest.raises(UserError, match="only one run; it takes two"):
        choose.vote("creatures", "v", [tiny_run("a")])
    with pytest.raises(UserError, match="creatures/b and creatures/a differ in n_parts"):
        choose.vote("creatures", "v", [tiny_run("a"), tiny_run("b", n_parts=5)])
    with pytest.raises(UserError, match="consensus: 3 are to vote, and there are 2 candidates; give more seeds"):
        candidates(consensus=3)


@pytest.mark.parametrize("values, word", [
    ({"background_share": 0.95}, "crop closer"), ({"background_share": 0.1}, "raise lambda_con"),
    ({"parts_effective": 0.3}, "fewer parts"), ({"equivariance": 0.3}, "train longer"),
    ({"colors_explained": 0.1}, "too much like its background"), ({"border_clear": 0.4}, "more room around"),
])  # fmt: skip
def test_advice_names_what_to_try(values, word):
    good = {"background_share": 0.7, "parts_effective": 0.9, "equivariance": 0.8, "colors_explained": 0.5,
            "border_clear": 0.9}
    assert choose.advice(good, 100) == []
    said = choose.advice({**good, **values}, 100)
    assert len(said) == 2 and word in said[0] and "only 100 photos" in said[1]
    assert len(choose.advice({**good, **values}, 5000)) == 1
