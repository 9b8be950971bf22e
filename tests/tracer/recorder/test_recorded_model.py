"""A model that is being recorded behaves as one that is not: it grows, is copied, saved, moved and rebuilt."""

import copy
import io
import pickle
import random
import warnings
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.data import DataLoader, Dataset

import tracer
from tests.loops import blobs
from tracer.errors import MissingTraceError
from tracer.recorder import RecordWarning


@contextmanager
def heard():
    """Sentences a recording warned of, in a list."""
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RecordWarning)
        yield said
    said += [str(warning.message) for warning in caught]
    assert {warning.category for warning in caught} <= {RecordWarning}


def small(*more):
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), *more)


class Augmented(Dataset):
    """Draws from every stream there is, its own generators among them, whenever an item is read."""

    def __init__(self):
        self.x, self.y = blobs(12)
        self.generator, self.numbers = torch.Generator().manual_seed(3), np.random.default_rng(4)

    def __len__(self):
        return 12

    def __getitem__(self, i):
        everyone = torch.rand(()) + float(random.random() + np.random.rand())
        own = torch.rand((), generator=self.generator) + float(self.numbers.random())
        return self.x[i] + everyone + own, self.y[i]


def test_probes_of_a_random_dataset_change_nothing_and_are_said_to_be_random():
    notes = []

    def train(record):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        model, dataset = small(), Augmented()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        probes = {"train": (dataset, range(5)), "test": tracer.Probe(dataset, range(5, 9))}
        with record("a", model, optimizer, loss=F.cross_entropy, probes=probes, data=dataset) as run:
            for x, y in run.batches(DataLoader(dataset, 4, shuffle=True)):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            notes.extend(run.notes)

    with heard() as said:
        verdict = tracer.check(train)
    assert sum("one random augmentation of each example" in sentence for sentence in said) == 2
    assert verdict.steps == 3 and set(verdict.table.values()) == {"identical"}, str(verdict)
    assert [note[:13] for note in notes[:2]] == ["Probe 'train'", "Probe 'test':"]
    assert not tracer.Probe(torch.utils.data.TensorDataset(*blobs(4)), None).varying


class Query(nn.Module):
    """Views of parameters are the input of a layer, of a nonlinearity and of the loss."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 4))
        self.out = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x):
        return self.out(F.relu(self.query.expand(len(x), -1)) + self.query) + x[:, :3]


@pytest.mark.parametrize("probed", [False, True])
def test_memory_of_a_recorded_model_can_be_resized(tmp_path, probed):
    model, (x, y) = Query(), blobs(80)
    probes = {"train": (x, y)} if probed else {}
    with tracer.record(
        tmp_path / "a", model, None, loss=F.cross_entropy, probes=probes, minibatch=probed
    ) as run:
        run.step(ids=torch.arange(3))
        tracer.recorder.neutrality.state_digests(model, None)
    for tensor in (*model.parameters(), *model.buffers(), x, y):
        assert tensor.untyped_storage().resizable()


def test_weights_of_every_dtype_are_those_of_the_model(tmp_path):
    model = small(nn.BatchNorm1d(3)).to(torch.bfloat16)
    model.register_buffer("wide", torch.rand(3, dtype=torch.float64))
    model.register_buffer("empty", torch.empty(0, 2))
    with tracer.record(tmp_path / "a", model, None, probes={}) as run:
        run.step()
    stored = tracer.open(tmp_path / "a").weights(1)
    assert stored["0.weight"].dtype == np.float32 and stored["empty"].shape == (0, 2)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(stored[name], tensor.to(torch.float64).numpy())


@pytest.mark.parametrize("minibatch", [False, True, ("loss",)])
def test_a_recorded_model_can_be_copied_and_saved(tmp_path, minibatch):
    model, (x, y) = small(), blobs(8)
    probes = {"train": (x, y)}
    options = {"loss": F.cross_entropy, "probes": probes, "minibatch": minibatch}
    with heard() as said, tracer.record(tmp_path / "a", model, None, **options) as run:
        for inputs, targets in run.batches([(x, y)], ids=lambda _: range(8)):
            buffer = io.BytesIO()
            torch.save(model, buffer)
            buffer.seek(0)
            copies = [
                copy.deepcopy(model),
                pickle.loads(pickle.dumps(model)),
                torch.load(buffer, weights_only=False),
                torch.optim.swa_utils.AveragedModel(model).module,
                copy.copy(model),
            ]
            assert b"tracer" not in buffer.getvalue()
            for other in copies:
                assert torch.equal(other(inputs), model(inputs))
            copies[0](inputs[:3])  # no forward pass of the recorded model
            F.cross_entropy(model(inputs), targets).backward()
            run.step()
    assert not [sentence for sentence in said if "more examples" not in sentence]
    if minibatch:
        archive = tracer.open(tmp_path / "a")
        expected = F.cross_entropy(model(x), y, reduction="none").detach()
        np.testing.assert_allclose(archive.minibatch.loss(1), expected, rtol=1e-6)


def test_scripting_a_model_with_hooks_on_it_is_refused_in_a_sentence(tmp_path):
    model = small()
    with tracer.record(tmp_path / "a", model, None, probes={}, loss=F.cross_entropy, minibatch=["loss"]):
        with (
            warnings.catch_warnings(action="ignore"),
            pytest.raises(AttributeError, match="script the model once the recording is closed"),
        ):
            torch.jit.script(model)
        assert [getattr(hook, "__name__", "") for hook in model._forward_hooks.values()] == [""]
    assert not model._forward_hooks


def test_a_layer_frozen_for_a_while_is_no_change(tmp_path):
    model, (x, y) = small(), blobs(8)
    options = {"loss": F.cross_entropy, "probes": {"train": (x, y)}, "snapshots": tracer.every(1)}
    with heard() as said, tracer.record(tmp_path / "a", model, None, **options) as run:
        for step in range(6):
            model[0].requires_grad_(step not in (1, 2, 4))
            run.step()
    assert said == [] and tracer.open(tmp_path / "a").steps("gradients").tolist() == list(range(7))


class Cache(nn.Module):
    """Keeps a buffer that grows with training, as rotary embeddings do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("cos", torch.ones(2), persistent=False)

    def forward(self, x):
        if self.training:
            self.cos = torch.ones(len(self.cos) + 1)
        return self.layer(x)


