import numpy as np
import pytest

from analyze.metrics.capacity import MEASURES, NORMS, capacity, log_path_sum
from tests.oracles import capacity as slow
from tracer.errors import MissingTraceError

WIDTHS = (3, 4, 5, 2)
NAMES = [f"{2 * k}.weight" for k in range(3)]


def table(names=NAMES, activation="aten.relu.default"):
    rows, value = [], {"input": 0}
    for name in names:
        rows.append(
            {"name": name, "op": "aten.linear.default", "args": [value, {"tensor": name}, {"tensor": "b"}]}
        )
        rows.append({"name": f"after {name}", "op": activation, "args": [{"row": len(rows) - 1}]})
        value = {"row": len(rows) - 1}
    return {"rows": rows}


def made(steps=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = list(zip(WIDTHS[1:], WIDTHS[:-1], strict=True))
    return [
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in zip(NAMES, shapes, strict=True)}
        for _ in range(steps)
    ]


def matrices(tensors):
    return [tensors[name].astype(np.float64) for name in NAMES]


def test_every_measure_equals_paths_one_by_one():
    weights, gamma = made(), np.array([0.5, 2.0])
    result = capacity(weights, table(), gamma)
    assert result["factors"].tolist() == ["dropped", "literal"]
    for step, literal in np.ndindex(2, 2):
        expected = slow.measures(matrices(weights[step]), gamma[step], bool(literal))
        for name in MEASURES:
            assert result[name][step, literal] == pytest.approx(expected[name], rel=1e-10)
            assert result[f"log10_{name}"][step, literal] == pytest.approx(np.log10(expected[name]))


def test_norms_without_margin():
    weights = made()
    result = capacity(weights, table(), np.array([0.5, np.nan]))
    for step in range(2):
        layers = matrices(weights[step])
        assert result["l1_path_norm"][step] == pytest.approx(slow.path_sum(layers, 1))
        assert result["l2_path_norm"][step] == pytest.approx(slow.path_sum(layers, 2))
        assert result["l2_norm"][step] == pytest.approx(np.prod([(m**2).sum() for m in layers]))
        scale = [slow.largest_singular_value(m) for m in layers]
        assert result["spectral_norm"][step] == pytest.approx(np.prod(scale) ** 2)
    assert result["spectral_sum_slide"][0] == pytest.approx(
        4 * sum(slow.largest_singular_value(m) for m in matrices(weights[0]))
    )


def test_margin_not_above_zero_leaves_the_norms():
    result = capacity(made(3), table(), np.array([0.0, -1.0, np.nan]))
    for name in MEASURES:
        assert np.isnan(result[name]).all() and np.isnan(result[f"log10_{name}"]).all()
    assert np.isnan(result["spectral_sum_slide"]).all()
    assert all(np.isfinite(result[name]).all() for name in NORMS)


def test_rescaling_a_hidden_unit_changes_l2_but_no_path():
    weights = made(1)
    scaled = {name: value.astype(np.float64) for name, value in weights[0].items()}
    scaled[NAMES[0]][1] *= 10.0
    scaled[NAMES[1]][:, 1] /= 10.0
    result = capacity([weights[0], scaled], table(), np.ones(2))
    for name in ("l1_path", "l2_path"):
        np.testing.assert_allclose(result[name][0], result[name][1], rtol=1e-6)
    assert result["l2"][1, 0] > 1.5 * result["l2"][0, 0]


def test_order_of_hidden_units_does_not_matter():
    weights, order = made(1), np.array([2, 0, 3, 1])
    moved = dict(weights[0])
    moved[NAMES[0]], moved[NAMES[1]] = moved[NAMES[0]][order], moved[NAMES[1]][:, order]
    result = capacity([weights[0], moved], table(), np.ones(2))
    for name in MEASURES:
        np.testing.assert_allclose(result[name][0], result[name][1], rtol=1e-12)


def test_beyond_the_range_of_floats_the_logarithm_remains():
    names = [f"{k}.weight" for k in range(40)]
    weights = [{name: np.full((10, 10), 1e5) for name in names}]
    result = capacity(weights, table(names), np.ones(1))
    assert result["l1_path"][0, 0] == np.inf
    # 10 inputs, then 40 layers of 10 paths and weights of 1e5.
    assert result["log10_l1_path"][0, 0] == pytest.approx(2 * (1 + 40 * 6))


def test_a_layer_of_zeros_has_no_capacity():
    weights = made(1)
    weights[0][NAMES[1]] = weights[0][NAMES[1]] * 0
    result = capacity(weights, table(), np.ones(1))
    assert all(result[name][0, 0] == 0 and result[f"log10_{name}"][0, 0] == -np.inf for name in MEASURES)


def test_a_weight_that_is_not_a_number_is_undefined():
    weights = made(2)
    weights[1][NAMES[2]][0, 0] = np.nan
    result = capacity(weights, table(), np.ones(2))
    for name in MEASURES:
        assert np.isfinite(result[name][0]).all() and np.isnan(result[name][1]).all()
    assert np.isnan(log_path_sum([np.array([[np.inf]])], 1))


def test_a_network_that_is_no_chain_is_refused_by_row():
    with pytest.raises(MissingTraceError, match=r"aten\.gelu\.default.*replay"):
        capacity(made(), table(activation="aten.gelu.default"), np.ones(2))
