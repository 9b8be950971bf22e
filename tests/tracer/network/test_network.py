"""The table: bit-identical to eager, written and read back, stopped, watched, and with its paths frozen."""

import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import zoo
from tracer.errors import ArchiveError, RecordError
from tracer.network import Network, read
from tracer.network import trace as trace_network
from tracer.network.copies import named_tensors, private_copy
from tracer.network.fixed_masks import by_example


@pytest.fixture(params=zoo.EACH)
def traced(request: pytest.FixtureRequest) -> tuple[str, Network]:
    return request.param, zoo.traced(request.param)


def eager(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    outputs = private_copy(model)(x)
    losses = zoo.loss(outputs, y, reduction="none")
    return outputs, losses.mean(1) if losses.ndim > 1 else losses


@pytest.mark.parametrize(
    ("n", "seed", "grad"),
    [
        *[(5, 0, False), (1, 0, True), (9, 3, False)],
        *(
            pytest.param(n, seed, grad, marks=pytest.mark.slow)
            for n, seed, grad in [(1, 0, False), (9, 0, False), (5, 3, False), (5, 0, True), (5, 3, True)]
        ),
    ],
)
def test_run_is_bit_identical_to_eager_for_any_batch_and_weights(
    traced: tuple[str, Network], n: int, seed: int, grad: bool
) -> None:
    name, network = traced
    model, x, y = zoo.build(name, n, seed)
    # In the same grad mode: the library's own LSTM takes another kernel, with other last bits, for each.
    with torch.set_grad_enabled(grad):
        weights = {**named_tensors(model), **dict(model.named_parameters())}
        outputs, losses = network.run(weights, x, y)
        expected = eager(model, x, y)
    assert torch.equal(outputs, expected[0])
    assert torch.equal(losses, expected[1])  # type: ignore[arg-type]


def test_json_round_trip_is_equal_and_runs_the_same(traced: tuple[str, Network]) -> None:
    name, network = traced
    model, x, y = zoo.build(name)
    again = read(network.to_json(), network.constants)
    assert again.digest == network.digest
    assert again.rows == network.rows
    assert (again.sites, again.calls, again.layers) == (network.sites, network.calls, network.layers)
    runs = [one.run(named_tensors(model), x, y) for one in (network, again)]
    for ours, theirs in zip(*runs, strict=True):
        assert torch.equal(ours, theirs)


def test_model_part_runs_without_targets(traced: tuple[str, Network]) -> None:
    name, network = traced
    model, x, _ = zoo.build(name, 4)
    with torch.no_grad():
        outputs, losses = network.run(named_tensors(model), x)
        assert losses is None
        assert torch.equal(outputs, private_copy(model)(x))


def test_no_operation_is_foreign_or_random(traced: tuple[str, Network]) -> None:
    assert traced[1].foreign == []
    assert traced[1].random_rows == []


def test_axes_slice_every_row_by_example(traced: tuple[str, Network]) -> None:
    name, network = traced
    model, x, y = zoo.build(name, 4)
    whole: dict[str, Tensor] = {}

    def keep(row: Any, _: Any, out: Any) -> None:
        if row.axis is not None:
            assert tuple(out.shape) == row.size(4)
            whole[row.name] = by_example(out, row, 4)

    network.run(named_tensors(model), x, y, visit=keep)
    assert len(whole) > len(network.calls)

    def alone(row: Any, _: Any, out: Any) -> None:
        if row.axis is not None:
            torch.testing.assert_close(by_example(out, row, 2), whole[row.name][1:3], rtol=1e-4, atol=1e-5)

    network.run(named_tensors(model), x[1:3], y[1:3], visit=alone)


@pytest.mark.parametrize("name", [one for one in zoo.EACH if one.values[0] not in ("ViT", "LSTM", "GPT")])
def test_masks_of_the_same_inputs_replay_exactly(name: str) -> None:
    model, x, y = zoo.build(name)
    network = zoo.traced(name)
    exact = {site.row: site for site in network.sites if site.kind in ("path", "gate")}
    names = {network.rows[index].name: site for index, site in exact.items()}
    masks: dict[str, Tensor] = {}

    def keep(row: Any, values: tuple[Any, ...], _: Any) -> None:
        if row.name in names:
            masks[names[row.name].name] = by_example(values[names[row.name].argument] > 0, row, len(x))

    outputs, losses = network.run(named_tensors(model), x, y, visit=keep)
    assert all(
        mask.shape == (len(x), site.n_units)
        for mask, site in zip(masks.values(), exact.values(), strict=True)
    )
    again = network.run(named_tensors(model), x, y, masks=masks)
    assert torch.equal(again[0], outputs)
    assert torch.equal(again[1], losses)  # type: ignore[arg-type]
    if name in ("MLP", "CNN"):
        with pytest.raises(AssertionError, match="not close"):
            torch.testing.assert_close(
                network.run(named_tensors(model), -x)[0],
                network.run(named_tensors(model), -x, masks=masks)[0],
            )


def test_frozen_masks_make_the_network_affine() -> None:
    torch.manual_seed(0)
    blocks = zoo.Block(3, 4, 2), zoo.Block(4, 4, 1)
    model, x = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 4)), torch.randn(5, 3, 8, 8)
    network = trace_network(model, x)
    tensors = {name: t.double() if t.is_floating_point() else t for name, t in named_tensors(model).items()}
    generator = torch.Generator().manual_seed(1)
    masks = {s.name: torch.rand(5, s.n_units, generator=generator) > 0.5 for s in network.sites}
    a, b = x.double(), x.double().flip(0)
    at = [network.run(tensors, point, masks=masks)[0] for point in (a, b, 0.25 * a + 0.75 * b)]
    torch.testing.assert_close(at[2], 0.25 * at[0] + 0.75 * at[1], rtol=1e-9, atol=1e-9)


