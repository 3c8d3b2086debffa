from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import LOGGED

from ganseg import runs
from ganseg.figures import pictures, report


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    opened = runs.open_run("creatures", "x", image_size=32, n_parts=2)
    opened.start("cpu")
    return opened


def evaluated(run, **values):
    values = {"foreground_iou": 0.71234, **values}
    left_out = {"landmark_error": "the data set has no <landmarks>"}
    run.log("evaluate", 10, **values, left_out=left_out, notes={"test pictures": 500})
    return run


def test_a_run_with_nothing_done_reports_its_settings_alone(run):
    page = report.write_report(run).read_text()
    assert "n_parts: 2" in page
    assert page.count("<h2>") == 1


def test_the_report_shows_metrics_with_control_protocol_and_notes(run):
    page = report.write_report(evaluated(run, untrained_foreground_iou=0.3)).read_text()
    assert "0.7123" in page and ">0.3<" in page
    assert "averaged over the test pictures" in page
    assert "test pictures: 500" in page
    assert "untrained_foreground_iou" not in page


def test_text_in_the_report_is_escaped(run):
    page = report.write_report(evaluated(run)).read_text()
    assert "no &lt;landmarks&gt;" in page
    assert "no <landmarks>" not in page


class Tags(HTMLParser):
    """The tags of a page, in order, with what stands in between."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, attributes))

    def handle_data(self, data):
        self.text += data


MARKUP = "\"'><img src=x onerror=alert(1)></pre>&amp;"


@pytest.mark.parametrize("write", [
    lambda run: evaluated(run, **{MARKUP: 0.5, f"untrained_{MARKUP}": 0.4}),
    lambda run: run.log("evaluate", 1, left_out={MARKUP: "why"}),
    lambda run: run.log("evaluate", 1, left_out={"why": MARKUP}),
    lambda run: run.log("evaluate", 1, nmi=0.5, notes={MARKUP: 1}),
    lambda run: run.log("evaluate", 1, nmi=0.5, notes={"a": MARKUP, "b": [MARKUP]}),
    lambda run: setattr(run, "folder", run.folder.rename(run.folder.with_name(MARKUP.replace("/", "")))),
    lambda run: setattr(run, "cfg", run.cfg.model_copy(update={"backbone_weights": MARKUP})),
    lambda run: (run.folder / "config.yaml").write_text(f"source: {MARKUP}"),
], ids=["metric", "left out", "reason", "note", "value of a note", "folder", "setting", "config.yaml"])  # fmt: skip
def test_each_text_of_the_report_is_escaped(run, write):
    write(run)
    page = Tags(report.write_report(run).read_text())
    assert "onerror=alert(1)" in page.text and "img" not in dict(page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name, _ in attributes)


def test_the_report_needs_no_network_and_holds_its_curves(run):
    for step in (10, 20):
        run.log("train", step, generator_loss=1.0, area_loss=0.1, **LOGGED)
        run.log("train_samples", step, background_share=0.6, part_1_share=0.3, part_2_share=0.1)
        run.log("distill", step, segmentation_loss=1.0, pixel_accuracy=0.9, **LOGGED)
    pictures.save(np.zeros((8, 8, 3), np.uint8), run.folder / "figures" / "samples.png")
    page = report.write_report(run).read_text()
    assert "data:image/png;base64," in page
    assert 'src="http' not in page and "<link" not in page
    assert 'alt="train"' in page and 'alt="distill"' in page and len(page) < 500_000


def test_the_table_shows_the_control_only_where_there_is_one(run):
    assert "untrained" not in report.metrics_table(evaluated(run))
    lines = report.metrics_table(evaluated(run, untrained_foreground_iou=0.3)).splitlines()
    assert lines[1].split()[:3] == ["foreground_iou", "0.7123", "0.3"]
    assert lines[-1] == "left out: landmark_error (the data set has no <landmarks>)"


def test_the_table_of_the_newest_evaluation_is_shown(run):
    evaluated(run)
    assert "0.9" in report.metrics_table(evaluated(run, foreground_iou=0.9))


def test_the_table_of_a_run_without_metrics_names_the_command(run):
    assert "ganseg evaluate" in report.metrics_table(run)
