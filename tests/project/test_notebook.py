"""The tutorial runs from top to bottom, as a reader runs it, and is kept with what it shows."""

import os
import re

import pytest

import tracer
from tests import ROOT
from tests.synthetic import write_archive

nbformat = pytest.importorskip("nbformat", reason="the extra `test` brings nbformat")
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(TUTORIAL, as_version=4)


def test_a_notebook_sees_an_archive_of_which_no_chunk_is_read(tmp_path):
    path = tmp_path / "run.zarr"
    write_archive(path)
    for file in path.rglob("*"):
        if file.is_file() and file.name != "zarr.json":
            file.unlink()
    with tracer.open(path) as archive:
        page = archive._repr_html_()
    assert "train/gradients 5" in page and "complete" in page and "scope='row'" in page
    assert "color" not in page, "a notebook has its own colours"


def test_the_tutorial_is_kept_with_what_it_shows(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)) and len(code) >= 8
    shown = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    texts = "".join(
        str(output.get("text", "")) + output.get("data", {}).get("text/plain", "") for output in shown
    )
    assert "stiffness" in texts and not re.search(r"/(tmp|home|root|Users)/", texts)
    assert not [output for output in shown if output.output_type == "error" or output.get("name") == "stderr"]
    assert TUTORIAL.stat().st_size < 400_000


@pytest.mark.slow
# ipykernel starts its loop in ways its own dependencies deprecate.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_the_tutorial_runs(notebook, tmp_path, monkeypatch):
    client = pytest.importorskip("nbclient", reason="the extra `test` brings nbclient").NotebookClient
    pytest.importorskip("ipykernel", reason="the extra `test` brings ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    client(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    told = [output for output in shown if output.get("name") == "stderr"]
    assert not [output for output in shown if output.output_type == "error"]
    assert all(line.startswith("Recording into") for output in told for line in output.text.splitlines())
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    pages = [output["data"]["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert "true.zarr" in pages[0] and "path_self_similarity" in pages[1] and "gap_error" in pages[2]
    assert tracer.open(tmp_path / "shuffled.zarr").state == "complete"
