"""Models without a table are probed themselves, under the same names and with the same numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tracer
from tests import zoo
from tests.loops import blobs, mlp, run_loop
from tracer.errors import MissingTraceError, RecordError
from tracer.network.copies import named_tensors
from tracer.probe import Probe, ProbePass
from tracer.recorder import RecordWarning
from tracer.recorder.forward.untraced import EagerNetwork


class Branching(nn.Module):
    """Decides by a value which layers an example goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.act = mlp(), nn.ReLU()
        self.extra = nn.Linear(3, 3)
        self.alpha = 1.0

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        if x[..., 0].max() > 0.5:
            h = self.act(self.extra(h))
        return self.alpha * F.leaky_relu(h, 0.3)


class Experts(nn.Module):
    """Sends each example to one of two experts: sizes depend on values, examples on themselves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate = nn.Linear(6, 2, bias=False)
        self.experts = nn.ModuleList([mlp(1), mlp(2)])

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.gate(x - x.mean(1, keepdim=True)).argmax(1)
        out = x.new_zeros(len(x), 3)
        for k, expert in enumerate(self.experts):
            (rows,) = torch.where(chosen == k)
            out = out.index_add(0, rows, torch.relu(expert(x[rows])))
        return out * self.gate(x).softmax(1).amax(1, keepdim=True)


class OwnNoise(nn.Module):
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x + 0.1 * torch.randn(x.shape, generator=self.generator))


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Per-example gradients by plain autograd, one example after another."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    live = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for i in range(len(x)):
        loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        found = torch.autograd.grad(loss, live, allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for p, g in zip(live, found, strict=True)])
    return {name: torch.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def record(tmp_path: Any, model: nn.Module, match: str, **options: Any) -> Any:
    with pytest.warns(RecordWarning, match=match):
        run_loop(tmp_path / "run.zarr", model, epochs=1, **options)
    return tracer.open(tmp_path / "run.zarr")


def test_a_model_that_branches_on_values_is_recorded_one_example_at_a_time(tmp_path):
    model = Branching()
    said = r"one example at a time.*since torch.export cannot trace Branching past .*test_eager"
    probes = {"train": blobs(5), "test": blobs(4, seed=7)}
    loss = lambda outputs, targets: F.cross_entropy(outputs, targets)  # noqa: E731
    archive = record(tmp_path, model, said, probes=probes, loss=loss)
    assert archive.card["network"] == "eager" and "Branching" in archive.card["network_reason"]
    assert archive.sites == ["body.1", "body.3", "act", ":leaky_relu"]
    assert archive.layers == ["body.0", "body.2", "body.4", "extra"]
    assert set(archive.card["gradients"]["ways"].values()) == {"loop"}
    branched = set()
    for step in archive.steps("gradients"):
        model.load_state_dict({name: torch.from_numpy(w) for name, w in archive.weights(step).items()})
        for probe in archive.probes.values():
            x, y = torch.from_numpy(probe.inputs[:]), torch.from_numpy(probe.targets[:])
            for name, wanted in gradients(model, x, y).items():
                np.testing.assert_allclose(probe.gradients(name, step), wanted.numpy(), rtol=1e-5, atol=1e-7)
            single = torch.cat([model(one) for one in x.split(1)])
            np.testing.assert_allclose(probe.outputs(step), single.detach().numpy(), rtol=1e-6)
            taken = (x[:, 0] > 0.5).numpy()
            np.testing.assert_array_equal(np.isnan(probe.sums(step)[1][:, 2]), ~taken)
            np.testing.assert_array_equal(probe.masks("body.1", step), (model.body[0](x) > 0).numpy())
            branched |= set(taken.tolist())
    assert branched == {True, False}
    with pytest.raises(MissingTraceError, match="network"):
        archive.network()


def test_what_is_seen_one_by_one_is_surveyed_one_by_one():
    class Counted(Branching):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return super().forward(x)

    sizes, model, (x, y) = list[int](), Counted(), blobs(4)
    network: Any = EagerNetwork(model, x, y, F.cross_entropy, reason="asked for")
    sizes.clear()
    ProbePass(network, {"train": Probe(x, y)}, tensors=named_tensors(model), excluded=network.excluded)
    assert set(sizes) == {1} and network.take_unknown() == []


def test_routed_examples_go_together_and_their_gradients_are_their_own(tmp_path):
    model = Experts()
    x, y = blobs(10)
    network = EagerNetwork(model, x, y, F.cross_entropy, reason="asked for")
    assert network.batch is None
    assert network.examine(named_tensors(model), x, y).holds
    probes = {"train": Probe(x, y, split="train")}
    seen = ProbePass(network, probes, tensors=named_tensors(model), excluded=network.excluded, chunk=4)
    arrays = seen.run(named_tensors(model), seen.streams)
    wanted = torch.cat([g.flatten(1) for g in gradients(model, x, y).values()], 1).double()
    np.testing.assert_allclose(
        arrays["gram"]["gram"].sum(0), (wanted @ wanted.T).numpy(), rtol=1e-5, atol=1e-9
    )
    assert [site.has_mask for site in network.sites] == [False] * len(network.sites)
    assert [call.name for call in network.calls if call.shape][:1] == ["gate"]


def test_a_generator_of_the_models_own_starts_anew_for_every_example(tmp_path):
    model = OwnNoise()
    archive = record(tmp_path, model, "one example at a time", probes={"train": blobs(4)})
    probe, steps = archive.probes["train"], archive.steps("outputs")
    model.load_state_dict({name: torch.from_numpy(w) for name, w in archive.weights(steps[0]).items()})
    noise = 0.1 * torch.randn(1, 6, generator=torch.Generator().manual_seed(3))
    wanted = model.body(torch.from_numpy(probe.inputs[:]) + noise)
    np.testing.assert_allclose(probe.outputs(steps[0]), wanted.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", ["CNN", "ViT", pytest.param("LSTM", marks=pytest.mark.slow), "Smooth"])
def test_names_and_numbers_are_those_of_the_table(name):
    model, x, y = zoo.build(name)
    tensors = named_tensors(model)
    table = zoo.traced(name)
    eager = EagerNetwork(model, x, y, zoo.loss, reason="asked for")
    assert eager.examine(tensors, x, y).holds
    assert [(s.name, s.shape, s.has_mask, s.slope) for s in eager.sites] == [
        (s.name, s.shape, s.has_mask, s.slope) for s in table.sites
    ]
    assert [(c.name, c.shape) for c in eager.calls] == [(c.name, c.shape) for c in table.calls]
    assert eager.layers == table.layers
    probes = {"train": Probe(x, y, split="train", capture={"activations": None})}
    by_table = ProbePass(table, probes, tensors=tensors)
    by_model = ProbePass(eager, probes, tensors=tensors, excluded=eager.excluded)
    wanted, got = by_table.run(tensors, by_table.streams), by_model.run(tensors, by_model.streams)
    assert got.keys() == wanted.keys()
    for group in ("outputs", "sums", "masks", "activations"):
        for array, values in wanted.get(f"probes/train/{group}", {}).items():
            np.testing.assert_allclose(got[f"probes/train/{group}"][array], values, rtol=1e-4, atol=1e-5)
    largest = np.abs(wanted["gram"]["gram"]).max()
    np.testing.assert_allclose(got["gram"]["gram"], wanted["gram"]["gram"], rtol=1e-4, atol=1e-6 * largest)


def test_an_attribute_that_changes_is_seen_at_the_next_snapshot():
    model, (x, y) = Branching(), blobs(4)
    network = EagerNetwork(model, x, y, F.cross_entropy, reason="asked for")
    before = network.run(named_tensors(model), x[:1], y[:1])[0]
    model.alpha = 2.0
    network.refresh(model)
    assert torch.equal(network.run(named_tensors(model), x[:1], y[:1])[0], 2 * before)


class Counting(Branching):
    """Writes into a buffer and a parameter in its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.passes += 1
            self.extra.bias.add_(1)
        return super().forward(x) + self.passes


