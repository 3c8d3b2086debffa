"""The widgets for photos and for a run that trains: what their fields change, and what they say instead of failing."""

import asyncio
import io
from datetime import UTC, datetime

import ipywidgets
import numpy as np
import pytest
from conftest import LOGGED
from PIL import Image
from test_photos import N, photos, run  # noqa: F401  (fixtures)

from ganseg import part_names, runs
from ganseg.figures import pictures
from ganseg.viewer import photos_widget, progress_widget
from ganseg.viewer.photos import Photos, view_file


def shown(image):
    return np.asarray(Image.open(io.BytesIO(image.value)))


def names_of(browser):
    return part_names.read_parts(browser.run).names


@pytest.fixture
def browser(run):  # noqa: F811
    return photos_widget.photo_browser(run)


def test_the_worst_photo_is_shown_first_with_its_truth_and_table(browser, photos):  # noqa: F811
    worst = photos.view(photos.ranked("foreground_iou")[0])
    for image, picture in ((browser.photo, worst.photo), (browser.parts, worst.parts), (browser.truth, worst.truth)):
        np.testing.assert_array_equal(shown(image), picture)
    assert browser.measure.value == "foreground_iou" and browser.rank.max == N
    assert f"foreground_iou {photos.values('foreground_iou').min():.3g} (1 of {N}" in browser.caption.value
    assert all(f"<td>part {k}</td>" in browser.table.value for k in (1, 2, 3)) and browser.message.value == ""


def test_rank_measure_order_and_strength_change_the_picture(browser, photos):  # noqa: F811
    browser.rank.value = 4
    np.testing.assert_array_equal(shown(browser.photo), photos.view(photos.ranked("foreground_iou")[3]).photo)
    browser.measure.value = "confidence"
    np.testing.assert_array_equal(shown(browser.photo), photos.view(photos.ranked("confidence")[3]).photo)
    browser.best_first.value = True
    i = photos.ranked("confidence", best_first=True)[3]
    np.testing.assert_array_equal(shown(browser.parts), photos.view(i).parts)
    browser.strength.value = 0.0
    np.testing.assert_array_equal(shown(browser.parts), photos.view(i, strength=0.0).parts)


def test_another_split_keeps_the_measure_and_starts_at_rank_one(browser, run):  # noqa: F811
    browser.measure.value, browser.rank.value = "confidence", 7
    browser.split.value = "train"
    train = Photos(run, browser.model, "train")
    assert (browser.rank.value, browser.rank.max, browser.measure.value) == (1, 20, "confidence")
    np.testing.assert_array_equal(shown(browser.photo), train.view(train.ranked("confidence")[0]).photo)


def test_a_part_is_shown_alone_with_its_crops_and_gets_a_name_that_stays(browser, photos):  # noqa: F811
    k = int(photos.predicted.area.sum(axis=0).argmax()) + 1
    browser.part.value = k
    np.testing.assert_array_equal(shown(browser.crops), pictures.grid(photos.crops(k)[0], 6))
    i = photos.ranked("foreground_iou")[0]
    np.testing.assert_array_equal(shown(browser.parts), photos.view(i, part=k).parts)
    browser.name.value = "<b>head</b>"
    assert names_of(browser)[k - 1] == "<b>head</b>" and browser.part.label == f"{k}: <b>head</b>"
    assert browser.part.value == k and f"{k}: &lt;b&gt;head&lt;/b&gt;" in browser.table.value
    browser.name.value = "part 1" if k != 1 else "part 2"
    assert "is given twice" in browser.message.value and names_of(browser)[k - 1] == "<b>head</b>"
    browser.part.value = 0
    assert browser.crops.value == b"" and browser.name.disabled and browser.message.value == ""


def test_who_else_shows_names_hears_of_new_ones(run):  # noqa: F811
    heard = []
    browser = photos_widget.photo_browser(run, changed=heard.append)
    browser.part.value = 2
    browser.name.value = "tail"
    assert [parts.names for parts in heard] == [["part 1", "tail", "part 3"]]
    browser.name.value = "part 1"  # refused
    assert len(heard) == 1


