"""Private copies compute the same and share nothing."""

import gc
import warnings
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from tests import zoo
from tracer.network import copies, trace
from tracer.network.checks import closure
from tracer.network.copies import named_tensors, private_copy, unwrap


def pruned() -> nn.Module:
    layer = nn.Linear(4, 4)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(4, 4))


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "pruned": pruned,
    "weight_norm": weight_normed,
    "spectral_norm": lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
    "parametrized": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "parametrized_spectral": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
}


@pytest.mark.parametrize("kind", list(MAKERS))
def test_reparametrised_modules_are_copied_and_traced(kind: str) -> None:
    model = nn.Sequential(MAKERS[kind](), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(3, 4)
    model(x).sum().backward()
    replica = private_copy(model)
    model.eval()
    assert torch.equal(replica(x), model(x))
    network = trace(model, x)
    assert torch.equal(network.run(named_tensors(model), x)[0], model(x))
    assert all(parameter.grad is None for parameter in replica.parameters())
    shared = {t.data_ptr() for t in named_tensors(model).values()} & {
        t.data_ptr() for t in named_tensors(replica).values()
    }
    assert not shared
    assert [layer.name for layer in network.layers] == ["0", "2"]


class Stateful(nn.Module):
    """Counts its calls, keeps a cache and a random stream, and refuses to leave training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.calls, self.cache = 0, [torch.zeros(1)]
        self.stream = torch.Generator()
        self.optimizer = torch.optim.SGD(self.parameters(), 0.1)
        self.open = (value for value in range(3))

    def train(self, mode: bool = True) -> "Stateful":
        raise RuntimeError("overridden")

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.cache[0] = self.fc(x)
        torch.rand(1, generator=self.stream)
        return self.cache[0]


def test_attributes_set_in_forward_stay_private() -> None:
    model = Stateful()
    stream, cache = model.stream.get_state(), model.cache[0]
    replica = private_copy(model)
    replica(torch.randn(2, 4))
    assert (model.calls, replica.calls) == (0, 1)
    assert model.cache[0] is cache
    assert torch.equal(model.stream.get_state(), stream)
    assert replica.optimizer is model.optimizer
    assert (model.training, replica.training, replica.fc.training) == (True, False, False)  # type: ignore[union-attr]


def test_hooks_of_the_users_are_left_behind() -> None:
    model, x, _ = zoo.build("MLP")
    calls: list[int] = []
    for module in model.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
        module.register_forward_pre_hook(lambda *_: calls.append(1))
        module.register_full_backward_hook(lambda *_: calls.append(1))
    private_copy(model)(x).sum().backward()
    assert calls == []


class Collects(nn.Module):
    """Goes on with what hooks of its own put aside: a method, one bound to a name, and a function within one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])
        self.held: dict[str, Tensor] = {}

        def last(module: nn.Module, inputs: object, out: Tensor) -> Tensor:
            self.held["last"] = out
            return out + 1

        self.body[0].register_forward_hook(self._first)
        self.body[1].register_forward_pre_hook(partial(self._named, "second"))
        self.body[2].register_forward_hook(last)

    def _first(self, module: nn.Module, inputs: object, out: Tensor) -> None:
        self.held["first"] = out

    def _named(self, name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
        self.held[name] = inputs[0]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.body:
            x = layer(x)
        return x + self.held["first"] * self.held["second"] - self.held["last"]


def test_hooks_of_the_model_s_own_are_part_of_it() -> None:
    model, x = nn.Sequential(Collects(), nn.Linear(3, 2)), torch.randn(4, 3)
    seen: list[Tensor] = []
    model[0].body[1].register_forward_hook(lambda *_: seen.append(x))  # type: ignore[union-attr]
    replica = private_copy(model)
    traced = trace(model, x)
    assert model[0].held == {} and seen == []
    expected = model(x)
    assert len(seen) == 1 and torch.equal(replica(x), expected) and len(seen) == 1
    assert torch.equal(traced.run(named_tensors(model), x)[0], expected)


def test_a_copy_s_empty_containers_are_its_own() -> None:
    kept = nn.ModuleList([nn.Sequential(), nn.ModuleList(), nn.ModuleDict(), nn.ParameterDict()])
    replica = private_copy(nn.ModuleList([kept, nn.Linear(2, 2)]))
    assert all(module.training for module in kept.modules())
    assert not any(module.training for module in replica.modules())


def test_wrappers_are_taken_off_everywhere() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    outer = nn.Sequential(cast(nn.Module, torch.compile(model, backend="eager")), nn.Linear(4, 2))
    compiled = cast(nn.Module, torch.compile(outer, backend="eager"))
    assert unwrap(compiled) is outer
    expected = ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]
    assert list(named_tensors(compiled)) == expected
    assert list(dict(private_copy(compiled).named_parameters())) == expected
    x = torch.randn(3, 4)
    network = trace(compiled, x)
    assert [site.name for site in network.sites] == ["0.1"]
    assert torch.equal(network.run(named_tensors(compiled), x)[0], outer[1](model(x)))


