"""Pushing to the Hugging Face Hub: one commit with the whole archive; its client is replaced here."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.synthetic import write_archive
from tracer.errors import ArchiveError
from tracer.share.packs import pack
from tracer.share.remote import push


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    made: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def __getattr__(self, name: str) -> Any:
            return lambda **options: made.append((name, options))

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=Api))
    return made


def test_one_commit_holds_everything(calls: list[tuple[str, dict[str, Any]]], tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    write_archive(path, steps=(0, 1))
    moved = push(path, "hf://datasets/ada/runs/mnist/run.zarr")
    ((name, options),) = calls
    assert name == "upload_folder"
    assert (options["repo_type"], options["repo_id"]) == ("dataset", "ada/runs")
    assert (options["folder_path"], options["path_in_repo"]) == (path, "mnist/run.zarr")
    assert moved.sent > 10
    calls.clear()
    zipped = pack(path, zip=True)
    push(zipped, "hf://ada/runs/run.zip")
    ((name, options),) = calls
    assert (name, options["path_or_fileobj"], options["repo_type"]) == ("upload_file", zipped, "model")


@pytest.mark.parametrize(
    ("url", "sentence"), [("hf://datasets/ada", "names no repository"), ("hf://ada/runs", "names no file")]
)
def test_incomplete_urls_are_refused(
    url: str, sentence: str, calls: list[tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    write_archive(tmp_path / "run.zarr", steps=(0, 1))
    with pytest.raises(ArchiveError, match=sentence):
        push(pack(tmp_path / "run.zarr", zip=True), url)
    assert calls == []


def test_the_package_it_needs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_archive(tmp_path / "run.zarr", steps=(0, 1))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ArchiveError, match=r"pip install 'tracer-nn\[hub\]'"):
        push(tmp_path / "run.zarr", "hf://datasets/ada/runs/run.zarr")
