"""What a model calls that has no record is written in what has one; a loss that cannot be leaves the network whole."""

import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analyze
import tracer
from tests.attacks.hostile import MEMORY
from tracer.errors import ArchiveError, MissingTraceError
from tracer.network import Network, read, trace
from tracer.network.copies import named_tensors
from tracer.network.ctc import ctc_loss
from tracer.network.independence import independence
from tracer.network.reading import unreadable
from tracer.rerun.stored import Networks
from tracer.verify import verify

X, Y = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.rand(6, 1)


def model(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), *(layers or (nn.ReLU(),)), nn.Linear(7, 1))


def read_again(network: Network) -> Network:
    return read(network.to_json(), network.constants)


def read_as_it_is(made: nn.Module) -> Network:
    """A table read again that keeps examples apart, and has the outputs and gradients of its model."""
    network = read_again(trace(made, X, Y, F.mse_loss))
    torch.testing.assert_close(network.run(named_tensors(made), X)[0], made(X))
    assert independence(network, named_tensors(made), X, Y).holds
    given = list(made.parameters())
    losses = network.run(dict(made.named_parameters()), X, Y)[1], (made(X) - Y) ** 2
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), given) for loss in losses))
    return network


@pytest.mark.parametrize(
    "loss",
    [
        *(F.mse_loss, F.huber_loss, nn.MSELoss()),
        *(pytest.param(loss, marks=pytest.mark.slow) for loss in (F.l1_loss, F.smooth_l1_loss)),
    ],
    ids=lambda loss: getattr(loss, "__name__", type(loss).__name__),
)
def test_regression_is_replayed(loss: object) -> None:
    made = model()
    network = trace(made, X, Y, loss)
    assert network.foreign == [] and network.to_json().count(b"expand") == 0
    assert [row.op for row in network.rows if row.loss][1:] == [
        "aten.mean.dim"
    ]  # equal sizes: no broadcast is left
    outputs, losses = read_again(network).run(named_tensors(made), X, Y)
    unreduced = loss(made(X), Y, reduction="none") if not isinstance(loss, nn.Module) else (made(X) - Y) ** 2
    assert torch.equal(outputs, made(X)) and torch.equal(losses, unreduced.mean(1))


def rare(o: Tensor, t: Tensor) -> Tensor:
    """A loss of what a list of common operations lacks."""
    pair = torch.cat([o, t], 1)
    least = torch.min(o, t) + torch.max(o, t) * torch.logaddexp(o, t)
    return (
        torch.diff(pair)[:, 0] ** 2
        + torch.addmv(o[:, 0], pair, t[:2, 0])
        + least.mean(1)
        + torch.tile(pair, (1, 2)).sum(1)
    )


def test_what_is_not_listed_is_written_in_what_is() -> None:
    made = model()
    network = read_again(trace(made, X, Y, rare))
    _, losses = network.run(named_tensors(made), X, Y)
    torch.testing.assert_close(losses, rare(made(X), Y))
    ours, theirs = (
        torch.autograd.grad(value.sum(), list(made.parameters()))
        for value in (network.run(dict(made.named_parameters()), X, Y)[1], rare(made(X), Y))
    )
    torch.testing.assert_close(ours, theirs)


def test_a_step_that_leads_nowhere_is_not_taken() -> None:
    network = trace(model(), X, Y, lambda o, t: torch.hypot(o, t).mean(1))
    assert network.foreign == ["aten.hypot.default"]


