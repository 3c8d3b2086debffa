"""Notebooks in a real JupyterLab in headless Chromium; skipped, saying so, where Chromium is missing."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganseg import runs

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKEN = "inspector"
WAIT_MS = 180_000  # two busy cores can take minutes to import PyTorch
SETTINGS = {
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {
        "fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
}  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
]

RUN_ALL = """async () => {
    const app = window.jupyterapp;
    await app.restored;
    const { context, sessionContext } = app.shell.currentWidget;
    await context.ready;
    await sessionContext.ready;
    return await app.commands.execute('notebook:run-all-cells');
}"""
ASK = """async (code) => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const future = kernel.requestExecute({ code, store_history: false });
    let text = '';
    future.onIOPub = (message) => {
        if (message.header.msg_type === 'stream') text += message.content.text;
        if (message.header.msg_type === 'error') text += message.content.ename + ': ' + message.content.evalue;
    };
    await future.done;
    return text.trim();
}"""
SHUT_DOWN = "async () => await window.jupyterapp.shell.currentWidget.sessionContext.shutdown()"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on copies of the notebooks, with folders of its own: its URL."""
    tmp_path = tmp_path_factory.mktemp("lab")
    work, settings = tmp_path / "work", tmp_path / "settings"
    work.mkdir()
    for name, values in SETTINGS.items():
        (settings / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / name).write_text(json.dumps(values))
    own = {name: str(tmp_path / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR",
           "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_WORKSPACES_DIR", "GANSEG_OUTPUTS")}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANSEG_OUTPUTS", own["GANSEG_OUTPUTS"])
        shipped = runs.open_run("tiny", "shipped", needs="segmenter")
    for name, run in (("train", "new"), ("inspector", shipped.folder.name)):
        text = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
        text = re.sub(r'run: str = \\"\w+\\"', rf'run: str = \\"{run}\\"', text)
        (work / f"{name}.ipynb").write_text(text, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={work}",
        "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    env = {**os.environ, **own, "JUPYTERLAB_SETTINGS_DIR": str(settings), "OMP_NUM_THREADS": "1"}
    url = f"http://127.0.0.1:{port}"
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        _wait_for(f"{url}/api/status?token={TOKEN}", server)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_for(url, server):
    for _ in range(WAIT_MS // 500):
        assert server.poll() is None, "JupyterLab did not start; see lab.log"
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} does not answer")


@pytest.fixture
def page(lab, tmp_path, request):
    """A notebook opened in Lab, all its cells run; `page.said` collects what the console calls an error."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=CHROMIUM, headless=True, args=["--no-sandbox"],
            viewport={"width": 1500, "height": 1100},
        )  # fmt: skip
        page = browser.new_page()  # under load the first one may not be there yet
        page.set_default_timeout(WAIT_MS)
        page.said = []
        page.on("console", lambda message: message.type == "error" and page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(f"{lab}/lab/tree/{request.param}.ipynb?reset&token={TOKEN}")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        try:
            assert page.evaluate(RUN_ALL), "a cell raised an error"
            page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
            yield page
        finally:
            page.screenshot(path=tmp_path / "last.png")
            page.evaluate(SHUT_DOWN)
            browser.close()


def ask(page, code):
    """What a print in the kernel says."""
    return page.evaluate(ASK, code)


def scene(page):
    """Points and a checksum of the masks of the scene in the kernel."""
    values = "[inspector.scene.points.tolist(), zlib.crc32(inspector.paint().masks.tobytes())]"
    points, masks = json.loads(ask(page, f"import json, zlib; print(json.dumps({values}))"))
    return np.array(points), masks


def place(canvas, x, y, size=32):
    """Where (x, y) in [-1, 1] of a picture of `size` pixels lies on the page."""
    box, (x, y) = canvas.bounding_box(), (((v + 1) / 2 * (size - 1) + 0.5) / size for v in (x, y))
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def changed_pictures(page, canvas, action):
    """Do something and wait until the canvas has shown a picture more."""
    count = int(canvas.get_attribute("data-pictures"))
    action()
    page.wait_for_function(f"() => Number(document.querySelector('canvas.ganseg-drag').dataset.pictures) > {count}")


def wait_until(condition):
    for _ in range(120):
        if condition():
            return
        time.sleep(0.5)
    raise AssertionError("this did not happen within a minute")


@pytest.mark.parametrize("page", ["train"], indirect=True)
def test_training_leaves_one_figure_and_its_lines(page, tmp_path):
    cell = page.locator(".jp-CodeCell", has_text="view.update")
    outputs = cell.locator(".jp-OutputArea-output")
    outputs.first.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "trained.png")
    assert outputs.count() == 2 and outputs.locator("img").count() == 1
    assert outputs.locator("img").evaluate("image => image.naturalHeight") > 200  # not the one before the first line
    assert outputs.last.inner_text().count("steps/s") == 4
    assert page.said == []


@pytest.mark.parametrize("page", ["inspector"], indirect=True)
def test_the_inspector_works_in_a_real_jupyterlab(page, tmp_path):
    canvas = page.locator("canvas.ganseg-drag")
    canvas.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "1_opened.png")
    part, goal = _drag_a_part(page, canvas)
    page.screenshot(path=tmp_path / "2_dragged.png")
    _drag_fifty_times(page, canvas, goal)

    # Undo takes the second drag back, whole
    page.get_by_role("button", name="Undo").click()
    wait_until(lambda: np.allclose(scene(page)[0].mean(axis=1)[part], goal, atol=0.05))
    _undo_and_redo_by_keys(page, canvas)
    _reset_a_part(page, canvas, part)
    _move_by_keyboard(page, canvas, part)
    _click_a_part(page, canvas)
    _bring_back_from_beyond_the_border(page, canvas, part)
    _interpolate(page)

    # A bad state is a message, and the kernel lives
    page.get_by_label("state", exact=True).fill("hello")
    page.get_by_role("button", name="Load text").click()
    page.get_by_text("not a saved state").wait_for()
    assert ask(page, "print(1 + 1)") == "2"
    page.screenshot(path=tmp_path / "3_edited.png")

    _download(page, tmp_path)
    _photos(page, tmp_path)
    _merge(page)
    _other_runs(page)
    assert page.said == []


def _drag_a_part(page, canvas):
    """Drag a part by its centre; returns its index and where its centre is now."""
    points, masks = scene(page)
    # The centre farthest from the others, so that no other handle lies in the way
    centers = points.mean(axis=1)
    part = np.linalg.norm(centers[:, None] - centers, axis=-1).sum(axis=1).argmax()
    goal = -0.5 * np.sign(centers[part])
    page.mouse.move(*place(canvas, *centers[part]))
    page.mouse.down()
    for t in np.linspace(0, 1, 20)[1:]:
        page.mouse.move(*place(canvas, *(centers[part] + t * (goal - centers[part]))))
    page.mouse.up()
    wait_until(lambda: np.allclose(scene(page)[0].mean(axis=1), np.where(
        np.arange(len(points))[:, None] == part, goal, centers), atol=0.05))  # fmt: skip
    assert scene(page)[1] != masks
    return part, goal


def _drag_fifty_times(page, canvas, goal):
    """Print the time from a pointer's move to the changed picture."""
    page.mouse.move(*place(canvas, *goal))
    page.mouse.down()
    times = []
    for i in range(50):
        start = time.perf_counter()
        where = place(canvas, *(goal + [0.02 * (i % 10), 0.01]))
        changed_pictures(page, canvas, lambda where=where: page.mouse.move(*where))
        times.append(time.perf_counter() - start)
    page.mouse.up()
    print(f"from drag to picture: median {1000 * np.median(times):.0f} ms, load {os.getloadavg()[0]:.1f}")


def _undo_and_redo_by_keys(page, canvas):
    """From the picture and from a slider beside it; a field of text keeps its own."""
    edited = scene(page)[0]
    n_cells = page.locator(".jp-Notebook .jp-Cell").count()
    for focus in (canvas.focus, page.locator(".widget-hslider", has_text="rotate").locator(".noUi-handle").focus):
        focus()
        page.keyboard.press("Control+z")
        wait_until(lambda: not np.allclose(scene(page)[0], edited))
        page.keyboard.press("Control+Shift+Z")
        wait_until(lambda: np.allclose(scene(page)[0], edited))
    assert page.locator(".jp-Notebook .jp-Cell").count() == n_cells
    page.get_by_label("state", exact=True).fill("abc")
    page.keyboard.press("Control+z")
    page.get_by_label("state", exact=True).fill("")
    assert np.allclose(scene(page)[0], edited)


def _reset_a_part(page, canvas, part):
    """The button Before shows the sample as drawn; Reset part brings one part back, and undo takes that back."""
    drawn = np.array(json.loads(ask(page, "print(json.dumps(inspector.as_drawn().scene.points.tolist()))")))
    edited = scene(page)[0]
    assert not np.allclose(edited[part], drawn[part], atol=0.01)
    before = page.get_by_role("button", name="Before", exact=True)
    changed_pictures(page, canvas, before.click)
    assert ask(page, "print(generated.drag.shown)") == "[]"
    changed_pictures(page, canvas, before.click)
    page.locator(".ganseg-inspector .widget-dropdown select").first.select_option(index=int(part))
    page.get_by_role("button", name="Reset part").click()
    wait_until(lambda: np.allclose(scene(page)[0][part], drawn[part], atol=1e-5))
    page.get_by_role("button", name="Undo").click()
    wait_until(lambda: np.allclose(scene(page)[0], edited))


def _click_a_part(page, canvas):
    """A click on the middle of a part's pixels chooses it, and the pointer shows its name there."""
    labels = np.array(json.loads(ask(page, "print(json.dumps(inspector.labels.tolist()))")))
    points = scene(page)[0]
    handles = np.concatenate([points, points.mean(axis=1, keepdims=True)], axis=1).reshape(-1, 2).clip(-1, 1)
    rows, columns = np.nonzero(labels)
    places = 2 * np.stack([columns, rows], axis=1) / (len(labels) - 1) - 1
    free = np.linalg.norm(places[:, None] - handles, axis=-1).min(axis=1).argmax()  # far from what can be dragged
    part = labels[rows[free], columns[free]]
    page.mouse.move(*place(canvas, *places[free]))
    wait_until(lambda: canvas.get_attribute("title") == f"part {part}")
    page.mouse.down()
    page.mouse.up()
    wait_until(lambda: ask(page, "print(generated.part.value)") == str(part))
    assert np.allclose(scene(page)[0], points)


def _download(page, tmp_path):
    """Picture, masks and GIF are saved by the browser as they lie in the run, and the GIF is shown in place."""
    folder = Path(ask(page, "print(generated._folder())"))
    for button, names in (("Save picture and masks", ("inspector.png", "inspector_masks.png")),
                          ("Save GIF to other sample", ("inspector.gif",))):
        page.get_by_role("button", name=button).click()
        for name in names:
            link = page.get_by_text(f"Download {name}", exact=True)
            link.wait_for()
            with page.expect_download() as download:
                link.click()
            assert download.value.suggested_filename == name
            assert Path(download.value.path()).read_bytes() == (folder / name).read_bytes()
    gif = page.locator(".ganseg-inspector img.widget-image").last
    wait_until(lambda: gif.evaluate("image => image.naturalWidth") > 200)
    gif.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "3_gif.png")


