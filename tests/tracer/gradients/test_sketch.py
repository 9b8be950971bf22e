"""Sketches against their definition in loops, against a second Philox, and against the gradients they stand for."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.oracles.gradients import per_example
from tests.oracles.sketches import by_definition, drawn
from tracer.gradients import Backward, Plan
from tracer.gradients.forms import Correlation, Form, Full, Outer, Scatter, Tied
from tracer.gradients.sketch import BLOCKS, Projection, Setting, Sketches, draw
from tracer.gradients.windows import Geometry
from tracer.network import trace
from tracer.network.copies import named_tensors

CPU = torch.device("cpu")
SPACES = {
    "conv": ((6, 6), (3, 3), Geometry((3, 3), (2, 2), (1, 1), (1, 1))),
    "conv1d": ((9,), (5,), Geometry((3,), (2,), (1,), (1,))),
    "conv3d": ((5, 4, 6), (3, 2, 3), Geometry((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1))),
    "pointwise": ((3, 4), (3, 4), Geometry((1, 1), (1, 1), (0, 0), (1, 1))),
    "groups": ((6, 6), (3, 3), Geometry((3, 3), (2, 2), (1, 1), (1, 1), 2)),
}


def forms() -> dict[str, Form]:
    torch.manual_seed(0)
    outer, index = Outer(torch.randn(3, 5, 7), torch.randn(3, 5, 11)), torch.randint(0, 11, (3, 4))
    looked_up = Scatter(index, torch.randn(3, 4, 7), 11)
    made: dict[str, Form] = {
        "number": Full(torch.randn(3)),
        "vector": Full(torch.randn(3, 70)),
        "tensor": Full(torch.randn(3, 7, 5, 2)),
        "outer": outer,
        "lookup": looked_up,
        "tied": Tied.of(outer, looked_up),
    }
    for name, (space, out, geometry) in SPACES.items():
        made[name] = Correlation(torch.randn(3, 4, *space), torch.randn(3, 6, *out), geometry)
    return made


@pytest.mark.parametrize("name", forms())
@pytest.mark.parametrize("factors", [True, False])
def test_every_form_is_sketched_as_its_gradients_are(
    name: str, factors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = forms()[name]
    monkeypatch.setattr(Projection, "_factors_are_cheaper", lambda *_: factors)
    got = Projection(name, form.shape, 8, 3, CPU).of(form).double().numpy()
    expected = by_definition(form.rows().numpy(), name, 8, 3)
    assert np.abs(got - expected).max() < 1e-6 * np.abs(expected).max()


def test_a_sketch_worked_by_hand() -> None:
    # Rows fall into buckets 0 and 1 with signs + and -, columns into 1 and 0 with +.
    one = Projection("w", (2, 2), 2, 0, CPU)
    one.__dict__["_rows"] = torch.tensor([[0, 2 + 1]] * BLOCKS)
    one.__dict__["_columns"] = torch.tensor([[1, 0]] * BLOCKS)
    # Bucket 0 has + 2 and - 3, bucket 1 has + 1 and - 4.
    assert one.of(Full(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])))[0].tolist() == [[-1.0, -3.0]] * BLOCKS


def test_draws_can_be_made_without_numpy() -> None:
    assert draw(5, "fc.weight", 1, 6, buckets=8).tolist() == drawn(5, "fc.weight", 1, 6, 8)
    assert draw(5, "fc.weight", 0, 6, buckets=8).tolist() != drawn(5, "fc.weight", 1, 6, 8)


@pytest.mark.parametrize("kind", ["outer", "tensor"])
def test_inner_products_are_unbiased_and_their_error_is_known(kind: str) -> None:
    torch.manual_seed(2)
    if kind == "outer":  # of one position: the hardest
        form: Form = Outer(torch.randn(2, 1, 9), torch.randn(2, 1, 6))
    else:
        form = Full(torch.randn(2, 6, 9))
    rows = form.rows().flatten(1).double()
    exact, lengths = (rows @ rows.T).numpy(), rows.norm(dim=1).numpy()
    buckets, seeds = 16, 250
    estimates = np.empty((seeds, BLOCKS, 2, 2))
    for seed in range(seeds):
        sketch = Projection("w", form.shape, buckets, seed, CPU).of(form).double()
        estimates[seed] = torch.einsum("ibk,jbk->bij", sketch, sketch).numpy()
    each, error = estimates.reshape(-1, 2, 2), estimates.reshape(-1, 2, 2).std(0) / np.sqrt(seeds * BLOCKS)
    assert (np.abs(each.mean(0) - exact) < 4 * error).all()
    variance = buckets * each.var(0) / np.outer(np.square(lengths), np.square(lengths))
    assert 0.5 < variance[0, 1] < 9 and 0.5 < variance[0, 0] < 9  # 1 to 8 in theory
    told = estimates.var(1, ddof=1).mean(0)  # what blocks of one sketch say
    assert np.allclose(told / each.var(0), 1, atol=0.1)


def test_the_tolerance_is_the_error_of_a_cosine() -> None:
    torch.manual_seed(0)
    form, setting = Full(torch.randn(60, 30, 40)), Setting(tolerance=0.1)
    rows = F.normalize(form.rows().flatten(1))
    sketch = F.normalize(Projection("w", form.shape, setting.buckets, 0, CPU).of(form).flatten(1))
    off = ~torch.eye(60, dtype=torch.bool)
    error = (sketch @ sketch.T - rows @ rows.T)[off].square().mean().sqrt()
    assert setting.numbers == 128 and 0.07 < error < 0.1


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 20)
        self.scale = nn.Parameter(torch.ones(20))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(self.words(x).mT)).mT
        return self.fc(self.norm(h)).mean(1) * self.scale


def test_layers_of_a_model() -> None:
    torch.manual_seed(0)
    model = Model().eval()
    x, y = torch.randint(0, 20, (4, 7)), torch.arange(4)
    network = trace(model, x, y, loss=F.cross_entropy)
    plan, tensors = Plan.of(network), named_tensors(model)
    setting = Setting(tolerance=0.125)  # 64 numbers
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sketches = Sketches(plan, shapes, setting, CPU)
    values = torch.zeros(4, sketches.size)

    def receive(unit: object, arrived: dict[str, Form]) -> None:
        for name, form in arrived.items():
            sketches.add(values, name, form)

    backward = Backward(plan, 4, 4, receive)
    _, losses = network.run(tensors, x, y, visit=backward.visit)
    assert losses is not None
    backward.run(losses)
    gradients = per_example(model, lambda out, target: F.cross_entropy(out, target), x, y)
    expected = torch.zeros_like(values)
    for name, rows in gradients.items():
        sketches.add(expected, name, Full(rows))
    assert torch.allclose(values, expected, atol=1e-6)
    exact = {row["layer"]: row["size"] for row in sketches.layers if not row["buckets"]}
    assert exact["norm"] == 16 and exact["unused"] == 6 and "words" not in exact
    (norm,) = (row for row in sketches.layers if row["layer"] == "norm")
    both = torch.cat([gradients["norm.weight"], gradients["norm.bias"]], 1)
    assert torch.allclose(values[:, norm["offset"] :][:, :16], both, atol=1e-6)


def test_an_undefined_gradient_stays_with_its_example() -> None:
    torch.manual_seed(0)
    a, z = torch.randn(3, 2, 9), torch.randn(3, 2, 8)
    z[1, 0, 3] = torch.nan
    got = Projection("w", (8, 9), 4, 0, CPU).of(Outer(a, z))
    assert got[[0, 2]].isfinite().all() and got[1].isnan().any()
