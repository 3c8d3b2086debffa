"""What pyproject.toml, requirements.lock, environment.yml, Makefile and CITATION.cff promise one another."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path

import psutil
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCK_TEXT = (ROOT / "requirements.lock").read_text()
HASH = re.compile(r" *\\\n +--hash=sha256:[0-9a-f]{64}")
LOCK_LINES = HASH.sub("", LOCK_TEXT).splitlines()  # one for each pin
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())

PINS = [Requirement(line) for line in LOCK_LINES if line and not line.startswith("#")]
EXTRAS = PROJECT["optional-dependencies"]
DEPENDENCIES = [Requirement(r) for r in sum(EXTRAS.values(), PROJECT["dependencies"])]
PYTHONS = ["3.11.0", "3.12.0", "3.13.0", "3.14.0"]
CUDA = re.compile(r"nvidia-|cuda-|triton")


def environment(system, python):
    """What markers see on Linux x86_64, or on macOS with Apple silicon."""
    darwin = system == "darwin"
    return {
        "sys_platform": system,
        "platform_system": "Darwin" if darwin else "Linux",
        "platform_machine": "arm64" if darwin else "x86_64",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "python_full_version": python,
        "python_version": python.rsplit(".", 1)[0],
        "extra": "",
    }


def pinned(env):
    """name -> version of what the lock installs in env; a name pinned twice there is an error."""
    pins = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(env):
            name = canonicalize_name(pin.name)
            assert name not in pins, f"{name} is pinned twice for {env}"
            pins[name] = Version(str(pin.specifier).removeprefix("=="))
    return pins


@cache
def requirements_of(name, version):
    """What an installed distribution asks for; () where that version is not installed."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return ()
    return tuple(Requirement(r) for r in found.requires or ()) if Version(found.version) == version else ()


def conda_python():
    """The Python range in environment.yml."""
    (python,) = [d for d in CONDA["dependencies"] if isinstance(d, str) and d.startswith("python")]
    return SpecifierSet(python.removeprefix("python"))


def admitted(specifiers):
    """The Python versions 3.0 to 3.29 in the range."""
    return [f"3.{minor}" for minor in range(30) if f"3.{minor}.0" in specifiers]


def test_each_line_of_the_lock_is_one_exact_pin():
    for pin in PINS:
        assert re.fullmatch(r"==[\w.!+]+", str(pin.specifier)), pin


def test_the_lock_names_no_address_option_or_path():
    assert not re.search(r"[/\\@]|--|\bindex\b|localhost", "\n".join(LOCK_LINES))


def test_every_pin_has_hashes_of_its_files():
    assert len(re.findall(r"^\S+==.*(?:\n +--hash=.*)+", LOCK_TEXT, re.M)) == len(PINS)


