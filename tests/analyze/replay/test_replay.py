import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from analyze.replay import Examples, Replay
from tests import zoo
from tests.loops import blobs, mlp, run_loop
from tracer.errors import ArchiveError, MissingTraceError
from tracer.materialize.rewrite import Additions, rewrite
from tracer.recorder import RecordWarning

EVERY = {"outputs": None, "sums": None, "masks": None, "gradients": None, "activations": None}


def probes(x, y, n=12):
    return {
        "train": tracer.Probe(x[:n], y[:n], capture=EVERY),
        "test": tracer.Probe(x[n:], y[n:], capture=EVERY),
    }


# The last has convolutions and what becomes of them; without its shortcuts and statistics they are slow.
@pytest.fixture(scope="module", params=["mlp", pytest.param("cnn", marks=pytest.mark.slow), "resnet"])
def recorded(request, tmp_path_factory):
    """A run that recorded everything of everything, and its model after training."""
    path = tmp_path_factory.mktemp(request.param) / "run.zarr"
    if request.param == "mlp":
        model, data = mlp(), blobs()
    elif request.param == "cnn":
        model, data = zoo.CNN(classes=3), blobs(shape=(3, 8, 8))
    else:
        model, data = (
            nn.Sequential(zoo.Block(3, 4, 2), nn.Flatten(), nn.Linear(64, 3)),
            blobs(shape=(3, 8, 8)),
        )
    model, *_ = run_loop(path, model, data=data, probes=probes(*data), snapshots=tracer.every(3))
    return tracer.open(path), model.eval(), data


def test_every_stream_comes_out_bit_for_bit_as_recorded(recorded):
    archive, _, _ = recorded
    for state in Replay(archive).states():
        assert state.exact is True
        for name, view in archive.probes.items():
            step = state.step
            np.testing.assert_array_equal(state.outputs(name).numpy(), view.outputs(step))
            np.testing.assert_array_equal(state.losses(name).numpy(), view.losses(step))
            for ours, theirs in zip(state.sums(name), view.sums(step), strict=True):
                np.testing.assert_array_equal(ours, theirs)
            masks, activations = state.masks(name), state.activations(name)
            assert list(masks) == list(activations) == archive.sites
            for site in archive.sites:
                np.testing.assert_array_equal(masks[site].numpy(), view.masks(site, step))
                np.testing.assert_array_equal(activations[site].numpy(), view.activations(site, step))


def test_gradients_and_their_products_come_out_bit_for_bit_as_recorded(recorded):
    archive, _, _ = recorded
    states = Replay(archive).states()
    joint = states.examples()
    state = states[-1]
    np.testing.assert_array_equal(state.gram(joint).numpy(), archive.gram(state.step))
    for name, values in state.per_example_gradients("test").items():
        np.testing.assert_array_equal(values.numpy(), archive.probes["test"].gradients(name, state.step))


def test_the_last_state_is_the_trained_model(recorded):
    archive, model, (x, y) = recorded
    state = Replay(archive).at(archive.snapshots[-1])
    model.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    assert state.loss(x, y) == pytest.approx(loss.item(), rel=1e-6)
    gradient = state.gradient(x, y)
    assert list(gradient) == state.parameters
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_other_weights_are_those_of_a_model_that_has_them(recorded):
    archive, model, (x, _) = recorded
    state = Replay(archive).at(0)
    model = copy.deepcopy(model)
    changes = {name: torch.randn_like(state.tensors[name]) for name in state.parameters[:2]}
    other = state.with_tensors(changes)
    model.load_state_dict({**state.tensors, **changes})
    with torch.no_grad():
        torch.testing.assert_close(other.outputs(x), model(x))
    assert other.exact is None and not torch.equal(other.outputs(x), state.outputs(x))
    assert torch.equal(state.outputs("train"), Replay(archive).at(0).outputs("train"))


def test_a_state_s_own_masks_reproduce_it_and_another_s_do_not(recorded):
    archive, _, _ = recorded
    replay = Replay(archive)
    first, last = replay.at(0), replay.at(archive.snapshots[-1])
    for state in (first, last):
        assert torch.equal(state.outputs("test", masks=state.masks("test")), state.outputs("test"))
    fixed = last.outputs("test", masks=first.masks("test"))
    assert not torch.equal(fixed, last.outputs("test"))