def _merge(page):
    """A part that is merged into another one is named so on both sides."""
    page.locator(".widget-dropdown", has_text="merge into").locator("select").select_option(label="part 1")
    page.locator(".widget-dropdown option", has_text="3: part 1").nth(1).wait_for(state="attached")


def _other_runs(page):
    """The training side offers all runs."""
    chosen = page.locator(".widget-dropdown", has_text="run").locator("select")
    assert "tiny/shipped" in chosen.inner_text()


def _move_by_keyboard(page, canvas, part):
    """Tab goes from the centre to its first point, an arrow key moves it, Lab hears neither; Escape leaves."""
    n_cells = page.locator(".jp-Notebook .jp-Cell").count()
    before = scene(page)[0]
    canvas.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("b")
    before[part, 0, 0] += 1 / 8
    wait_until(lambda: np.allclose(scene(page)[0], before, atol=1e-3))
    assert page.locator(".jp-Notebook .jp-Cell").count() == n_cells
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    assert not page.evaluate("() => document.activeElement.matches('canvas.ganseg-drag')")


def _bring_back_from_beyond_the_border(page, canvas, part):
    """A centre in the corner takes points beyond it along, which can still be grasped there, at the border."""
    page.mouse.move(*place(canvas, *scene(page)[0].mean(axis=1)[part]))
    page.mouse.down()
    page.mouse.move(*place(canvas, 0.999, 0.999), steps=3)
    page.mouse.up()
    wait_until(lambda: np.allclose(scene(page)[0].mean(axis=1)[part], 0.999, atol=0.02))
    points = scene(page)[0]
    point = points[part].max(axis=1).argmax()
    assert points[part, point].max() > 1
    page.mouse.move(*place(canvas, *points[part, point].clip(-1, 1)))
    page.mouse.down()
    page.mouse.move(*place(canvas, 0, 0), steps=3)
    page.mouse.up()
    points[part, point] = 0
    wait_until(lambda: np.allclose(scene(page)[0], points, atol=0.02))