def test_a_broadcast_that_is_one_stays() -> None:
    made, target = model(), torch.rand(6, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of sizes that differ
        network = read_again(trace(made, X, target, F.mse_loss))
        expected = F.mse_loss(made(X), target, reduction="none").mean(1)
    torch.testing.assert_close(network.run(named_tensors(made), X, target)[1], expected)


# ---- a loss that no list holds ----


def middling(o: Tensor, t: Tensor) -> Tensor:
    return (torch.cat([o, t, o * t], 1).median(1).values - t[:, 0]) ** 2


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = model()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    where = tmp_path_factory.mktemp("loss") / "run.zarr"
    with (
        pytest.warns(UserWarning, match="median"),
        tracer.record(where, made, optimizer, loss=middling, probes={"train": (X, Y)}) as run,
    ):
        middling(made(X), Y).mean().backward()
        optimizer.step()
        run.step(ids=range(6), loss=0.5)
    return where


def test_the_network_runs_without_a_loss_that_no_list_holds(path: Path) -> None:
    with tracer.open(path) as archive:
        network = Networks(archive).at(0)
        outputs = archive.probes["train"].outputs(0)
    assert network.losses is None and network.no_loss is not None and "aten.median.dim" in network.no_loss
    weights = named_tensors(model())
    torch.testing.assert_close(network.run(weights, X)[0], torch.from_numpy(outputs))
    with pytest.raises(ArchiveError, match="not on the list"):
        network.run(weights, X, Y)


def test_metrics_that_need_the_network_alone_are_computed(path: Path) -> None:
    assert analyze.run(path, metrics=["jacobian"])["jacobian"]["mean"].notnull().all()
    with pytest.raises(Exception, match=r"the loss cannot be computed.*median"):
        analyze.run(path, metrics=["sharpness"])
    assert any("losses and gradients are not replayed" in note for note in verify(path, replay=True).notes)


def test_the_recording_says_what_a_reader_will(path: Path) -> None:
    with tracer.open(path) as archive:
        said = Networks(archive).at(0).no_loss
        assert said is not None and any(said in note for note in archive.attributes["notes"])
    sound = trace(model(), X, Y, F.mse_loss)
    assert unreadable(sound, named_tensors(model()), MEMORY) is None


# ---- nonlinearities written out ----


class Written(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "gelu by tanh":
            return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))
        if self.kind == "gelu by erf":
            return x * 0.5 * (1.0 + torch.erf(x / 1.41421356))
        if self.kind == "gelu by sigmoid":
            return x * torch.sigmoid(1.702 * x)
        if self.kind == "silu":
            return x * torch.sigmoid(x)
        if self.kind == "mish":
            return x * torch.tanh(F.softplus(x))
        return x * (x > 0)


@pytest.mark.parametrize(
    ("kind", "name", "like"),
    [
        ("gelu by tanh", "gelu", F.gelu),
        ("gelu by erf", "gelu", F.gelu),
        ("gelu by sigmoid", "gelu", F.gelu),
        ("silu", "silu", F.silu),
        ("mish", "mish", F.mish),
        ("relu", "mul", F.relu),
    ],
)
def test_nonlinearities_written_out_are_sites(kind: str, name: str, like: object) -> None:
    made = model(Written(kind))
    network = read_again(trace(made, X))
    (site,) = network.sites
    assert site.name == f"1:{name}" and site.has_mask
    before = made[0](X).detach()
    torch.testing.assert_close(made[1](before), like(before), rtol=0, atol=0.03)
    seen: list[Tensor] = []
    row = network.rows[site.row]
    network.run(
        named_tensors(made),
        X,
        visit=lambda at, values, _: seen.append(values[site.argument]) if at == row else None,
    )
    assert torch.equal(seen[0] > 0, before > 0)
    fixed = network.run(named_tensors(made), X, masks={site.name: before > 0})[0]
    torch.testing.assert_close(fixed, made[2](F.relu(before)))