def test_the_lock_says_how_it_is_made_again():
    assert "make lock" in LOCK_TEXT.split("==", 1)[0]
    assert re.search(r"^lock:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_the_lock_pins_all_that_is_needed_on_each_system(system, python):
    env = environment(system, python)
    pins = pinned(env)
    todo, seen = [(r, "ganseg", "") for r in DEPENDENCIES], set()
    while todo:
        requirement, asked_by, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({**env, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{asked_by} needs {requirement}, which has no pin on {system}, Python {python}"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{asked_by} needs {requirement}"
        for extra in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            todo += [(r, name, extra) for r in requirements_of(name, pins[name])]


@pytest.mark.parametrize("python", PYTHONS)
def test_cuda_is_installed_on_linux_and_nowhere_else(python):
    linux, darwin = (pinned(environment(system, python)) for system in ("linux", "darwin"))
    assert any(CUDA.match(name) for name in linux)
    assert not [name for name in darwin if CUDA.match(name)]


def test_test_tools_are_in_the_lock():
    assert {"pytest", "nbval", "nbstripout", "ruff"} <= pinned(environment("linux", PYTHONS[0])).keys()


def test_torch_and_torchvision_are_a_pair():
    pins = pinned(environment("linux", PYTHONS[0]))
    assert pins["torch"] != Version("2.13.0")  # breaks torchvision's operators
    asked = requirements_of("torchvision", pins["torchvision"])
    if not asked:
        pytest.skip("the installed torchvision is not the pinned one")
    (torch,) = [r for r in asked if r.name == "torch"]
    assert pins["torch"] in torch.specifier


def test_conda_takes_the_python_versions_that_the_package_admits():
    package = admitted(SpecifierSet(PROJECT["requires-python"]))
    conda = admitted(conda_python())
    assert conda[0] == package[0]
    assert set(conda) <= set(package)
    assert conda == [python.rsplit(".", 1)[0] for python in PYTHONS]


def test_make_takes_the_python_versions_that_conda_takes():
    low, high = re.search(
        r"\((\d+, \d+)\) <= sys.version_info < \((\d+, \d+)\)", (ROOT / "Makefile").read_text()
    ).groups()
    make = SpecifierSet(f">={low.replace(', ', '.')},<{high.replace(', ', '.')}")
    assert admitted(make) == admitted(conda_python())


def test_conda_installs_the_lock():
    assert CONDA["name"] == PROJECT["name"]
    assert CONDA["channels"] == ["conda-forge"]
    assert "pip" in CONDA["dependencies"]
    (pip,) = [d["pip"] for d in CONDA["dependencies"] if isinstance(d, dict)]
    assert pip == ["-r requirements.lock"]  # with hashes, which an editable install has none of


def test_the_citation_names_this_version_and_the_paper():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["message"] and CITATION["title"] and CITATION["authors"]
    assert CITATION["version"] == PROJECT["version"]
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["authors"] == PROJECT["authors"]
    paper = CITATION["preferred-citation"]
    assert paper["type"] == "conference-paper" and paper["year"] == 2022
    assert paper["title"].startswith("GANSeg: Learning to Segment")
    assert [author["family-names"] for author in paper["authors"]] == ["He", "Wandt", "Rhodin"]


def test_the_licence_is_the_one_that_the_package_names():
    assert PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n\nCopyright (c) 2026 The ganseg authors")


def test_make_lab_listens_on_this_machine_alone_and_asks_for_its_token(tmp_path):
    (command,) = re.findall(r"^\t(.*jupyter-lab.*)", (ROOT / "Makefile").read_text(), re.M)
    program, *options = shlex.split(command)
    assert program == ".venv/bin/jupyter-lab"
    env = {**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)}
    lab = [Path(sys.executable).parent / "jupyter-lab", *options, "--no-browser", "--allow-root"]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(lab, cwd=ROOT, env=env, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 300
        while time.monotonic() < end and not (files := list(tmp_path.glob("jpserver-*.json"))):
            time.sleep(0.2)
        found = json.loads(files[0].read_text())
        assert len(found["token"]) >= 32
        of_server, listening = psutil.Process(server.pid), []
        while time.monotonic() < end and not listening:  # the file comes first
            listening = [c.laddr.ip for c in of_server.net_connections() if c.status == "LISTEN"]
            time.sleep(0.2)
        assert listening and set(listening) <= {"127.0.0.1", "::1"}
        address = f"http://127.0.0.1:{found['port']}{found['base_url']}api/contents"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address, timeout=300)
        assert urllib.request.urlopen(f"{address}?token={found['token']}", timeout=300).status == 200
    finally:
        server.terminate()
        server.wait(timeout=300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The folder of an unpacked wheel, built from what a clone holds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("ganseg", "params", "notebooks"):
        shutil.copytree(ROOT / name, folder / "clone" / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "clone" / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", "."]
    done = subprocess.run([*build, "./clone"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as file:
        file.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_a_wheel_carries_every_module_setting_notebook_and_model(wheel):
    beside = {"params": "*.yaml", "notebooks": "*.ipynb"}
    wanted = {Path(path.relative_to(ROOT)) for path in (ROOT / "ganseg").rglob("*")
              if path.is_file() and path.suffix != ".pyc"}
    wanted |= {Path("ganseg", path.relative_to(ROOT)) for name, kind in beside.items()
               for path in (ROOT / name).rglob(kind) if ".ipynb_checkpoints" not in path.parts}
    assert {path.relative_to(wheel) for path in (wheel / "ganseg").rglob("*") if path.is_file()} == wanted
    assert {path.name.split("-")[0] for path in wheel.iterdir()} == {"ganseg"}


def test_a_wheel_trains_and_segments_outside_a_clone(wheel, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(wheel)}
    env.pop("GANSEG_OUTPUTS", None)
    work = "from ganseg import runs, segment; from PIL import Image; runs.open_run('tiny', 'shipped'); " \
           "print(segment.load('tiny/shipped').segment(Image.new('RGB', (40, 30))).shape, segment.__file__)"
    said = []
    for argv in (["-m", "ganseg", "--help"], ["-m", "ganseg.train", "-p", "preset", "small", "-p", "max_steps", "1"],
                 ["-c", work]):
        done = subprocess.run([sys.executable, *argv], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert all(f"\n  {path.stem} " in said[0] for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert (tmp_path / "outputs" / "tiny" / "try" / "checkpoints" / "gan-00000001.pt").exists()
    assert f"(30, 40) {wheel}" in said[2]
    assert yaml.safe_load((tmp_path / "outputs/tiny/try/config.yaml").read_text())["made_with"]["commit"] is None
