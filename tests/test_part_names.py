"""parts.yaml: names, merges, colours and hidden parts, by hand and by `ganseg name`."""

import json

import numpy as np
import pytest

from ganseg import cli, part_names, runs
from ganseg.errors import UserError
from ganseg.figures import colors, report
from ganseg.model.prediction import Predicted


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of three parts without any model."""
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path / "outputs"))
    run = runs.open_run("creatures", "x", image_size=32, n_parts=3)
    run.start("cpu")
    return run


def write(run, text):
    (run.folder / "parts.yaml").write_text(text, encoding="utf-8")


def test_without_a_file_parts_are_what_they_are(run):
    parts = part_names.read_parts(run)
    assert parts.names == parts.labels == ["part 1", "part 2", "part 3"] and parts.numbers == [1, 2, 3]
    np.testing.assert_array_equal(parts.colors, colors.part_colors(3))
    assert parts.apply(np.array([[0, 1], [2, 3]], np.uint8)).tolist() == [[0, 1], [2, 3]]


def test_a_file_by_hand_names_merges_hides_and_colours(run):
    write(run, '# mine\n1: {name: "head, <b>left</b>"}\n2: {merge: 1}\n3: {hidden: true, color: "#0a0B0c"}\n')
    parts = part_names.read_parts(run)
    assert parts.labels == ["1: head, <b>left</b>", "2: head, <b>left</b>", "part 3 (hidden)"]
    assert parts.numbers == [1] and parts.colors[2].tolist() == [10, 11, 12]
    np.testing.assert_array_equal(parts.colors[1], parts.colors[0])
    for kind in (np.uint8, np.int16):
        applied = parts.apply(np.array([0, 1, 2, 3], kind))
        assert applied.tolist() == [0, 1, 1, 0] and applied.dtype == kind
    assert parts.apply(np.array([-1, 3, 2], np.int16)).tolist() == [-1, 0, 1]


def test_merges_follow_each_other_to_the_end(run):
    write(run, "3: {merge: 2}\n2: {merge: 1}\n")
    assert part_names.read_parts(run).lookup.tolist() == [0, 1, 1, 1]
    write(run, "3: {merge: 2}\n2: {hidden: true}\n")
    assert part_names.read_parts(run).lookup.tolist() == [0, 1, 0, 0]


def test_what_was_predicted_of_merged_parts_is_weighted_by_their_areas():
    found = Predicted(np.array([[[1, 2], [3, 0]]], np.uint8), None, np.array([[[1.0, 0], [0, 1], [9, 9]]]),
                      np.array([[0.3, 0.1, 0.0]]), np.array([[0.8, 0.4, np.nan]]), np.ones(1))
    merged = part_names.make_parts({2: {"merge": 1}}, 3).merged(found)
    assert merged.labels.tolist() == [[[1, 1], [3, 0]]]
    np.testing.assert_allclose(merged.area, [[0.4, 0, 0]])
    np.testing.assert_allclose(merged.confidence, [[(0.3 * 0.8 + 0.1 * 0.4) / 0.4, np.nan, np.nan]])
    np.testing.assert_allclose(merged.centroids[0, 0], [0.75, 0.25])


@pytest.mark.parametrize("text, sentence", [
    ("1: {name: a}\n2: {name: a}\n", "the name 'a' is given twice; each part needs one of its own"),
    ("1: {name: part 2}\n", "the name 'part 2' is given twice"),
    (f"1: {{name: {'n' * 31}}}\n", "of part 1 is not allowed; write one line of at most 30 letters"),
    ('1: {name: "two\\nlines"}\n', "write one line of at most 30 letters"),
    ("1: {name: 7}\n", "name '7' of part 1 is not allowed; write one line of at most 30 letters, a number in quotes"),
    ("1: {merge: 1}\n", "merge goes in a circle, 1 into 1; let one of these parts stay"),
    ("1: {merge: 2}\n2: {merge: 3}\n3: {merge: 1}\n", "merge goes in a circle, 1 into 2 into 3 into 1;"),
    ("3: {merge: 1}\n1: {merge: 2}\n2: {merge: 1}\n", "merge goes in a circle, 1 into 2 into 1;"),
    ("1: {merge: 4}\n", "merge '4' of part 1 is not allowed; write the number of another part, 1 to 3"),
    ("1: {merge: head}\n", "merge 'head' of part 1 is not allowed"),
    ("4: {name: a}\n", "there is no part '4'; the run has the parts 1 to 3"),
    ("head: {name: a}\n", "there is no part 'head'"),
    ("1: {hidden: true, merge: 2}\n", "part 1 has both merge and hidden"),
    ("".join(f"{k}: {{hidden: true}}\n" for k in (1, 2, 3)), "all of them are hidden; leave one to be seen"),
    ("1: {color: #ff0000}\n", "is damaged"),
    ("1:\n  color: #ff0000\n", "color 'None' of part 1 is not allowed; write six digits in quotes"),
    ("1: {color: red}\n", "color 'red' of part 1 is not allowed; write six digits in quotes"),
    ("1: {hidden: 1}\n", "hidden '1' of part 1 is not allowed; write true or false"),
    ("1: {nam: a}\n", "there is no field 'nam'; known are name, merge, hidden, color"),
    ("1: head\n", "'head' of part 1 is not allowed; write 1: {name: head}"),
    ("head\n", "'head' is not allowed; write lines as 1: {name: head}"),
    ("1: {name: a}\n1: {name: b}\n", "part 1 stands there twice"),
    ("1: [", "while parsing"), ("\udcff", "utf-8"),
])  # fmt: skip
def test_a_file_that_cannot_be_is_one_sentence(run, text, sentence):
    (run.folder / "parts.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"parts\.yaml: is damaged, mend or delete it: ") as caught:
        part_names.read_parts(run)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_names_of_older_runs_are_read_and_kept_when_something_changes(run):
    (run.folder / "part_names.json").write_text(json.dumps(["head", "part 2", "left arm"]))
    assert part_names.part_labels(run) == ["1: head", "part 2", "3: left arm"]
    part_names.change_parts(run, {2: {"merge": 1}})
    assert part_names.read_parts(run).labels == ["1: head", "2: head", "3: left arm"]
    assert not list(run.folder.glob("*.partial"))


@pytest.mark.parametrize("content", ["[", json.dumps(["of", "another", "K", "!"]), json.dumps(["a", "b", 3]), "\udcff"])
def test_a_damaged_file_of_an_older_run_is_named(run, content):
    (run.folder / "part_names.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="part_names.json: is damaged, mend or delete it"):
        part_names.read_parts(run)


def test_changes_that_cannot_be_change_nothing_and_others_leave_the_rest(run):
    write(run, "1: {name: a}\n2: {color: '#010203'}\n")
    with pytest.raises(UserError, match="'a' is given twice"):
        part_names.change_parts(run, {2: {"name": " a "}})
    assert part_names.read_parts(run).names == ["a", "part 2", "part 3"]
    part_names.change_parts(run, {1: {"name": "b"}, 2: {"name": "a"}})
    assert part_names.read_parts(run).names == ["b", "a", "part 3"]
    assert part_names.change_parts(run, {1: {"name": ""}, 2: {"color": None}}).names == ["part 1", "a", "part 3"]
    assert part_names.read_parts(run).colors[1].tolist() == colors.part_colors(3)[1].tolist()


def test_the_command_names_parts_and_says_what_they_are(run, capsys):
    cli.main(["name", "--run", "creatures/x", "1", "Kopf", "3", "à gauche"])
    assert "parts.yaml: 1: Kopf, part 2, 3: à gauche" in capsys.readouterr().out
    cli.main(["name", "--run", "creatures/x", "3", ""])
    assert part_names.read_parts(run).names == ["Kopf", "part 2", "part 3"]
    assert "# What each part of this run is taken for" in (run.folder / "parts.yaml").read_text()


@pytest.mark.parametrize("words, sentence", [
    (["1"], "names: '1' is not allowed; write each part's number once and its name after it"),
    (["head", "1"], "names: 'head 1' is not allowed"), (["1", "a", "1", "b"], "names: '1 a 1 b' is not allowed"),
    (["4", "a"], "parts: there is no part '4'; the run has the parts 1 to 3"),
])  # fmt: skip
def test_the_command_refuses_in_a_sentence(run, words, sentence):
    with pytest.raises(SystemExit) as caught:
        cli.main(["name", "--run", "creatures/x", *words])
    assert caught.value.code.startswith(f"ganseg: {sentence}") and not (run.folder / "parts.yaml").exists()


def test_the_report_lists_the_parts_that_are_left_as_text(run):
    write(run, "1: {name: <b>head</b>, color: '#010203'}\n2: {hidden: true}\n3: {name: tail}\n")
    run.log("evaluate", 10, collapse=0.0, parts_used=3.0, notes={report.SHOWN: [0.01, 0.02, 0.9]})
    (run.folder / "figures").mkdir(exist_ok=True)
    (run.folder / "figures" / "detections.png").write_bytes(b"")
    page = report.write_report(run).read_text()
    assert '<span style="color:rgb(1,2,3)">&#9632;</span>&nbsp;1: &lt;b&gt;head&lt;/b&gt;, ' in page
    assert "3: tail</p>" in page and "part 2" not in page and "<b>head" not in page
    assert report.without_labels(run) == ["Some parts are rare, 1: <b>head</b> in 1% of the photos."]