class Gated(nn.Module):
    """A gate made of something else than the number it opens for is no nonlinearity."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x))


def test_a_gate_of_others_is_only_a_sigmoid() -> None:
    network = trace(model(Gated()), X)
    assert [(site.name, site.has_mask) for site in network.sites] == [("1:sigmoid", False)]


def test_outputs_that_depend_on_targets_are_weighed_with_them() -> None:
    made = model()
    network = read_again(trace(made, X, Y, objective=lambda m, x, t: (m(x) * t, ((m(x) - t) ** 2).mean(1))))
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in named_tensors(made).items()}
    network.check_cost(meta, 0)
    assert torch.equal(network.run(named_tensors(made), X, Y)[0], made(X) * Y)
    with pytest.raises(MissingTraceError, match="needs target 0"):
        network.run(named_tensors(made), X)


# ---- what PyTorch looks up in values ----


@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_ctc_loss_is_that_of_pytorch(reduction: str, zero_infinity: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(9, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    letters = torch.randint(1, 4, (5, 4), generator=generator)
    heard, said = torch.tensor([9, 8, 9, 7, 5]), torch.tensor([0, 4, 2, 3, 4])
    letters[4] = 1  # four alike need seven steps
    given = (letters, heard, said, 0, reduction, zero_infinity)
    ours, theirs = (loss(scores.log_softmax(2), *given) for loss in (ctc_loss, F.ctc_loss))
    torch.testing.assert_close(ours, theirs)
    assert bool(torch.isinf(theirs).any()) != zero_infinity
    if zero_infinity:  # the slope of an infinite loss is none
        torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), scores)[0] for loss in (ours, theirs)))


@pytest.mark.parametrize("full", [False, True])
def test_a_variance_is_not_looked_at(full: bool) -> None:
    def loss(o: Tensor, t: Tensor) -> Tensor:
        small = o[:, 0].abs() * 1e-6 + torch.where(t[:, 0] > 0.5, 0.2, 0.0)  # some below eps
        return F.gaussian_nll_loss(o[:, 0], t[:, 0], small, full=full, reduction="none")

    made = model()
    network = read_again(trace(made, X, Y, loss))
    ours, theirs = network.run(dict(made.named_parameters()), X, Y)[1], loss(made(X), Y)
    assert ours is not None
    torch.testing.assert_close(ours, theirs)
    given = list(made.parameters())
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), given) for loss in (ours, theirs)))


@pytest.mark.parametrize("checks", [True, False])
def test_distributions_check_nothing_while_traced_and_what_they_did_after(
    checks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Compiling leaves checks off for the process, so they are as another test left them.
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", checks)

    def loss(o: Tensor, t: Tensor) -> Tensor:
        return -torch.distributions.Normal(o[:, 0], 1.0).log_prob(t[:, 0])

    network = read_again(trace(model(), X, Y, loss))
    assert network.losses is not None
    with pytest.raises(ValueError, match="constraint") if checks else nullcontext():
        torch.distributions.Normal(0.0, -1.0)


def test_memory_that_is_filled_later_is_no_random_number() -> None:
    class Filled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out = x.new_empty(x.shape[0], 7)
            out[:, :3] = x[:, 4:]
            out[:, 3:] = torch.empty_like(x[:, :4]).copy_(x[:, :4])
            return out

    assert read_as_it_is(model(Filled())).random_rows == []


def test_what_looks_in_values_whether_a_matrix_has_an_inverse_needs_no_look() -> None:
    class Whitened(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            matrix = torch.diag_embed(x[:, :3] ** 2 + 1) + x[:, :3, None] * x[:, None, :3]
            root = torch.linalg.cholesky(matrix)
            solved = [
                torch.linalg.inv(matrix),
                torch.linalg.solve(matrix, root),
                torch.linalg.solve_triangular(root, matrix, upper=False),
                torch.cholesky_solve(root, root),
            ]
            return torch.cat([x[:, :6] * matrix.logdet()[:, None], sum(solved)[:, 0, :1]], 1)

    read_as_it_is(model(Whitened()))


def test_one_example_keeps_its_axis_where_axes_of_size_1_are_taken_off() -> None:
    class Squeezing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            folded = x[:, None].squeeze((0, 1)).squeeze(0)
            return (folded.squeeze() + x.mean((1, 2), keepdim=True).squeeze()[:, None]).squeeze(-1)

    model, x, y = Squeezing(), torch.randn(4, 1, 5), torch.randn(4, 5)
    network = trace(model, x, y, lambda outputs, targets: (outputs - targets).pow(2).mean(1).squeeze())
    outputs, losses = read_again(network).run({}, x[:1], y[:1])
    assert torch.equal(outputs, model(x)[:1])
    assert torch.equal(losses, (model(x) - y).pow(2).mean(1)[:1])  # type: ignore[arg-type]
