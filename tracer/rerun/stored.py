"""What an archive holds, as PyTorch runs it again: its networks, the weights of a step, its probes."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tracer.archive import Archive
from tracer.archive.probes import ProbeView
from tracer.errors import ArchiveError, ArgumentError, MissingTraceError, RecordError, first_line
from tracer.network import Network, read
from tracer.network.copies import named_tensors, private_copy
from tracer.network.memo import trace_once
from tracer.network.pytree import leaves_of, rebuild
from tracer.network.table import DTYPES
from tracer.probe import Probe

Factory = Callable[[], Any]
_EXAMPLES = 8  # shown to the tracer


class Networks:
    """The network of every step of an archive.

    model: a function that returns the module, or (module, loss), for an archive whose network could not be
    traced or uses operations that are not run from an archive. Its code is run, so it only ever comes from
    the user. `examples` is what it is traced with: by default those of the first probe.
    """

    def __init__(self, archive: Archive, model: Factory | None = None, examples: Probe | None = None) -> None:
        self._archive, self._factory, self._examples = archive, model, examples
        self._known: dict[bytes, Network] = {}
        self._own: Network | None = None
        self.model: nn.Module | None = None
        self.loss: Any = None

    def at(self, step: int | None = None) -> Network:
        """The network that holds at a step (default: the last); the only way to what an archive holds of one.

        ArchiveError for a table that is not run: an operation off the list, or more memory and time than the
        archive's weights and inputs could be worth.
        """
        if self._factory is not None:
            return self._own or self._trace(self._factory)
        table, constants = self._archive.network(step)
        if table not in self._known:
            values = {name: torch.from_numpy(np.array(value)) for name, value in constants.items()}
            network = read(table, values)
            network.check_cost(*_sizes(self._archive))
            self._known[table] = network
        return self._known[table]

    def _trace(self, factory: Factory) -> Network:
        made = factory()
        model, self.loss = made if isinstance(made, tuple) else (made, None)
        if not isinstance(model, nn.Module):
            raise RecordError(
                f"model= returned a {type(model).__name__}, expected a module or (module, loss)"
            )
        _check_tensors(self._archive, model)
        self.model = private_copy(model).to("cpu")
        # The steps of a run share one architecture, so the first weights do for tracing.
        weights = tensors_of(self._archive, int(self._archive.steps("weights")[0]), torch.device("cpu"))
        with torch.no_grad():
            for name, tensor in named_tensors(self.model).items():
                tensor.copy_(weights[name])
        probe = self._examples or _first_probe(self._archive)
        index = torch.arange(_EXAMPLES) % probe.n
        few = [
            None if tree is None else rebuild(tree, iter([leaf[index] for leaf in leaves_of(tree)]))
            for tree in (probe.inputs, probe.targets)
        ]
        self._own = trace_once(self.model, few[0], few[1] if self.loss else None, self.loss)
        return self._own


def _sizes(archive: Archive) -> tuple[dict[str, Tensor], int]:
    """The weights of an archive as tensors that have only sizes, and the bytes its probes' examples take."""
    tensors = {
        row["name"]: torch.empty(row["shape"], dtype=DTYPES[row["source_dtype"]], device="meta")
        for row in archive.tensors
    }
    source = archive._source
    arrays = [
        f"probes/{name}/{array}" for name in archive.probes for array in source.children(f"probes/{name}")
    ]
    return tensors, sum(8 * prod(source.shape(path)) for path in arrays if _is_example(path))


def _is_example(path: str) -> bool:
    return path.rpartition("/")[2].partition("_")[0] in ("inputs", "targets")


def _first_probe(archive: Archive) -> Probe:
    for view in archive.probes.values():
        return probe_of(view)
    raise MissingTraceError(
        "model= needs examples to be traced with, and the archive holds no probe; add one"
    )


def _check_tensors(archive: Archive, model: nn.Module) -> None:
    stored = {row["name"]: tuple(row["shape"]) for row in archive.tensors}
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    differing = sorted(name for name in stored.keys() | shapes.keys() if stored.get(name) != shapes.get(name))
    if differing:
        name = differing[0]
        here, there = shapes.get(name, "absent"), stored.get(name, "absent")
        raise ArchiveError(
            f"the module of model= is not the recorded one: tensor {name!r} is {here} in it and {there} in "
            f"the archive ({len(differing)} differ); build it as it was trained"
        )


def tensors_of(archive: Archive, step: int, device: torch.device) -> dict[str, Tensor]:
    """Parameters and buffers by name as they were in training, in their dtype; each in memory of its own."""
    weights = archive.weights(step)
    tensors = {}
    for row in archive.tensors:
        # A copy lies in memory as PyTorch lays it out: products may differ in the last bit otherwise.
        tensor = torch.from_numpy(np.array(weights[row["name"]])).clone()
        tensors[row["name"]] = tensor.to(device, DTYPES[row["source_dtype"]])
    return tensors


def probe_of(
    view: ProbeView, network: Network | None = None, capture: Mapping[str, int | None] | None = None
) -> Probe:
    """A probe as it was given to the recording; several input tensors become a tuple.

    network: says their dtypes where the archive has wider ones. capture: examples each stream takes.
    MissingTraceError where its inputs are not in the archive.
    """
    inputs = _stored(view, "inputs", None if network is None else network.inputs)
    targets = _stored(view, "targets", None if network is None else network.targets)
    if inputs is None:
        raise MissingTraceError(
            f"probe {view.name!r} is stored without its inputs, so nothing can be computed on it again; add "
            "it with its examples under another name"
        )
    extra = {name: getattr(view, name) for name in ("true_targets", "group", "raw")}
    return Probe(inputs, targets, ids=view.ids, split=view.split, capture=capture, **extra)


def _stored(view: ProbeView, kind: str, declared: Sequence[Mapping[str, Any]] | None) -> Any:
    arrays = [view._static(kind)]
    if arrays[0] is None:
        arrays = []
        while (values := view._static(f"{kind}_{len(arrays)}")) is not None:
            arrays.append(values)
    leaves = [torch.from_numpy(np.array(values)) for values in arrays]
    if declared is not None and len(declared) == len(leaves):
        pairs = zip(leaves, declared, strict=True)
        leaves = [leaf.to(DTYPES[entry["dtype"]]) for leaf, entry in pairs]
    return leaves[0] if len(leaves) == 1 else tuple(leaves) or None


def usable_device(device: str | torch.device) -> torch.device:
    """A device that can compute here. Errors: ArgumentError for the name of another one, or of none."""
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).tolist()
    except Exception as error:  # what PyTorch raises is of many kinds, AssertionError among them
        why = first_line(error).partition(". ")[0]
        raise ArgumentError(
            f"nothing can be computed on device {str(device)!r} ({why}): say 'cpu', or one that this machine has"
        ) from error
    return found


def to_device(tree: Any, device: torch.device) -> Any:
    """A nest of tensors on a device."""
    with torch.inference_mode(False), torch.no_grad():
        return None if tree is None else rebuild(tree, iter([leaf.to(device) for leaf in leaves_of(tree)]))
