"""Root documents made to harm: refused in one sentence, before anything is read or allocated for them."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tracer
from tests.attacks.hostile import bounded, change_root, look_at, nodes
from tests.damage import files_of
from tests.synthetic import write_archive
from tracer.errors import ArchiveError, MissingTraceError
from tracer.recovery.repair import repair
from tracer.recovery.resume import resume
from tracer.store.validate import MAX_NODES
from tracer.verify import verify

FLOAT = "weights/float32"
BITS = "probes/train/masks/bits"
GRADIENTS = "probes/train/gradients"
HUGE = 1 << 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attacks") / "run.zarr"
    write_archive(path, steps=(0, 1))
    return path


@pytest.fixture
def path(whole: Path) -> Iterator[Path]:
    """The archive, of which only the root is changed: copying all of it for each takes as long as the rest."""
    root = (whole / "zarr.json").read_bytes()
    yield whole
    (whole / "zarr.json").write_bytes(root)


def node(name: str, /, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda root: nodes(root)[name].update(changes)


def attributes(name: str, /, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda root: nodes(root)[name]["attributes"].update(changes)


def record(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda root: root["attributes"]["tracer"].update(changes)


def table(name: str, row: int, /, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda root: root["attributes"][name][row].update(changes)


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    return lambda root: nodes(root).update({new: nodes(root).pop(old)})


def card(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda root: root["attributes"]["card"].update(changes)


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda root: nodes(root).pop(name)


def chunked(*sizes: int) -> dict[str, Any]:
    return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(sizes)}}}


def sharded(outer: list[int], inner: list[int], **changes: Any) -> dict[str, Any]:
    plain = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    settings = {
        "chunk_shape": inner,
        "codecs": plain,
        "index_codecs": plain,
        "index_location": "end",
        **changes,
    }
    return {**chunked(*outer), "codecs": [{"name": "sharding_indexed", "configuration": settings}]}


def codec(name: str) -> dict[str, Any]:
    return {
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": name},
            {"name": "crc32c"},
        ]
    }


def block(number: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda root: nodes(root)[GRADIENTS]["attributes"]["blocks"][number].update(changes)


def part(number: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda root: nodes(root)[GRADIENTS]["attributes"]["blocks"][number]["parts"][0].update(changes)


CONV = {
    "form": "conv",
    "groups": 1,
    "kernel": [1],
    "stride": [1],
    "padding": [0],
    "dilation": [1],
    "parts": [
        {"name": "a", "offset": 0, "shape": [6, 1, 1]},
        {"name": "z", "offset": 0, "shape": [6, 48, 1]},
    ],
}

ATTACKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a path that leads up": renamed(FLOAT, "weights/../../../etc/passwd"),
    "an absolute path": renamed(FLOAT, "/etc/passwd"),
    "a path with a backslash": renamed(FLOAT, "weights\\..\\float32"),
    "a path with a control character": renamed(FLOAT, "weights/\x1b[2Jfloat32"),
    "an empty path": renamed(FLOAT, ""),
    "a drive": renamed(FLOAT, "C:/x"),
    "a negative shape": node(FLOAT, shape=[-1, 5]),
    "a shape of floats": node(FLOAT, shape=[2.0, 1e300]),
    "a shape beyond counting": node(FLOAT, shape=[1 << 62, 1 << 62]),
    "a shape of texts": node(FLOAT, shape=["2", "3"]),
    "a shape of two lines": node(FLOAT, shape="\n\x1b[2J"),
    "chunks of two lines": node(
        FLOAT, chunk_grid={"name": "regular", "configuration": {"chunk_shape": "\n\x1b[2J"}}
    ),
    "inner chunks of two lines": node(FLOAT, **sharded([1, 100], "\n\x1b[2J")),  # type: ignore[arg-type]
    "too many axes": node(FLOAT, shape=[1] * 99, dimension_names=["x"] * 99, **chunked(*[1] * 99)),
    "chunks of nothing": node(FLOAT, **chunked(0, 5)),
    "chunks beyond memory": node(FLOAT, shape=[2, HUGE], **chunked(1, HUGE)),
    "inner chunks that do not fit": node(FLOAT, **sharded([1, 100], [1, 33])),
    "inner chunks beyond counting": node(FLOAT, **sharded([1, HUGE], [1, 1])),
    "shards in shards": node(FLOAT, **sharded([1, 4], [1, 2], codecs=sharded([1, 2], [1, 1])["codecs"])),
    "no checksums": node(FLOAT, codecs=[{"name": "bytes", "configuration": {"endian": "little"}}]),
    "a pickle codec": node(FLOAT, **codec("numcodecs.pickle")),
    "an unknown codec": node(FLOAT, **codec("run_me")),
    "objects as values": node(FLOAT, data_type="object"),
    "a data type from elsewhere": node(FLOAT, data_type={"name": "numpy.object_"}),
    "keys of another form": node(
        FLOAT, chunk_key_encoding={"name": "default", "configuration": {"separator": "/../"}}
    ),
    "a storage transformer": node(FLOAT, storage_transformers=[{"name": "x"}]),
    "no dimension names": node(FLOAT, dimension_names=None),
    "no codecs": node(FLOAT, codecs=[]),
    "codecs that are none": node(FLOAT, codecs=[1, 2]),
    "a codec with settings that are none": node(
        FLOAT, codecs=[{"name": "bytes", "configuration": None}, {"name": "crc32c"}]
    ),
    "a node that is a list": lambda root: nodes(root).update({FLOAT: []}),
    "rows beyond the steps": lambda root: root["attributes"]["tracer"]["rows"].update({"weights": HUGE}),
    "rows of a group that is not there": lambda root: root["attributes"]["tracer"]["rows"].update(
        {"../x": 1}
    ),
    "rows of two lines": lambda root: root["attributes"]["tracer"]["rows"].update({"weights": "\n\x1b[2J"}),
    "rows that are a text": lambda root: root["attributes"]["tracer"]["rows"].update({"weights": "2"}),
    "a state of its own": record(state="<script>"),
    "tails that are a list": record(tails=[]),
    "a manifest beyond counting": record(manifest_rows=-1),
    "a commit that is a text": record(commit="1"),
    "a tensor before the array": table("tensors", 0, offset=-8),
    "a tensor beyond the array": table("tensors", 0, offset=10**9),
    "a tensor of huge shape": table("tensors", 0, shape=[HUGE, HUGE]),
    "a tensor of negative shape": table("tensors", 0, shape=[-8, -6]),
    "an offset that is no number": table("tensors", 0, offset=None),
    "a boolean offset": table("tensors", 0, offset=True),
    "a site beyond the masks": table("sites", 0, start=10**9),
    "a site before the masks": table("sites", 0, start=-4),
    "a site of a negative size": table("sites", 1, n_units=-5),
    "a layer without a name": table("layers", 0, name=None),
    "sites that are no list": lambda root: root["attributes"].update(sites={"a": 1}),
    "a card that is a list": lambda root: root["attributes"].update(card=[1]),
    "more masks than there are": attributes("probes/train", capture={"masks": 10**6}),
    "a negative capture": attributes("probes/train", capture={"masks": -1}),
    "chunks that go backwards": attributes("probes/train", chunks=[[5, 0]]),
    "a block before the values": part(0, offset=-4),
    "a block beyond the values": part(0, offset=10**6),
    "a block of huge shape": part(0, shape=[HUGE, HUGE, HUGE]),
    "a block of unequal parts": part(0, shape=[1, 1, 6]),
    "a source that is not there": block(-1, source=99, form="sum"),
    "a negative source": block(-1, source=-1, form="sum"),
    "a convolution with a huge kernel": block(0, **{**CONV, "kernel": [HUGE]}),
    "a convolution with huge padding": block(0, **{**CONV, "padding": [HUGE]}),
    "a convolution with a huge stride": block(0, **{**CONV, "stride": [HUGE], "padding": [HUGE]}),
    "a convolution without groups": block(0, **{**CONV, "groups": 0}),
    "a table of another shape": block(0, form="zero", shape=[HUGE], parts=[]),
    "rows of a table that is not there": block(0, form="scatter", shape=[HUGE, 1], parts=[]),
    "no step of the last row": lambda root: root["attributes"]["tracer"].pop("committed_step"),
    "versions that are no list": attributes("network", versions={"version": 0}),
    "constants with paths": attributes(
        "network", versions=[{"version": 0, "from_step": 0, "constants": [1]}]
    ),
    "probes of the Gram that are none": attributes("gram", probes=[["train", -1]]),
    "a probe without its group": without("probes/test"),
    "a stream without its group": without("probes/test/masks"),
    "updates without their group": without("steps"),
    **{
        f"updates without {name}": without(f"steps/{name}")
        for name in ("epoch", "time", "loss", "lr", "n_ids", "ids")
    },
    "a stream without ends of epochs": without("weights/epoch_end"),
    "more ends of epochs than steps": node("probes/train/masks/epoch_end", shape=[3]),
    "fewer losses than updates": node("steps/loss", shape=[1]),
    "losses along something else": node("steps/loss", dimension_names=["x"]),
    "losses that are no numbers": node("steps/loss", data_type="bool"),
    "losses of two axes": node("steps/loss", shape=[2, 1], dimension_names=["step", "x"], **chunked(2, 1)),
    "masks of two axes": node(BITS, shape=[2, 8], dimension_names=["step", "unit"], **chunked(1, 8)),
    "updates whose number is not said": lambda root: root["attributes"]["tracer"]["rows"].pop("steps"),
    "a scalar logged as a list": attributes("steps/skipped", logged_as=[1]),
    "a scalar logged as a column": attributes("steps/skipped", logged_as="step"),
    "provenance that is a text": lambda root: root["attributes"].update(provenance="x"),
    "a title that is a list": lambda root: root["attributes"].update(title=["x"]),
    "groups of an optimizer that are a number": card(optimizer={"class": "SGD", "groups": 5}),
    "groups of an optimizer that are numbers": card(optimizer={"class": "SGD", "groups": [5]}),
    "a model of a negative size": card(model={"class": "M", "n_parameters": -1}),
    "schedules that are lists": card(snapshots={"weights": [1]}),
    "foreign operations that are numbers": card(foreign_ops=[1]),
    "probes of a card that are a list": card(probes=["train"]),
    "memory that is a text": card(memory="much"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_is_refused_when_opened(path: Path, attack: str) -> None:
    change_root(path, ATTACKS[attack])
    before = files_of(path.parent)
    with bounded(), pytest.raises(ArchiveError) as caught:
        tracer.open(path)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 600
    for act in (lambda: repair(path), lambda: resume(path)):
        with bounded(), pytest.raises(ArchiveError):
            act()
    with bounded():
        assert not verify(path, full=True).ok
    assert files_of(path.parent) == before


@pytest.mark.parametrize(
    ("name", "shape", "chunk"),
    [
        ("probes/train/inputs", [HUGE, 6], [16, 6]),
        ("probes/train/inputs", [1 << 46, 6], [1, 6]),
        ("network/table_0", [1 << 50], [11]),
        ("probes/train/raw", [16, 1 << 45], [16, 6]),
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_taken(
    path: Path, name: str, shape: list[int], chunk: list[int]
) -> None:
    change_root(path, node(name, shape=shape, **chunked(*chunk)))
    with bounded(), pytest.raises(ArchiveError):
        look_at(path)
    with bounded():
        report = verify(path, full=True)
    assert not report.ok


def test_a_snapshot_row_of_absurd_size_is_refused(path: Path) -> None:
    inner = 1 << 22
    change_root(path, node(BITS, shape=[2, 1 << 30, 2], **sharded([1, 1 << 30, 2], [1, inner, 2])))
    with tracer.open(path) as archive, bounded(), pytest.raises(ArchiveError, match="which its files cannot"):
        archive.probes["train"].bits(0)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(path: Path, text: str) -> None:
    file = path / "zarr.json"
    file.write_text(file.read_text().replace('"offset":0', f'"offset":{text}', 1))
    with pytest.raises(ArchiveError, match=f"{text} is no JSON"):
        tracer.open(path)


@pytest.mark.parametrize("depth", [65, 900, 200_000])
@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_deep_documents_are_refused(path: Path, depth: int, opening: str) -> None:
    closing = "}" if opening.startswith("{") else "]"
    deep = opening * depth + "0" + closing * depth
    file = path / "zarr.json"
    file.write_text(file.read_text().replace('"card":{', f'"card":{{"deep":{deep},', 1))
    with bounded(), pytest.raises(ArchiveError, match="nested too deep"):
        tracer.open(path)


@pytest.mark.parametrize("holder", ["[]", '{"a":0}'])
def test_very_many_lists_are_refused_before_they_are_made(path: Path, holder: str) -> None:
    file = path / "zarr.json"
    many = ",".join([holder] * (3 << 20))
    file.write_text(file.read_text().replace('"card":{', f'"card":{{"many":[{many}],', 1))
    start = time.process_time()
    with (
        bounded(),
        pytest.raises(ArchiveError, match="lists and objects, more than the 2097152 that are read"),
    ):
        tracer.open(path)
    assert time.process_time() - start < 5


def test_more_groups_than_any_archive_has_are_refused_before_each_is_looked_at(path: Path) -> None:
    group: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    change_root(path, lambda root: nodes(root).update({f"g{i}": group for i in range(MAX_NODES)}))
    with pytest.raises(ArchiveError, match="arrays and groups, more than the 100000 that are read"):
        tracer.open(path)


def test_a_root_beyond_reading_is_refused(path: Path) -> None:
    with (path / "zarr.json").open("r+b") as file:
        file.truncate(1 << 40)  # a hole, that takes no room on the disk
    start = time.process_time()
    with bounded(), pytest.raises(ArchiveError, match="more than the"):
        tracer.open(path)
    assert time.process_time() - start < 5


def test_a_site_of_a_probe_without_arrays_is_a_sentence(path: Path) -> None:
    def strip(root: dict[str, Any]) -> None:
        for name in list(nodes(root)):
            if name.startswith("probes/train/"):
                del nodes(root)[name]

    change_root(path, strip)
    with pytest.raises(ArchiveError):
        tracer.open(path)


def test_names_that_are_code_are_only_names(path: Path) -> None:
    code = "__import__('os').system('touch owned')"
    change_root(path, table("layers", 0, name=code))
    look_at(path)
    with tracer.open(path) as archive:
        assert archive.layers[0] == code
        with pytest.raises(MissingTraceError):
            archive.steps(code)
    assert not (Path.cwd() / "owned").exists()


def test_markup_in_names_stays_text_in_a_notebook(path: Path) -> None:
    change_root(path, lambda root: root["attributes"].update(title="<img src=x onerror=alert(1)>"))
    with tracer.open(path) as archive:
        assert "<img" not in archive._repr_html_()


def test_the_archive_used_here_is_sound(path: Path) -> None:
    look_at(path)
    json.loads((path / "zarr.json").read_text())
    assert verify(path, full=True).ok


@pytest.mark.parametrize("held", [{}, {"versions": []}])
def test_a_network_without_versions_is_a_sentence(path: Path, held: dict[str, Any]) -> None:
    change_root(path, lambda root: nodes(root)["network"].update(attributes=held))
    with tracer.open(path) as archive, pytest.raises(MissingTraceError, match=r"no network is recorded$"):
        archive.network()


@pytest.mark.parametrize("group", ["minibatch", "minibatch/masks", GRADIENTS])
def test_groups_without_attributes_are_read_or_a_sentence(path: Path, group: str) -> None:
    change_root(path, lambda root: nodes(root)[group].update(attributes={}))
    with tracer.open(path) as archive:
        repr(archive.minibatch)
        archive.minibatch.masks("relu", 1)
        if group == GRADIENTS:
            with pytest.raises(MissingTraceError, match=r"no gradients of 'fc1\.weight' are recorded"):
                archive.probes["train"].gradients("fc1.weight", 0)


def test_gradient_blocks_without_parts_are_refused_when_they_are_read(path: Path) -> None:
    def without(root: dict[str, Any]) -> None:
        for one in nodes(root)[GRADIENTS]["attributes"]["blocks"]:
            one.pop("parts", None)

    change_root(path, without)
    with bounded(), tracer.open(path) as archive, pytest.raises(ArchiveError, match="lacks its part"):
        archive.probes["train"].gradients(archive.tensors[0]["name"], 0)
