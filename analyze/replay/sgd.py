"""The updates of a run made again: stochastic gradient descent from recorded ids, inputs and initial weights.

What is known of a run's history is its first weights and, for every update, the ids of its minibatch and its
learning rate. The gradient of each minibatch follows from the network, so every state between two snapshots
can be had too, and the weights come apart into what each example contributed to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analyze.replay.batch_norm import batch_norms
from analyze.replay.examples import Examples
from analyze.replay.replay import Replay
from analyze.replay.state import State
from analyze.replay.training_set import Training
from tracer.errors import MissingTraceError
from tracer.gradients import Plan
from tracer.network import Network
from tracer.ops import op

Named = dict[str, Tensor]
SGD = "torch.optim.sgd.SGD"
LOSS_TOLERANCE = 1e-3  # of the recorded loss of the first update; float32 losses agree to 1e-6
NEAR_0 = 1e-3  # where a loss is smaller, it has the rounding of the outputs that it is a difference of
DRIFT = 0.1  # of the distance travelled to the first later snapshot; rounding stays far below
_OTHERWISE = (
    "the network saw something else in training (augmented inputs, dropout), or its gradients were changed "
    "(clipping, further terms of the loss)"
)


@dataclass(frozen=True)
class Rule:
    """What SGD makes of a gradient."""

    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False

    @classmethod
    def of(cls, card: Mapping[str, Any], lr: np.ndarray) -> Rule:
        """The rule of a run, from its card and its learning rates (update, param_group).

        MissingTraceError for any optimizer but SGD, and where groups of parameters are treated differently.
        """
        optimizer = card.get("optimizer")
        if not isinstance(optimizer, Mapping) or optimizer.get("class") != SGD:
            name = optimizer.get("class") if isinstance(optimizer, Mapping) else "a loop without optimizer"
            raise MissingTraceError(
                f"updates of {name} do not follow from the gradients alone as those of torch.optim.SGD do, "
                "so the history of the weights cannot be made again; train with SGD, or look only at the "
                "snapshots"
            )
        names = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")
        settings = {tuple(group.get(name, 0) for name in names) for group in optimizer["groups"]}
        if len(settings) > 1 or (lr != lr[:, :1]).any():
            raise MissingTraceError(
                "the optimizer treats groups of parameters differently and the archive does not say which "
                "parameter is in which group, so the history of the weights cannot be made again; train "
                "with one group"
            )
        momentum, dampening, decay, nesterov, maximize = settings.pop()
        return cls(float(momentum), float(dampening), float(decay), bool(nesterov), bool(maximize))

    def update(self, weights: Named, gradient: Mapping[str, Tensor], velocity: Named, lr: float) -> Named:
        """Weights after one update; `velocity` is carried along in place."""
        after = dict(weights)
        for name, slope in gradient.items():
            step = -slope if self.maximize else slope
            if self.weight_decay:
                step = step + self.weight_decay * weights[name]
            if self.momentum:
                before = velocity.get(name)
                # The first gradient is not dampened, as in PyTorch.
                velocity[name] = (
                    step if before is None else self.momentum * before + (1 - self.dampening) * step
                )
                step = step + self.momentum * velocity[name] if self.nesterov else velocity[name]
            after[name] = weights[name] - lr * step
        return after


@dataclass
class Point:
    """A state on the way: updates made, trainable weights, and the part of them one example made."""

    step: int
    weights: Named
    part: Named = field(default_factory=dict)


class History:
    """Every update of a run, made again.

    data: a function that returns the training set (a Dataset or (inputs, targets)), where the archive does
    not hold the inputs of all training examples. double: in float64 whatever the run was in. Errors:
    MissingTraceError, in one sentence, for a run whose updates do not follow from what the archive holds.
    """

    def __init__(
        self, replay: Replay, *, data: Callable[[], Any] | None = None, double: bool = False
    ) -> None:
        archive = replay.archive
        rows = archive.rows
        self._replay, self._rows = replay, rows
        if int(replay.steps[0]) != 0:
            raise MissingTraceError("the weights of step 0 are not recorded, so the history has no beginning")
        lr = np.asarray(rows["lr"], np.float64).reshape(len(rows["step"]), -1)
        self.rule, self._lr = Rule.of(archive.card, lr), lr[:, 0]
        self._first = replay.at(0).double() if double else replay.at(0)
        network = self._first.network
        _check_network(replay, network)
        self._names = [name for name in self._first.parameters if name not in Plan.of(network).unused]
        self.training = Training.of(replay, data)
        self._check_ids()

    def __len__(self) -> int:
        """Number of updates."""
        return int(self._rows["step"][-1])

    def state(self, weights: Mapping[str, Tensor]) -> State:
        """The network with some weights, which need not be all."""
        return self._first.with_tensors(weights)

    def minibatch(self, step: int) -> Examples:
        """The examples of the update that produced a step."""
        minibatch = self.training.examples(self._replay.archive.ids(step))
        return minibatch.double() if self._first.dtype == torch.float64 else minibatch

    def points(self, image: int | None = None) -> Iterator[Point]:
        """The state after every update, step 0 first.

        image: id of a training example: `part` is then the sum of its image functions, the weights that come
        of its gradients alone; the parts of all examples and what is left of the first weights add up to the
        weights.
        """
        weights = {name: self._first.tensors[name] for name in self._names}
        part = {name: torch.zeros_like(value) for name, value in weights.items()} if image is not None else {}
        velocity, own = {}, {}  # type: ignore[var-annotated]
        yield Point(0, weights, part)
        for index, step in enumerate(self._rows["step"]):
            if step == 0:
                continue
            if not self._rows["skipped"][index]:
                minibatch, state = self.minibatch(int(step)), self.state(weights)
                if image is not None:
                    mine = self._share(state, minibatch, image)
                    part = self.rule.update(part, mine, own, self._lr[index])
                self._check_loss(state, minibatch, index)
                gradient = self._kept(state.gradient(minibatch))
                weights = self.rule.update(weights, gradient, velocity, self._lr[index])
            self._check_weights(int(step), weights)
            yield Point(int(step), weights, part)

    def _kept(self, gradient: Mapping[str, Tensor]) -> Named:
        return {name: gradient[name] for name in self._names}

    def _share(self, state: State, minibatch: Examples, image: int) -> Named:
        """What an example adds to the gradient of the minibatch's mean loss."""
        assert minibatch.ids is not None
        rows = np.flatnonzero(minibatch.ids == image)
        if not len(rows):
            return {name: torch.zeros_like(state.tensors[name]) for name in self._names}
        gradient = self._kept(state.gradient(minibatch.take(rows)))
        return {name: value * (len(rows) / minibatch.n) for name, value in gradient.items()}

    def _check_ids(self) -> None:
        rows = self._rows
        without = (rows["n_ids"] <= 0) & ~np.asarray(rows["skipped"], bool) & (rows["step"] > 0)
        if without.any():
            raise MissingTraceError(
                f"the ids of update {int(rows['step'][without][0])} are not recorded, so it cannot be made "
                "again; pass the loader through run.batches, or give run.step(ids=...)"
            )
        if not len(self):
            raise MissingTraceError("the run made no update, so there is none to make again")
        ids = np.concatenate([self._replay.archive.ids(int(step)) for step in rows["step"][1:]])
        self.training.check(np.unique(ids))

    def _check_loss(self, state: State, minibatch: Examples, index: int) -> None:
        # Before the first update the weights are known exactly: a difference is one of inputs or of the loss.
        recorded = float(self._rows["loss"][index])
        if self._rows["step"][index] == 1 and np.isfinite(recorded):
            loss = state.loss(minibatch)
            if abs(loss - recorded) > LOSS_TOLERANCE * max(abs(recorded), NEAR_0):
                raise MissingTraceError(
                    f"the minibatch of update 1 has loss {loss:.6g} where {recorded:.6g} is recorded: "
                    f"{_OTHERWISE}, so the history of the weights cannot be made again"
                )

    def _check_weights(self, step: int, weights: Named) -> None:
        later = self._replay.steps[self._replay.steps > 0]
        if not len(later) or step != int(later[0]):
            return
        stored, first = self._replay.at(step).tensors, self._first.tensors
        gap = distance(weights, stored)
        travelled = distance({name: first[name] for name in weights}, stored)
        if gap > DRIFT * travelled:
            raise MissingTraceError(
                f"after {step} updates made again the weights are {gap / max(travelled, 1e-300):.2g} of the "
                f"way off the recorded ones: {_OTHERWISE}, so the history cannot be made again"
            )


def distance(weights: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> float:
    """Euclidean distance of some weights from those of the same names."""
    squares = [
        float((value.double() - stored[name].double()).square().sum()) for name, value in weights.items()
    ]
    return float(np.sqrt(np.sum(squares)))


def _check_network(replay: Replay, network: Network) -> None:
    if network.random_rows:
        raise MissingTraceError(
            f"{network.random_rows[0].module or 'the network'} draws random numbers, so updates cannot be "
            "made again"
        )
    last = int(replay.steps[-1])
    if replay.network(last).digest != replay.network(0).digest:
        raise MissingTraceError("the network itself changed during training, so updates cannot be made again")
    norms = batch_norms(network)
    if norms and last > 0:
        begin, end = replay.at(0).tensors, replay.at(last).tensors
        moved = [row for row in norms if not torch.equal(begin[_mean(row)], end[_mean(row)])]
        if moved:
            raise MissingTraceError(
                f"BatchNorm {moved[0].module!r} normalises by the minibatch in training, so no example has a "
                "gradient or an image function of its own; train without it, or with it in eval mode"
            )


def _mean(row: Any) -> str:
    return row.args[op(row.op).normalises.mean]["tensor"]  # type: ignore[union-attr]
