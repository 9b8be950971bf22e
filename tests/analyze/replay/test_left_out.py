"""Examples that the loss leaves out: its mean, and what derives from it, do without them, as a batch does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import analyze
import tracer
from analyze.replay.evaluate import loss_and_error
from analyze.replay.output_kernel import output_kernel
from tracer.errors import MissingTraceError
from tracer.spec.correctness import Correctness

NOT = 7


loss = nn.CrossEntropyLoss(ignore_index=NOT)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x, y = torch.rand(13, 6).double(), torch.arange(13) % 3
    y[::3] = NOT
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    path = tmp_path_factory.mktemp("left out") / "run.zarr"
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with tracer.record(path, model, sgd, loss=loss, probes={"train": (x, y)}, gradients="exact"):
        pass
    return path, model, x, y


def test_what_is_recorded_of_them_is_no_loss_and_counted(run):
    path, model, x, y = run
    results = analyze.run(path, metrics=["generalization", "training_measures", "margin"])
    expected = loss(model(x), y).item()
    found = results["generalization"].isel(step=0)
    assert float(found["loss"].sel(probe="train")) == pytest.approx(expected, rel=1e-6)
    assert int(found["n_undefined"].sel(probe="train")) == 5 == int(results["margin"]["n_undefined"][0, 0])
    assert float(results["training_measures"]["train_loss"][0]) == pytest.approx(expected, rel=1e-6)


def test_a_network_that_is_run_again_has_the_loss_of_a_batch(run):
    path, model, x, y = run
    with tracer.open(path) as archive:
        replay = analyze.replay.Replay(archive)
        state, examples = replay.at(0).double(), replay.probe("train").double()
        whole = loss(model(x), y)
        first = torch.autograd.grad(whole, list(model.parameters()), create_graph=True)
        expected = torch.cat([g.ravel() for g in first]).detach()
        value, gradient = state.loss_and_gradient(examples)
        assert value == state.loss(examples) == pytest.approx(whole.item(), rel=1e-12)
        assert loss_and_error(state, examples)[0] == pytest.approx(value, rel=1e-12)
        torch.testing.assert_close(state.flat(gradient), expected)
        torch.testing.assert_close(state.flat(state.gradient(examples)), expected)
        assert examples.that_count().n == 8 and state.loss(examples.that_count()) == pytest.approx(value)
        direction = state.unflat(torch.ones_like(expected))
        second = torch.autograd.grad(sum(g.sum() for g in first), list(model.parameters()))
        product = state.flat(state.hvp(direction, examples))
        torch.testing.assert_close(product, torch.cat([g.ravel() for g in second]))


def test_labels_that_are_none_are_no_class_of_the_kernel(run):
    path, *_, y = run
    kept = (y != NOT).numpy()
    result = analyze.run(path, metrics=["ntk_alignment"])["ntk_alignment"]
    with tracer.open(path) as archive:
        replay = analyze.replay.Replay(archive)
        kernel = output_kernel(replay.at(0), replay.probe("train")).numpy()[np.ix_(kept, kept)]
    labels = y.numpy()[kept]
    same = (labels[:, None] == labels).astype(float)
    expected = (kernel * same).sum() / np.sqrt((kernel**2).sum() * (same**2).sum())
    assert float(result["alignment"].isel(step=0, probe=0).sel(kind="plain")) == pytest.approx(
        expected, rel=1e-6
    )


def test_which_examples_have_an_answer():
    tokens = np.array([[NOT, NOT, 1], [NOT, 1, NOT], [1, NOT, NOT]])
    assert Correctness("class", ignore_index=NOT, shift=1).has_answers(tokens).tolist() == [True, True, False]
    assert Correctness("class", ignore_index=NOT, token=0).has_answers(tokens).tolist() == [
        False,
        False,
        True,
    ]
    assert Correctness("binary").has_answers(np.zeros((2, 4))).all()
    assert Correctness("class").has_answers(np.full((2, 3), 1 / 3)).all()
    with pytest.raises(MissingTraceError):
        Correctness.from_card({"correctness": {"kind": "other"}})
