"""docs/format.md, tracer.spec and what the writer writes say the same."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import nn
from torch.nn import functional as F

import tracer
from tests.format_tables import PAGE, rendered
from tests.synthetic import write_archive
from tracer import spec

CORE_CODECS = {"bytes", "crc32c", "sharding_indexed", "gzip", "zstd", "blosc", "transpose"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("format") / "run.zarr"
    write_archive(path, tokens=3)
    return path


@pytest.fixture(scope="module")
def root(path: Path) -> dict[str, Any]:
    return json.loads((path / "zarr.json").read_text())


@pytest.fixture(scope="module")
def sketched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The root of an archive that has sketches in the place of gradients."""
    path, model = tmp_path_factory.mktemp("sketched") / "run.zarr", nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(4, 5), torch.arange(4) % 3
    options: dict[str, Any] = {
        "probes": {"train": (x, y)},
        "snapshots": tracer.every(1),
        "gradients": "sketch",
    }
    with tracer.record(path, model, optimizer, loss=F.cross_entropy, **options):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return json.loads((path / "zarr.json").read_text())


def nodes(root: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    metadata = root["consolidated_metadata"]["metadata"]
    return {name: node for name, node in metadata.items() if node["node_type"] == kind}


def test_page_shows_the_tables_of_the_specification() -> None:
    page = PAGE.read_text()
    assert "<!-- table: groups -->" in page
    assert rendered(page) == page, "run: python -m tests.format_tables"


def test_page_shows_the_version() -> None:
    assert spec.FORMAT_VERSION in PAGE.read_text().splitlines()[0]


def pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"<\w+>", "[^/]+", text))


@pytest.mark.parametrize("group", spec.GROUPS, ids=lambda group: group.path)
def test_groups_are_written_as_specified(
    group: spec.Group, root: dict[str, Any], sketched: dict[str, Any]
) -> None:
    root = sketched if group.path.endswith("/sketches") else root
    found = [name for name in nodes(root, "group") if pattern(group.path).fullmatch(name)]
    assert found
    for name in found:
        attributes = nodes(root, "group")[name]["attributes"]
        assert {entry.name for entry in group.attributes if entry.required} <= attributes.keys()
        arrays = members(root, name)
        assert {a.name for a in group.all_arrays() if a.required and "<" not in a.name} <= arrays.keys()
        for array, node in arrays.items():
            check_array(node, specified(group, array))


def members(root: dict[str, Any], group: str) -> dict[str, dict[str, Any]]:
    split = {path.rpartition("/"): node for path, node in nodes(root, "array").items()}
    return {name: node for (owner, _, name), node in split.items() if owner == group}


def specified(group: spec.Group, name: str) -> spec.Array:
    """Exact names go before patterns."""
    entries = sorted(group.all_arrays(), key=lambda entry: "<" in entry.name)
    return next(entry for entry in entries if pattern(entry.name).fullmatch(name))


def check_array(node: dict[str, Any], array: spec.Array) -> None:
    dims = node["dimension_names"]
    if "<" not in array.name:
        assert array.dtype in (node["data_type"], "any") or node["data_type"].startswith(array.dtype)
        assert node["attributes"]["long_name"] == array.meaning
        assert node["attributes"]["units"] == array.units
    if "..." not in array.dims and "<" not in "".join(array.dims):
        assert dims == list(array.dims)


@pytest.mark.parametrize("written", ["root", "sketched"])
def test_nothing_unspecified_is_written(written: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(written)
    known = [f"{group.path}/{array.name}" for group in spec.GROUPS for array in group.all_arrays()]
    for path in nodes(root, "array"):
        assert any(pattern(name).fullmatch(path) for name in known), path


def test_root_attributes_and_commit_record(root: dict[str, Any], everything: Path) -> None:
    alone = {entry.name for entry in spec.ROOT_ATTRIBUTES} - {"rank"}  # which is of archives within others
    assert alone - {"notes", "gaps"} == set(root["attributes"])  # which a recording writes as it ends
    with tracer.open(everything) as archive:
        assert alone >= set(archive.attributes) >= {"notes", "gaps"}
    assert [entry.name for entry in spec.COMMIT_RECORD] == list(root["attributes"]["tracer"])


def test_crc32c_is_outermost_and_codecs_are_core(root: dict[str, Any]) -> None:
    for path, node in nodes(root, "array").items():
        codecs = node["codecs"]
        if codecs[-1]["name"] == "sharding_indexed":
            assert len(codecs) == 1
            codecs = codecs[0]["configuration"]["codecs"]
        assert codecs[-1]["name"] == "crc32c", path
        assert {codec["name"] for codec in codecs} <= CORE_CODECS


def test_gaps_do_not_look_like_data(root: dict[str, Any]) -> None:
    expected = {"f": "NaN", "i": -1, "u": 0, "b": False}
    for node in nodes(root, "array").values():
        assert node["fill_value"] == expected[np.dtype(node["data_type"]).kind]


def test_dimensions_are_named_once_and_agree_with_those_above(root: dict[str, Any]) -> None:
    sizes: dict[str, dict[str, int]] = {}
    for path, node in nodes(root, "array").items():
        names = node["dimension_names"]
        assert len(set(names)) == len(names) == len(node["shape"])
        group = path.rpartition("/")[0]
        above = [group[:end] for end in [*(m.start() for m in re.finditer("/", group)), len(group)]]
        for name, size in zip(names, node["shape"], strict=True):
            assert all(sizes.get(owner, {}).get(name, size) == size for owner in above), path
            sizes.setdefault(group, {})[name] = size


def test_metadata_is_what_zarr_itself_would_write(path: Path, root: dict[str, Any]) -> None:
    for name, node in nodes(root, "array").items():
        array = zarr.open_array(path / name, mode="r")
        assert isinstance(array, zarr.Array)
        again = json.loads(json.dumps(array.metadata.to_dict(), default=str))
        for key in ("shape", "data_type", "chunk_grid", "dimension_names", "attributes", "zarr_format"):
            assert json.loads(json.dumps(node[key])) == again[key], (name, key)
        assert [codec["name"] for codec in node["codecs"]] == [codec["name"] for codec in again["codecs"]]


def test_documents_of_single_nodes_equal_the_consolidated_ones(path: Path, root: dict[str, Any]) -> None:
    for name, node in root["consolidated_metadata"]["metadata"].items():
        assert json.loads((path / name / "zarr.json").read_text()) == node