def replace(place, module):
    def change(model):
        model[place] = module()

    return change


def frozen():
    model = small()
    model[0].requires_grad_(False)
    return model


CHANGES = {  # how it is made, how it changes, what the note says, which streams go on
    "pruned": (
        small,
        lambda model: prune.l1_unstructured(model[0], "weight", amount=0.5),
        "'0.weight' is gone, '0.weight_orig' is new",
        (),
    ),
    "parametrization removed": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 3))),
        lambda model: parametrize.remove_parametrizations(model[0], "weight"),
        "'0.parametrizations.weight.original0' is gone",
        (),
    ),
    "new head": (
        small,
        replace(2, lambda: nn.Linear(4, 5)),
        "'2.weight' has shape (5, 4) instead of (3, 4)",
        (),
    ),
    "adapter": (small, lambda model: model.append(nn.Linear(3, 3)), "'3.weight' is new", ()),
    "unfrozen": (
        frozen,
        lambda model: model[0].requires_grad_(True),
        "'0.weight' has become trainable",
        ("weights", "outputs", "masks", "gradients"),
    ),
    "other nonlinearity": (
        small,
        replace(1, nn.Tanh),
        "module '1' is another one",
        ("weights", "outputs", "gradients"),
    ),
    "growing buffer": (
        Cache,
        lambda model: None,
        "'cos' has shape",
        ("weights", "outputs", "gradients"),
    ),
    "precision": (small, lambda model: model.double(), "'0.weight' is torch.float64", ()),
}


# Without probes one by default: what else is recorded then is the same of all. With them, of tensors that are gone
# or new two.
UNPROBED = ("new head",)
RARE = ("parametrization removed", "adapter")


@pytest.mark.parametrize(
    ("name", "probed"),
    [
        pytest.param(
            name, probed, marks=[pytest.mark.slow] * (name in RARE if probed else name not in UNPROBED)
        )
        for name in CHANGES
        for probed in (False, True)
    ],
)
def test_a_model_that_changes_goes_on_training(tmp_path, name, probed):
    make, change, said, streams = CHANGES[name]
    x, y = blobs(8)

    def train(run=None):
        torch.manual_seed(0)
        model = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with run(model, optimizer) if run else nullcontext() as recorder:
            for step in range(4):
                if step == 2:
                    change(model)
                    optimizer.param_groups[0]["params"] = list(model.parameters())
                F.cross_entropy(model(x.to(next(model.parameters()).dtype)), y).backward()
                optimizer.step()
                optimizer.zero_grad()
            return recorder, list(model.parameters())

    def record(model, optimizer):
        probes = {"train": (x, y)} if probed else {}
        return tracer.record(
            tmp_path / "a", model, optimizer, loss=F.cross_entropy, probes=probes, snapshots=tracer.every(1)
        )

    with heard() as sentences:
        run, recorded = train(record)
    assert run.notes == sentences and any("the model has changed" in x and said in x for x in sentences)
    assert all(map(torch.equal, recorded, train()[1]))
    archive = tracer.open(tmp_path / "a")
    assert archive.rows["step"].tolist() == [0, 1, 2, 3, 4] and archive.state == "complete"
    if probed:
        for stream in ("weights", "outputs", "masks", "gradients"):
            if stream == "masks" and name in ("growing buffer", "parametrization removed"):
                continue
            last = archive.steps("gram" if stream == "gradients" else stream)[-1]
            assert last == (4 if stream in streams else 2), stream
    else:
        assert archive.steps("weights")[-1] == 4


