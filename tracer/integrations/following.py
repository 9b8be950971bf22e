"""What the recordings of all trainers share: the trainer iterates, and a recorder is told of each batch.

One meaning in all of them. An update has the ids of the batches that were trained on for it. Its loss is the sum
of what these batches propagated back, before any scaling for mixed precision: with k of them per update, each
trainer divides by k, so it is their mean.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from tracer.errors import RecordError
from tracer.ids import as_ids
from tracer.recorder import Recorder, record
from tracer.recorder.arguments import RESERVED

_NO_IDS = (
    "No example ids are recorded, the trainer has {}: give ids=function_of_a_batch, or train on a DataLoader."
)
# The time an evaluation took says nothing of the training.
_TIMES = ("_runtime", "_per_second", "_time")


class Following:
    """A recording that a trainer drives by its events.

    path, options: of `tracer.record`. ids: example ids of a batch, where the loader cannot tell them. module: name
    of the submodule to record, if not the whole model. run: the recorder, while training and afterwards.

    As a context manager it closes the archive as interrupted where an exception passes.
    """

    run: Recorder | None = None

    def __init__(
        self,
        path: str | Path,
        *,
        ids: Callable[[Any], Any] | None = None,
        module: str = "",
        **options: Any,
    ) -> None:
        super().__init__()
        try:
            inspect.signature(record).bind(path, None, None, **options)
        except TypeError as error:
            raise RecordError(f"Recording: {error}; it takes the options of tracer.record.") from None
        self._path, self._ids, self._module, self._options = path, ids, module, options
        self._relay: Relay | None = None
        self._losses: list[Tensor] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(kind)

    def _start(self, model: nn.Module, optimizer: torch.optim.Optimizer, batches: int | None) -> Recorder:
        self._losses.clear()
        self.run = record(self._path, model.get_submodule(self._module), optimizer, **self._options)
        self.run.__enter__()
        self._relay = Relay(self.run, batches)
        return self.run

    def _stop(self, kind: type[BaseException] | None = None) -> None:
        """Close the archive, unless it is closed: as complete, or as interrupted by an exception."""
        relay, self._relay = self._relay, None
        if self.run is not None and relay is not None:
            self.run.__exit__(kind, None, None)

    @property
    def _following(self) -> bool:
        return self._relay is not None

    def _train_on(self, batch: Any, ids: Any) -> None:
        """The trainer is about to train on this batch; `ids` None: they are not known."""
        if self._relay is not None:
            self._relay(batch, None if ids is None else as_ids(ids))

    def _no_ids(self, reason: str) -> None:
        self._say(_NO_IDS.format(reason))

    def _say(self, sentence: str) -> None:
        if self.run is not None and self._following:
            self.run.note(sentence)

    def _log_loss(self) -> None:
        """An update was made: its loss is what was propagated back since the last one."""
        if self.run is not None and self._following and self._losses:
            self.run.log(loss=sum(self._losses))
        self._losses.clear()

    def _log_metrics(self, metrics: Mapping[str, Any]) -> None:
        """What an evaluation found belongs to the update after which it took place."""
        if self.run is None or not self._following:
            return
        chosen = {name: _number(value) for name, value in metrics.items() if not name.endswith(_TIMES)}
        named = {name: value for name, value in chosen.items() if name not in RESERVED | {"loss"}}
        self.run.log(**{name: value for name, value in named.items() if value is not None})


class Relay:
    """Tells a recorder of batches one by one, as `run.batches` does. length: batches an epoch, None if unknown."""

    def __init__(self, run: Recorder, length: int | None) -> None:
        self._run, self._length = run, length
        self._batch: Any = None
        self._of_batch: np.ndarray | None = None
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """The trainer goes through its loader once more."""
        self._stream = self._run.batches(self, ids=lambda _: self._of_batch)

    def __call__(self, batch: Any, ids: np.ndarray | None) -> None:
        """The next batch is this one."""
        self._batch, self._of_batch = batch, ids
        next(self._stream)

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self._batch

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("The number of batches is not known.")
        return self._length


def _number(value: Any) -> float | Tensor | None:
    if isinstance(value, Tensor):
        return value if value.numel() == 1 else None
    return float(value) if isinstance(value, int | float) else None