def test_until_stops_and_visit_may_replace() -> None:
    model, x, y = zoo.build("MLP")
    network = zoo.traced("MLP")
    row = network.rows[network.sites[0].row]
    seen: list[str] = []

    def visit(at: Any, _: Any, out: Any) -> Any:
        seen.append(at.name)
        return torch.zeros_like(out) if at.name == row.name else None

    value, losses = network.run(named_tensors(model), x, y, until=row.name)
    assert losses is None
    assert torch.equal(value, F.relu(model[1](x.flatten(1))))  # type: ignore[index]
    outputs, _ = network.run(named_tensors(model), x, visit=visit)
    assert torch.equal(outputs, model[5](model[4](model[3](torch.zeros(5, 16)))))  # type: ignore[index]
    assert seen == [r.name for r in network.rows if not r.loss]
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        network.run(named_tensors(model), x, until="rlu")
    with pytest.raises(ValueError, match="no site with a mask"):
        network.run(named_tensors(model), x, masks={"nowhere": x > 0})


def test_sites_calls_and_layers_of_a_residual_network() -> None:
    model, x, y = zoo.build("ResNet6")
    network = zoo.traced("ResNet6")
    assert trace_network(model, x[:2], y[:2], zoo.loss).to_json() == network.to_json()
    names = [site.name for site in network.sites]
    assert names == ["stem.2", *(f"blocks.{i}.relu{use}" for i in (0, 1) for use in ("", "#2"))]
    assert network.sites[0].shape == (4, 12, 12)
    assert network.sites[0].n_units == 576
    assert len(network.calls) == 7
    assert [layer.name for layer in network.layers[:2]] == ["stem.0", "stem.1"]
    assert network.layers[1].parameters == ("stem.1.weight", "stem.1.bias")
    assert sum(len(layer.parameters) for layer in network.layers) == len(list(model.parameters()))