def _interpolate(page):
    """The slider stays where it was put, and a slide and a new sample are one undo each."""
    undos = int(ask(page, "print(len(inspector._past))"))
    slider = page.locator(".widget-hslider", has_text="interpolate")
    track = slider.locator(".noUi-base").bounding_box()
    assert track["width"] > 150
    y = track["y"] + track["height"] / 2
    page.mouse.move(track["x"], y)
    page.mouse.down()
    page.mouse.move(track["x"] + 0.62 * track["width"], y, steps=15)
    page.mouse.up()
    state = "print(round(generated.way.value, 2), len(inspector._past))"
    wait_until(lambda: ask(page, state) == f"0.62 {undos + 1}")
    page.get_by_label("sample", exact=True).fill("7")
    page.get_by_label("sample", exact=True).press("Enter")
    wait_until(lambda: ask(page, "print(inspector.seed)") == "7")
    for _ in range(3):  # what a browser sends back has come by then
        assert ask(page, state) == f"0.0 {undos + 2}"
    page.get_by_role("button", name="Undo").click()


def _photos(page, tmp_path):
    """Another photo changes what is shown; a chosen part shows its crops."""
    rank = page.locator(".widget-hslider", has_text="rank").locator(".widget-readout")
    rank.scroll_into_view_if_needed()
    images = page.locator(".jp-OutputArea-output", has_text="worst by").locator("img.widget-image")
    first = images.first.get_attribute("src")
    rank.fill("7")
    rank.press("Enter")
    wait_until(lambda: images.first.get_attribute("src") != first)
    page.locator(".widget-dropdown", has_text="all of them").locator("select").select_option(index=3)
    page.get_by_text("part 3: where it is strongest among").wait_for()
    images.last.scroll_into_view_if_needed()  # the crops
    page.screenshot(path=tmp_path / "4_photos.png")
    shot = Image.open(io.BytesIO(images.first.screenshot()))
    assert len(shot.convert("RGB").getcolors(100_000)) > 20  # a photo is shown, not an empty frame
    # One's own photo, uploaded; then a file that is none
    Image.new("RGB", (60, 40), "orange").save(tmp_path / "own.png")
    (tmp_path / "none.png").write_bytes(b"no picture")
    _upload(page, tmp_path / "own.png")
    uploaded = page.get_by_text("the uploaded photo, at its own size")
    uploaded.wait_for()
    rank.fill("8")
    rank.press("Enter")
    uploaded.wait_for(state="hidden")
    _upload(page, tmp_path / "own.png")  # the same again
    uploaded.wait_for()
    page.get_by_label("its name").fill("tail")
    page.get_by_label("its name").press("Enter")
    page.locator(".widget-dropdown option", has_text="3: tail").nth(1).wait_for(state="attached")  # on both sides
    _upload(page, tmp_path / "none.png")
    page.get_by_text("photo: the uploaded file cannot be read").wait_for()


def _upload(page, path):
    with page.expect_file_chooser() as chooser:
        page.locator("button.widget-upload").click()
    chooser.value.set_files(path)
