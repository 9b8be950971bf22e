"""Every loss of `torch.nn`, with every reduction that it has."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Batch, Case, N

CLASSES, SIZE = 4, 6


def mlp(*last: nn.Module, width: int = CLASSES) -> nn.Module:
    return nn.Sequential(nn.Linear(SIZE, 7), nn.ReLU(), nn.Linear(7, width), *last)


def given(make: Callable[[], Any]) -> Callable[[], Batch]:
    return lambda: (torch.randn(N, SIZE), make())


def numbers() -> Tensor:
    return torch.randn(N, CLASSES)


def counts() -> Tensor:
    return torch.randint(0, 5, (N, CLASSES)).float()


def labels() -> Tensor:
    return torch.arange(N) % 3


def truths() -> Tensor:
    return torch.randint(0, 2, (N, CLASSES)).float()


def signs() -> Tensor:
    return 2 * truths() - 1


def shares() -> Tensor:
    return torch.randn(N, CLASSES).softmax(1)


def some_labels() -> Tensor:
    """The true labels first, then -1, as `MultiLabelMarginLoss` takes them."""
    return torch.tensor([[k % CLASSES, (k + 1) % CLASSES, -1, 0] for k in range(N)])


class Pair(nn.Module):
    """Two or more embeddings of an example, from two or more inputs."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.body = mlp(width=width)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.body(x) for x in inputs)


def pairs(how_many: int, targets: Callable[[], Any]) -> Callable[[], Batch]:
    return lambda: (tuple(torch.randn(N, SIZE) for _ in range(how_many)), targets())


def one_sign() -> Tensor:
    return torch.ones(N).where(torch.arange(N) % 2 == 0, -1.0)


def compared(loss: nn.Module, flat: bool = False) -> Callable[..., Any]:
    """An objective of a loss that compares several outputs of an example."""

    def objective(model: nn.Module, inputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        outputs = model(*inputs)
        compare = [out[:, 0] for out in outputs] if flat else outputs
        losses = loss(*compare) if targets is None else loss(*compare, targets)
        return torch.stack(tuple(outputs), 1), losses

    return objective


def none(name: str, **options: Any) -> nn.Module:
    return getattr(nn, name)(reduction="none", **options)


def mean_and_variance(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    mean, scale = model(inputs).split(2, 1)
    losses = F.gaussian_nll_loss(mean, targets[:, :2], F.softplus(scale) + 0.1, reduction="none")
    return mean, losses.mean(1)


class Adaptive(nn.Module):
    """A softmax over many classes whose parameters belong to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(width=8)
        self.head = nn.AdaptiveLogSoftmaxWithLoss(8, 12, [4, 8])


def adaptive(model: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    hidden = model.body(inputs)
    scores = model.head.log_prob(hidden)
    return scores, F.nll_loss(scores, targets, reduction="none")


def adaptive_alone(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    return model.head(model.body(inputs), targets).loss


class LinearHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(width=8)
        self.head = nn.LinearCrossEntropyLoss(8, CLASSES, reduction="none")


def linear_head(model: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    hidden = model.body(inputs)
    return hidden, model.head(hidden, targets)


class Speech(nn.Module):
    """Log-probabilities (example, time, letter)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).transpose(1, 2)).log_softmax(2)


def speech() -> Batch:
    lengths = torch.tensor([2, 3] * (N // 2))
    return torch.randn(N, 3, 8), {
        "letters": torch.randint(1, 5, (N, 3)),
        "heard": torch.full((N,), 8),
        "said": lengths,
    }


def ctc(model: nn.Module, inputs: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    scores = model(inputs)
    losses = F.ctc_loss(
        scores.transpose(0, 1), targets["letters"], targets["heard"], targets["said"], reduction="none"
    )
    return scores, losses / targets["said"]


def weighted_alone(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Class weights multiply the loss of an example, and are not divided out again."""
    return WEIGHTS[targets[0]] * F.cross_entropy(model(inputs), targets)


WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.3])

# name, what comes after the last layer, targets, options
PLAIN: list[tuple[str, tuple[nn.Module, ...], Callable[[], Any], dict[str, Any]]] = [
    ("L1Loss", (), numbers, {}),
    ("MSELoss", (), numbers, {}),
    ("SmoothL1Loss", (), numbers, {"beta": 0.5}),
    ("HuberLoss", (), numbers, {"delta": 0.7}),
    ("PoissonNLLLoss", (), counts, {"full": True}),
    ("KLDivLoss", (nn.LogSoftmax(1),), shares, {}),
    ("NLLLoss", (nn.LogSoftmax(1),), labels, {}),
    ("CrossEntropyLoss", (), labels, {"label_smoothing": 0.1}),
    ("BCELoss", (nn.Sigmoid(),), truths, {}),
    ("BCEWithLogitsLoss", (), truths, {}),
    ("MultiLabelMarginLoss", (), some_labels, {}),
    ("MultiLabelSoftMarginLoss", (), truths, {}),
    ("MultiMarginLoss", (), labels, {}),
    ("SoftMarginLoss", (), signs, {}),
    ("HingeEmbeddingLoss", (), signs, {}),
]
REDUCTIONS = ("mean", "sum", "none")


def plain(
    name: str, last: tuple[nn.Module, ...], targets: Any, options: dict[str, Any], reduction: str
) -> Case:
    loss = getattr(nn, name)(reduction=reduction, **options)
    mean = getattr(nn, name)(reduction="mean", **options)

    def alone(model: nn.Module, inputs: Tensor, truth: Any) -> Tensor:
        return mean(model(inputs), truth)

    return Case(f"{name}({reduction})", "losses", lambda: mlp(*last), given(targets), loss, alone=alone)


CASES = [
    *(plain(*row, reduction) for row in PLAIN for reduction in REDUCTIONS),
    *(
        Case(
            f"CrossEntropyLoss with class weights({reduction})",
            "losses",
            mlp,
            given(labels),
            loss,
            None,
            weighted_alone,
        )
        for reduction in REDUCTIONS
        for loss in [nn.CrossEntropyLoss(weight=WEIGHTS, reduction=reduction)]
    ),
    Case("CrossEntropyLoss, class probabilities", "losses", mlp, given(shares), nn.CrossEntropyLoss()),
    Case("GaussianNLLLoss", "losses", mlp, given(numbers), objective=mean_and_variance),
    Case(
        "MarginRankingLoss",
        "losses",
        lambda: Pair(1),
        pairs(2, one_sign),
        objective=compared(none("MarginRankingLoss", margin=0.5), flat=True),
    ),
    Case(
        "CosineEmbeddingLoss",
        "losses",
        Pair,
        pairs(2, one_sign),
        objective=compared(none("CosineEmbeddingLoss")),
    ),
    Case(
        "TripletMarginLoss",
        "losses",
        Pair,
        pairs(3, lambda: None),
        objective=compared(none("TripletMarginLoss")),
    ),
    Case(
        "TripletMarginWithDistanceLoss",
        "losses",
        Pair,
        pairs(3, lambda: None),
        objective=compared(
            none(
                "TripletMarginWithDistanceLoss", distance_function=lambda a, b: 1 - F.cosine_similarity(a, b)
            )
        ),
    ),
    Case("CTCLoss", "losses", Speech, speech, objective=ctc),
    Case(
        "AdaptiveLogSoftmaxWithLoss",
        "losses",
        Adaptive,
        given(lambda: torch.arange(N)),
        objective=adaptive,
        alone=adaptive_alone,
    ),
    Case("LinearCrossEntropyLoss", "losses", LinearHead, given(labels), objective=linear_head),
]
