"""Documents and tables with parts exchanged at random: whatever comes, it is read, or refused in one sentence."""

import json
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import zoo
from tests.attacks.hostile import bounded, change_root, look_at
from tests.damage import copied
from tests.synthetic import write_archive
from tracer.errors import ArchiveError, MissingTraceError, RecordError
from tracer.network import read
from tracer.network.copies import named_tensors
from tracer.verify import verify

NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2, 3, 7, 8, 255, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64, 10**30, True, False]
    ),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
)
TEXTS = st.sampled_from(
    ["", "..", "/", "c", "step", "int64", "bytes", "zstd", "\x00", "\ud800", "steps/loss", "💥"]
)
VALUES = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXTS, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(TEXTS, st.text(max_size=3)), inner, max_size=3)
    ),
    max_leaves=6,
)
CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from("xxxdt"), VALUES), min_size=1, max_size=3
)
OPTIONS: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def places(tree: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """Every (holder, key) of a document."""
    found = [] if found is None else found
    for key, value in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)):
        found.append((tree, key))
        if isinstance(value, dict | list):
            places(value, found)
    return found


def mutate(tree: Any, changes: list[tuple[float, str, Any]]) -> None:
    """Replace, drop or double parts of a document."""
    for where, how, value in changes:
        all_places = places(tree)
        if not all_places:
            return
        holder, key = all_places[int(where * len(all_places))]
        if how == "d":
            del holder[key]
        elif how == "t" and isinstance(holder, list):
            holder.insert(key, holder[key])
        else:
            holder[key] = value


@cache
def whole() -> Path:
    folder = tempfile.TemporaryDirectory()
    _folders.append(folder)
    write_archive(Path(folder.name) / "run.zarr", steps=(0, 1))
    return Path(folder.name) / "run.zarr"


_folders: list[tempfile.TemporaryDirectory[str]] = []


@pytest.fixture(scope="module", autouse=True)
def cleaned() -> Iterator[None]:
    yield
    for folder in _folders:
        folder.cleanup()


def check_document(changes: list[tuple[float, str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder, bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a newer minor version
        path = copied(whole(), Path(folder) / "run.zarr")
        change_root(path, lambda root: mutate(root, changes))
        try:
            look_at(path)
        except (ArchiveError, MissingTraceError) as error:
            assert "\n" not in str(error)
        verify(path, full=True)
        assert [entry.name for entry in Path(folder).iterdir()] == ["run.zarr"]


@settings(max_examples=6, derandomize=True, **OPTIONS)
@given(changes=CHANGES)
def test_documents(changes: list[tuple[float, str, Any]]) -> None:
    check_document(changes)


@pytest.mark.slow
@settings(max_examples=5000, **OPTIONS)
@given(changes=CHANGES)
def test_very_many_documents(changes: list[tuple[float, str, Any]]) -> None:
    check_document(changes)


@cache
def traced(name: str) -> tuple[str, Any, Any, Any]:
    model, x, y = zoo.build(name)
    network = zoo.traced(name)
    return network.to_json().decode(), network.constants, named_tensors(model), (x, y)


def check_table(name: str, changes: list[tuple[float, str, Any]]) -> None:
    text, constants, tensors, examples = traced(name)
    table = json.loads(text)
    mutate(table, changes)
    with bounded(), torch.no_grad():
        try:
            network = read(json.dumps(table).encode(errors="replace"), constants)
            network.run(tensors, *examples)
        except (ArchiveError, RecordError) as error:
            assert "\n" not in str(error)
        except (RuntimeError, IndexError, KeyError):
            pass  # what PyTorch says of values that do not fit; no size of theirs was in question


@settings(max_examples=12, derandomize=True, **OPTIONS)
@given(name=st.sampled_from(["MLP", "CNN"]), changes=CHANGES)
def test_tables(name: str, changes: list[tuple[float, str, Any]]) -> None:
    check_table(name, changes)


@pytest.mark.slow
@settings(max_examples=5000, **OPTIONS)
@given(name=st.sampled_from(["MLP", "CNN", "ViT", "LSTM", "GPT"]), changes=CHANGES)
def test_very_many_tables(name: str, changes: list[tuple[float, str, Any]]) -> None:
    check_table(name, changes)
