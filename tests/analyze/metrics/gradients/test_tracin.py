import numpy as np
import pytest
import torch
from torch.nn import functional as F

import analyze
import tracer
from analyze.metrics.gradients.tracin import tracin
from analyze.plot import draw
from tests.loops import blobs, mlp
from tests.oracles.tracin import tracin as slow
from tests.synthetic import write_archive
from tracer.errors import MissingTraceError

SPLIT = np.array(["train", "test", "train", "test", "train"])
IDS = np.array([4, 0, 9, 4, 2])


def grams(gradients):
    """Gram matrices of gradients (step, example, weight), of two layers and of all."""
    parts = [gradients[..., :2], gradients[..., 2:], gradients]
    return np.stack([part @ part.swapaxes(-1, -2) for part in parts], axis=1)


def test_by_hand():
    # Two snapshots: 0.5 · (1·2) + 0.1 · (3·−1).
    gradients = np.array([[[1.0, 0], [2.0, 0]], [[3.0, 0], [-1.0, 0]]])
    result = tracin(grams(gradients), np.array([[0.5], [0.1]]), np.array(["train", "test"]), np.array([7, 8]))
    assert result["influence"].item() == pytest.approx(0.7)
    assert result["self_influence"].item() == pytest.approx(0.5 + 0.9)
    assert result["n_snapshots"].item() == 2
    assert result["train_example"].tolist() == [7] and result["test_example"].tolist() == [8]


def test_agrees_with_the_gradients_themselves():
    rng = np.random.default_rng(0)
    gradients, rates = rng.normal(size=(4, 5, 6)), rng.uniform(size=(4, 1))
    result = tracin(grams(gradients), rates, SPLIT, IDS)
    expected = slow(gradients, rates[:, 0], [0, 2, 4], [1, 3])
    for (z, other), value in expected.items():
        row, column = [0, 2, 4].index(z), [1, 3].index(other)
        assert result["influence"][row, column] == pytest.approx(value, rel=1e-12)
    own = slow(gradients, rates[:, 0], [0, 2, 4], [0, 2, 4])
    np.testing.assert_allclose(result["self_influence"], [own[z, z] for z in (0, 2, 4)])


def test_sums_over_blocks_of_snapshots_add_up():
    rng = np.random.default_rng(1)
    products, rates = grams(rng.normal(size=(5, 5, 6))), rng.uniform(size=(5, 2))
    whole = tracin(products, rates, SPLIT, IDS)
    blocks = [tracin(products[part], rates[part], SPLIT, IDS) for part in (slice(0, 2), slice(2, 5))]
    for name in ("influence", "self_influence", "n_snapshots"):
        np.testing.assert_allclose(whole[name], sum(block[name] for block in blocks), rtol=1e-12)


def test_snapshots_without_rate_or_with_gradients_that_are_not_finite_are_left_out():
    products = grams(np.random.default_rng(2).normal(size=(3, 5, 6)))
    products[1, -1, 0, 1] = np.inf
    result = tracin(products, np.array([[np.nan], [0.1], [0.2]]), SPLIT, IDS)
    only = tracin(products[2:], np.array([[0.2]]), SPLIT, IDS)
    np.testing.assert_array_equal(result["influence"], only["influence"])
    assert result["n_snapshots"].item() == 1


def test_without_an_optimizer_there_is_no_rate_and_nothing_to_sum():
    products = grams(np.random.default_rng(4).normal(size=(2, 5, 6)))
    result = tracin(products, np.empty((2, 0)), SPLIT, IDS)
    assert result["n_snapshots"].item() == 0 and np.isnan(result["influence"]).all()


def test_permuting_examples_permutes_influence():
    rng = np.random.default_rng(3)
    gradients, rates, order = rng.normal(size=(2, 5, 6)), np.ones((2, 1)), np.array([4, 3, 2, 1, 0])
    plain = tracin(grams(gradients), rates, SPLIT, IDS)
    mixed = tracin(grams(gradients[:, order]), rates, SPLIT[order], IDS[order])
    np.testing.assert_allclose(plain["influence"][::-1, ::-1], mixed["influence"])
    assert mixed["train_example"].tolist() == [2, 9, 4]


def test_one_split_alone_is_refused_by_name():
    with pytest.raises(MissingTraceError, match="another split, got only 'train'; "):
        tracin(np.eye(2)[None, None], np.ones((1, 1)), np.array(["train", "train"]), np.arange(2))


def test_through_the_engine_and_as_a_figure(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    result = analyze.run(tmp_path / "run.zarr", ["tracin"])["tracin"]
    figure = draw(tracin.card.plot, result)
    labels = {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}
    assert {"train example (id)", "self-influence (loss)"} <= labels


def test_an_optimizer_that_maximizes_turns_every_influence_round(tmp_path):
    results = []
    for maximize in (False, True):
        torch.manual_seed(0)
        model, (x, y) = mlp(), blobs(5)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, maximize=maximize)
        path = tmp_path / f"{maximize}.zarr"
        probes = {"train": (x, y), "test": blobs(4, seed=7)}
        with tracer.record(
            path, model, optimizer, loss=F.cross_entropy, probes=probes, snapshots=tracer.at([])
        ) as run:
            before = F.cross_entropy(model(probes["test"][0]), probes["test"][1], reduction="none")
            F.cross_entropy(model(x[:1]), y[:1]).backward()
            optimizer.step()
            after = F.cross_entropy(model(probes["test"][0]), probes["test"][1], reduction="none")
            run.step(ids=[0])
        archive = tracer.open(path)
        first = archive.gram(0).sum(0)[0, 5:]  # the step was made at the first snapshot
        sign = -1.0 if maximize else 1.0
        np.testing.assert_allclose((before - after).detach(), sign * 0.1 * first, atol=3e-3)
        results.append(analyze.run(archive, ["tracin"])["tracin"]["influence"].values)
        lowered = sum(sign * 0.1 * archive.gram(step).sum(0)[:5, 5:] for step in archive.steps("gram"))
        np.testing.assert_allclose(results[-1], lowered, rtol=1e-12)
    assert np.sign(results[0][0, 0]) == -np.sign(results[1][0, 0])
