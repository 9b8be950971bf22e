import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from analyze.metrics.paths.image_functions import image_functions
from analyze.replay import Replay
from analyze.replay.image_functions import image_function, image_terms, isolated
from analyze.replay.replay import States
from analyze.replay.sgd import History, distance
from tests import replayed
from tests.oracles import image_functions as slow
from tests.oracles import mlp
from tracer.errors import ArchiveError, ArgumentError, MissingTraceError

SETTINGS = [
    {"lr": 0.3},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02},
    {"lr": 0.1, "momentum": 0.8, "nesterov": True},
    {"lr": 0.1, "momentum": 0.7, "dampening": 0.4, "weight_decay": 0.1},
    {"lr": 0.02, "momentum": 0.5, "weight_decay": 0.1, "maximize": True},
]


def recorded(path, settings=SETTINGS[0], dtype=torch.float64, model=None, given=None, **options):
    model = model or replayed.mlp(dtype=dtype)
    given = given or replayed.examples(12, dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    return replayed.train(path, model, optimizer, given, **options)


def states_of(archive, n=12):
    replay = Replay(archive)
    return States(replay, replay.steps, [("train", n)])


# The first and the fourth are made again below, by hand and from a training set that is given.
EACH = [pytest.param(one, marks=[pytest.mark.slow] * (k in (0, 3))) for k, one in enumerate(SETTINGS)]


@pytest.mark.parametrize("settings", EACH, ids=lambda s: "-".join(s))
def test_weights_are_made_again_to_the_last_digits(tmp_path, settings):
    archive = recorded(tmp_path / "run.zarr", settings)
    result = image_functions(states_of(archive), paths=1)
    assert result["attrs"]["history"] == "made again"
    assert result["reconstruction_error"].shape == (len(archive.steps("weights")), 3)
    assert result["reconstruction_error"].max() < 1e-10


def test_float32_runs_are_made_again_to_rounding(tmp_path):
    archive = recorded(tmp_path / "run.zarr", SETTINGS[1], torch.float32, epochs=4)
    result = image_functions(states_of(archive), paths=1)
    assert 0 <= result["reconstruction_error"].max() < 1e-4
    doubled = image_functions(states_of(archive), paths=1, double=True)
    assert 1e-12 < doubled["reconstruction_error"].max() < 1e-4


def test_agrees_with_gradient_descent_by_hand(tmp_path):
    settings = SETTINGS[3]
    archive = recorded(tmp_path / "run.zarr", settings)
    states = states_of(archive)
    given = replayed.examples(12)
    inputs, labels = given.inputs.numpy(), given.targets.numpy()
    steps = range(1, int(archive.steps("weights")[-1]) + 1)
    rates = dict(zip(archive.rows["step"], archive.rows["lr"][:, 0], strict=True))
    expected = slow.retrained(
        mlp.layers_of(archive.weights(0)),
        inputs,
        labels,
        [archive.ids(step) for step in steps],
        [rates[step] for step in steps],
        settings["momentum"],
        settings["dampening"],
        settings["weight_decay"],
    )
    result = image_functions(states)
    for point in History(states.replay).points():
        made = mlp.flat(mlp.layers_of(point.weights))
        np.testing.assert_allclose(made, mlp.flat(expected[point.step]), atol=1e-12)
    for row, column in np.ndindex(len(states), len(states)):
        weights, paths = expected[states.steps[row]], expected[states.steps[column]]
        loss = slow.fixed_path_loss(weights, paths, inputs, labels)
        assert result["fixed_path_loss"][row, column] == pytest.approx(loss, rel=1e-9)


def test_own_paths_give_the_network_itself(tmp_path):
    archive = recorded(tmp_path / "run.zarr")
    states = states_of(archive)
    result = image_functions(states, history="none")
    given = states.examples()
    for k, state in enumerate(states):
        assert result["fixed_path_loss"][k, k] == pytest.approx(state.loss(given), rel=1e-12)
        right = (state.outputs(given).argmax(1) == given.targets).double().mean()
        assert result["fixed_path_accuracy"][k, k] == pytest.approx(float(right))
    few = image_functions(states, history="none", paths=2)
    assert few["step_2"].tolist() == [states.steps[0], states.steps[-1]]
    np.testing.assert_array_equal(few["fixed_path_loss"], result["fixed_path_loss"][:, [0, -1]])


def test_a_node_gains_the_sum_of_image_functions():
    given = replayed.examples(5)
    state = replayed.state_of(replayed.mlp(), given)
    terms, gradient = image_terms(state, given), state.gradient(given)
    x = torch.randn(3, 4, dtype=torch.float64)
    summed = sum(image_function(terms["0.weight"], i, x) for i in range(5)) / 5
    torch.testing.assert_close(summed, F.linear(x, gradient["0.weight"], gradient["0.bias"]))


def test_the_bias_gains_the_signal_through_the_gate():
    given = replayed.examples(5)
    state = replayed.state_of(replayed.mlp(), given)
    term, after = image_terms(state, given)["0.weight"], image_terms(state, given)["2.weight"]
    layers = mlp.layers_of(state.tensors)
    masks = state.masks(given)["1"].double()
    # What arrives at the nodes from above, before their gates.
    arriving = after.bias_rows() @ state.tensors["2.weight"]
    torch.testing.assert_close(term.bias_rows(), arriving * masks)
    assert not torch.allclose(term.bias_rows(), arriving)
    for i in range(5):
        slope = mlp.gradient(layers, given.inputs[i].numpy(), int(given.targets[i]))[0][1]
        np.testing.assert_allclose(term.bias_rows()[i].numpy(), slope, atol=1e-14)


def test_image_functions_of_a_convolution_sum_over_patches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3))
    given = replayed.examples(4, (2, 5, 5))
    state = replayed.state_of(model.double(), given)
    gradient, term = state.gradient(given), image_terms(state, given)["0.weight"]
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    summed = sum(image_function(term, i, x) for i in range(4)) / 4
    expected = F.conv2d(x, gradient["0.weight"], gradient["0.bias"], stride=2, padding=1)
    torch.testing.assert_close(summed, expected)


