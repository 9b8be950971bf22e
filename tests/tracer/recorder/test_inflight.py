import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from tests import zoo
from tracer import bits
from tracer.errors import MissingTraceError, RecordError
from tracer.network import trace
from tracer.network.fixed_masks import by_example
from tracer.probe.observe import Units
from tracer.recorder.minibatch import InFlight, wanted
from tracer.recorder.minibatch.losses import correct_answers
from tracer.schedule import at, every
from tracer.spec.correctness import Correctness

EVERYTHING = {"loss": None, "correct": None, "sums": None, "masks": every(1)}


class Odd(nn.Module):
    """Aliases, a reused nonlinearity, functions in the root, a product with a parameter, attention."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.same = self.first
        self.act = nn.ReLU()
        self.again = self.act
        self.w = nn.Parameter(torch.randn(6, 8) * 0.3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        h = self.again(self.same(x)) + F.relu(x @ self.w)
        h = torch.clamp(self.act(self.first(x)).add(0).sub_(0.2), min=0).add(h).clamp(max=50)
        h = F.relu_(self.normed(h) + 0.1) + F.leaky_relu(h, 0.1, inplace=False)
        h = self.encoder(torch.stack([h, h.tanh()], 1)).mean(1)
        return self.last(F.tanhshrink(h).relu())


def odd(n=5):
    torch.manual_seed(0)
    return Odd(), torch.rand(n, 6), torch.arange(n) % 3


def flight_over(model, network, loss=F.cross_entropy):
    notes = []
    return InFlight(model, network, EVERYTHING, loss=loss, note=notes.append), notes


def unused_hooks(model):
    return not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def captured_of(model, x, y, loss, network=None, passes=1):
    """One update, its batch in `passes` forward passes; returns what was captured, and the notes."""
    network = network or trace(model, x, y, loss)
    flight, notes = flight_over(model, network, loss)
    flight.attach()
    n = len(x)
    for bx, by in flight.follow([(x, y)], [0], lambda: (1, 1, np.arange(n))):
        for part in torch.arange(n).tensor_split(passes):
            loss(model(bx[part]), by[part]).backward()
    captured = flight.collect()
    flight.detach()
    columns = {
        "pre": np.full((n, len(network.calls)), np.nan),
        "post": np.full((n, len(network.sites)), np.nan),
        "loss": np.full(n, np.nan),
        "correct": np.full(n, -1),
    }
    return captured.fill(columns) | {"bits": captured.bits(Units.of(network.sites))}, notes, network


def by_the_table(network, model, x, y):
    """The same numbers from the table, on the model's weights."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    pre, post, masks = {}, {}, {}
    calls = {network.rows[call.row].name: i for i, call in enumerate(network.calls)}
    sites = {network.rows[site.row].name: i for i, site in enumerate(network.sites)}

    def visit(row, values, out):
        if row.name in calls:
            pre[calls[row.name]] = by_example(out, row, len(x)).double().sum(1).numpy()
        if row.name in sites:
            site = network.sites[sites[row.name]]
            post[sites[row.name]] = by_example(out, row, len(x)).double().sum(1).numpy()
            if site.has_mask:
                masks[sites[row.name]] = bits.pack(
                    (by_example(values[site.argument], row, len(x)) > 0).numpy()
                )

    with torch.no_grad():
        _, losses = network.run(tensors, x, y, visit=visit)
    joined = [masks[i] for i in sorted(masks)]
    return {
        "pre": np.stack([pre[i] for i in range(len(calls))], 1),
        "post": np.stack([post[i] for i in range(len(sites))], 1) if post else np.empty((len(x), 0)),
        "loss": losses.numpy(),
        "bits": np.concatenate(joined) if joined else np.empty((0, -(-len(x) // 8)), np.uint8),
    }


@functools.cache
def traced(name):
    """A model that does the same in training and eval mode, examples of its own, and its table."""
    model, x, y = odd(11) if name == "odd" else zoo.build(name, n=11, dropout=0.0)
    loss = F.cross_entropy if name == "odd" else zoo.loss
    return model, x, y, loss, trace(model, x, y, loss) if name == "odd" else zoo.traced(name)


BATCH_NORMED = ("ResNet6", "ResNet18", "VGG19BN")
STEADY = [
    *(one for one in zoo.EACH if one.values[0] not in BATCH_NORMED),
    "odd",
]  # the same in train and eval mode


@pytest.mark.parametrize("passes", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("name", STEADY)
def test_names_and_values_are_those_of_the_table(name, passes):
    model, x, y, loss, network = traced(name)
    expected = by_the_table(network, model, x, y)
    got, notes, _ = captured_of(model, x, y, loss, network, passes)
    assert notes == [] or (name == "GPT" and len(notes) == 1 and "several answers" in notes[0])
    for array in ("pre", "post", "loss"):
        np.testing.assert_allclose(got[array], expected[array], rtol=2e-5, atol=2e-5, err_msg=array)
    np.testing.assert_array_equal(got["bits"], expected["bits"])
    if name != "GPT":
        with torch.no_grad():
            np.testing.assert_array_equal(got["correct"], (model(x).argmax(1) == y).numpy())


@pytest.mark.parametrize("name", [one for one in zoo.EACH if one.values[0] in BATCH_NORMED])
def test_batch_normalised_models_are_seen_in_training_mode(name):
    model, x, y = zoo.build(name, n=6)
    plain = copy.deepcopy(model).train()
    outputs, places = {}, {}
    for path, module in plain.named_modules():
        if isinstance(module, nn.ReLU | nn.Conv2d | nn.Linear):
            module.inplace = False
            module.register_forward_hook(
                lambda _, args, out, path=path: outputs.setdefault(path, []).append(
                    (args[0].detach(), out.detach())
                )
            )
    with torch.no_grad():
        plain(x)
    got, notes, network = captured_of(model.train(), x, y, zoo.loss, zoo.traced(name))
    assert notes == []
    units = Units.of(network.sites)
    for i, item in enumerate([*network.calls, *network.sites]):
        path, _, k = item.name.partition("#")
        before, out = outputs[path][int(k or 1) - 1]
        sums = out.double().flatten(1).sum(1).numpy()
        position = i - len(network.calls)
        values = got["pre"][:, i] if position < 0 else got["post"][:, position]
        np.testing.assert_allclose(values, sums, rtol=1e-5, atol=1e-4)
        if position >= 0:
            start = units.masks[position]
            mask = bits.unpack(got["bits"][start : start + item.n_units], len(x))
            np.testing.assert_array_equal(mask, (before > 0).flatten(1).numpy())
            places[item.name] = start
    assert len(places) == len(network.sites) > 4


class Switch(nn.Module):
    """One more ReLU in training, and an exception on demand."""

    def __init__(self, more=True):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.more, self.fail = more, False

    def forward(self, x):
        h = F.relu(self.first(x))
        if self.training and self.more:
            h = F.relu(h - 0.1)
        if self.fail:
            raise KeyError("asked to")
        return self.last(h)


@functools.cache
def switch_table():
    return trace(Switch(), torch.rand(4, 6), torch.arange(4) % 3, F.cross_entropy)


def batch(n=6):
    return torch.rand(n, 6), torch.arange(n) % 3


def test_what_may_be_another_site_than_the_table_means_is_undefined():
    got, notes, _ = captured_of(Switch(), *batch(), F.cross_entropy, switch_table())
    assert len(notes) == 2 and ":relu#2" in notes[0] and "does not have" in notes[0]
    assert "did not show :relu:" in notes[1]
    assert np.isnan(got["post"]).all() and not np.isnan(got["pre"]).any()


def losses_after(visit, model=None):
    """Losses captured of one update of a small model, of what `visit(model, x, y)` does with its batch."""
    model = model or Switch(more=False)
    x, y = batch()
    flight, notes = flight_over(model, switch_table())
    flight.attach()
    model(x)  # no batch was delivered: not of any update
    for bx, by in flight.follow([(x, y)], [0], lambda: (1, 1, np.arange(len(x)))):
        visit(model, bx, by)
    captured = flight.collect()
    model(x)
    assert flight.collect() is None
    flight.detach()
    assert unused_hooks(model)
    with torch.no_grad():
        return (
            captured.fill({"loss": np.full(6, np.nan)})["loss"],
            F.cross_entropy(model(x), y, reduction="none"),
            notes,
        )


def evaluated(model, x, y):
    model.eval()(x)
    model.train()


def without_gradient(model, x, y):
    with torch.no_grad():
        model(x)


@pytest.mark.parametrize("visit", [evaluated, without_gradient])
def test_forward_passes_that_do_not_train_are_not_captured(visit):
    losses, _, notes = losses_after(visit)
    assert np.isnan(losses).all() and "No training forward pass" in notes[0]
    losses, expected, notes = losses_after(lambda *args: (visit(*args), args[0](args[1])))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert notes == []


def test_only_the_first_pass_over_a_batch_counts():
    losses, expected, notes = losses_after(lambda model, x, y: (model(x), model(x + 1), model(x[:2])))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert len(set(notes)) == 1 and "only the first pass" in notes[0]


def test_examples_that_were_not_seen_stay_undefined():
    losses, expected, _ = losses_after(lambda model, x, y: model(x[:4]))
    np.testing.assert_allclose(losses[:4], expected[:4], rtol=1e-6)
    assert np.isnan(losses[4:]).all()


def test_an_exception_in_the_forward_pass_leaves_nothing_behind():
    model = Switch(more=False)

    def failing(model, x, y):
        model.fail = True
        with pytest.raises(KeyError):
            model(x)
        assert not _get_current_function_mode_stack()
        model.fail = False
        model(x)

    losses, expected, notes = losses_after(failing, model)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert notes == []


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_a_compiled_model_is_not_compiled_again():
    torch._dynamo.reset()
    model = Switch(more=False)
    compiled = torch.compile(model, backend="eager")
    x, y = batch()
    F.cross_entropy(compiled(x), y).backward()
    before = graphs()
    flight, notes = flight_over(compiled, switch_table())
    assert len(notes) == 1 and "recompile" in notes[0] and flight.card["captured"] == ["loss", "correct"]
    flight.attach()
    for bx, _ in flight.follow([(x, y)], [0], lambda: (1, 1, np.arange(6))):
        expected = F.cross_entropy(compiled(bx), y, reduction="none")
    got = flight.collect().fill({"loss": np.full(6, np.nan)})["loss"]
    flight.detach()
    compiled(x)
    assert graphs() == before
    np.testing.assert_array_equal(got.astype(np.float32), expected.detach().numpy())
    inside = Switch(more=False)
    inside.compile(backend="eager")  # hooks would be compiled with it
    flight, notes = flight_over(inside, switch_table())
    flight.attach()
    assert unused_hooks(inside)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch.compile's own
def test_beside_compiled_parts_only_modules_are_seen():
    torch._dynamo.reset()
    x, y = batch()
    plain = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 3)
    )
    network = trace(plain, x, y, F.cross_entropy)
    expected = by_the_table(network, plain, x, y)
    plain[2] = torch.compile(plain[2], backend="eager")
    F.cross_entropy(plain(x), y).backward()
    before = graphs()
    got, notes, _ = captured_of(plain, x, y, F.cross_entropy, network)
    assert graphs() == before
    assert len(notes) == 2 and "parts of the model are compiled" in notes[0] and "2.0, 2.1" in notes[1]
    for array, seen in (("pre", [True, False, True]), ("post", [True, False])):
        np.testing.assert_array_equal(~np.isnan(got[array]).any(0), seen)
        np.testing.assert_allclose(got[array][:, seen], expected[array][:, seen], rtol=1e-5)
    np.testing.assert_array_equal(got["bits"][:8], expected["bits"][:8])


def test_half_precision_under_autocast():
    x, y = batch()
    model = Switch(more=False)
    flight, notes = flight_over(model, switch_table())
    flight.attach()
    for bx, by in flight.follow([(x, y)], [0], lambda: (1, 1, np.arange(6))):
        with torch.autocast("cpu", torch.bfloat16):
            F.cross_entropy(model(bx), by).backward()
    captured = flight.collect()
    got = captured.fill({"pre": np.full((6, 2), np.nan), "loss": np.full(6, np.nan)})
    flight.detach()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_allclose(got["pre"][:, 0], model.first(x).float().sum(1), rtol=1e-5, atol=1e-5)
        losses = F.cross_entropy(model(x), y, reduction="none").float()
    np.testing.assert_allclose(got["loss"], losses, rtol=1e-6)
    assert notes == [] and captured.bits(Units.of(switch_table().sites)).any()


def test_what_can_be_asked_for():
    assert wanted(None, every(3)) == {} and list(wanted(True, every(3))) == [
        "loss",
        "correct",
        "sums",
        "masks",
    ]
    assert wanted(["sums"], every(3)) == {"sums": None} and wanted({"loss": False}, every(3)) == {}
    schedule = at([1])
    assert wanted({"sums": True, "masks": schedule}, every(3))["masks"] is schedule
    for wrong, message in [
        ("sums", "expected True"),
        ({"sum"}, "did you mean"),
        ({"loss": every(2)}, "masks take"),
    ]:
        with pytest.raises(RecordError, match=message):
            wanted(wrong, every(3))


def test_correctness_is_known_of_one_answer_only():
    def answers(scores, targets):
        rule = Correctness.inferred(tuple(scores.shape), targets.numpy())
        return correct_answers(rule, scores, targets).tolist()

    scores = torch.tensor([[0.0, 2.0, 1.0], [4.0, 4.0, 1.0], [0.0, float("nan"), 1.0]])
    assert answers(scores, torch.tensor([1, 0, 1])) == [1, 1, -1]
    assert answers(scores[:, :1], torch.tensor([[0], [1], [1]])) == [1, 1, 0]
    assert answers(scores[:, 2], torch.tensor([True, False, True])) == [1, 0, 1]
    with pytest.raises(MissingTraceError, match="are not classes"):
        answers(scores, torch.rand(3, 3))
    with pytest.raises(MissingTraceError, match="are not classes"):
        answers(scores, torch.zeros(3, 2, dtype=torch.long))
    with pytest.raises(MissingTraceError, match="are not classes"):
        answers(scores[..., None], torch.tensor([1, 0, 1]))
    with pytest.raises(MissingTraceError, match="several answers"):
        answers(scores[:2, :, None].expand(2, 3, 4), torch.zeros(2, 4, dtype=torch.long))
