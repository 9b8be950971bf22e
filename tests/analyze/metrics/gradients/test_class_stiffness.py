import numpy as np
import pytest

from analyze.arrays.derived import cosines
from analyze.metrics.gradients.class_stiffness import class_stiffness
from tests.oracles.class_stiffness import cell
from tracer.errors import MissingTraceError

LABELS = np.array([2, 0, 2, 5, 0, 2, 0])
IDS = np.array([0, 1, 2, 3, 4, 5, 5])


def run(gradients, labels=LABELS, ids=IDS, **options):
    gram = gradients @ gradients.swapaxes(-1, -2)
    return class_stiffness(gram, cosines(gram), labels, ids, **options)


@pytest.fixture
def gradients():
    return np.random.default_rng(0).normal(size=(2, 3, 7, 4))


def test_two_classes_by_hand():
    gradients = np.array([[[[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]]])
    result = run(gradients, np.array([0, 0, 1, 1]), np.arange(4))
    np.testing.assert_allclose(result["cosine"][0, 0], [[1.0, -0.5], [-0.5, 0.0]])
    np.testing.assert_allclose(result["sign"][0, 0], [[1.0, -0.5], [-0.5, 0.0]])
    assert result["cosine_within"].item() == 0.5 and result["cosine_between"].item() == -0.5
    assert result["n_pairs"].tolist() == [[1, 4], [4, 1]]


def test_agrees_with_loops(gradients):
    gradients[1, 2, 4] = 0.0
    result = run(gradients)
    assert result["label"].tolist() == [0, 2, 5]
    for step, layer, a, b in np.ndindex(2, 3, 3, 3):
        expected = cell(gradients[step, layer], LABELS, IDS, result["label"][a], result["label"][b])
        got = (
            result["cosine"][step, layer, a, b],
            result["sign"][step, layer, a, b],
            result["n_pairs"][a, b],
        )
        np.testing.assert_allclose(got, expected, atol=1e-14)


def test_singleton_class_is_undefined_and_left_out(gradients):
    result = run(gradients)
    assert np.isnan(result["cosine"][..., 2, 2]).all() and result["n_pairs"][2, 2] == 0
    diagonal = result["cosine"][..., [0, 1], [0, 1]]
    np.testing.assert_allclose(result["cosine_within"], diagonal.mean(-1))


def test_relabelling_permutes_the_matrix(gradients):
    renamed = np.array([1, 9, 4])[np.searchsorted([0, 2, 5], LABELS)]
    first, second = run(gradients), run(gradients, renamed)
    order = [0, 2, 1]
    for name in ("cosine", "sign"):
        np.testing.assert_allclose(second[name], first[name][..., order, :][..., order], equal_nan=True)
    np.testing.assert_allclose(first["cosine_between"], second["cosine_between"])


def test_zero_gradients_are_counted(gradients):
    gradients[0, 0, 0] = 0.0
    left_out, as_zero = run(gradients), run(gradients, zero="as_zero")
    assert left_out["n_undefined"][0, 0].tolist() == [[0, 3, 0], [3, 2, 1], [0, 1, 0]]
    assert left_out["n_undefined"][1].sum() == 0 == as_zero["n_undefined"].sum()
    assert abs(as_zero["cosine"][0, 0, 0, 1]) < abs(left_out["cosine"][0, 0, 0, 1])


def test_superclasses_average_their_own_cells(gradients):
    result = run(gradients, superclass={0: 7, 2: 7, 5: 8})
    np.testing.assert_allclose(result["cosine_super"], result["cosine"][..., 0, 1])
    assert np.isnan(run(gradients)["sign_super"]).all()


def test_labels_before_corruption(gradients):
    true = np.array([0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(
        run(gradients, true_labels=true, classes="true")["sign"], run(gradients, true)["sign"]
    )
    with pytest.raises(MissingTraceError, match="true_targets"):
        run(gradients, classes="true")


def test_standard_errors_are_those_of_leaving_out_one_example_of_a_class():
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1, 2], [3, 4, 5])
    gradients = rng.normal(size=(1, 1, 12, 3)) + rng.normal(size=(3, 3))[labels]
    result = run(gradients, labels, np.arange(12))
    names = {"cosine_within_error": "cosine_within", "cosine_between_error": "cosine_between"}
    for error, mean in names.items():
        variance = 0.0
        for members in (np.flatnonzero(labels == label) for label in range(3)):
            less = [
                run(np.delete(gradients, k, 2), np.delete(labels, k), np.arange(11))[mean].item()
                for k in members
            ]
            variance += (len(members) - 1) / len(members) * np.square(np.subtract(less, np.mean(less))).sum()
        assert result[error].item() == pytest.approx(np.sqrt(variance)), error
    assert np.isfinite(result["cosine_error"]).all()


def test_a_class_of_two_has_no_standard_error_within():
    result = run(np.random.default_rng(5).normal(size=(1, 1, 5, 3)), np.array([0, 0, 0, 1, 1]), np.arange(5))
    assert np.isfinite(result["cosine_error"][0, 0]).tolist() == [[True, True], [True, False]]
    assert np.isnan(result["cosine_within_error"]).all() and np.isfinite(result["cosine_between_error"]).all()


def test_degrees_of_freedom_are_of_the_classes_that_vary():
    rng, labels = np.random.default_rng(6), np.repeat([0, 1], [9, 5])
    gradients = np.eye(4)[labels] + 1.0 + 0.1 * rng.normal(size=(1, 1, 14, 4))
    both = run(gradients, labels, np.arange(14))
    errors = np.diagonal(both["cosine_error"][0, 0]) ** 2
    expected = errors.sum() ** 2 / (errors[0] ** 2 / 8 + errors[1] ** 2 / 4)
    assert both["cosine_within_degrees"].item() == pytest.approx(expected)
    assert 4 <= both["cosine_between_degrees"].item() <= 12
    gradients[..., :9, :] = np.eye(4)[0]
    one = run(gradients, labels, np.arange(14))
    assert one["cosine_within_degrees"].item() == one["cosine_between_degrees"].item() == pytest.approx(4)
    gradients[..., 9:, :] = np.eye(4)[1]
    assert np.isnan(run(gradients, labels, np.arange(14))["cosine_within_degrees"]).all()
