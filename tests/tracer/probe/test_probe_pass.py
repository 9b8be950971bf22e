"""The probe pass: every stream against the user's own model, run by hand."""

import gc
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import zoo
from tests.oracles.gradients import check_gram, check_rows, per_example
from tracer import bits
from tracer.archive import gradients as factors
from tracer.errors import RecordError
from tracer.network import trace
from tracer.network.copies import named_tensors, private_copy
from tracer.network.table import Row
from tracer.probe import Probe, ProbePass
from tracer.probe import memory as budget
from tracer.probe.needs import Needs
from tracer.probe.packing import _pack_torch, pack_on

Observed = dict[str, dict[str, np.ndarray]]


class Stage:
    """A small model, two probes of it and a pass over them."""

    def __init__(self, name: str = "CNN", n: int = 20, capture: dict[str, int] | None = None) -> None:
        self.model, self.x, self.y = zoo.build(name, n=n)
        self.network = zoo.traced(name)
        few = {"masks": 13, "gradients": 5, "activations": 3, **(capture or {})}
        self.probes = {
            "train": Probe(self.x, self.y, split="train", capture=few),
            "test": Probe(self.x[:9] * 1, self.y[:9], split="test", capture=few),
        }

    def probe_pass(self, **options: Any) -> ProbePass:
        tensors = named_tensors(self.model)
        return ProbePass(self.network, self.probes, tensors=tensors, **options)

    def observe(self, streams: Iterable[str] | None = None, **options: Any) -> Observed:
        observing = self.probe_pass(**options)
        return observing.run(named_tensors(self.model), observing.streams if streams is None else streams)

    def rows(self, n: int) -> dict[str, Tensor]:
        return per_example(self.model, zoo.loss, self.x[:n], self.y[:n])


