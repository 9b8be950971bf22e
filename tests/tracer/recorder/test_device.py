"""The way off a device, without one: late copies, reused memory, and probe passes that look at no value."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from tests import zoo
from tests.devices import SlowLane, check_updates_at_once, updates_at_once
from tests.devices import everything as arrays_of
from tests.loops import record_everything, run_loop
from tests.oracles.gradients import cosine_error, gram, per_example
from tracer.errors import RecordError
from tracer.gradients import inner_products, products
from tracer.gradients.forms import Outer, Scatter
from tracer.network import copies, read, trace
from tracer.network.copies import _differentiable, named_tensors
from tracer.network.loss_kind import correctness_of
from tracer.network.pytree import leaves_of, rebuild
from tracer.probe import Probe, ProbePass
from tracer.recorder import device
from tracer.recorder.budget import Budget
from tracer.recorder.device import Transfer
from tracer.recorder.device.weights import Weights
from tracer.recorder.minibatch import InFlight
from tracer.schedule import every
from tracer.writer.staging import Staging

META = torch.device("meta")  # knows shapes and no values: to look at one raises


@pytest.fixture
def slow(monkeypatch):
    """Everything goes through a slow stream, and little may be on its way."""
    stream = SlowLane()
    monkeypatch.setattr(device, "copy_stream_of", lambda _: stream)
    made = device.Transfer.__init__
    monkeypatch.setattr(device.Transfer, "__init__", lambda self, limit=0: made(self, 20_000))
    return stream


def test_late_copies_in_any_order_make_the_same_archive(everything, tmp_path, slow):
    record_everything(tmp_path / "slow.zarr")
    expected, found = arrays_of(everything), arrays_of(tmp_path / "slow.zarr")
    assert expected.keys() == found.keys() and any(name.startswith("minibatch/") for name in found)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert slow.fetched > 50 and slow.out_of_order > 5 and not slow.waiting


def test_an_update_right_after_a_snapshot_does_not_reach_it(tmp_path, slow):
    expected = updates_at_once(tmp_path / "run.zarr", "cpu", 100)
    check_updates_at_once(tmp_path / "run.zarr", expected)
    assert slow.fetched >= 200 and slow.most > 1
    assert len(slow.buffers) < 150, "the memory of weights is not used again"  # each scalar has its own


def test_memory_is_taken_together_and_only_after_it_was_released(slow):
    transfer = device.Transfer()
    half = torch.arange(2000, dtype=torch.float64)  # of 16,000 bytes, where 20,000 may be out
    first = transfer.send({"a": half, "b": torch.ones(3, dtype=torch.bfloat16)})
    sent = threading.Event()
    later = []

    def send():
        later.append(transfer.send({"a": half + 1}))
        sent.set()

    thread = threading.Thread(target=send)
    thread.start()
    first.shipment.wait()
    assert first.arrays["a"].tolist() == half.tolist() and first.arrays["b"].dtype == np.float32
    assert not sent.is_set()
    address = first.arrays["a"].ctypes.data
    first.shipment.release()
    thread.join()
    later[0].shipment.wait()
    assert later[0].arrays["a"].ctypes.data == address and later[0].arrays["a"][0] == 1


def test_a_snapshot_larger_than_the_limit_goes_alone():
    staging = Staging(100)
    big = staging.copies(np.zeros(20), np.zeros(20))
    staging.give_back(*big)
    assert len(staging.copies(np.zeros(20), np.zeros(30))) == 2


class Fails(SlowLane):
    """A device that breaks down."""

    def fetch(self, pairs):
        raise RuntimeError("device lost")


def test_a_device_that_fails_is_heard_of(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "copy_stream_of", lambda _: Fails())
    with pytest.raises((RuntimeError, RecordError), match="device lost"):
        run_loop(tmp_path / "run.zarr")


def elsewhere(tensor):
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=META)


OFTEN = ("CNN", "ViT")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in OFTEN)) for name in zoo.MODELS]
)
def test_a_probe_pass_on_an_accelerator_looks_at_no_value(name):
    model, x, y = zoo.build(name, n=5)
    network = zoo.traced(name)
    capture = {"activations": 4, "gradients": 3}
    probes = {"train": Probe(x, y, split="train", capture=capture), "test": Probe(x, y, split="test")}
    seen = ProbePass(network, probes, tensors=named_tensors(model), gradients="exact", chunk=2)
    expected = seen.run(named_tensors(model), seen.streams)
    seen.device = META
    for probe in seen._probes:
        probe._trees = [rebuild(tree, iter(map(elsewhere, leaves_of(tree)))) for tree in probe._trees]
    network._constants_on[META] = {
        ("constant", key): elsewhere(value) for key, value in network.constants.items()
    }
    tensors = {key: elsewhere(tensor) for key, tensor in named_tensors(model).items()}
    found = seen.observe(tensors, seen.streams)
    shapes = {(group, key): value.shape for group, arrays in found.items() for key, value in arrays.items()}
    assert shapes == {(g, k): value.shape for g, arrays in expected.items() for k, value in arrays.items()}
    assert {value.device for arrays in found.values() for value in arrays.values()} == {META}


@pytest.mark.parametrize(
    "name", ["CNN", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ViT", "GPT"))]
)
def test_capture_in_flight_on_an_accelerator_looks_at_no_value(name, monkeypatch):
    class NoCopy(SlowLane):
        def fetch(self, pairs):
            self.fetched += len(pairs)
            return torch.cuda.Event  # never asked

    stream = NoCopy()
    monkeypatch.setattr(device, "copy_stream_of", lambda _: stream)
    model, x, y = zoo.build(name, n=5)
    network = zoo.traced(name)
    with torch.no_grad():
        rule = correctness_of(zoo.loss, model.eval()(x), y)
    model, x, y = model.train().to(META), elsewhere(x), elsewhere(y)
    notes = []
    wanted = {"loss": None, "correct": None, "sums": None, "masks": every(1)}
    flight = InFlight(model, network, wanted, loss=zoo.loss, note=notes.append, rule=rule)
    flight.attach()
    for inputs, targets in flight.follow([(x, y)], [0], lambda: (1, 1, np.arange(5))):
        zoo.loss(model(inputs), targets).backward()
    captured = flight.collect()
    flight.detach()
    assert captured.masked and stream.fetched > 2
    assert not notes or name == "GPT"  # whose words have no one class


def test_weights_of_several_types_are_copied_once_from_where_the_model_is():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(torch.bfloat16)
    weights = Weights(model, {})
    before = weights.read()
    staged, shipment = Transfer().send(weights.take())
    shipment.wait()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.add_(1)
    assert staged.keys() == before.keys() == {"float32", "int64"}
    assert all(np.array_equal(staged[name], before[name]) for name in before)
    assert not np.array_equal(weights.read()["float32"], before["float32"])
    elsewhere = Weights(model.to(META), {}).take()
    assert {part.device for parts in elsewhere.values() for part in parts} == {META}


def forms():
    torch.manual_seed(0)
    words = Scatter(torch.randint(0, 4, (6, 5)), torch.randn(6, 5, 3), 7)
    tokens = Outer(torch.randn(6, 4, 3), torch.randn(6, 4, 5) * 1e-25, bias=True)
    opposed = Outer(torch.randn(6, 1, 3).repeat(1, 2, 1), torch.randn(6, 1, 5).repeat(1, 2, 1))
    opposed.z[:, 1] *= -1 + 1e-4
    return {
        "words": words,
        "tiny": tokens,
        "opposed": opposed,
        "one": Outer(tokens.a[:, :1], tokens.z[:, :1]),
    }


@pytest.mark.parametrize("name", forms())
def test_products_that_look_at_no_value_are_the_same(name, monkeypatch):
    form = forms()[name]
    expected, rows = inner_products(form), form.rows()
    monkeypatch.setattr(products, "may_look", lambda tensor: False)
    assert cosine_error(inner_products(form), expected) < 1e-6
    torch.testing.assert_close(form.rows(), rows)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(inner_products(form), inner_products(form))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_module_is_made_differentiable_without_another_function(kind):
    torch.manual_seed(0)
    module, x = kind(3, 4, num_layers=2, dropout=0.5).eval(), torch.randn(5, 2, 3)
    expected = module(x)[0]
    wanted = torch.autograd.grad(expected.square().sum(), list(module.parameters()))
    _differentiable(module)
    out = module(x)[0]
    assert torch.equal(out, expected)
    found = torch.autograd.grad(out.square().sum(), list(module.parameters()))
    assert all(map(torch.equal, found, wanted))


def test_a_table_of_such_a_module_is_as_good(monkeypatch):
    model, x, y = zoo.build("LSTM", n=3, dropout=0.3)
    monkeypatch.setattr(copies, "_on_cuda", lambda module: True)
    network = trace(model, x, y, zoo.loss)
    (row,) = [row for row in network.rows if row.op == "aten.lstm.input"]
    assert row.args[5:7] == [{"float": (0.0).hex()}, True] and not network.random_rows
    again = read(network.to_json(), network.constants)
    with torch.no_grad():
        torch.testing.assert_close(again.run(named_tensors(model), x)[0], model.eval()(x))
    tensors = named_tensors(model)
    seen = ProbePass(network, {"train": Probe(x, y, split="train")}, tensors=tensors, gradients="gram")
    products, expected = seen.run(tensors, {"gradients"}), per_example(model, zoo.loss, x, y)
    for layer, found in zip(network.layers, products["gram"]["gram"], strict=True):
        wanted = gram([expected[parameter] for parameter in layer.parameters])
        assert cosine_error(torch.from_numpy(found), wanted) < 1e-5


class Tick:
    """A point of a device's time."""

    def __init__(self, at, reached=True):
        self.at, self.reached = at, reached

    def query(self):
        return self.reached

    def elapsed_time(self, end):
        return 1000 * (end.at - self.at)


def test_a_budget_charges_what_a_device_works_behind_the_clock():
    now, work, last = [0.0], [0.0], []

    def mark():
        last.append(Tick(work[0], reached=False))
        return last[-1]

    budget = Budget(0.5, lambda: now[0])
    budget.start(mark)
    now[0] = 10.0
    with budget.measured({"masks"}):
        now[0] += 0.1
        work[0] += 4.0
    assert budget.expected({"masks"}) == pytest.approx(0.1)
    last[-1].reached = True
    now[0] += 4.0  # 10 s of training so far, of which half may be spent
    assert not budget.allows(2, {"masks"})  # 4 were, and 4 more would be
    assert budget.expected({"masks"}) == pytest.approx(4.0)
    now[0] += 6.1
    assert budget.allows(3, {"masks"})


def test_what_a_captured_graph_would_hide_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(ValueError, match="optimizer=None"):
        device.refuse_capture()


def test_arrays_of_no_elements_travel_too():
    lane_buffer = np.empty(0, np.uint8)
    empty = torch.empty(3, 0, dtype=torch.float64)
    assert device.host_for(empty, lane_buffer).shape == (3, 0)
