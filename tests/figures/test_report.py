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
