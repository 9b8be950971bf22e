"""The training examples of an archive, by id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analyze.replay.examples import Examples, join
from analyze.replay.replay import Replay
from tracer.errors import ArchiveError, ArgumentError, MissingTraceError, first_line
from tracer.network.table import DTYPES

HOW = (
    "record with data=\"inputs\" or a probe of split 'train' that holds every training example, or give the "
    "training set with data="
)
_OTHER = "give the training set in the same order and with the same preprocessing, without augmentation"


@dataclass(frozen=True)
class Training:
    """Training examples by id: all that are known, the position of each by id, and their source."""

    known: Examples
    where: dict[int, int]
    source: str

    @classmethod
    def of(cls, replay: Replay, data: Callable[[], Any] | None = None) -> Training:
        """Those that `data` returns (a Dataset or (inputs, targets)), else those the archive holds.

        MissingTraceError where there are no inputs, or those given cannot be checked; ArchiveError where they
        differ from the recorded ones.
        """
        if data is not None:
            return _given(replay, data())
        try:
            view = replay.archive.data
        except MissingTraceError:
            view = None
        if view is not None and view.inputs is not None and view.labels is not None:
            return _made(replay, view.inputs, view.labels, view.ids, "data")
        parts = [replay.probe(name) for name in replay.probes if _holds_training(replay, name)]
        if not parts:
            raise MissingTraceError(f"the archive holds no inputs of training examples; {HOW}")
        known = join(parts)
        assert known.ids is not None
        return cls(known, _positions(known.ids), "probe")

    def check(self, ids: np.ndarray) -> None:
        """MissingTraceError where an id is not among the known ones."""
        missing = [int(id_) for id_ in ids if int(id_) not in self.where]
        if missing:
            raise MissingTraceError(
                f"the inputs of {len(missing)} of {len(ids)} training examples are unknown (id {missing[0]} "
                f"is the first); {HOW}"
            )

    def examples(self, ids: Sequence[int] | np.ndarray) -> Examples:
        """The examples with these ids, in this order."""
        return self.known.take([self.where[int(id_)] for id_ in ids])


def _given(replay: Replay, data: Any) -> Training:
    try:
        inputs, targets = data if isinstance(data, tuple) and len(data) == 2 else _stacked(data)
        inputs, targets = _numbers(inputs), _numbers(targets)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ArgumentError(
            f"data= returned a {type(data).__name__}, expected (inputs, targets) or a dataset of such pairs "
            f"({first_line(error)})"
        ) from error
    checked = _check_digests(replay, inputs)
    training = _made(replay, inputs, targets, np.arange(len(inputs)), "given")
    for name in replay.probes:
        if _holds_training(replay, name):
            checked += _check_probe(training, replay.probe(name))
    if not checked:
        raise MissingTraceError(
            "the training set given with data= cannot be checked: the archive holds neither digests of "
            "training examples (record with data=dataset) nor a probe of split 'train' that shares an id "
            "with it"
        )
    return training


def _check_digests(replay: Replay, inputs: np.ndarray) -> int:
    """Number of examples whose digest is the recorded one; ArchiveError at the first whose is not."""
    try:
        view = replay.archive.data
    except MissingTraceError:
        return 0
    if view.digests is None:
        return 0
    for id_, digest in zip(view.ids, view.digests, strict=True):
        own = None if id_ >= len(inputs) else blake2b(inputs[id_].tobytes(), digest_size=16).digest()
        if own != digest.tobytes():
            raise ArchiveError(
                f"the training set given with data= is not the recorded one: example {id_} differs; {_OTHER}"
            )
    return len(view.ids)


def _check_probe(training: Training, probe: Examples) -> int:
    assert probe.ids is not None
    rows = [row for row, id_ in enumerate(probe.ids) if int(id_) in training.where]
    mine, theirs = training.examples(probe.ids[rows]), probe.take(rows)
    for own, stored in ((mine.inputs, theirs.inputs), (mine.targets, theirs.targets)):
        if isinstance(stored, Tensor) and not torch.equal(own.to(stored.dtype), stored):
            raise ArchiveError(
                "the training set given with data= is not the recorded one: examples of probe "
                f"{probe.name!r} differ from those with the same ids; {_OTHER}"
            )
    return len(rows)


def _made(replay: Replay, inputs: np.ndarray, targets: np.ndarray, ids: np.ndarray, source: str) -> Training:
    network = replay.network(int(replay.steps[0]))
    leaves = []
    for values, declared in ((inputs, network.inputs), (targets, network.targets)):
        if len(declared) > 1:
            raise MissingTraceError(
                f"the network takes {len(declared)} tensors where the training set has one; record a probe "
                "of split 'train' that holds every training example"
            )
        tensor = torch.from_numpy(np.array(values)).to(replay.device)
        leaves.append(tensor.to(DTYPES[declared[0]["dtype"]]) if declared else tensor)
    return Training(Examples(leaves[0], leaves[1], None, ids, source, "train"), _positions(ids), source)


def _positions(ids: np.ndarray) -> dict[int, int]:
    return {int(id_): at for at, id_ in enumerate(ids)}


def _holds_training(replay: Replay, name: str) -> bool:
    view = replay.archive.probes[name]
    return view.split == "train" and view.inputs is not None


def _stacked(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    items = [dataset[i] for i in range(len(dataset))]
    inputs, targets = (np.stack([_numbers(item[side]) for item in items]) for side in (0, 1))
    return inputs, targets


def _numbers(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