def test_a_part_is_merged_hidden_and_coloured_and_taken_back(browser, photos):  # noqa: F811
    k = int(photos.predicted.area.sum(axis=0).argmax()) + 1
    other = 1 if k != 1 else 2
    browser.part.value = k
    browser.color.value = "#102030"
    assert part_names.read_parts(browser.run).colors[k - 1].tolist() == [16, 32, 48]
    assert (shown(browser.crops) == [16, 32, 48]).all(axis=-1).any() and "rgb(16, 32, 48)" in browser.table.value
    browser.merge.value = other
    assert part_names.read_parts(browser.run).lookup[k] == other and browser.part.label == f"{k}: part {other}"
    assert f"<td>part {k}</td>" not in browser.table.value and browser.crops.value == b""
    browser.hidden.value = True
    assert "has both merge and hidden" in browser.message.value and browser.hidden.value is False
    browser.merge.value = None
    assert browser.crops.value != b"" and f"<td>part {k}</td>" in browser.table.value
    browser.hidden.value = True
    assert part_names.read_parts(browser.run).lookup[k] == 0 and browser.crops.value == b""


def test_ones_own_photo_comes_from_a_path_or_an_upload_and_goes_with_the_rank(browser, photos, tmp_path):  # noqa: F811
    test_photo = pictures.to_uint8(photos.photos.images[5:6])[0]
    Image.fromarray(test_photo).save(tmp_path / "own.png")
    browser.path.value = str(tmp_path / "own.png")
    np.testing.assert_array_equal(shown(browser.parts), photos.view(5).parts)
    assert "own.png" in browser.caption.value and browser.columns[2].layout.display == "none"
    browser.rank.value = 2
    assert browser.truth.value and browser.columns[2].layout.display is None and browser.path.value == ""
    content = memoryview((tmp_path / "own.png").read_bytes())
    file = {"name": "own.png", "type": "image/png", "size": len(content), "content": content}
    browser.upload.value = ({**file, "last_modified": datetime.now(UTC)},)
    np.testing.assert_array_equal(shown(browser.parts), photos.view(5).parts)
    browser.rank.value = 3
    assert browser.truth.value
    browser.upload.value = ({**file, "last_modified": datetime.now(UTC)},)  # the same again
    np.testing.assert_array_equal(shown(browser.parts), photos.view(5).parts)
    assert browser.upload.value == ()  # else a browser's widget would find that nothing had changed


def test_a_photo_that_cannot_be_read_is_a_message_and_the_last_one_stays(browser, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    before = browser.photo.value
    browser.path.value = str(tmp_path / "notes.png")
    assert "notes.png cannot be read" in browser.message.value and browser.photo.value == before
    browser.rank.value = 3
    assert browser.message.value == "" and browser.photo.value != before


def test_a_split_that_cannot_be_had_is_a_message_and_the_last_one_stays(browser, monkeypatch):
    before = browser.photo.value
    monkeypatch.setattr("ganseg.viewer.photos.Photos", lambda *_: view_file(browser.run, browser.model, b""))
    browser.split.value = "train"
    assert "cannot be read" in browser.message.value and browser.split.value == "test"
    assert browser.photo.value == before


def test_without_segmenter_there_is_a_sentence_with_the_command(tiny_run):
    widget = photos_widget.photo_browser(tiny_run("bare"))
    assert isinstance(widget, ipywidgets.HTML) and "ganseg distill -p dataset creatures --run bare" in widget.value


def log(run, step, **values):  # noqa: F811
    run.log("train", step, discriminator_loss=0.9, generator_loss=1.0, **{**LOGGED, "time_s": float(step)}, **values)


def sample(run, step, share=0.1):  # noqa: F811
    pictures.save(np.full((40, 50, 3), step % 256, np.uint8), run.folder / "samples" / f"{step:08d}.png")
    run.log("train_samples", step, background_share=0.7, part_1_share=0.2, part_2_share=0.1, part_3_share=share)


def test_a_run_that_is_not_there_yet_is_a_message_until_it_is(tiny_run):
    view = progress_widget.TrainingView(tiny_run())
    assert "ganseg train -p dataset creatures --run run" in view.table.value and view.message.value == ""
    other = runs.Run(view.run.folder, tiny_run("other", n_parts=2).cfg)  # the process that trains, set otherwise
    other.start("cpu")
    log(other, 1)
    pictures.save(np.zeros((40, 50, 3), np.uint8), other.folder / "samples" / "00000001.png")
    other.log("train_samples", 1, background_share=0.7, part_1_share=0.2, part_2_share=0.1)
    other.log("train", 2, generator_loss=1.0, time_s=59.7, steps_per_s=1.0, left_s=100_170.0)
    view.again.click()
    assert "<td>00:01:00</td>" in view.table.value and "<td>27:49:30</td>" in view.table.value  # time and left
    assert "<td" in view.table.value and shown(view.curves).shape[1] == 720
    assert view.step.value == 1 and shown(view.samples).shape == (40, 50, 3)


def test_all_runs_are_offered_with_how_far_they_are(tiny_run):
    first, second = tiny_run("first", max_steps=8), tiny_run("second", distill_steps=4)
    view = progress_widget.TrainingView(first)
    assert view.which.options == (("creatures/first: not begun", "creatures/first"),)
    first.start("cpu")
    second.start("cpu")
    first.log("train", 2, **{**LOGGED, "left_s": 3725.0})
    second.log("distill", 4, segmentation_loss=0.5, pixel_accuracy=0.5, **LOGGED)
    tiny_run("third").start("cpu")
    tiny_run("evaluated").start("cpu")
    runs.find("evaluated").log("evaluate", 4, foreground_iou=0.5, left_out={}, notes={})
    view.again.click()
    texts = {label: text.removeprefix(f"{label}: ") for text, label in view.which.options}
    assert texts == {
        "creatures/first": "train 25%, 01:02:05 left", "creatures/second": "distill 100%",
        "creatures/third": "nothing is logged", "creatures/evaluated": "evaluate is done"}
    assert view.which.value == "creatures/first" and "<td>2</td>" in view.table.value
    view.stage.value = "distill"
    view.which.value = "creatures/second"
    assert view.run.label == "creatures/second" and "<td>4</td>" in view.table.value


def test_the_newest_samples_are_followed_unless_others_were_chosen(tiny_run):
    run = tiny_run(max_steps=9)  # noqa: F811
    run.start("cpu")
    for step in (1, 2):
        log(run, step)
        sample(run, step)
    view = progress_widget.TrainingView(run)
    assert view.step.value == 2
    sample(run, 3)
    view.refresh()
    assert view.step.value == 3 and abs(int(shown(view.samples)[0, 0, 0]) - 3) < 2
    view.step.value = 1
    sample(run, 4)
    view.refresh()
    assert view.step.value == 1 and [step for _, step in view.step.options] == [1, 2, 3, 4]


def test_half_written_files_are_waited_for(tiny_run):
    run = tiny_run(max_steps=9)  # noqa: F811
    run.start("cpu")
    log(run, 1)
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"stage": "tr')
    path = run.folder / "samples" / "00000001.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n half")
    view = progress_widget.TrainingView(run)
    assert "00000001.png" in view.message.value and view.samples.value == b"" and "<td" in view.table.value
    pictures.save(np.zeros((8, 8, 3), np.uint8), path)
    view.refresh()
    assert view.message.value == "" and view.samples.value


