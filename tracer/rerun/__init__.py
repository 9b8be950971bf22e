"""A network run again on stored weights: what each stream would hold, and whether that was recorded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.archive import Archive
from tracer.archive.probes import ProbeView
from tracer.errors import ArchiveError, MissingTraceError
from tracer.network import Network
from tracer.network.copies import to_numpy
from tracer.network.precision import full_precision
from tracer.network.pytree import leaves_of, rebuild
from tracer.probe.observe import Chunk, Units, looks_of
from tracer.probe.observers import OBSERVERS, Seen, allocate, observed

Bounds = Sequence[tuple[int, int]]
RELATIVE = 1e-5  # of the largest value: what rounding may differ by between machines and versions
_CHECKED = 1024  # examples compared where the chunks are not known


@contextmanager
def settled(grad: bool) -> Iterator[None]:
    """Where passes run: full precision, no inference mode, gradients as told."""
    with torch.inference_mode(False), torch.set_grad_enabled(grad), full_precision():
        yield


def part(tree: Any, start: int, stop: int, size: int | None = None) -> Any:
    """Examples `start` to `stop` of a nest of tensors; the last one repeated up to `size` of them."""
    parts = [leaf[start:stop] for leaf in leaves_of(tree)]
    short = 0 if size is None else size - (stop - start)
    if short > 0:
        parts = [torch.cat([leaf, leaf[-1:].expand(short, *leaf.shape[1:])]) for leaf in parts]
    return rebuild(tree, iter(parts))


def observe(
    network: Network, tensors: Mapping[str, Tensor], inputs: Any, bounds: Bounds, stream: str
) -> dict[str, np.ndarray]:
    """Masks, sums or activations of these examples as a recording stores them.

    bounds: the chunks, one after another. Returns {"bits"}, {"pre", "post"} or {"values"}, see `tracer.spec`.
    """
    units, n = Units.of(network.sites), bounds[-1][1]
    declared = OBSERVERS[stream].declare(Seen(network, units), n)
    arrays = {stream: allocate(stream, declared, _device(tensors))}
    watched = looks_of(observed([stream], network, units), network)
    with settled(grad=False):
        for start, stop in bounds:
            size = network.batch or stop - start
            chunk = Chunk(watched, arrays, start, {stream: stop - start}, size)
            outputs, _ = network.run(tensors, part(inputs, start, stop, size), visit=chunk.visit)
            chunk.finish(outputs, None)
    return {name: values.cpu().numpy() for name, values in arrays[stream].items()}


def _device(tensors: Mapping[str, Tensor]) -> torch.device:
    return next((tensor.device for tensor in tensors.values()), torch.device("cpu"))


def places(network: Network, stream: str) -> Iterator[tuple[str, slice]]:
    """Each site's units along the axis of masks or of activations, where it has any."""
    units = Units.of(network.sites)
    starts = units.masks if stream == "masks" else units.values
    for site, start in zip(network.sites, starts, strict=True):
        if start is not None:
            yield site.name, slice(start, start + site.n_units)


def reproduces(
    archive: Archive,
    step: int,
    network: Network,
    tensors: Mapping[str, Tensor],
    examples: Callable[[str], tuple[Any, Any]],
) -> bool | None:
    """Whether the first chunk of every probe comes out bit for bit as recorded; None where nothing is.

    examples: inputs and targets of a probe by name, where the tensors are. ArchiveError, with the largest
    difference, where outputs or losses differ by more than rounding does between machines and versions.
    """
    exact: bool | None = None
    for name, view in archive.probes.items():
        stored, known_losses = recorded(view, step)
        if stored is None:
            continue
        inputs, targets = examples(name)
        n = min(len(stored), (view.chunks or [[0, _CHECKED]])[0][1])
        wanted = None if network.losses is None or targets is None else part(targets, 0, n, network.batch)
        with settled(grad=False):
            outputs, losses = network.run(tensors, part(inputs, 0, n, network.batch), wanted)
        if view.has_top:
            outputs = _at_top(outputs[:n], view.top(step).top_class[:n])
        of_losses = RELATIVE * amplification(stored, known_losses)
        compared = [("outputs", outputs, stored, RELATIVE), ("losses", losses, known_losses, of_losses)]
        for kind, values, known, relative in compared:
            if values is not None and known is not None:
                same = _same(to_numpy(values[:n]), known[:n], relative, f"{kind} of probe {name!r}", step)
                exact = same and exact is not False
    return exact


def _at_top(outputs: Tensor, classes: np.ndarray) -> Tensor:
    """The outputs (example, ..., class, ...) of these classes (example, ..., k)."""
    index = torch.from_numpy(classes).to(outputs.device, torch.int64)
    n_classes, positions = outputs[0].numel() // max(1, index[0, ..., 0].numel()), list(index.shape[1:-1])
    axes = [axis for axis in range(1, outputs.ndim) if outputs.shape[axis] == n_classes]
    axis = next((a for a in axes if [*outputs.shape[1:a], *outputs.shape[a + 1 :]] == positions), None)
    if axis is None or bool(((index < 0) | (index >= n_classes)).any()):
        raise ArchiveError("the recorded largest outputs are not of this network: record the run again")
    return outputs.movedim(axis, -1).gather(-1, index)


def recorded(view: ProbeView, step: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Outputs (the largest, where only these are kept) and losses of a probe; None where there are none."""
    outputs = losses = None
    with suppress(MissingTraceError):
        outputs = view.top(step).top_score if view.has_top else view.outputs(step)
    with suppress(MissingTraceError):
        losses = view.losses(step)
    return outputs, losses


def amplification(outputs: np.ndarray | None, losses: np.ndarray | None) -> float:
    """How many times more than outputs the losses of a probe, and what follows from them, differ by rounding.

    A loss is a difference of outputs: near 0 it has their rounding, and so have gradients.
    """
    if outputs is None or losses is None:
        return 1.0
    largest = [float(np.nan_to_num(np.abs(values)).max(initial=0.0)) for values in (outputs, losses)]
    return min(max(1.0, largest[0] / largest[1] if largest[1] else np.inf), 1 / RELATIVE)


def _same(replayed: np.ndarray, stored: np.ndarray, relative: float, what: str, step: int) -> bool:
    if np.array_equal(replayed, stored, equal_nan=True):
        return True
    scale = relative * float(np.nan_to_num(np.abs(stored)).max(initial=0.0))
    if replayed.shape == stored.shape and np.allclose(replayed, stored, RELATIVE, scale, equal_nan=True):
        return False
    gap = np.nan_to_num(np.abs(replayed - stored)).max() if replayed.shape == stored.shape else np.inf
    raise ArchiveError(
        f"replaying step {step} does not reproduce the recorded {what}: the largest difference is {gap:.3g}, "
        f"where rounding makes {scale:.1g}, so weights, network or outputs of the archive were changed; "
        "`tracer verify` tells whether it is damaged, else record the run again"
    )
