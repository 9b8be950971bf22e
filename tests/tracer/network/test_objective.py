"""Per-example losses: whatever the user's loss averages over, one number an example."""

from collections.abc import Callable
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
Loss = Callable[[Tensor, Tensor], Tensor]


def one_by_one(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
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


def averaging(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets) + 0.1 * outputs.square().mean()


def adding(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.gather(1, targets[:, None]) - 1).abs().sum()


def by_value(outputs: Tensor, targets: Tensor) -> Tensor:
    """What `torch.vmap` does not take."""
    return outputs[targets > 0].square().sum() / len(targets)


@pytest.mark.parametrize("loss", [averaging, adding, by_value])
def test_one_number_that_is_a_mean_or_a_sum_is_taken_of_each_example_alone(loss: Loss) -> None:
    outputs = OUTPUTS.clone().requires_grad_()
    expected = one_by_one(loss, outputs, LABELS)
    of_each = per_example(loss)
    losses = of_each(outputs, LABELS)
    torch.testing.assert_close(losses, expected)
    weights = torch.arange(1.0, 6.0)
    ours, theirs = (torch.autograd.grad((of * weights).sum(), outputs)[0] for of in (losses, expected))
    torch.testing.assert_close(ours, theirs)
    assert per_example(loss)(OUTPUTS[:1], LABELS[:1]).tolist() == losses[:1].tolist()
    assert ("the sum of" if loss is adding else "the mean of") in "".join(of_each.told(OUTPUTS, LABELS))


def comparing(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)))


def weighing(outputs: Tensor, targets: Tensor) -> Tensor:
    """Examples by what the others are; of one alone the weight is of no account."""
    return F.cross_entropy(outputs, targets, weight=torch.tensor([1.0, 2.0, 3.0]))


def spreading(outputs: Tensor, targets: Tensor) -> Tensor:
    return averaging(outputs, targets) + outputs.std(0).mean()


@pytest.mark.filterwarnings("ignore:std.*degrees of freedom is <= 0:UserWarning")
@pytest.mark.parametrize("loss", [comparing, weighing, spreading])
def test_one_number_that_is_made_of_all_examples_together_is_refused(loss: Loss) -> None:
    for n in (1, 5) if loss is not weighing else (5,):
        with pytest.raises(RecordError, match=r"neither the mean nor the sum .* pass objective="):
            per_example(loss)(OUTPUTS[:n], LABELS[:n])
    with pytest.raises(RecordError, match="neither the mean nor the sum"):
        trace(nn.Linear(3, 3), OUTPUTS, LABELS, loss)


def test_a_loss_of_its_own_must_give_one_value_an_example() -> None:
    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) != targets).float()

    assert per_example(own)(OUTPUTS, LABELS).shape == (5,)
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
