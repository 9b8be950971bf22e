import numpy as np
import pytest

from analyze.arrays.derived import cosines
from analyze.metrics.gradients.layer_stiffness import layer_stiffness, reference_set
from tests.oracles.layer_stiffness import layer_stiffness as slow
from tests.oracles.layer_stiffness import reference_ids
from tracer.errors import MissingTraceError

LABELS = np.array([1, 0, 0, 1, 0, 1, 0, 0])
IDS = np.array([40, 10, 30, 20, 50, 70, 60, 0])
LAYERS = np.array(["fc1", "all"])


def run(rows, labels=LABELS, ids=IDS, **options):
    gram = rows @ rows.swapaxes(-1, -2)
    return layer_stiffness(gram, cosines(gram), labels, ids, LAYERS[: gram.shape[1]], **options)


@pytest.fixture
def gradients():
    return np.random.default_rng(0).normal(size=(2, 2, 8, 5))


def test_one_reference_of_each_class_by_hand():
    gradients = np.array([[[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]]])
    result = run(gradients, np.array([0, 0, 1]), np.arange(3))
    # References are 0 and 2: anchor 0 sees 2, anchor 1 sees both, anchor 2 sees 0.
    np.testing.assert_allclose(result["mean"][0, 0, 0], (0 + 0.5 + 0) / 3)
    np.testing.assert_allclose(result["std"][0, 0, 0], np.std([0, 0.5, 0]))
    assert result["attrs"] == {"reference_ids": "0 2", "per_class": 1}


@pytest.mark.parametrize("per_class", [1, 2, 20])
def test_agrees_with_loops(gradients, per_class):
    gradients[1, 0, 3] = 0.0
    result = run(gradients, per_class=per_class)
    reference = reference_ids(LABELS.tolist(), IDS.tolist(), per_class)
    assert result["attrs"]["reference_ids"] == " ".join(map(str, reference))
    for step, layer in np.ndindex(2, 2):
        expected = slow(gradients[step, layer], IDS, reference)
        got = np.stack([result["mean"][step, layer], result["std"][step, layer]], axis=-1)
        np.testing.assert_allclose(got, expected, atol=1e-14)


def test_reference_set_is_balanced_and_lowest():
    chosen = reference_set(LABELS, IDS, 2)
    assert IDS[chosen].tolist() == [0, 10, 20, 40] and LABELS[chosen].tolist() == [0, 0, 1, 1]
    assert len(reference_set(LABELS, IDS, 20)) == 6


def test_reference_set_can_be_drawn(gradients):
    result = run(gradients, per_class=2, reference="random", seed=3)
    reference = [int(name) for name in result["attrs"]["reference_ids"].split()]
    assert result["attrs"]["seed"] == 3 and sorted(LABELS[np.isin(IDS, reference)]) == [0, 0, 1, 1]
    expected = slow(gradients[0, 0], IDS, reference)
    got = np.stack([result["mean"][0, 0], result["std"][0, 0]], axis=-1)
    np.testing.assert_allclose(got, expected, atol=1e-14)
    sets = {
        run(gradients, per_class=2, reference="random", seed=k)["attrs"]["reference_ids"] for k in range(9)
    }
    assert len(sets) > 1
    order = np.random.default_rng(0).permutation(8)
    again = run(gradients[:, :, order], LABELS[order], IDS[order], per_class=2, reference="random", seed=3)
    assert again["attrs"] == result["attrs"]
    with pytest.raises(ValueError, match="'lowest' or 'random'"):
        run(gradients, reference="first")


def test_zero_gradient_has_no_cosine(gradients):
    gradients[0, 0, 0] = 0.0
    result = run(gradients)
    assert result["n_anchors"][0, 0].tolist() == [7, 8]
    assert run(gradients, zero="as_zero")["n_anchors"][0, 0].tolist() == [8, 8]


def test_scaling_gradients_changes_nothing(gradients):
    scaled = gradients * np.random.default_rng(1).uniform(0.5, 2, (2, 2, 8, 1))
    for name in ("mean", "std"):
        np.testing.assert_allclose(run(gradients)[name], run(scaled)[name], atol=1e-13)


def test_tensors_of_a_layer_one_by_one(gradients):
    parts = {"fc.weight": gradients[0, 0][..., :4].reshape(8, 2, 2), "fc.bias": gradients[0, 0][..., 4:]}
    result = run(gradients[:1], gradients=[parts], per_tensor=True)
    assert result["layer"].tolist() == ["fc.weight", "fc.bias", "all"]
    np.testing.assert_allclose(result["mean"][0, 2], run(gradients)["mean"][0, 0])
    np.testing.assert_allclose(result["mean"][0, 0], run(gradients[:1, :1, :, :4])["mean"][0, 0])
    with pytest.raises(MissingTraceError, match="record with gradients="):
        run(gradients, per_tensor=True)