def test_with_every_gate_held_the_network_is_affine(trained):
    state = Replay(trained).at(0).double()
    test, masks = state.probe("test"), state.masks("test")
    base = state.outputs(torch.zeros_like(test.inputs), masks=masks)
    once, twice = (state.outputs(factor * test.inputs, masks=masks) - base for factor in (1, 2))
    torch.testing.assert_close(twice, 2 * once)


def test_the_twin_in_double_agrees_and_is_more_exact(recorded):
    archive, _, _ = recorded
    state = Replay(archive).at(0)
    twin = state.double()
    assert twin.dtype == torch.float64 == twin.outputs("train").dtype
    torch.testing.assert_close(twin.outputs("train").float(), state.outputs("train"))
    gradient, mean = twin.gradient("train"), twin.per_example_gradients("train")
    for name in state.parameters:
        torch.testing.assert_close(gradient[name], mean[name].mean(0), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(twin.gram("train").float(), state.gram("train").float(), rtol=1e-4, atol=1e-6)


def test_hessian_times_a_vector_is_the_change_of_the_gradient(recorded):
    archive, _, _ = recorded
    twin = Replay(archive).at(0).double()
    generator = torch.Generator().manual_seed(0)
    vector = {
        name: torch.randn(twin.tensors[name].shape, generator=generator, dtype=torch.float64)
        for name in twin.parameters
    }
    step = 1e-6
    ahead, behind = (
        twin.with_tensors({name: twin.tensors[name] + sign * step * v for name, v in vector.items()})
        for sign in (1, -1)
    )
    change = (ahead.flat(ahead.gradient("train")) - behind.flat(behind.gradient("train"))) / (2 * step)
    product = twin.flat(twin.hvp(vector, "train"))
    assert (product - change).norm() < 1e-5 * product.norm()


def test_memory_bounds_the_chunks_but_not_the_result(recorded):
    archive, _, (x, y) = recorded
    small, large = (Replay(archive, memory=memory).at(0) for memory in (1 << 14, 1 << 30))
    seen = []
    run = small.network.run
    small.network.run = lambda tensors, inputs, *rest, **options: (
        seen.append(len(inputs)) or run(tensors, inputs, *rest, **options)
    )
    many = Examples(x.repeat(8, *[1] * (x.ndim - 1)), y.repeat(8))
    torch.testing.assert_close(small.outputs(many), large.outputs(many))
    torch.testing.assert_close(small.flat(small.gradient(many)), large.flat(large.gradient(many)))
    assert len(seen) > 2 and max(seen) < many.n
    assert sum(seen) == 2 * many.n


def test_parameters_as_one_vector_and_back(trained):
    state = Replay(trained).at(0)
    vector = state.flat()
    assert vector.shape == (sum(state.tensors[name].numel() for name in state.parameters),)
    for name, tensor in state.unflat(vector).items():
        assert torch.equal(tensor, state.tensors[name])
    assert state.with_tensors(state.unflat(0 * vector)).outputs("train").unique().numel() == 1


@pytest.fixture(scope="module")
def trained():
    """A short run of a small network."""
    return _trained(mlp())


def _trained(model, *, keep=[], **options):  # noqa: B006 (the folder lives as long as the tests)
    import tempfile

    folder = tempfile.TemporaryDirectory()
    keep.append(folder)
    run_loop(f"{folder.name}/run.zarr", model, **{"epochs": 1, **options})
    return tracer.open(f"{folder.name}/run.zarr")


def test_batch_norm_statistics_taken_anew_are_those_of_a_training_pass(recorded):
    archive, model, (x, _) = recorded
    state = Replay(archive).at(archive.snapshots[-1])
    other = state.with_batch_norm_from(x)
    model = copy.deepcopy(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        assert other is state
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        model(x)
    model.eval()
    for name, buffer in model.named_buffers():
        if "running" in name:
            torch.testing.assert_close(other.tensors[name], buffer, rtol=1e-4, atol=1e-6)
    assert not torch.equal(other.outputs(x), state.outputs(x))


@pytest.mark.parametrize("array", ["weights", "probes/test/outputs", "probes/train/outputs"])
def test_a_changed_archive_is_found_out(recorded, tmp_path, array):
    archive, _, _ = recorded

    def changed(arrays):
        return {name: a * np.float32(1.001) if a.dtype.kind == "f" else a for name, a in arrays.items()}

    rewrite(archive, tmp_path / "tampered.zarr", Additions(adapt={array: changed}))
    with pytest.raises(ArchiveError, match=r"replaying step 0 does not reproduce.*largest difference"):
        Replay(tracer.open(tmp_path / "tampered.zarr")).at(0)


def test_what_differs_by_rounding_only_is_accepted_and_said(recorded, tmp_path):
    archive, _, _ = recorded

    def nudged(arrays):
        return {name: np.nextafter(values, np.float32(9)) for name, values in arrays.items()}

    rewrite(archive, tmp_path / "other.zarr", Additions(adapt={"probes/train/outputs": nudged}))
    assert Replay(tracer.open(tmp_path / "other.zarr")).at(0).exact is False


def test_without_outputs_nothing_is_checked():
    probe = tracer.Probe(*blobs(), capture={"outputs": 0})
    assert Replay(_trained(mlp(), probes={"train": probe})).at(0).exact is None


def test_what_is_missing_is_said(recorded):
    archive, _, _ = recorded
    replay = Replay(archive)
    with pytest.raises(MissingTraceError, match="no weights are recorded at step 7"):
        replay.at(7)
    with pytest.raises(MissingTraceError, match="no probe 'validation'"):
        replay.at(0).outputs("validation")
    with pytest.raises(MissingTraceError, match="no tensor 'weight'"):
        replay.at(0).with_tensors({"weight": torch.zeros(1)})
    with pytest.raises(MissingTraceError, match="needs targets"):
        replay.at(0).loss(blobs()[0])


class Bessel(nn.Module):
    """A model with an operation that no archive may run."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(torch.special.bessel_j0(x))


def test_an_operation_off_the_list_runs_only_with_the_user_s_own_model():
    with pytest.warns(RecordWarning, match="bessel"):
        archive = _trained(Bessel())
    with pytest.raises(ArchiveError, match=r"bessel_j0.*--model"):
        Replay(archive).at(0)
    state = Replay(archive, model=lambda: (Bessel(), F.cross_entropy)).at(0)
    assert state.exact is True and state.loss("train") > 0
    with pytest.raises(ArchiveError, match=r"not the recorded one: tensor '0.bias'"):
        Replay(archive, model=mlp).at(0)
    with pytest.raises(MissingTraceError, match="without a loss"):
        Replay(archive, model=Bessel).at(0).loss("train")


class Annealed(nn.Module):
    """A model whose forward reads an attribute that changes in training."""

    def __init__(self):
        super().__init__()
        self.inside, self.alpha = mlp(), 1.0

    def forward(self, x):
        return self.alpha * self.inside(x)


def test_each_step_has_the_network_of_its_time(tmp_path):
    model, (x, y) = Annealed(), blobs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.warns(RecordWarning, match="no longer computes"),
        tracer.record(
            tmp_path / "run.zarr",
            model,
            optimizer,
            loss=F.cross_entropy,
            probes={"train": (x, y)},
            snapshots=tracer.every(1),
        ),
    ):
        for step in range(4):
            model.alpha = 1.0 if step < 2 else 0.5
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    replay = Replay(tracer.open(tmp_path / "run.zarr"))
    assert replay.at(0).exact is True and replay.at(4).exact is True
    assert replay.network(0) is replay.network(1) is not replay.network(4)


def test_examples_are_cut_and_chosen_with_their_ids(recorded):
    archive, _, (x, y) = recorded
    examples = Replay(archive).probe("train")
    assert examples.n == 12 and examples.split == "train"
    np.testing.assert_array_equal(examples.labels, y[:12])
    chosen = examples.take([3, 1])
    assert torch.equal(chosen.inputs, x[[3, 1]]) and chosen.ids.tolist() == [3, 1]
    assert examples.first(5).chunks[-1][1] == 5 and examples.first(5).n == 5
    joint = Replay(archive).states().examples(limit=4)
    assert joint.n == 8 and joint.ids.tolist() == [0, 1, 2, 3] * 2
