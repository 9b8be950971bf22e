"""A stored network has one door: what makes a table harmful is refused by every metric and every command alike."""

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional as F

import analyze
import tracer
from analyze.arrays import closure
from analyze.engine import plan  # noqa: F401  (declares the arrays of archives)
from cli import main
from tests import parsed
from tests.attacks.hostile import bounded
from tracer.apart import Apart, answers
from tracer.archive import Archive
from tracer.errors import ArchiveError, MissingTraceError
from tracer.rerun.stored import Networks
from tracer.verify import verify

HUGE = 1 << 40
F64 = {"dtype": "float64"}
OUT = {"row": "output"}  # stands for the output of the sound network


def rows(*calls: tuple[str, list[Any]], **first: Any) -> list[dict[str, Any]]:
    """Rows that follow each other, `-1` standing for the one before."""
    return [
        {"name": f"h{k}", "op": op, "args": args, **(first if k == 0 else {})}
        for k, (op, args) in enumerate(calls)
    ]


HOSTILE: dict[str, list[dict[str, Any]]] = {
    "full, amin": rows(
        ("aten.full.default", [[275_000_000], 1]), ("aten.amin.default", [{"row": -1}]), kwargs={"dtype": F64}
    ),
    "full": rows(("aten.full.default", [[HUGE], 1])),
    "ones": rows(("aten.ones.default", [[HUGE]])),
    "zeros like many": rows(
        ("aten.expand.default", [{"row": 0}, [HUGE, -1, -1]]), ("aten.zeros_like.default", [{"row": -1}])
    ),
    "expand and clone": rows(
        ("aten.expand.default", [{"row": 0}, [HUGE, -1, -1]]), ("aten.clone.default", [{"row": -1}])
    ),
    "repeat": rows(("aten.repeat.default", [{"row": 0}, [1 << 20, 1 << 20]])),
    "arange": rows(("aten.arange.default", [HUGE])),
    "linspace": rows(("aten.linspace.default", [0, 1, HUGE])),
    "eye": rows(("aten.eye.default", [1 << 24])),
    "one_hot": rows(
        ("aten._to_copy.default", [{"row": 0}]), ("aten.one_hot.default", [{"row": -1}, HUGE]),
        kwargs={"dtype": {"dtype": "int64"}},
    ),
    "pad": rows(("aten.constant_pad_nd.default", [{"row": 0}, [0, HUGE], 0])),
    "upsample": rows(
        ("aten.unsqueeze.default", [{"row": 0}, 0]), ("aten.upsample_nearest1d.vec", [{"row": -1}, [HUGE], None])
    ),
    "matrix products": rows(
        ("aten.full.default", [[9000, 9000], 1]), *[("aten.mm.default", [{"row": -1}, {"row": -1}])] * 8
    ),
    "convolution of a constant": rows(
        ("aten.full.default", [[1, 1, 3, 3], 1]),
        ("aten.conv2d.default", [{"row": -1}, {"row": -1}, None, [1, 1], [1 << 30, 1 << 30]]),
    ),
    "growth of numbers": rows(("int.add", [10, 0]), *[("int.pow", [{"row": -1}, {"row": -1}])] * 30),
    "a later row": rows(("aten.relu.default", [{"row": 99}])),
    "itself": rows(("aten.relu.default", [{"row": 90}])),
    "off the list": rows(("aten.from_file.default", ["/etc/passwd"])),
    "a function of Python": rows(("os.system", ["true"])),
    "too many arguments": rows(("aten.relu.default", [{"row": 0}] * 5)),
    "a text for a tensor": rows(("aten.relu.default", ["secret"])),
    "another size than it says": rows(("aten.relu.default", [{"row": 0}]), shape=[[1, 0], HUGE], dtype="float32"),
}  # fmt: skip


def spoiled(data: bytes, hostile: list[dict[str, Any]], losses: bool) -> bytes:
    """The table with rows after its own, of which the output (or the losses) is then made."""
    table = json.loads(data)
    end = "losses" if losses else "output"
    made = table["rows"]

    def placed(argument: Any) -> Any:
        if isinstance(argument, list):
            return [placed(item) for item in argument]
        if isinstance(argument, dict) and argument.get("row") in (-1, 0):
            return {"row": len(made) - 1 if argument["row"] else table["output"][1]}
        return argument

    for row in hostile:
        made.append({**row, "args": placed(row["args"]), **({"loss": True} if losses else {})})
    result = {"row": table[end][1]}
    made.append({"name": "end", "op": "aten.mul.Tensor", "args": [result, {"row": len(made) - 1}]})
    table[end] = ["row", len(made) - 1]
    return json.dumps(table).encode()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    where = tmp_path_factory.mktemp("door") / "run.zarr"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probes = {"train": (x[:8], y[:8]), "test": (x[8:], y[8:])}
    with tracer.record(where, model, optimizer, loss=F.cross_entropy, probes=probes) as run:
        for _ in range(2):
            loss = F.cross_entropy(model(x[:8]), y[:8])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            run.step(ids=range(8), loss=loss)
    return where


