import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import LOGGED

from ganseg import metrics, runs
from ganseg.figures import pictures, report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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
    assert lines[-1] == "Left out: landmark_error: the data set has no <landmarks>."


def test_what_is_left_out_for_one_reason_is_said_together(run):
    run.log("evaluate", 10, foreground_iou=0.7, left_out={"nmi": "no labels", "pck": "no points", "ari": "no labels"})
    said = " ".join(report.metrics_table(run).split())
    assert said.endswith("Left out: nmi, ari: no labels; pck: no points.")
    assert "nmi, ari: no labels" in report.write_report(run).read_text()


def test_the_table_of_the_newest_evaluation_is_shown(run):
    evaluated(run)
    assert "0.9" in report.metrics_table(evaluated(run, foreground_iou=0.9))


def test_the_table_of_a_run_without_metrics_names_the_command(run):
    assert "ganseg evaluate" in report.metrics_table(run)


@pytest.mark.parametrize("values, said", [
    ({"collapse": 1.0, "parts_used": 3.0}, ["The model has collapsed: 3 of 8 parts are in use, and the other numbers "
                                            "mean little."]),
    ({"collapse": 0.0, "parts_used": 7.0, "foreground_iou": 0.8, "foreground_iou_center_box": 0.559},
     ["No collapse: 7 of 8 parts are in use.",
      "foreground_iou is better than that of the best box in the middle: 0.8 against 0.559."]),
    ({"foreground_iou": 0.43, "foreground_iou_center_box": 0.612},
     ["foreground_iou is NOT better than that of the best box in the middle: 0.43 against 0.612."]),
    ({"landmark_error_with_bias": 11.8, "landmark_error_mean_landmarks": 15.6},
     ["landmark_error_with_bias is better than that of the mean training landmarks: 11.8 against 15.6."]),
    ({"keypoint_error_percent": 7.5, "keypoint_error_percent_mean_keypoints": 7.5},
     ["keypoint_error_percent is NOT better than that of the mean training keypoints: 7.5 against 7.5."]),
    ({"equivariance": 0.84, "certainty_gap": 0.02, "notes": {report.SHOWN: [0.98, 0.04, 0.0]}},
     ["Parts are stable: when a photo is mirrored, turned, scaled or recoloured, 84% of the foreground keeps its part.",
      "Photos look like what it learned from: it is 2.0% surer of generated pictures than of photos.",
      "Some parts are rare, part 2 in 4%, part 3 in 0% of the photos."]),
    ({"equivariance": 0.6, "certainty_gap": 0.07, "notes": {report.SHOWN: [0.98, 0.5]}},
     ["Parts are fairly stable: when a photo is mirrored, turned, scaled or recoloured, 60% of the foreground keeps "
      "its part.",
      "Photos look somewhat unlike what it learned from: it is 7.0% surer of generated pictures than of photos."]),
    ({"border_clear": 0.95},
     ["The photos' edges are background: 95% of the pixels there are background, as most should be where the object is "
      "in the middle."]),
    ({"equivariance": 0.3, "border_clear": 0.3, "certainty_gap": 0.2},
     ["Parts are NOT stable: when a photo is mirrored, turned, scaled or recoloured, 30% of the foreground keeps its "
      "part.",
      "Parts lie ALONG THE EDGES of the photos: 30% of the pixels there are background, as most should be where the "
      "object is in the middle.",
      "Photos look UNLIKE what it learned from: it is 20.0% surer of generated pictures than of photos."]),
])  # fmt: skip
def test_the_verdict_stands_first_in_words(run, values, said):
    run.cfg.n_parts = 8
    run.log("evaluate", 10, **values)
    assert report.verdict(run) == said
    page = Tags(report.write_report(run).read_text()).text
    assert [page.index(sentence) < page.index("Settings") for sentence in said] == [True] * len(said)


def test_what_the_verdict_compares_are_metrics():
    assert {name for line in report.BASELINES for name in line[:2]} <= metrics.protocols().keys()
    assert {line[0] for line in report.LIGHTS} <= metrics.protocols().keys()


def test_a_report_of_a_barely_trained_run_says_so_in_its_title(run):
    run.save("gan", 20, {})
    assert "creatures/x (20 steps: expect noise)" in Tags(report.write_report(run).read_text()).text


def test_the_table_shows_whole_protocols(run):
    lines = report.metrics_table(evaluated(run)).splitlines()
    protocol = metrics.protocols()["foreground_iou"]
    assert protocol in " ".join(" ".join(lines).split())


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
@pytest.mark.slow
def test_the_report_fits_the_screen_of_a_phone(run):
    from playwright.sync_api import sync_playwright

    long = {"keypoint_error_percent": 7.25, "keypoint_error_percent_mean_keypoints": 7.5, "collapse": 0.0}
    pictures.save(np.zeros((8, 1200, 3), np.uint8), run.folder / "figures" / "samples.png")
    path = report.write_report(evaluated(run, untrained_keypoint_error_percent=7.1, **long))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844}, is_mobile=True)
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator(".verdict").bounding_box()["y"] < 400
        browser.close()