RARELY = [pytest.param(build, marks=pytest.mark.slow) for build in (Branching, Counting)]


@pytest.mark.parametrize("build", [OwnNoise, *RARELY])
def test_probing_the_model_itself_changes_nothing(build):
    def train(record):
        torch.manual_seed(0)
        model = build()
        calls: list[int] = []
        model.register_forward_hook(lambda *_: calls.append(1))
        options = {"probes": {"train": blobs(4)}, "snapshots": tracer.every(1)}
        run_loop("run.zarr", model, epochs=1, record=record, **options)
        assert len(calls) == 3

    with pytest.warns(RecordWarning):
        verdict = tracer.check(train)
    assert verdict and set(verdict.table.values()) == {"identical"}, str(verdict)


class Forced(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5, training=True))


class BatchStatistics(Branching):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x) if len(x) > 1 else x)


@pytest.mark.parametrize(
    ("build", "sentence"), [(Forced, "draws random numbers"), (BatchStatistics, "odule 'norm' mixes")]
)
def test_what_belongs_to_no_example_is_refused_by_name(tmp_path, build, sentence):
    archive = record(tmp_path, build(), sentence)
    assert not archive.probes
    assert archive.steps("weights").tolist() == [0, 3]


class Squeeze(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze()


def test_a_loss_without_a_value_per_example_is_refused(tmp_path):
    with pytest.raises(RecordError, match="neither the mean nor the sum"):
        run_loop(tmp_path / "a.zarr", Branching(), loss=lambda outputs, targets: outputs.std())
    with pytest.raises(RecordError, match="one loss per example"):
        run_loop(
            tmp_path / "a.zarr",
            Branching(),
            loss=None,
            objective=lambda model, x, y: ((out := model(x)), F.cross_entropy(out, y)),
        )
    with pytest.raises(RecordError, match=r"one alone: .* as in x.squeeze\(-1\)"):
        run_loop(tmp_path / "a.zarr", nn.Sequential(Branching(), Squeeze()))
    assert not (tmp_path / "a.zarr").exists()
