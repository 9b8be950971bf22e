"""Per-example losses: whatever the user's loss averages over, one number an example."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tracer.errors import RecordError
from tracer.network import trace
from tracer.network.objective import objective_of, per_example

OUTPUTS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1, 0])


def one_by_one(loss: nn.Module, outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.stack([loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(outputs))])


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(reduction="sum"),
        partial(F.cross_entropy, reduction="sum"),
    ],
)
def test_a_reduction_is_undone(loss: nn.Module) -> None:
    losses = per_example(loss)(OUTPUTS, LABELS)
    torch.testing.assert_close(losses, one_by_one(nn.CrossEntropyLoss(), OUTPUTS, LABELS))


def test_the_users_loss_module_is_not_touched() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    calls: list[int] = []
    loss.register_forward_hook(lambda *_: calls.append(1))
    per_example(loss)(OUTPUTS, LABELS)
    assert loss.reduction == "mean"
    assert calls == []


def test_class_weights_multiply() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0])
    weighted = per_example(nn.CrossEntropyLoss(weight=weight))(OUTPUTS, LABELS)
    torch.testing.assert_close(weighted, weight[LABELS] * per_example(F.cross_entropy)(OUTPUTS, LABELS))


def test_remaining_axes_are_averaged_over_what_is_not_ignored() -> None:
    outputs, targets = torch.randn(2, 3, 4), torch.tensor([[0, 1, -100, -100], [2, -100, 0, 1]])
    losses = per_example(F.cross_entropy)(outputs, targets)
    torch.testing.assert_close(losses, one_by_one(nn.CrossEntropyLoss(), outputs, targets))
    ignored = per_example(partial(F.cross_entropy, ignore_index=1))(outputs, targets.clamp(min=0))
    expected = one_by_one(nn.CrossEntropyLoss(ignore_index=1), outputs, targets.clamp(min=0))
    torch.testing.assert_close(ignored, expected)
    assert per_example(F.cross_entropy)(outputs, torch.full((2, 4), -100)).isnan().all()


def test_regression_averages_over_outputs() -> None:
    targets = torch.randn(5, 3)
    torch.testing.assert_close(
        per_example(nn.MSELoss())(OUTPUTS, targets), ((OUTPUTS - targets) ** 2).mean(1)
    )


def test_what_is_advised_for_a_loss_that_averages_is_that_of_each_example() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    with pytest.raises(RecordError) as refused:
        per_example(loss)(OUTPUTS, LABELS)
    advice = str(refused.value).partition("pass objective=")[2]
    objective = eval(advice, {"torch": torch, "loss": loss})
    _, losses, _ = objective_of(None, objective)(nn.Identity(), OUTPUTS, LABELS)
    torch.testing.assert_close(losses, F.cross_entropy(OUTPUTS, LABELS, reduction="none"))


def test_a_loss_of_its_own_must_give_one_value_an_example() -> None:
    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) != targets).float()

    assert per_example(own)(OUTPUTS, LABELS).shape == (5,)
    with pytest.raises(
        RecordError,
        match=r"loss 'mean_loss' must give one value per example: expected shape \(5,\), got \(\)",
    ):

        def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
            return own(outputs, targets).mean()

        per_example(mean_loss)(OUTPUTS, LABELS)
    with pytest.raises(RecordError, match=r"got \(15,\).*pass objective="):
        per_example(lambda outputs, _: outputs.reshape(-1))(OUTPUTS, LABELS)
    with pytest.raises(RecordError, match="must be a function or module"):
        per_example("cross_entropy")  # type: ignore[arg-type]


def test_an_objective_stands_alone() -> None:
    def objective(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return model(inputs), targets.float()

    own = objective_of(None, objective)(nn.Linear(3, 2), OUTPUTS, LABELS)
    assert own.outputs.shape == (5, 2) and torch.equal(own.losses, LABELS.float()) and own.correct is None
    with pytest.raises(RecordError, match="either loss or objective"):
        objective_of(F.cross_entropy, objective)


class Coder(nn.Module):
    """What forward does is also to be had in two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 3)

    def encode(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x))

    def decode(self, code: Tensor) -> Tensor:
        return torch.sigmoid(self.outer(code))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def test_what_outputs_depend_on_is_the_network_whichever_methods_an_objective_calls() -> None:
    def whole(model: nn.Module, x: Tensor, _: None) -> tuple[Tensor, Tensor]:
        return (out := model(x)), F.relu(out - x).sum(1)

    def by_steps(model: Coder, x: Tensor, _: None) -> tuple[Tensor, Tensor]:
        return (out := model.decode(model.encode(x))), F.relu(out - x).sum(1)

    tables = [trace(Coder(), OUTPUTS, None, objective=goal) for goal in (whole, by_steps)]
    assert [site.name for site in tables[0].sites] == [":relu", ":sigmoid"]
    assert tables[0].sites == tables[1].sites and tables[0].rows == tables[1].rows