def by_hand(value: Tensor, row: Row, n: int = 20) -> Tensor:
    """(example, unit) of a value whose examples lie along an axis that may be merged with others."""
    axis = row.axis or 0
    index = torch.arange(n).repeat_interleave(row.inner).repeat(value.shape[axis] // (n * row.inner))
    value = value.detach().double()
    return torch.stack([value.index_select(axis, (index == i).nonzero()[:, 0]).flatten() for i in range(n)])


@pytest.mark.parametrize(
    "name", ["MLP", "CNN", "GPT", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ViT", "Smooth"))]
)
def test_outputs_masks_sums_and_activations(name: str) -> None:
    stage = Stage(name)
    observed = stage.observe(gradients="none")
    outputs = private_copy(stage.model)(stage.x)
    losses = torch.stack([zoo.loss(o[None], t[None]) for o, t in zip(outputs, stage.y, strict=True)])
    for name, expected in (("outputs", outputs), ("loss", losses)):
        found = torch.from_numpy(observed["probes/train/outputs"][name])
        torch.testing.assert_close(found, expected.detach())
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    stage.network.run(
        named_tensors(stage.model),
        stage.x,
        visit=lambda row, values, out: seen.update({row.name: (values[0], out)}),
    )
    unit = 0
    sums, values = observed["probes/train/sums"], observed["probes/train/activations"]["values"]
    for position, site in enumerate(stage.probe_pass().sites):
        row = stage.network.rows[site["row"]]
        pre, post = (by_hand(value, row) for value in seen[row.name])
        np.testing.assert_allclose(sums["post"][:, position], post.sum(1), rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(values[:, unit : unit + site["n_units"]], post[:3], rtol=1e-6)
        unit += site["n_units"]
        if site["has_mask"]:
            stored = observed["probes/train/masks"]["bits"][site["start"] : site["start"] + site["n_units"]]
            np.testing.assert_array_equal(bits.unpack(stored, 13), pre[:13] > 0)
    for position, call in enumerate(stage.network.calls):
        row = stage.network.rows[call.row]
        post = by_hand(seen[row.name][1], row)
        np.testing.assert_allclose(sums["pre"][:, position], post.sum(1), rtol=1e-6, atol=1e-5)


# Recurrent layers, which have no rule, are among what no rule covers in test_gradients.py.
RARELY = pytest.param("LSTM", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [RARELY if one.values == RARELY.values else one for one in zoo.EACH])
def test_gradients_and_gram(name: str) -> None:
    stage = Stage(name)
    observing = stage.probe_pass(gradients="exact", streams=["gradients"])
    observed = observing.run(named_tensors(stage.model), {"gradients"})
    exact, theirs = (
        per_example(stage.model, zoo.loss, stage.x[:5], stage.y[:5], double=double)
        for double in (True, False)
    )
    for position, layer in enumerate(stage.network.layers):
        products = torch.from_numpy(observed["gram"]["gram"][position])
        twice = [[torch.cat([rows[p]] * 2) for p in layer.parameters] for rows in (exact, theirs)]
        check_gram(products, *twice)  # both probes hold the same examples
        assert torch.equal(products, products.T)
    blocks = observing.attributes["probes/test/gradients"]["blocks"]
    values = observed["probes/test/gradients"]["values"]
    for block in blocks:
        rows = factors.rebuild(blocks, block["tensor"], lambda start, stop: values[start:stop])
        check_rows(torch.from_numpy(np.array(rows)), exact[block["tensor"]], theirs[block["tensor"]])
    assert {block["tensor"] for block in blocks} == exact.keys()


def test_a_parameter_the_loss_does_not_use_has_zero_gradient() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4))
    model[0].spare = nn.Parameter(torch.ones(2, 5))
    x, y = torch.randn(6, 4), torch.rand(6, 4)
    network = trace(model, x, y, nn.MSELoss())
    observing = ProbePass(network, {"train": Probe(x, y, split="train")}, tensors=named_tensors(model))
    values = observing.run(named_tensors(model), {"gradients"})["probes/train/gradients"]["values"]
    blocks = observing.attributes["probes/train/gradients"]["blocks"]
    rows = factors.rebuild(blocks, "0.spare", lambda start, stop: values[start:stop])
    assert {block["tensor"]: block["form"] for block in blocks}["0.spare"] == "zero"
    assert rows.shape[-2:] == (2, 5) and not rows.any()


@pytest.mark.slow
def test_a_float64_oracle_of_resnet_18_agrees() -> None:
    stage = Stage("ResNet18", n=6, capture={"gradients": 6})
    products = stage.observe({"gradients"})["gram"]["gram"][:, :6, :6]
    exact, theirs = (per_example(stage.model, zoo.loss, stage.x, stage.y, double=d) for d in (True, False))
    for position, layer in enumerate(stage.network.layers):
        rows = ([found[p] for p in layer.parameters] for found in (exact, theirs))
        check_gram(torch.from_numpy(products[position]), *rows)


@pytest.mark.parametrize("gradients", ["gram", "exact"])
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunks_do_not_matter(chunk: int, gradients: str) -> None:
    stage = Stage()
    whole, parts = stage.observe(gradients=gradients), stage.observe(gradients=gradients, chunk=chunk)
    assert whole.keys() == parts.keys()
    for group, arrays in whole.items():
        for name, array in arrays.items():
            np.testing.assert_allclose(parts[group][name], array, rtol=1e-4, atol=1e-6)


def test_runs_are_repeatable_and_streams_do_not_change_each_other() -> None:
    """Chunks are the same whatever is asked for, so one stream replayed agrees bit for bit."""
    stage = Stage()
    observing = stage.probe_pass()
    tensors = named_tensors(stage.model)
    whole = observing.run(tensors, observing.streams)
    for stream in observing.streams:
        for group, arrays in observing.run(tensors, {stream}).items():
            for name, array in arrays.items():
                np.testing.assert_array_equal(array, whole[group][name])


def test_permuted_examples_permute_the_gram() -> None:
    stage = Stage(capture={"gradients": 9})
    order = torch.tensor([4, 2, 7, 0, 8, 1, 6, 3, 5])
    before = stage.observe({"gradients"})["gram"]["gram"]
    shuffled = Probe(stage.x[:9][order], stage.y[:9][order], split="test", capture={"gradients": 9})
    stage.probes["test"] = shuffled
    after = stage.observe({"gradients"})["gram"]["gram"]
    joint = np.concatenate([np.arange(9), 9 + order.numpy()])
    np.testing.assert_allclose(after, before[:, joint][:, :, joint], rtol=1e-4, atol=1e-7)


def test_the_layout_is_what_comes() -> None:
    stage = Stage()
    for gradients in ("exact", "gram", "none"):
        observing = stage.probe_pass(gradients=gradients)
        observed = observing.run(named_tensors(stage.model), observing.streams)
        shapes = {g: {n: (a.dtype, a.shape) for n, a in arrays.items()} for g, arrays in observed.items()}
        assert shapes == {g: {n: d[:2] for n, d in arrays.items()} for g, arrays in observing.layout.items()}
        assert all(len(d[1]) == len(d[2]) for arrays in observing.layout.values() for d in arrays.values())
    arrays, dims, card = observing.static["probes/test"]
    assert dims["inputs"] == ("example", "inputs_1", "inputs_2", "inputs_3")
    assert len(arrays["inputs"]) == card["capture"]["masks"] == card["chunks"][-1][1] == 9
    assert card["split"] == "test"


def test_a_network_for_a_fixed_number_of_examples_is_padded() -> None:
    stage = Stage("MLP")
    free = stage.observe()
    stage.network = trace(stage.model, stage.x, stage.y, zoo.loss, chunk=8)
    stage.network.batch = 8
    observed = stage.observe()
    for group, arrays in free.items():
        for name, array in arrays.items():
            np.testing.assert_allclose(observed[group][name], array, rtol=1e-4, atol=1e-6)


def test_the_callers_modes_do_not_matter() -> None:
    stage = Stage()
    observing, tensors = stage.probe_pass(), named_tensors(stage.model)
    plain = observing.run(tensors, observing.streams)
    modes = [torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)]
    for mode in modes:
        with mode:
            for found in (observing, stage.probe_pass()):
                observed = found.run(tensors, found.streams)
                for group, arrays in plain.items():
                    for name, array in arrays.items():
                        np.testing.assert_array_equal(observed[group][name], array)
    assert all(p.grad is None and p.requires_grad for p in stage.model.parameters())


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_reduced_precision_is_for_training_only(precision: str) -> None:
    stage = Stage("MLP")
    plain, before = stage.observe(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        observed = stage.observe()
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    for group, arrays in plain.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(observed[group][name], array)


def test_a_saturated_example_has_zero_gradient() -> None:
    stage = Stage("MLP")
    with torch.no_grad():
        last = stage.model[-1]
        last.bias[0] = 1e6
    targets = torch.zeros(20, dtype=torch.long)
    stage.probes = {"train": Probe(stage.x, targets, split="train", capture={"gradients": 4})}
    products = stage.observe({"gradients"})["gram"]["gram"]
    assert products.shape[1:] == (4, 4) and not products.any()


def test_gradients_are_kept_exactly_while_they_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    assert stage.probe_pass().mode == "exact"
    monkeypatch.setattr(budget, "EXACT_LIMIT", 1000)
    observing = stage.probe_pass()
    assert observing.mode == "gram" and "more than" in observing.reason
    assert "gram" in observing.layout and "probes/train/gradients" not in observing.layout
    assert stage.probe_pass(streams=["outputs"]).mode == "none"


def test_ways_and_notes_are_told() -> None:
    assert Stage("LSTM").probe_pass().ways == {"words": "rows", "lstm": "loop", "fc": "rows"}
    stage = Stage()
    stage.probes = {"train": Probe(stage.x, torch.arange(20) // 5, split="train", capture={"gradients": 6})}
    (note,) = stage.probe_pass(streams=["gradients", "outputs"]).notes
    assert "'train': gradients take the first 6 examples" in note and "class 2, 3" in note


def test_an_excluded_parameter_takes_another_way() -> None:
    stage = Stage("MLP")
    observing = stage.probe_pass(excluded={"1.weight": "its hook is not in the table"})
    assert observing.ways["1"] == "rows+vmap"
    products = observing.run(named_tensors(stage.model), {"gradients"})["gram"]["gram"]
    np.testing.assert_allclose(products, stage.observe({"gradients"})["gram"]["gram"], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        (Probe(torch.zeros(3, 3, 9, 8), torch.arange(3)), r"'odd': each input has shape \[3, 9, 8\]"),
        (Probe(torch.zeros(3, 3, 8, 8).double(), torch.arange(3)), "float64.*takes.*float32"),
        (Probe(torch.zeros(3, 3, 8, 8), torch.zeros(3)), "each target.*float32.*int64"),
        (Probe((torch.zeros(3, 3, 8, 8), torch.zeros(3)), torch.zeros(3)), "'odd' has 2 input tensors"),
    ],
)
def test_a_probe_that_does_not_fit_is_refused_by_name(probe: Probe, says: str) -> None:
    stage = Stage()
    stage.probes = {"train": stage.probes["train"], "odd": probe}
    with pytest.raises(RecordError, match=says):
        stage.probe_pass()


def test_what_takes_too_much_memory_is_refused_with_the_figure() -> None:
    stage = Stage(capture={"activations": 20})
    with pytest.raises(RecordError, match=r"takes [\d.]+ KiB, more than memory=9.8 KiB.*raise memory="):
        stage.probe_pass(memory=10_000)


@pytest.mark.parametrize("name", ["CNN", "GPT"])
@pytest.mark.parametrize("mode", ["exact", "gram"])
def test_layers_in_groups_give_the_same_bits(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(name)
    whole = stage.observe(gradients=mode, chunk=2)
    monkeypatch.setattr(Needs, "groups", lambda needs, *_: [[names] for names in reversed(list(needs.held))])
    grouped = stage.observe(gradients=mode, chunk=2)
    assert grouped.keys() == whole.keys()
    for group, arrays in whole.items():
        for array, values in arrays.items():
            np.testing.assert_array_equal(grouped[group][array], values, err_msg=f"{group}/{array}")


def test_wrong_options_are_refused() -> None:
    stage = Stage()
    with pytest.raises(RecordError, match="gradients='all'"):
        stage.probe_pass(gradients="all")
    with pytest.raises(RecordError, match="chunk=0"):
        stage.probe_pass(chunk=0)
    stage.probes = {}
    with pytest.raises(RecordError, match="no probes"):
        stage.probe_pass()


def test_frozen_and_loss_free_networks_have_no_gradients() -> None:
    stage = Stage("MLP")
    for parameter in stage.model.parameters():
        parameter.requires_grad_(False)
    stage.network = trace(stage.model, stage.x, stage.y, zoo.loss)
    assert stage.probe_pass().mode == "none"
    stage.network = trace(stage.model, stage.x)
    observed = stage.observe()
    assert list(observed["probes/train/outputs"]) == ["outputs"] and "gram" not in observed


@pytest.mark.parametrize("start", [0, 3, 8])
@pytest.mark.parametrize("n", [1, 8, 13])
def test_packing_agrees_wherever_it_happens(n: int, start: int) -> None:
    pre = torch.randn(n, 21)
    pre[0, :3] = 0
    before = start % 8
    expected = bits.pack(np.concatenate([np.zeros((before, 21), bool), pre.numpy() > 0]))
    np.testing.assert_array_equal(pack_on(pre, start).numpy(), expected)
    np.testing.assert_array_equal(_pack_torch(pre > 0, before).numpy(), expected)


def test_a_model_with_an_unknown_example_axis_has_undefined_sums() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    x, y = torch.randn(6, 4), torch.rand(6, 3)
    network = trace(model, x, y, nn.MSELoss())
    network.forget_axes([network.rows[network.sites[0].row].name])
    observing = ProbePass(network, {"train": Probe(x, y, split="train")}, tensors=named_tensors(model))
    observed = observing.run(named_tensors(model), observing.streams)
    assert np.isnan(observed["probes/train/sums"]["post"]).all()
    assert not np.isnan(observed["probes/train/sums"]["pre"]).any()
    assert "probes/train/masks" not in observed


def test_what_an_example_in_flight_takes_by_hand() -> None:
    torch.manual_seed(0)
    model, x, y = (
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
        torch.randn(40, 6),
        torch.arange(40) % 3,
    )
    network = trace(model, x[:8], y[:8], nn.functional.cross_entropy)
    observing = ProbePass(network, {"train": Probe(x, y, split="train")}, tensors=named_tensors(model))
    _, alive, largest = budget.flight_bytes(network)
    assert (alive, largest) == (64, 32)  # 8 numbers before the ReLU and after it
    needed = observing._survey.needed
    # 8 numbers after the ReLU and 3 log-probabilities; what the loss keeps for the whole batch; no inputs, no weights.
    assert needed is not None and 44 <= needed <= 48
    assert observing._flight()[1] == alive


def test_what_a_snapshot_made_is_gone_without_a_search_for_garbage() -> None:
    stage = Stage()
    observing, tensors = stage.probe_pass(), named_tensors(stage.model)
    gc.collect()
    gc.disable()
    try:
        made = observing.observe(tensors, observing.streams)
        left = [
            weakref.ref(one) for group in made.values() for one in group.values() if isinstance(one, Tensor)
        ]
        del made
        assert len(left) > 5 and not [one for one in left if one() is not None]
    finally:
        gc.enable()