@pytest.fixture
def attack(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts hostile rows into the table that the archive gives."""
    sound = Archive.network

    def spoil(name: str, losses: bool = False) -> None:
        def network(archive: Archive, step: int | None = None) -> Any:
            data, constants = sound(archive, step)
            return spoiled(data, HOSTILE[name], losses), constants

        def here(
            _: Any, function: Any, *given: Any, memory: int = 0, progress: Any = None, **named: Any
        ) -> Any:
            told = {} if progress is None else {"progress": progress}
            return answers.read(answers.written(function(*given, **named, **told)))

        monkeypatch.setattr(Archive, "network", network)
        monkeypatch.setattr(Apart, "call", here)  # another process would read the sound table

    yield spoil


def reading() -> list[str]:
    """Metrics that are given a network, if there is one."""
    given = {"network", "networks", "states"}
    named = {name: [*card.reads, *card.optional] for name, card in analyze.available_metrics().items()}
    return [
        name
        for name, arrays in named.items()
        if given & {source.name for source in closure([array for array in arrays if "." not in array])}
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_table_is_refused_as_it_is_read(path: Path, attack: Any, name: str) -> None:
    attack(name)
    with bounded(1 << 28), tracer.open(path) as archive, pytest.raises(ArchiveError) as caught:
        Networks(archive).at(0)
    assert "network table" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("metric", reading())
def test_every_metric_refuses_it(path: Path, attack: Any, metric: str) -> None:
    attack("full, amin")
    with bounded(1 << 28), pytest.raises(Exception, match="would take more memory or time") as caught:
        analyze.run(path, metrics=[metric])
    assert "\n" not in str(caught.value)


def test_metrics_that_read_a_network_are_found() -> None:
    assert {"capacity", "layer_norms", "sharpness", "hessian", "jacobian"} <= set(reading())


@pytest.mark.parametrize("losses", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        ["verify", "--replay"],
        ["materialize", "--activations", "4"],
        ["analyze", "--metric", "sharpness"],
        ["info"],
        ["verify"],
    ],
    ids=" ".join,
)
def test_every_command_refuses_it(
    path: Path, attack: Any, command: list[str], losses: bool, tmp_path: Path
) -> None:
    attack("full, amin", losses)
    output = ["--output", str(tmp_path / "out")] if command[0] in ("analyze", "materialize") else []
    with bounded(1 << 28):
        result = CliRunner().invoke(main, [command[0], str(path), *command[1:], *output])
    assert result.exit_code in (0, 1, 2) and not isinstance(result.exception, MemoryError)
    if command not in (["info"], ["verify"]) and not losses:
        assert "would take more memory or time" in result.output


def test_a_loss_that_takes_too_much_leaves_what_needs_none(path: Path, attack: Any) -> None:
    attack("full, amin", losses=True)
    with bounded(1 << 28):
        assert "l2" in analyze.run(path, metrics=["capacity"])["capacity"]
        with pytest.raises(Exception, match="would take more memory or time"):
            analyze.run(path, metrics=["sharpness"])


def test_replay_in_float64_is_weighed_too(path: Path, attack: Any) -> None:
    from analyze.replay.float64 import as_double

    with tracer.open(path) as archive:
        network = Networks(archive).at(0)
    assert network.guarded and as_double(network).guarded


def test_verify_replays_nothing_of_it(path: Path, attack: Any) -> None:
    attack("full, amin")
    with bounded(1 << 28):
        report = verify(path, replay=True)
    assert any("would take more memory or time" in note for note in report.notes)


def test_a_sound_table_passes(path: Path) -> None:
    with tracer.open(path) as archive:
        assert Networks(archive).at(0).guarded
        with pytest.raises(MissingTraceError, match="no network is recorded"):
            Networks(archive).at(-1)


# ---- the door itself ----

HOME = Path(tracer.__file__).parent
SOURCES = [*HOME.rglob("*.py"), *Path(analyze.__file__).parent.rglob("*.py"), HOME.parent / "cli.py"]


@cache
def called(file: Path) -> set[str]:
    """Names of what a product file calls: classes, functions, methods."""
    functions = [node.func for node in ast.walk(parsed(file)) if isinstance(node, ast.Call)]
    return {str(getattr(f, "id", None) or getattr(f, "attr", None)) for f in functions}


def uses(name: str) -> set[str]:
    """Product files that call it."""
    files = [file for file in SOURCES if name in file.read_text(encoding="utf-8")]
    return {str(file.relative_to(HOME.parent)) for file in files if name in called(file)}


def test_rows_are_compiled_and_read_in_one_room() -> None:
    for name in ("Program", "from_json"):
        inside = {file for file in uses(name) if file.startswith("tracer/network/")}
        assert uses(name) - inside <= {"tracer/rerun/stored.py"}, name
    assert uses("Network") <= {"tracer/network/tracing.py", "tracer/network/reading.py"}


def test_the_bytes_of_a_table_are_read_in_one_place() -> None:
    """Elsewhere `archive.network()` only asks whether there is one, or takes a digest of its bytes."""
    assert {
        file
        for file in SOURCES
        if "_archive.network(" in (text := file.read_text()) or "archive.network(step" in text
    } == {HOME / "rerun" / "stored.py", HOME.parent / "analyze" / "engine" / "fingerprint.py"}