def test_a_collapsed_part_is_warned_of_with_what_to_change(tiny_run):
    run = tiny_run(max_steps=9, lambda_con=12.0)  # noqa: F811
    run.start("cpu")
    log(run, 1)
    sample(run, 1, share=0.0001)
    assert "lambda_con (now 12)" in progress_widget.TrainingView(run).warnings.value


def test_the_view_follows_a_run_by_itself_until_it_is_finished(tiny_run):
    run = tiny_run(max_steps=3)  # noqa: F811
    run.start("cpu")
    log(run, 1)

    async def follow():
        view = progress_widget.TrainingView(run, every_s=0.01)
        log(run, 2)
        await asyncio.wait_for(until(lambda: view.progress.records[-1]["step"] == 2), 20)
        assert not view.timer.done() and "<td>2</td>" in view.table.value
        log(run, 3)
        await asyncio.wait_for(view.timer, 20)
        assert "finished" in view.table.value

    asyncio.run(follow())


def test_a_training_that_goes_on_after_a_distillation_is_followed(tiny_run):
    run = tiny_run(max_steps=3)  # noqa: F811
    run.start("cpu")
    log(run, 1)
    run.log("distill", 5, **LOGGED)

    async def follow():
        view = progress_widget.TrainingView(run, every_s=0.01)
        assert "a later stage has begun" in view.table.value
        log(run, 2)
        await asyncio.wait_for(until(lambda: view.progress.records[-1]["step"] == 2), 20)
        assert "s ago" in view.table.value and not view.timer.done()
        log(run, 3)
        await asyncio.wait_for(view.timer, 20)
        assert "finished" in view.table.value

    asyncio.run(follow())


def test_the_view_stops_following_when_it_is_closed_or_nothing_comes_any_more(tiny_run, monkeypatch):
    run = tiny_run(max_steps=3)  # noqa: F811
    run.start("cpu")
    log(run, 1)

    async def close():
        view = progress_widget.TrainingView(run, every_s=0.01)
        view.close()
        await asyncio.wait_for(view.timer, 20)
        monkeypatch.setattr(progress_widget, "PATIENCE_S", 0.05)
        view = progress_widget.TrainingView(run, every_s=0.01)
        await asyncio.wait_for(view.timer, 20)

    asyncio.run(close())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)
