import numpy as np
import pytest
import torch

from analyze.metrics.capacity.layer_norms import layer_norms
from tests.oracles import layer_norms as slow
from tests.tables import stored

LAYERS = {
    "conv": ["conv.weight", "conv.bias"],
    "bn": ["bn.weight", "bn.bias"],
    "fc": ["fc.weight", "fc.bias"],
    "rnn": ["rnn.weight_ih", "rnn.weight_hh", "rnn.bias_ih"],
}
SHAPES = {
    "conv.weight": (4, 2, 3, 3),
    "conv.bias": (4,),
    "bn.weight": (4,),
    "bn.bias": (4,),
    "fc.weight": (3, 5),
    "fc.bias": (3,),
    "rnn.weight_ih": (4, 3),
    "rnn.weight_hh": (4, 4),
    "rnn.bias_ih": (4,),
}
CONV = {
    "op": "aten.conv2d.default",
    "args": [{"input": 0}, {"tensor": "conv.weight"}, None, [2, 2], [1, 1]],
}
FC = {"op": "aten.linear.default", "args": [{"row": 0}, {"tensor": "fc.weight"}, {"tensor": "fc.bias"}]}
NETWORK = stored([CONV, FC], inputs=[(3, 2, 6, 5)])
COLUMN = {name: k for k, name in enumerate([*LAYERS, "all"])}


def made(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_one_layer_by_hand():
    weight = np.array([[0.0, 2.0], [0.0, 0.0], [-1.0, 0.0]])
    table = stored([{"op": "aten.linear.default", "args": [{"input": 0}, {"tensor": "w"}]}], inputs=[(2, 2)])
    result = layer_norms([{"w": weight}], {"w": weight * 0 + 1}, {"fc": ["w"]}, network=table)
    assert result["layer"].tolist() == ["fc", "all"]
    expected = {
        "frobenius": 5**0.5,
        "spectral_exact": 2.0,
        "spectral_reshaped": 2.0,
        "nuclear": 3.0,
        "l1": 3.0,
        "distance_from_init": 9**0.5,
    }
    for name, value in expected.items():
        assert result[name][0, 0] == pytest.approx(value)


@pytest.mark.parametrize("layer", ["conv", "fc"])
def test_agrees_with_entries_one_by_one(layer):
    weights, initial = [made(1), made(2)], made(0)
    result = layer_norms(weights, initial, LAYERS, network=NETWORK)
    name = LAYERS[layer][0]
    for step in range(2):
        for norm, value in slow.norms(weights[step][name], initial[name]).items():
            assert result[norm][step, COLUMN[layer]] == pytest.approx(value, rel=1e-6)


def test_convolution_is_measured_as_the_map_it_computes():
    weights = made(1)
    result = layer_norms([weights], weights, LAYERS, network=NETWORK)
    kernel = torch.from_numpy(weights["conv.weight"]).double()
    basis = torch.eye(2 * 6 * 5, dtype=torch.float64).reshape(-1, 2, 6, 5)
    columns = torch.nn.functional.conv2d(basis, kernel, stride=2, padding=1).flatten(1)
    expected = torch.linalg.matrix_norm(columns, 2).item()
    assert result["spectral_exact"][0, COLUMN["conv"]] == pytest.approx(expected, rel=1e-10)
    assert result["spectral_reshaped"][0, COLUMN["conv"]] != pytest.approx(expected, rel=1e-3)


def test_layers_without_one_matrix():
    weights, initial = made(1), made(0)
    result = layer_norms([weights], initial, LAYERS, network=NETWORK)
    for name in ("spectral_exact", "spectral_reshaped", "nuclear"):
        assert np.isnan(result[name][0, [COLUMN["bn"], COLUMN["rnn"], COLUMN["all"]]]).all()
    assert result["l1"][0, COLUMN["bn"]] == pytest.approx(np.abs(weights["bn.weight"]).sum())
    both = np.concatenate([weights[name].ravel() for name in LAYERS["rnn"][:2]])
    assert result["frobenius"][0, COLUMN["rnn"]] == pytest.approx(np.linalg.norm(both))


def test_all_adds_the_layers_up():
    result = layer_norms([made(1), made(0)], made(0), LAYERS, network=NETWORK)
    for name in ("frobenius", "distance_from_init"):
        np.testing.assert_allclose(result[name][:, -1] ** 2, (result[name][:, :-1] ** 2).sum(1))
    np.testing.assert_allclose(result["l1"][:, -1], result["l1"][:, :-1].sum(1))
    np.testing.assert_array_equal(result["distance_from_init"][1], 0.0)


def test_biases_never_count_and_order_of_units_does_not_matter():
    weights = made(1)
    moved = {name: value + 5 if name.endswith("bias") else value for name, value in weights.items()}
    moved["fc.weight"] = moved["fc.weight"][[2, 0, 1]]
    result = layer_norms([weights, moved], weights, LAYERS, network=NETWORK)
    for name in ("frobenius", "l1", "nuclear", "spectral_exact"):
        np.testing.assert_allclose(result[name][0], result[name][1], rtol=1e-12)


def test_weight_that_the_table_does_not_apply_has_no_exact_norm():
    weights = made(1)
    result = layer_norms(
        [weights], weights, LAYERS, network=stored([{"op": "aten.relu.default", "args": [{"input": 0}]}])
    )
    assert np.isnan(result["spectral_exact"]).all()
    assert np.isfinite(result["spectral_reshaped"][0, COLUMN["fc"]])


def test_weight_that_is_not_finite_is_undefined():
    weights = made(1)
    weights["fc.weight"][0, 0] = np.nan
    result = layer_norms([weights], made(0), LAYERS, network=NETWORK)
    fc = COLUMN["fc"]
    assert all(np.isnan(result[name][0, fc]) for name in ("frobenius", "l1", "nuclear", "spectral_exact"))
    assert np.isfinite(result["frobenius"][0, COLUMN["conv"]])
