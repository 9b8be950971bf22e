"""From the training's device to the writer: copies that no training waits for.

A snapshot's tensors are its own: weights are cloned, and probes observed, on the stream of the training, before
the next update can touch anything. A side stream then copies them into pinned memory; the writing thread
waits for that copy, writes from it and gives the memory back. The training thread waits only where more is
on its way than the limit. Tensors on the processor need none of this: there is no stream for them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tracer.errors import RecordError
from tracer.network.copies import to_numpy
from tracer.writer.staging import Staging

Given = Tensor | list[Tensor]  # flat tensors in a list are to lie end to end

_IN_NUMPY = {torch.bfloat16: torch.float32}  # which holds each of its values exactly


class Event(Protocol):
    """A point in the work of a device, as `torch.cuda.Event`."""

    def query(self) -> bool:
        """Whether it was reached."""

    def synchronize(self) -> None:
        """Return once it was."""


class Mark(Event, Protocol):
    """One that also notes the time."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds between two that were reached."""


class CopyStream(Protocol):
    """The way off one device."""

    def allocate(self, size: int) -> np.ndarray:
        """So many bytes of the host's memory that the device can copy into by itself, uint8."""

    def fetch(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Event:
        """Have (host, device) tensors copied after all work given so far; returns at once, with the end of it.

        The device tensors must not be written to again; the references to them may be dropped.
        """

    def mark(self) -> Mark:
        """The point that the work given so far will have reached."""


class CudaLane:
    """The way off a CUDA device: a stream of its own beside that of the training."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)

    def allocate(self, size: int) -> np.ndarray:
        """Pinned memory: only there the copy runs beside the training."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()

    def fetch(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Event:
        """See `CopyStream`."""
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            for host, tensor in pairs:
                tensor.record_stream(self._side)  # else its memory could be reused before the copy
                host.copy_(tensor, non_blocking=True)
            done = torch.cuda.Event(blocking=True)  # the writing thread sleeps, it does not spin
            done.record(self._side)
        return done

    def mark(self) -> Mark:
        """See `CopyStream`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


@cache
def copy_stream_of(device: torch.device) -> CopyStream | None:
    """The way off a device; None where tensors are simply read."""
    return CudaLane(device) if device.type == "cuda" else None


def readable(value: Given) -> Tensor:
    """A tensor as NumPy can hold it, without gradient; flat ones in a list are copied end to end."""
    tensor = torch.cat(value).detach() if isinstance(value, list) else value.detach()
    return tensor.to(_IN_NUMPY.get(tensor.dtype, tensor.dtype)).contiguous()


def host_for(tensor: Tensor, buffer: np.ndarray) -> Tensor:
    """A tensor of the same type and shape in a buffer of as many bytes."""
    return torch.from_numpy(buffer.view(str(tensor.dtype).removeprefix("torch."))).view(tensor.shape)


class Shipment:
    """Waits for a copy off a device (no event: it is there); gives its memory back."""

    def __init__(self, event: Event | None, pool: Staging, buffers: Sequence[np.ndarray]) -> None:
        self._event = event
        self._give_back = partial(pool.give_back, *buffers)

    def wait(self) -> None:
        """Return once the copy is done."""
        if self._event is not None:
            self._event.synchronize()

    def release(self) -> None:
        """Let the memory be used again."""
        self._give_back()


class PendingCopies(NamedTuple):
    """Arrays of a snapshot, to be read between the `wait` and the `release` of their shipment."""

    arrays: dict[str, np.ndarray]
    shipment: Shipment


class Transfer:
    """Sends snapshots off their device, each array into memory that is used again once it was written.

    limit: bytes that are on their way together, for each device; a single larger array is sent when nothing else is.
    """

    def __init__(self, limit: int = 1 << 30) -> None:
        self._limit = limit
        self._pools: dict[torch.device, Staging] = {}

    def send(self, tensors: Mapping[str, Given]) -> PendingCopies:
        """Set tensors of one device going; single ones must be nobody else's. Waits only while too much is out.

        Flat ones in a list, of types that NumPy has, are to lie end to end. What is on the processor is copied
        here and now.
        """
        device = next((one.device for value in tensors.values() for one in _each(value)), torch.device("cpu"))
        stream = copy_stream_of(device)
        if stream is None:
            return self._copy(device, tensors)
        ready = {name: readable(value) for name, value in tensors.items()}
        pool = self._pools.setdefault(device, Staging(self._limit, stream.allocate))
        buffers = pool.take([tensor.nbytes for tensor in ready.values()])
        hosts = [host_for(*pair) for pair in zip(ready.values(), buffers, strict=True)]
        event = stream.fetch(list(zip(hosts, ready.values(), strict=True)))
        arrays = dict(zip(ready, (host.numpy() for host in hosts), strict=True))
        return PendingCopies(arrays, Shipment(event, pool, buffers))

    def _copy(self, device: torch.device, tensors: Mapping[str, Given]) -> PendingCopies:
        pool = self._pools.setdefault(device, Staging(self._limit))
        sizes = [
            sum(part.numel() * _stored(part.dtype).itemsize for part in _each(tensor))
            for tensor in tensors.values()
        ]
        buffers = pool.take(sizes)
        with torch.inference_mode(False):
            pairs = zip(buffers, tensors.values(), strict=True)
            arrays = dict(zip(tensors, (_copied(*pair) for pair in pairs), strict=True))
        return PendingCopies(arrays, Shipment(None, pool, buffers))


def _copied(buffer: np.ndarray, tensor: Given) -> np.ndarray:
    """A copy in a buffer, made by torch: the weights of a model must not be seen by NumPy."""
    parts = _each(tensor)
    flat = torch.from_numpy(buffer.view(str(_stored(parts[0].dtype)).removeprefix("torch.")))
    if isinstance(tensor, list):
        torch.cat([part.detach().cpu() for part in parts], out=flat)
        return flat.numpy()
    return flat.view(tensor.shape).copy_(tensor.detach()).numpy()


def _stored(dtype: torch.dtype) -> torch.dtype:
    return _IN_NUMPY.get(dtype, dtype)


def _each(value: Given) -> list[Tensor]:
    return value if isinstance(value, list) else [value]


def fetched(groups: Mapping[str, Mapping[str, Given]]) -> dict[str, dict[str, np.ndarray]]:
    """Groups of a snapshot read at once, waiting for their device."""
    return {
        group: {name: to_numpy(readable(tensor)) for name, tensor in tensors.items()}
        for group, tensors in groups.items()
    }


def mark_on(model: nn.Module) -> Callable[[], Mark] | None:
    """What marks points in the work of a model's device; None where the clock on the wall tells all."""
    stream = next((copy_stream_of(parameter.device) for parameter in model.parameters()), None)
    return None if stream is None else stream.mark


def refuse_capture() -> None:
    """RecordError while a CUDA graph is captured: what is replayed later calls nobody."""
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise RecordError(
            "optimizer.step() is being captured in a CUDA graph, whose replays no recorder sees: pass optimizer=None "
            "and call run.step() after each replay, or capture only the forward and backward pass."
        )
