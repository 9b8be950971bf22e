"""Runs the tutorial and keeps it with what it shows, so that its figures can be read without running anything.

    python docs/tutorial.py

Needs the extra `test`; the archives it records go to a temporary directory.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TUTORIAL = Path(__file__).with_name("tutorial.ipynb")
SHOWN = ("text/plain", "image/png")  # of an output, what a page has use for


def executed(notebook: Any, folder: str) -> Any:
    """The notebook with what each cell shows: no notes of stderr, which name places of this machine."""
    from nbclient import NotebookClient

    about = dict(notebook.metadata)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    notebook.metadata = about
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
            for one in cell.outputs:
                if "data" in one:
                    one["data"] = {kind: one["data"][kind] for kind in SHOWN if kind in one["data"]}
                    one["metadata"] = {}
            # Lines of progress end as nothing.
            cell.outputs = [one for one in cell.outputs if "data" not in one or any(one["data"].values())]
    return notebook


def main() -> None:
    """Run it and write it where it was."""
    import nbformat

    with TemporaryDirectory() as folder:
        notebook = executed(nbformat.read(TUTORIAL, as_version=4), folder)
    nbformat.write(notebook, TUTORIAL)


if __name__ == "__main__":
    main()
