"""What observes a model on several processes: one that they hold in pieces, and what ranks other than 0 have."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from torch import nn

from tracer.errors import RecordError
from tracer.network.copies import named_tensors, unwrap, unwrapped_name
from tracer.recorder.device import Given
from tracer.recorder.device.weights import whole
from tracer.recorder.instrument import Instrument
from tracer.writer import Writer

OFF = (
    "The parameters of this model ({name}, ...) are sharded over processes, and none holds the network that a probe "
    "goes through: {streams} of the probes and minibatch= are off; ids, scalars and gathered weights are recorded, "
    "from which import_checkpoints makes the rest"
)
NO_BUDGET = "budget= is off: processes that gather weights have to do so at the same updates"


def sharded(model: nn.Module) -> str | None:
    """Name of a parameter of which this process holds a part (a DTensor: FSDP2, tensor parallelism), if there is one.

    RecordError for FSDP1, whose parameters have no names of the model's.
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise RecordError(
            "FullyShardedDataParallel joins the parameters of this model into flat ones, of which an archive could "
            "not tell the names: use torch.distributed.fsdp.fully_shard, or DistributedDataParallel."
        )
    named = unwrap(model).named_parameters()
    return next((unwrapped_name(name) for name, p in named if hasattr(p, "full_tensor")), None)


def settle(model: nn.Module) -> None:
    """Have each module of FSDP2 hold its parameters as trained: after a forward pass it may hold a gathered copy."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


class Bare(Instrument):
    """An instrument without probes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(
            model, {}, loss=None, objective=None, streams=(), gradients="none", memory=0, chunk=None
        )


class Sharded(Bare):
    """Rank 0's, of a model that processes hold in pieces: its weights are gathered, for which every rank is needed.

    resuming: gather them at once, since every rank looks for them in the archive.
    """

    def __init__(
        self, model: nn.Module, name: str, streams: Collection[str], *, resuming: bool, budget: bool
    ) -> None:
        super().__init__(model)
        self._note(OFF.format(name=name, streams=", ".join(sorted(streams))))
        if budget:
            self._note(NO_BUDGET)
        self._first = super().weights if resuming else {}

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights when recording began."""
        return self._first

    def observe(
        self, writer: Writer, streams: Collection[str], step: int, last: bool = False
    ) -> dict[str, Mapping[str, Given]]:
        """The gathered weights, if asked for."""
        settle(self.model)
        return super().observe(writer, streams, step, last)


class Elsewhere(Bare):
    """What other ranks have for the instrument of rank 0: it observes nothing, and lends its part of the weights."""

    def __init__(self, model: nn.Module, minibatch: Any, *, lends: bool) -> None:
        super().__init__(model)
        self._lends = lends
        if minibatch and not lends:
            self._note("Minibatches are captured on rank 0 only; of this rank the ids are recorded")

    def announce(self, writer: Any) -> None:
        """Say nothing: rank 0 does."""

    @property
    def layout(self) -> dict[str, Any]:
        """What rank 0 observes with it, so that both plan the same."""
        return super().layout if self._lends else {}

    def snapshot(
        self, writer: Any, streams: Collection[str], step: int, epoch_end: bool, last: bool = False
    ) -> None:
        """Take nothing."""
        self.observe(writer, streams, step, last)

    def observe(
        self, writer: Any, streams: Collection[str], step: int, last: bool = False
    ) -> dict[str, Mapping[str, Given]]:
        """Nothing."""
        if self._lends and "weights" in streams:
            settle(self.model)
            whole(named_tensors(self.model))
        return {}