def test_names_of_functional_sites_and_of_owners() -> None:
    assert [site.name for site in zoo.traced("CNN").sites] == ["features.1", ":relu"]
    network = zoo.traced("ViT")
    assert {"token", "positions"} < {layer.name for layer in network.layers}
    assert {site.kind for site in network.sites} == {"convention"}
    tied = [layer for layer in zoo.traced("GPT").layers if "words.weight" in layer.parameters]
    assert [layer.name for layer in tied] == ["words"]


class HandWritten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x * (x > 0) - 0.5
        x = (x > 0).float() * x - 0.1
        x = torch.where(x > 0, x, 0.0) - 0.1
        x = torch.maximum(x, torch.zeros_like(x)) - 0.1
        x = torch.maximum(torch.tensor(0.0), x) - 0.1
        x = x.clamp(min=0) - 0.1
        x = x.clamp(0, 6) - 0.1
        x = F.threshold(x, 0, 0) - 0.1
        x = torch.relu_(x.clone()) + x.clamp(min=-1) + torch.maximum(x, 2 * x) + x * (x > 1)
        return F.leaky_relu(F.relu6(x - 0.1), 0.3)


def test_hand_written_relus_are_sites() -> None:
    network = trace_network(HandWritten(), torch.randn(4, 7))
    expected = ":mul :mul#2 :where :maximum :maximum#2 :clamp :clamp#2 :threshold :relu :relu6 :leaky_relu"
    assert [site.name for site in network.sites] == expected.split()
    assert network.sites[-1].slope == 0.3
    assert network.sites[4].argument == 1


def fingerprint(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {
        "streams": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
    }
    for name, module in model.named_modules():
        hooks = {key: list(value) for key, value in module.__dict__.items() if key.endswith("_hooks")}
        plain = {key: value for key, value in module.__dict__.items() if isinstance(value, int | float | str)}
        found[name] = (module.training, hooks, plain, sorted(module.__dict__))
    for name, parameter in model.named_parameters():
        gradient = None if parameter.grad is None else parameter.grad.tolist()
        found[f"{name}:tensor"] = (id(parameter), parameter.tolist(), gradient, parameter._version)
    for name, buffer in model.named_buffers():
        found[f"{name}:tensor"] = (id(buffer), buffer.tolist(), buffer._version)
    return found


@pytest.mark.parametrize(
    "name", ["CNN", "ViT", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ResNet18", "LSTM"))]
)
def test_tracing_and_running_touch_nothing_of_the_training(name: str) -> None:
    model, x, y = zoo.build(name, dropout=0.3)
    model.train()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    zoo.loss(model(x), y).backward()
    mode = (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    )
    before, n_calls = fingerprint(model), len(calls)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        network = trace_network(model, x, y, zoo.loss)
        outputs, _ = network.run(named_tensors(model), x, y)
    with torch.no_grad():
        assert torch.equal(outputs, private_copy(model)(x))
    assert fingerprint(model) == before
    assert len(calls) == n_calls
    assert mode == (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    )


class Chooses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_a_model_that_cannot_be_traced_names_the_users_line() -> None:
    with pytest.raises(
        RecordError, match=r"cannot trace Chooses past .*test_network\.py:\d+ \(if x\.sum\(\) > 0"
    ):
        trace_network(Chooses(), torch.randn(4, 3))


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x)).view(int(x.shape[0]), 2, 3).flatten(1)


def test_a_fixed_batch_is_traced_at_the_chunk_size_and_says_so() -> None:
    model, x, y = FixedBatch(), torch.randn(6, 4), torch.randint(0, 6, (6,))
    network = trace_network(model, x, y, F.cross_entropy, chunk=4)
    assert network.batch == 4
    assert network.sites[0].shape == (6,)
    assert torch.equal(network.run(named_tensors(model), x[:4])[0], model(x[:4]))
    with pytest.raises(RecordError, match="exactly 4 examples at a time, got 6: pad the chunk"):
        network.run(named_tensors(model), x)


