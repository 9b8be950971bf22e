"""A probe's examples on the network's device: checked against the network, cut into chunks, run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.errors import RecordError
from tracer.network import Network
from tracer.network.program import Visit
from tracer.network.pytree import leaves_of, rebuild
from tracer.probe import memory

if TYPE_CHECKING:
    from tracer.probe import Probe


class Examples:
    """The examples of one probe.

    taken: how many, the first ones, each stream takes (streams that take none are absent). chunks: [start,
    stop) of those that go through together, first the ones with gradients.
    """

    def __init__(
        self,
        name: str,
        probe: "Probe",
        network: Network,
        device: torch.device,
        streams: Sequence[str],
        sizes: tuple[int, int],
    ) -> None:
        """Sizes: of a chunk with gradients, and of one without; RecordError where the probe does not fit."""
        self.name, self.probe = name, probe
        self._network = network
        _check_fit(name, probe, network)
        self.taken = {stream: count for stream in streams if (count := probe.taken(stream))}
        n = max(self.taken.values(), default=0)
        self.chunks = memory.chunks(self.taken.get("gradients", 0), n, *sizes)
        with torch.inference_mode(False), torch.no_grad():
            self._trees = [
                rebuild(tree, iter([leaf.to(device) for leaf in leaves_of(tree)]))
                for tree in (probe.inputs, probe.targets)
            ]

    @property
    def n_gradients(self) -> int:
        """Examples with gradients."""
        return self.taken.get("gradients", 0)

    def batch(self, n: int) -> int:
        """How many examples go through for n of them: more where the network takes a fixed number."""
        return self._network.batch or n

    def cut(self, start: int, stop: int) -> tuple[Any, Any]:
        """Inputs and targets of some examples, the last one repeated up to the number that goes through."""
        trees = []
        short = self.batch(stop - start) - (stop - start)
        for tree in self._trees:
            parts = [leaf[start:stop] for leaf in leaves_of(tree)]
            if short:
                parts = [torch.cat([part, part[-1:].expand(short, *part.shape[1:])]) for part in parts]
            trees.append(rebuild(tree, iter(parts)))
        return trees[0], trees[1]

    def targets(self, start: int, stop: int) -> Tensor | None:
        """Targets of some examples, None where they are not one tensor."""
        targets = self._trees[1]
        return targets[start:stop] if isinstance(targets, Tensor) else None

    def through(
        self, tensors: Mapping[str, Tensor], start: int, stop: int, watchers: Sequence[Visit] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs and losses of some examples; each watcher sees every row."""
        inputs, targets = self.cut(start, stop)
        wanted = targets if self._network.losses is not None else None
        visit = watchers[0] if len(watchers) == 1 else None
        if len(watchers) > 1:

            def visit(row: Any, values: tuple[Any, ...], out: Any) -> None:
                for watcher in watchers:
                    watcher(row, values, out)

        return self._network.run(tensors, inputs, wanted, visit=visit)


def _check_fit(name: str, probe: "Probe", network: Network) -> None:
    pairs = [("input", probe.inputs, network.inputs)]
    if network.losses is not None:
        pairs.append(("target", probe.targets, network.targets))
    for kind, tree, declared in pairs:
        leaves = leaves_of(tree)
        if len(leaves) != len(declared):
            raise RecordError(
                f"Probe {name!r} has {len(leaves)} {kind} tensors, the network takes {len(declared)}"
            )
        for leaf, entry in zip(leaves, declared, strict=True):
            got, wanted = list(leaf.shape[1:]), list(entry["shape"][1:])
            dtype = str(leaf.dtype).removeprefix("torch.")
            if got != wanted or dtype != entry["dtype"]:
                raise RecordError(
                    f"Probe {name!r}: each {kind} has shape {got} and dtype {dtype}, the network takes "
                    f"{wanted} and {entry['dtype']}: bring the probe into the form of the training batches"
                )
