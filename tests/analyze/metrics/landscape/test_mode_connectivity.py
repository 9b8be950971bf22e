import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from analyze.metrics.landscape.mode_connectivity import NAMES, between, between_runs, mode_connectivity, rises
from tests import replayed


def conv_net(seed, given):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)
    ).double()
    model(given.inputs * (seed + 1))
    return model.eval()


def slow(first, second, x, y, t, reset):
    """Loss and error of a module whose state is the mean, statistics reset by a pass in training mode."""
    model = copy.deepcopy(first)
    ends = first.state_dict(), second.state_dict()
    whole = {name for name, value in ends[0].items() if value.dtype == torch.int64}
    means = {
        name: (1 - t) * value + t * ends[1][name] for name, value in ends[0].items() if name not in whole
    }
    model.load_state_dict(means | {name: ends[0][name] for name in whole})
    if reset:
        model.train()
        model[1].momentum = None
        model[1].reset_running_stats()
        model(x)
    with torch.no_grad():
        outputs = model.eval()(x)
    return [float(F.cross_entropy(outputs, y)), float((outputs.argmax(1) != y).double().mean())]


def test_agrees_with_modules_in_between():
    given = replayed.examples(9, (1, 5, 5))
    models = [conv_net(seed, given) for seed in (0, 1)]
    first = replayed.state_of(models[0], given)
    second = first.with_tensors({name: value.detach() for name, value in models[1].state_dict().items()})
    result = mode_connectivity(replayed.States([first, second], given), second, points=5)
    for end, reset in (("", True), ("_interpolated", False)):
        curve = [slow(*models, given.inputs, given.targets, t, reset) for t in np.linspace(0, 1, 5)]
        np.testing.assert_allclose(result[f"curve{end}"][0].T, curve, rtol=1e-8)
        for kind in range(2):
            values = [row[kind] for row in curve]
            line = [values[0] + t * (values[-1] - values[0]) for t in np.linspace(0, 1, 5)]
            barrier = max(0.0, *(value - at for value, at in zip(values, line, strict=True)))
            assert result[f"barrier{end}"][0, kind] == pytest.approx(barrier, abs=1e-12)
            assert result[f"instability{end}"][0, kind] == pytest.approx(
                max(values) - (values[0] + values[-1]) / 2
            )
            assert result[f"midpoint{end}"][0, kind] == pytest.approx(
                values[2] - (values[0] + values[-1]) / 2
            )
    for name in NAMES:  # from the last snapshot to itself
        assert result[name][1] == pytest.approx([0, 0], abs=1e-12)


def test_hidden_units_in_another_order_are_as_good_and_far_away():
    given = replayed.examples(12)
    state = replayed.state_of(replayed.mlp(), given)
    order = [4, 0, 1, 2, 3]
    changes = {"0.weight": state.tensors["0.weight"][order], "0.bias": state.tensors["0.bias"][order]}
    other = state.with_tensors(changes | {"2.weight": state.tensors["2.weight"][:, order]})
    found = between(state, other, given, given, 11)
    assert found["curve"][:, 0] == pytest.approx(found["curve"][:, -1])
    np.testing.assert_allclose(found["barrier"], found["instability"], atol=1e-12)


def test_a_linear_model_has_no_barrier_of_the_loss():
    given = replayed.examples(12)
    states = [replayed.state_of(replayed.mlp((4, 3), seed=seed), given) for seed in (0, 1)]
    assert between(*states, given, given, 7)["barrier"][0] == 0


def test_what_is_undefined_or_refused():
    assert all(np.isnan(list(rises(np.array([1.0, np.nan, 2.0])).values())))
    assert np.isnan(rises(np.array([1.0, 2.0]))["midpoint"])
    given = replayed.examples(6)
    one, two = (replayed.state_of(replayed.mlp(sizes), given) for sizes in ((4, 5, 3), (4, 6, 3)))
    with pytest.raises(ValueError, match=r"'0.weight' has shape \(5, 4\) in one and \(6, 4\) in the other"):
        between(one, two, given, given)


def test_two_recorded_runs(tmp_path):
    given = replayed.examples(10, dtype=torch.float32)
    archives = []
    for seed in (0, 1):
        model = replayed.mlp(seed=seed, dtype=torch.float32)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        archives.append(replayed.train(tmp_path / f"{seed}.zarr", model, optimizer, given, epochs=1))
    found = between_runs(*archives, points=3)
    losses = [archive.probes["train"].losses(int(archive.snapshots[-1])).mean() for archive in archives]
    assert found["curve"][0, [0, 2]] == pytest.approx(losses, rel=1e-6)
