"""Training that goes on without an update being counted: it must not pass in silence."""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from tracer.network.copies import unwrap
from tracer.recorder.loading import BEFORE, BETWEEN, FLUSHED, LOADED, WRITTEN, Loading

_VERSION = attrgetter("_version")
_WITNESSES = 8  # parameters looked at in each update
SENTENCE = (
    "Since update {step} {what} and no update was counted: no optimizer given to tracer.record made a step (it was "
    "made anew, or is stepped by other methods than step()); give the optimizer that steps, several in a list, a "
    "function that returns the one in use, or optimizer=None and call run.step() after each update"
)
STRANGER = (
    "The optimizer holds none of the parameters of the model: the updates it makes are of something else; give "
    "the optimizer of this model"
)
LAST = "Update {step} stands for all those after update {before} that were not counted; it has no ids"


class Uncounted:
    """Watches whether batches and losses are followed by updates, and whether the weights change without one."""

    def __init__(self, model: nn.Module, note: Callable[[str], None]) -> None:
        self._model, self._note = unwrap(model), note
        self._norms: list[float] | None = self._measure()
        self._look()
        self._missed = False  # whether the weights had changed before others were loaded
        self.batches = 0  # delivered since the last update, or since the last epoch ended
        self.losses = 0
        self._batch_counts: set[int] = set()
        self._said, self._told = "", False
        self.loading = Loading(model, self._before_loading, self._after_loading)

    def count(self, step: int, by_hand: bool = False) -> None:
        """An update was counted, the one after this step; `by_hand`: what was loaded since may be this update."""
        self._norms = None
        self._versions = list(map(_VERSION, self._witnesses))
        self.batches = self.losses = 0
        self._missed = False
        if self.loading.forget() and not (by_hand or self._told):
            self._told = True
            self._note((BETWEEN if step else BEFORE).format(step=step))

    def flush(self, step: int) -> None:
        """The weights are recorded as they are."""
        if self.loading.forget():
            self._note(FLUSHED.format(step=step))

    def conclude(self, step: int, taken: int | None) -> None:
        """Training has ended; `taken`: the step of the last snapshot of weights."""
        if self.loading.produced() is not None:
            self._note(LOADED.format(step=step))
        elif taken != step and self.changed():
            self._note(WRITTEN.format(step=step))

    @property
    def any(self) -> bool:
        """Whether something came that an update should have followed."""
        return bool(self.batches or self.losses)

    def sentence(self, step: int) -> str:
        """What to tell the user of this; the same sentence for the rest of the run."""
        if self._said:
            return self._said
        what = [f"{self.batches} batches were delivered"] if self.batches else []
        what += [f"{self.losses} losses were logged"] if self.losses else []
        self._said = SENTENCE.format(step=step, what=" and ".join(what or ["the weights changed"]))
        return self._said

    def prefetched(self, batches: int) -> bool:
        """Whether the numbers of batches of updates, of which this is the next, show that something fetches ahead.

        It shows at its ends: two batches before the first update, none before the last.
        """
        if batches in self._batch_counts:
            return False
        self._batch_counts.add(batches)
        return {0, 2} <= self._batch_counts

    def changed(self) -> bool:
        """Whether the weights are others than after the last update, or the start; those that were loaded are not."""
        if self._missed:
            return True
        if self._norms is not None:
            now = self._measure()
            return len(now) != len(self._norms) or any(
                a != b and (a == a or b == b) for a, b in zip(self._norms, now, strict=True)
            )
        here = {id(parameter) for parameter in self._model.parameters()}
        return any(
            witness._version != version or id(witness) not in here
            for witness, version in zip(self._witnesses, self._versions, strict=True)
        )

    def is_unknown(self, groups: Iterable[dict[str, Any]]) -> bool:
        """Whether groups of an optimizer hold parameters, but none of the model's."""
        held = {id(parameter) for group in groups for parameter in group["params"]}
        return bool(held) and not held & {id(parameter) for parameter in self._model.parameters()}

    def _look(self) -> None:
        trainable = [p for p in self._model.parameters() if p.requires_grad]
        self._witnesses = trainable[:: max(1, len(trainable) // _WITNESSES)][:_WITNESSES]
        self._versions = list(map(_VERSION, self._witnesses))

    def _before_loading(self) -> None:
        self._missed = self.changed()

    def _after_loading(self) -> None:
        self._look()
        if self._norms is not None:
            self._norms = self._measure()

    def _measure(self) -> list[float]:
        with torch.inference_mode(False), torch.no_grad():
            return [
                float(torch.linalg.vector_norm(p.detach().flatten(), dtype=torch.float64))
                for p in (getattr(p, "_local_tensor", p) for p in self._model.parameters())
                if p.numel() and p.is_floating_point()
            ]
