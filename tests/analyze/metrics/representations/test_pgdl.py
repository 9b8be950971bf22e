from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import davies_bouldin_score
from torch import nn

from analyze.metrics.representations.pgdl import batches, davies_bouldin, mixtures, pgdl
from analyze.replay import Examples
from tests import replayed
from tracer.errors import MissingTraceError
from tracer.spec.correctness import Correctness

RULE = Correctness.inferred((3, 3), np.arange(3))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3)
    )
    model = model.double()
    given = replayed.examples(18, (1, 8, 8))
    model(given.inputs)
    return model.eval(), replayed.state_of(model, given), given


def test_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(30, 4)), rng.integers(0, 4, 30)
    assert davies_bouldin(features, labels) == pytest.approx(davies_bouldin_score(features, labels))
    assert davies_bouldin(5 * features[::-1] + 1, labels[::-1]) == pytest.approx(
        davies_bouldin(features, labels)
    )


def test_degenerate_clusters():
    points, labels = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([0, 0, 1, 1])
    assert davies_bouldin(points, labels) == 0 and davies_bouldin(points * 0 + 0.1, labels) == 0
    assert np.isnan(davies_bouldin(points, labels * 0)) and np.isnan(davies_bouldin(points + np.inf, labels))
    same = np.array([[-1.0], [1.0], [-2.0], [2.0], [10.0]])  # two centres are one
    assert davies_bouldin(same, np.array([0, 0, 1, 1, 2])) == pytest.approx((0.1 + 0.2 + 0.2) / 3)


def test_agrees_with_the_module(net):
    model, state, given = net
    result = pgdl(replayed.States([state], given), draws=3, per_draw=12, per_class=3)
    labels = given.targets.numpy()
    with torch.no_grad():
        pooled = nn.functional.max_pool2d(model[0](given.inputs), 4).flatten(1).numpy()
    indices = [davies_bouldin_score(pooled[group], labels[group]) for group in batches(labels, 3, 12, 0)]
    assert result["davies_bouldin"][0] == pytest.approx(np.mean(indices))
    assert result["davies_bouldin_sd"][0] == pytest.approx(np.std(indices))
    shares, count = [], 0
    for c in range(3):
        of_class = []
        for batch in batches(labels, 3, 9, 1):
            right = []
            for i, j in combinations([k for k in batch if labels[k] == c], 2):
                with torch.no_grad():
                    guess = int(model(0.5 * given.inputs[[i]] + 0.5 * given.inputs[[j]]).argmax())
                right.append(guess == c)
            count += len(right)
            of_class += [sum(right) / len(right)] if right else []
        shares.append(sum(of_class) / len(of_class))
    assert result["mixup_accuracy"][0] == pytest.approx(np.mean(shares)) and result["n_pairs"][0] == count
    assert result["consistency"][0] == pytest.approx(np.mean(indices) * (1 - np.mean(shares)))


def test_few_examples_are_one_draw_and_lonely_ones_have_no_pair():
    labels = np.array([0, 0, 1, -100])
    assert [group.tolist() for group in batches(labels, 5, 10, 0)] == [[0, 1, 2]]
    assert [[pairs.tolist() for pairs in groups] for groups in mixtures(labels, 5, 5, 0).values()] == [
        [[[0, 1]]],
        [],
    ]


def test_a_dense_network_is_measured_at_its_first_layer_and_nan_is_undefined(net):
    given = replayed.examples(9)
    model = replayed.mlp()
    state = replayed.state_of(model, given)
    broken = state.with_tensors({"0.bias": torch.full_like(state.tensors["0.bias"], np.nan)})
    result = pgdl(replayed.States([state, broken], given))
    expected = davies_bouldin_score(model[0](given.inputs).detach().numpy(), given.targets.numpy())
    assert result["davies_bouldin"][0] == pytest.approx(expected)
    assert np.isnan(result["consistency"][1]) and np.isnan(result["davies_bouldin"][1])
    ignored = Examples(given.inputs, given.targets * 0 - 100, rule=RULE)
    with pytest.raises(MissingTraceError, match="leaves out every example"):
        pgdl(replayed.States([state], ignored))
    numbers = Examples(torch.arange(6), torch.arange(6) % 3)
    with pytest.raises(MissingTraceError, match="no two can be averaged"):
        pgdl(replayed.States([state], numbers))
