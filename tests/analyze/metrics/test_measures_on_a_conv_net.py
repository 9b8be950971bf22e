"""Every measure of a recorded convolutional network with BatchNorm and a shortcut, beside code that shares nothing."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from sklearn.metrics import davies_bouldin_score
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import analyze
import tracer
from tests.loops import blobs
from tests.oracles import cartography, effective_rank, neural_collapse, prediction_depth, spectral_power_law
from tests.oracles import norm_measures as norms
from tests.oracles import pac_bayes_measures as pac_bayes

OPTIONS = {
    "betti_numbers": {"k": (2,), "epsilon": (1.0,), "degrees": 1},
    "local_learning_coefficient": {"chains": 2, "draws": 2, "burn_in": 0, "checks": False, "step_size": 1e-6},
    "loss_plane": {"points": 3},
    "mode_connectivity": {"points": 3},
    "pac_bayes_measures": {"draws": 3, "halvings": 4, "restarts": 1, "iterations": 2},
    "prediction_depth": {"k": 5},
    "pgdl": {"draws": 2},
    **{name: {} for name in ("neural_collapse", "effective_rank", "norm_measures", "spectral_power_law")},
    **{name: {} for name in ("cartography", "training_measures", "trajectory_dimension")},
}
X, Y = blobs(30, (1, 8, 8))
TEST = blobs(12, (1, 8, 8), seed=7)


class Net(nn.Module):
    """Two convolutions, the second with a shortcut around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(16, 3)

    def places(self, x):
        """Input, what both ReLUs give, features and scores."""
        first = F.relu(self.norm1(self.conv1(x)))
        second = F.relu(first + self.norm2(self.conv2(first)))
        features = F.adaptive_avg_pool2d(second, 2).flatten(1)
        return x, first, second, features, self.fc(features)

    def forward(self, x):
        return self.places(x)[-1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    model, states, scores = Net(), [], []
    loader = DataLoader(
        TensorDataset(X, Y), batch_size=10, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    probes = {
        name: tracer.Probe(*data, capture={"activations": None})
        for name, data in (("train", (X, Y)), ("test", TEST))
    }
    path = tmp_path_factory.mktemp("conv") / "run.zarr"

    def note() -> None:
        states.append(copy.deepcopy(model).eval())
        with torch.no_grad():
            scores.append(states[-1](X).double().numpy())

    note()
    with tracer.record(
        path, model, optimizer, loss=F.cross_entropy, probes=probes, snapshots=tracer.epochs()
    ) as recording:
        for _ in range(2):
            for x, y in recording.batches(loader):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            note()
    results = analyze.run(path, [*OPTIONS], options=OPTIONS, patience=math.inf)
    assert not results.skipped
    return states, np.array(scores), results


@pytest.fixture(scope="module")
def places(run):
    with torch.no_grad():
        return [values.double().flatten(1).numpy() for values in run[0][-1].places(X)]


def last(result, name):
    values = result[name]
    return values.isel(step=-1).values if "step" in values.dims else values.values


def test_neural_collapse_and_ranks(run, places):
    states, scores, results = run
    weights = states[-1].fc.weight.detach().double().numpy()
    expected = neural_collapse.values(places[3], Y.numpy(), weights, scores[-1].argmax(1))
    for name, value in expected.items():
        assert last(results["neural_collapse"], name) == pytest.approx(value, rel=1e-3), name
    for site in (0, 1):
        for name, value in effective_rank.slow(places[1 + site]).items():
            assert last(results["effective_rank"].sel(probe="train").isel(site=site), name) == pytest.approx(
                value, rel=1e-3
            )


def test_norms(run):
    states, scores, results = run
    margins = np.sort([row[y] - np.delete(row, y).max() for row, y in zip(scores[-1], Y, strict=True)])
    gamma = margins[2]  # of 30 the third
    assert last(results["norm_measures"], "gamma") == pytest.approx(
        gamma if gamma > 0 else np.nan, rel=1e-4, nan_ok=True
    )
    expected = norms.measures(states[-1], states[0], abs(gamma))
    for name, value in expected.items():
        if gamma > 0 or not ("margin" in name or name.endswith("_main")):
            assert last(results["norm_measures"], name)[0] == pytest.approx(value, rel=1e-4), name
    assert (
        last(results["norm_measures"], "n_layers") == 3 and last(results["norm_measures"], "n_unfolded") == 0
    )
    path = norms.path_norm(states[-1], torch.ones(1, 1, 8, 8, dtype=torch.float64))
    assert last(results["norm_measures"], "path_norm")[0] == pytest.approx(path, rel=1e-4)


def test_power_law(run):
    kernel = run[0][-1].conv2.weight.detach().double().numpy()
    values = [
        np.linalg.eigvalsh(kernel[:, :, i, j] @ kernel[:, :, i, j].T) for i in range(3) for j in range(3)
    ]
    expected = spectral_power_law.slow_fit([value for value in np.concatenate(values) if value > 1e-5])
    for name, value in expected.items():
        assert last(run[2]["spectral_power_law"].sel(layer="conv2"), name) == pytest.approx(
            value, rel=1e-3
        ), name


def test_examples(run, places):
    _, scores, results = run
    of_train = results["cartography"].isel(example=results["cartography"]["split"].values == "train")
    for i in range(30):
        for name, value in cartography.slow(scores[1:, i], int(Y[i])).items():
            assert of_train[name].values[i] == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True), name
    data = {"inputs": places[0], "activations": [places[1][None], places[2][None]], "scores": scores[-1:]}
    data |= {"labels": Y.numpy(), "ids": np.arange(30), "split": ["train"] * 30}
    depth = results["prediction_depth"]["depth"]
    found = depth.isel(step=-1).values[depth["split"].values == "train"]
    assert found.tolist() == [prediction_depth.slow(data, 5, 0, i) for i in range(30)]


def test_training_and_trajectory(run):
    states, scores, results = run
    soft = torch.from_numpy(scores).softmax(-1)
    entropy = -(soft * soft.log()).sum(-1).mean(-1)
    np.testing.assert_allclose(results["training_measures"]["output_entropy"], entropy, rtol=1e-4)
    flat = [torch.cat([p.detach().reshape(-1) for p in state.parameters()]).double() for state in states]
    table = torch.cdist(
        torch.stack(flat), torch.stack(flat), compute_mode="donot_use_mm_for_euclid_dist"
    ).numpy()
    tree = minimum_spanning_tree(table).sum()
    assert results["trajectory_dimension"]["e_alpha"].item() == pytest.approx(tree, rel=1e-4)
    assert results["trajectory_dimension"]["n_iterates"].item() == 3


def test_landscape(run):
    states, scores, results = run
    loss = float(F.cross_entropy(torch.from_numpy(scores[-1]), Y))
    error = float((scores[-1].argmax(1) != Y.numpy()).mean())
    plane = results["loss_plane"].isel(step=-1, a=1, b=1).sel(statistics="kept")
    assert [plane["loss"].item(), plane["error"].item()] == pytest.approx([loss, error], rel=1e-4)
    coefficient = results["local_learning_coefficient"].isel(step=-1)
    np.testing.assert_allclose(coefficient["trace"].isel(draw=0), [loss, loss], rtol=1e-4)
    middle = copy.deepcopy(states[-1])
    with torch.no_grad():
        for mean, a, b in zip(
            middle.parameters(), states[0].parameters(), states[-1].parameters(), strict=True
        ):
            mean.copy_((a + b) / 2)
    for norm in (middle.norm1, middle.norm2):
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        middle.train()(X)
        expected = float(F.cross_entropy(middle.eval()(X), Y))
    curve = results["mode_connectivity"]["curve"].sel(kind="loss", probe="train").isel(step=0, t=1)
    assert curve.item() == pytest.approx(expected, rel=1e-4)


def test_pac_bayes_and_sharpness(run):
    states, scores, results = run
    found = results["pac_bayes_measures"]
    assert last(found, "accuracy") == pytest.approx((scores[-1].argmax(1) == Y.numpy()).mean())
    w, start = (
        torch.cat([each.reshape(-1) for each in norms.weights_of(state)]).tolist()
        for state in (states[-1], states[0])
    )
    radii = {name: float(last(found, name)) for name in ("sigma", "sigma_mag", "alpha", "alpha_mag")}
    expected = pac_bayes.measures(w, start, radii, 30, math.log(2 * len(w)), 1e-3)
    for name, value in expected.items():
        assert last(found, name)[0] == pytest.approx(value, rel=1e-3, nan_ok=True), name


def test_clusters_and_pieces(run, places):
    states, scores, results = run
    with torch.no_grad():
        first = F.max_pool2d(states[-1].conv1(X), 4).flatten(1).numpy()
    expected = davies_bouldin_score(first, Y.numpy())
    assert last(results["pgdl"], "davies_bouldin") == pytest.approx(expected, rel=1e-3)
    rows = (Y.numpy() == 0) & (scores[-1].argmax(1) == 0)
    pieces = results["betti_numbers"]["betti"].isel(step=-1, k=0, epsilon=0, degree=0).values
    for place, values in enumerate(places[:3]):
        distance = np.linalg.norm(values[rows][:, None] - values[rows], axis=-1) + np.diag(
            [np.inf] * rows.sum()
        )
        joined = np.zeros(distance.shape)
        for i, row in enumerate(distance):
            joined[i, np.argsort(row)[:2]] = 1
        assert (
            pieces[place] == (connected_components(joined, directed=False)[0] if rows.sum() > 2 else np.nan)
            or rows.sum() <= 2
        )