def test_parts_of_all_images_and_of_the_beginning_make_the_weights(tmp_path):
    archive = recorded(tmp_path / "run.zarr", {"lr": 0.2, "momentum": 0.5})
    replay = Replay(archive)
    first = {name: replay.at(0).tensors[name] for name in replay.at(0).parameters}
    total = dict(first)
    for image in range(12):
        *_, last = History(replay).points(image)
        total = {name: total[name] + last.part[name] for name in total}
    assert distance(total, replay.at(last.step).tensors) < 1e-12
    alone = image_functions(states_of(archive), image=3, paths=2)
    nothing = isolated(replay.at(0), {}, replay.probe("train"))
    assert not nothing.any()
    assert alone["fixed_path_loss"][0] == pytest.approx(np.log(3))
    assert alone["attrs"]["image"] == 3


class Noisy(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), layer, nn.ReLU(), nn.Linear(8, 3)).double()

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("BatchNorm 'body.1'", {"model": lambda: Noisy(nn.BatchNorm1d(8))}),
        (r"\(augmented inputs, dropout\)", {"model": lambda: Noisy(nn.Dropout(0.5))}),
        pytest.param(r"\(augmented inputs, dropout\)", {"change": lambda x: x + 0.5}, marks=pytest.mark.slow),
        (r"augmented inputs", {"change": lambda x: x + 0.5, "log": False}),
        ("unknown", {"probe": 7}),
    ],
    ids=["batch norm", "dropout", "augmented", "augmented, no loss", "unknown inputs"],
)
def test_what_cannot_be_made_again_is_refused_in_a_sentence(tmp_path, reason, options):
    torch.manual_seed(0)
    model = options.pop("model", replayed.mlp)()
    archive = recorded(tmp_path / "run.zarr", model=model, **options)
    with pytest.raises(MissingTraceError, match=reason):
        image_functions(states_of(archive, 7), history="required")
    result = image_functions(states_of(archive, 7), paths=2)
    assert np.isnan(result["reconstruction_error"]).all()
    assert np.isfinite(result["fixed_path_loss"]).all()
    assert result["attrs"]["history"].count(". ") == 0


def test_other_optimizers_are_refused(tmp_path):
    model, given = replayed.mlp(), replayed.examples(12)
    archive = replayed.train(tmp_path / "run.zarr", model, torch.optim.Adam(model.parameters()), given)
    with pytest.raises(MissingTraceError, match=r"updates of torch\.optim\.adam\.Adam do not follow"):
        image_functions(states_of(archive), history="required")


def test_the_training_set_may_be_given_and_is_checked(tmp_path):
    archive, given = recorded(tmp_path / "run.zarr", probe=7), replayed.examples(12)
    replay = Replay(archive)
    *_, last = History(replay, data=lambda: (given.inputs, given.targets)).points()
    assert distance(last.weights, replay.at(last.step).tensors) < 1e-12
    with pytest.raises(ArchiveError, match="not the recorded one"):
        History(replay, data=lambda: (given.inputs + 1, given.targets))
    for other, kind in (("/data", "str"), (None, "NoneType"), ([1, 2], "list"), (7, "int")):
        with pytest.raises(ArgumentError, match=rf"data= returned a {kind}, expected \(inputs, targets\)"):
            History(replay, data=lambda other=other: other)


def test_a_diverged_network_has_no_paths_to_hold_others_to(tmp_path):
    states = states_of(recorded(tmp_path / "run.zarr"))
    diverged = states[1].with_tensors({"0.weight": torch.full_like(states[1].tensors["0.weight"], torch.inf)})
    chosen = replayed.States([states[0], diverged, states[2]], states.examples())
    result = image_functions(chosen, history="none")
    assert (
        np.isnan(result["fixed_path_loss"][:, 1]).all()
        and np.isnan(result["fixed_path_accuracy"][:, 1]).all()
    )
    assert np.isfinite(result["fixed_path_loss"][0, [0, 2]]).all()