def test_objectives_with_several_inputs_and_dict_outputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            return {"scores": self.fc(left * right), "left": left}

    def objective(model: nn.Module, inputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        scores = model(**inputs)["scores"]
        return scores, F.cross_entropy(scores, targets["y"], reduction="none")

    model, inputs = Pair(), {"right": torch.randn(5, 4), "left": torch.randn(5, 4)}
    targets = {"y": torch.tensor([0, 1, 2, 0, 1])}
    network = trace_network(model, inputs, targets, objective=objective)
    for ours, theirs in zip(
        network.run(named_tensors(model), inputs, targets), objective(model, inputs, targets), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert torch.equal(
        trace_network(model, inputs).run(named_tensors(model), inputs)[0], model(**inputs)["scores"]
    )
    with pytest.raises(RecordError, match=r"expected shape \(3,\), got \(\)"):
        trace_network(model, inputs, targets, objective=lambda m, i, t: (o := m(**i)["scores"], o.mean()))


def table(**changes: Any) -> tuple[bytes, Network]:
    network = zoo.traced("MLP")
    data = json.loads(network.to_json())
    relu = network.sites[0].row
    data["rows"][relu].update(changes)
    return json.dumps(data).encode(), network


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"op": "aten.from_file.default"}, "uses operation 'aten.from_file.default'"),
        ({"op": "aten.relu_.default"}, "uses operation 'aten.relu_.default'"),
        ({"op": "int.__class__"}, r"uses operation 'int.__class__'"),
        ({"args": [{"row": 99}]}, "refers to row 99, which does not exist before it"),
        ({"args": [{"row": -1}]}, "refers to row -1"),
        ({"args": [{"tensor": "secret"}]}, "refers to tensor 'secret'"),
        ({"args": [[[[[[[1]]]]]]]}, "nested too deep"),
        ({"args": [[0] * 5000]}, "a list of 5000 items"),
        ({"args": [{"eval": "1"}]}, "an argument of an unknown form"),
        ({"args": [{"row": 1, "input": 0}]}, "an argument of an unknown form"),
        ({"args": [{"float": "__import__('os')"}]}, "an argument of an unknown form"),
        ({"args": [{"dtype": "load"}]}, "an argument of an unknown form"),
        ({"args": [0.5]}, "not written in hexadecimal"),
        ({"args": [1 << 80]}, "a number out of bounds"),
        ({"args": ["a" * 5000]}, "a text of 5000 characters"),
        ({"axis": 7}, "no such axis"),
        ({"shape": ["n"]}, "no size"),
        ({"name": "relu_1"}, "the same name"),
    ],
)
def test_a_hostile_table_is_refused(changes: dict[str, Any], why: str) -> None:
    data, network = table(**changes)
    with pytest.raises(ArchiveError, match=why):
        read(data, network.constants)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"version": 1}', b'{"version": 2}']
)
def test_what_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError, match="network table"):
        read(data, {})


def test_changed_constants_are_refused() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.tensor([1.0, 2.0, 3.0])

    network = trace_network(Scaled(), torch.randn(4, 3))
    assert read(network.to_json(), network.constants).digest == network.digest
    with pytest.raises(ArchiveError, match="the values of its constant 'c0' have changed"):
        read(network.to_json(), {"c0": torch.zeros(3)})
    with pytest.raises(ArchiveError, match="'c0' is not in the archive"):
        read(network.to_json(), {})


def test_models_of_the_default_suite_have_every_kind_of_layer() -> None:
    kinds = {
        name: {type(m) for m in zoo.build(name)[0].modules() if not list(m.children())} for name in zoo.MODELS
    }
    few = set().union(*(kinds[name] for name in zoo.MODELS if name not in zoo.DEEP))
    assert all(kinds[name] <= few for name in zoo.DEEP)


@pytest.mark.slow
def test_models_of_the_default_suite_have_every_operation() -> None:
    ops = {name: {row.op for row in zoo.traced(name).rows} for name in zoo.MODELS}
    few = set().union(*(ops[name] for name in zoo.MODELS if name not in zoo.DEEP))
    assert all(ops[name] <= few for name in zoo.DEEP)