def test_weights_that_no_longer_fit_are_nan_and_the_others_true(tmp_path):
    model = small()
    with tracer.record(tmp_path / "a", model, None, probes={}, snapshots=tracer.every(1)) as run:
        run.step()
        model[2] = nn.Linear(4, 5)
        model.half()
        with heard() as said:
            run.step()
    assert "From step 2 on the weights '2.bias', '2.weight' are NaN." in said
    archive = tracer.open(tmp_path / "a")
    last = archive.weights(2)
    assert np.isnan(last["2.weight"]).all() and not np.isnan(archive.weights(1)["2.weight"]).any()
    np.testing.assert_array_equal(last["0.weight"], model[0].weight.detach().float().numpy())


def test_whatever_a_pass_raises_does_not_reach_the_training(tmp_path, monkeypatch):
    from tracer.probe import ProbePass

    model, (x, y) = small(), blobs(8)
    with tracer.record(
        tmp_path / "a", model, None, loss=F.cross_entropy, probes={"train": (x, y)}, snapshots=tracer.every(1)
    ) as run:
        run.step()
        monkeypatch.setattr(ProbePass, "observe", lambda *_: {}["nothing"])
        with heard() as said:
            run.step()
        assert "At step 2 the probes could not be observed (KeyError" in said[0]
        run.step()
    archive = tracer.open(tmp_path / "a")
    assert archive.steps("weights").tolist() == [0, 1, 2, 3] and archive.steps("outputs").tolist() == [0, 1]
    with pytest.raises(MissingTraceError):
        archive.probes["train"].outputs(3)


class Tempered(nn.Module):
    """Reads a number that is no tensor, which training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.temperature = nn.Linear(6, 3), 1.0

    def forward(self, x):
        return self.layer(x) / self.temperature


@pytest.mark.parametrize("changes", [(18,), (5, 7)], ids=["at the end", "twice"])
def test_a_number_that_changes_between_two_comparisons_is_told_and_followed(tmp_path, changes):
    torch.manual_seed(0)
    model, (x, y) = Tempered(), blobs(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outputs, steps = {}, [1, 2, 4, 6, 8, 10, 16, 18, 20]  # of which 6, 10, 18 and 20 are ends of epochs, say
    settings = {"probes": {"train": (x, y)}, "loss": F.cross_entropy, "snapshots": tracer.at(steps)}
    with (
        pytest.warns(RecordWarning, match="no longer computes what was traced"),
        tracer.record(tmp_path / "a.zarr", model, optimizer, **settings) as run,
    ):
        for step in range(1, 21):
            if step in changes:
                model.temperature += 1.0
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            outputs[step] = model(x).detach().numpy()
    (note,) = [note for note in run.notes if "no longer computes" in note]
    with tracer.open(tmp_path / "a.zarr") as archive:
        recorded = {step: archive.probes["train"].outputs(step) for step in steps[3:]}
    right = {step for step, values in recorded.items() if np.allclose(values, outputs[step], atol=1e-6)}
    if changes == (18,):  # by then nothing can be put right
        assert note.startswith("At the end ") and "recorded after step 16" in note and "buffer" in note
        assert right == {6, 8, 10, 16}
    else:
        assert note.startswith("At step 8 ") and "between steps 4 and 8 the one before" in note
        assert right == {8, 10, 16, 18, 20}


def test_a_model_that_is_rebuilt_after_the_last_snapshot_is_not_compared_with_what_was_recorded(tmp_path):
    model, (x, y) = small(), blobs(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"probes": {"train": (x, y)}, "loss": F.cross_entropy, "snapshots": tracer.at([1, 3])}
    with tracer.record(tmp_path / "a.zarr", model, optimizer, **settings) as run:
        for _ in range(3):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.append(nn.Linear(3, 3))
    assert not [note for note in run.notes if "At the end" in note]
    assert tracer.open(tmp_path / "a.zarr").state == "complete"
