"""A case of the zoo: a small model with its data and its loss, as somebody would train it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tracer.network.pytree import take

N = 8  # examples: the first five are the probe `train`, the others `test`
TRAIN = 5
Batch = tuple[Any, Any]


@dataclass(frozen=True)
class Case:
    """One line of the table.

    build: makes the model; the random stream is seeded before. data: inputs and targets of N examples. loss or
    objective: as `tracer.record` takes it. alone: the loss (model, inputs, targets) -> number of a batch that holds
    one example, where that is not what loss or objective say of it. refused: a piece of the sentence with which
    `tracer.record` refuses it; off: a piece of the note that says what is not recorded; eager: whether it has no table.
    shared: inputs that all examples have in common. stated: what is said of the case in the table.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    data: Callable[[], Batch]
    loss: Any = None
    objective: Any = None
    alone: Callable[[nn.Module, Any, Any], Tensor] | None = None
    refused: str = ""
    off: str = ""
    eager: bool = False
    shared: tuple[str | int, ...] = ()
    stated: str = ""

    def make(self) -> nn.Module:
        """The model, the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.build()

    def batch(self) -> Batch:
        """Inputs and targets of all examples, the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return self.data()

    @property
    def goal(self) -> dict[str, Any]:
        """What `tracer.record` is given."""
        return {"loss": self.loss} if self.objective is None else {"objective": self.objective}


def one_loss(case: Case, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
    """The loss of a batch that holds one example."""
    if case.alone is not None:
        return case.alone(model, inputs, targets)
    if case.objective is not None:
        made = case.objective(model, inputs, targets)
        return (made["losses"] if isinstance(made, dict) else made[1]).sum()
    outputs = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return case.loss(outputs, targets).mean()


def examples(tree: Any, index: Any) -> Any:
    """Some of the N examples of inputs or targets."""
    return take(tree, torch.as_tensor(index), N)