def test_tied_tensors_stay_tied_and_are_named_once() -> None:
    model, _, _ = zoo.build("GPT")
    replica = private_copy(model)
    assert replica.head.weight is replica.words.weight  # type: ignore[union-attr]
    assert "head.weight" not in named_tensors(model)


def test_recurrent_modules_are_only_read() -> None:
    model, x, _ = zoo.build("LSTM")
    refs = model.lstm._flat_weight_refs  # type: ignore[union-attr]
    flat = model.lstm._flat_weights  # type: ignore[union-attr]
    replica = private_copy(model)
    assert model.lstm._flat_weight_refs is refs  # type: ignore[union-attr]
    assert model.lstm._flat_weights is flat  # type: ignore[union-attr]
    assert torch.equal(replica(x), model.eval()(x))


def test_compiled_training_sees_no_new_graph() -> None:
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(1)
        return graph.forward

    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2))
    compiled = cast(nn.Module, torch.compile(model, backend=backend))
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 0])
    nn.functional.cross_entropy(compiled(x), y).backward()
    before = len(graphs)
    network = trace(compiled, x, y, nn.functional.cross_entropy)
    network.run(named_tensors(compiled), x, y)
    assert closure(network, compiled, x, y, nn.functional.cross_entropy).holds
    nn.functional.cross_entropy(compiled(x), y).backward()
    assert len(graphs) == before > 0


def test_data_parallel_is_unwrapped() -> None:
    model, _, _ = zoo.build("MLP")
    assert unwrap(nn.DataParallel(model)) is model
    assert list(named_tensors(nn.DataParallel(model))) == list(named_tensors(model))


@pytest.mark.parametrize(("more", "returned"), [(1 << 30, 1), (1 << 20, 0)])
def test_memory_that_a_check_has_freed_goes_back_where_it_is_much(
    monkeypatch: pytest.MonkeyPatch, more: int, returned: int
) -> None:
    sizes, trims = iter([1 << 30, (1 << 30) + more]), list[None]()
    monkeypatch.setattr(copies, "_resident", lambda: next(sizes))
    monkeypatch.setattr(copies, "return_memory", lambda: trims.append(None))
    with copies.quiet(grad=False):
        pass
    assert len(trims) == returned
    monkeypatch.undo()
    copies.return_memory()  # does no harm anywhere
    assert copies._resident() >= 0


class HoldsFunctions(nn.Module):
    """Calls its layers through functions that hold on to them, as public language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(4, 4) for name in "abcdef"})
        layers, first = self.layers, [self.layers["a"]]
        whole, weight = self.layers["f"].forward, self.layers["e"].weight
        scale = lambda x: 2 * layers.b(x)  # type: ignore[operator]  # noqa: E731
        self.closed = lambda x: first[0](x)
        self.nested = {"scale": [lambda x: scale(x) + whole(x)]}
        self.default = lambda x, layer=layers.c: layer(x)
        self.partial = partial(lambda layer, x: layer(x), layers.d)
        self.tensor = lambda x: x @ weight
        self.own = lambda x: self.closed(x)
        self.empty = lambda x: undefined(x)
        if not layers:
            undefined = None

    def forward(self, x: Tensor) -> Tensor:
        steps = (
            self.closed,
            self.nested["scale"][0],
            self.default,
            self.partial,
            self.tensor,
            self.own,
        )
        for step in steps:
            x = step(x).tanh()
        return x


def test_functions_that_hold_modules_hold_their_copies() -> None:
    model, x = HoldsFunctions(), torch.randn(3, 4)
    expected = model(x)
    replica = private_copy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(replica(x), expected)
    replica(x).sum().backward()
    used = {name for name, parameter in replica.named_parameters() if parameter.grad is not None}
    assert used == set(named_tensors(model)) - {"layers.e.bias"}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_a_trace_leaves_behind_holds_no_weights():
    model = nn.Sequential(nn.Linear(301, 303), nn.ReLU(), nn.Linear(303, 2))
    with copies.passing_copy(model) as replica:
        assert torch.equal(replica[0].weight, model[0].weight)
    assert [parameter.numel() for parameter in replica.parameters()] == [0] * 4
    gc.collect()
    gc.disable()
    try:
        trace(model, torch.randn(3, 301))
        held = [x for x in gc.get_objects() if type(x) is nn.Parameter and x.shape == (303, 301)]
        assert len(held) == 1 and held[0] is model[0].weight
    finally:
        gc.enable()


def test_a_copy_takes_hooks_of_its_own() -> None:
    replica = private_copy(nn.Linear(2, 1))
    replica.register_forward_hook(lambda module, inputs, out: out + 1)
    assert torch.equal(replica(torch.zeros(1, 2)), replica.bias[None] + 1)
