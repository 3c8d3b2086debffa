"""Running and saving notebooks in Lab leaves git as it was."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ganseg import config


@pytest.mark.skipif(not (config.ROOT / ".git").exists(), reason="this is no git clone")
def test_notebooks_that_were_run_and_saved_are_no_change_but_edited_ones_are(tmp_path):
    def run(*command):
        return subprocess.run(command, cwd=clone, check=True, capture_output=True, text=True).stdout

    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", config.ROOT, clone], check=True, capture_output=True)
    for name in ("Makefile", ".gitattributes"):  # as they are here, committed or not
        shutil.copyfile(config.ROOT / name, clone / name)
    run("git", "add", ".")
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "nbstripout").symlink_to(Path(sys.executable).parent / "nbstripout")
    run("make", "filter")
    before = run("git", "status", "--porcelain")
    notebooks = sorted((clone / "notebooks").glob("*.ipynb"))
    for path in notebooks:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {"x": 1}}}
        notebook["metadata"]["language_info"] = {**notebook["metadata"].get("language_info", {}), "version": "3.14.9"}
        for i, cell in enumerate(cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
            cell["execution_count"], cell["metadata"]["execution"] = i, {"iopub.execute_input": "2026-01-01T00:00:00"}
            if "keep_output" not in cell["metadata"].get("tags", []):
                cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["a line"]}]
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert len(notebooks) > 10 and run("git", "status", "--porcelain") == before
    edited = notebooks[0].read_text(encoding="utf-8").replace('"source": [', '"source": [\n    "# edited\\n",', 1)
    notebooks[0].write_text(edited, encoding="utf-8")
    assert f"M notebooks/{notebooks[0].name}" in run("git", "status", "--porcelain")
