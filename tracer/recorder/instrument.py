"""Instrument: the network of a user's model as data, kept current, and everything observed through it.

At the start the three checks decide what can be trusted; what cannot is left out and said in one sentence.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from tracer.errors import ArchiveError, RecordError
from tracer.network import Network
from tracer.network.checks import closure, currency, independence
from tracer.network.copies import named_tensors, private_copy, quiet
from tracer.network.objective import Objective, call_model
from tracer.network.pytree import leaves_of, rebuild, take
from tracer.network.reading import unreadable
from tracer.probe import Probe
from tracer.probe.passes import ProbePass
from tracer.recorder.device import Given, Transfer
from tracer.recorder.device.weights import Weights
from tracer.recorder.forward.untraced import EagerNetwork
from tracer.recorder.minibatch import InFlight
from tracer.recorder.resume import Seam
from tracer.schedule import Schedule
from tracer.writer import Writer

_TRACED_WITH = 8  # examples shown to the tracer and the checks


class Instrument:
    """Observes a live model: `declare` its streams once, then `observe` at snapshots.

    notes: what is not recorded, or in another way than asked for, one sentence each. network: None where the
    model could not be traced, and then only ids, scalars and weights are recorded.
    """

    def __init__(
        self,
        model: nn.Module,
        probes: Mapping[str, Probe],
        *,
        loss: Any,
        objective: Objective | None,
        streams: Collection[str],
        gradients: str,
        memory: int,
        chunk: int | None,
        minibatch: Mapping[str, Schedule | None] | None = None,
    ) -> None:
        self.model = model
        self.notes: list[str] = []
        self._probes = dict(probes)
        self._goal: dict[str, Any] = {"loss": loss, "objective": objective}
        self._options: dict[str, Any] = {
            "streams": frozenset(streams),
            "gradients": gradients,
            "memory": memory,
            "chunk": chunk,
        }
        self._next_check = 1
        self._versions: list[dict[str, Any]] = []
        self._free = 0  # number of the next version
        self.network: Network | EagerNetwork | None = None
        self._pass: ProbePass | None = None
        if self._probes:
            self._trace()
            self._examine()
        layers: dict[str, str] = {} if self.network is None else _layers(self.network)
        self._weights = Weights(model, layers)
        self._transfer = Transfer()
        self.in_flight: InFlight | None = None
        if minibatch:
            # Without a pass the archive has no tables of sites that sums and masks could refer to.
            known = self.network if self._pass is not None else None
            self.in_flight = InFlight(model, known, minibatch, loss=loss, note=self._note)

    # Setting up.

    def _trace(self) -> None:
        name, probe = next(iter(self._probes.items()))
        self._inputs, self._targets = _some(probe, named_tensors(self.model))
        _check_accepted(self.model, name, self._inputs)
        chunk = self._options["chunk"] or 64
        given = (self.model, self._inputs, self._targets)
        try:
            self.network = Network.trace(*given, **self._goal, chunk=chunk)
        except (RecordError, ArchiveError) as refusal:
            self.network = _untraced(*given, **self._goal, refusal=refusal)

    def _examine(self) -> None:
        assert self.network is not None
        network, tensors = self.network, named_tensors(self.model)
        if isinstance(network, EagerNetwork):
            alone = network.examine(tensors, self._inputs, self._targets)
            self._options["chunk"] = self._options["chunk"] or network.chunk(self._options["memory"])
            self._options["excluded"] = network.excluded
        else:
            alone = independence(network, tensors, self._inputs, self._targets)
        if not alone.holds:
            self._note(alone.message)
            return
        if isinstance(network, EagerNetwork):
            self._note(network.note)
        else:
            same = closure(network, self.model, self._inputs, self._targets, **self._goal)
            if not same.holds:
                self._note(same.message)
                self._options["gradients"] = "none"
        if isinstance(network, Network) and (refusal := unreadable(network, tensors, self._example_bytes())):
            self._note(
                f"everything is recorded, but readers of the archive refuse to run it again: {refusal}"
            )
        self._pass = ProbePass(network, self._probes, tensors=tensors, **self._options)  # type: ignore[arg-type]
        # Which parameters a model that branches on values uses, a few examples cannot tell.
        known = isinstance(network, Network) or network.batch is None
        unreached = _unreached(network, tensors, self._inputs, self._targets) if known else []
        for note in [*unreached, *self._pass.notes]:
            self._note(note)

    def _example_bytes(self) -> int:
        """Bytes of the probes' inputs and targets in the archive, at most."""
        probes = self._probes.values()
        return sum(8 * leaf.numel() for probe in probes for leaf in leaves_of((probe.inputs, probe.targets)))

    def _note(self, sentence: str) -> None:
        sentence = sentence[0].upper() + sentence[1:].rstrip(".") + "."
        if sentence not in self.notes:
            self.notes.append(sentence)

    # What the archive says before the first snapshot.

    @property
    def tables(self) -> dict[str, Any]:
        """Root attributes of the archive: tensors, sites, calls and layers, in order."""
        network = self.network
        described: dict[str, Any] = {"tensors": self._weights.table, "sites": [], "calls": [], "layers": []}
        if network is not None:
            described["layers"] = [{"name": x.name, "parameters": list(x.parameters)} for x in network.layers]
            described["calls"] = [
                {"name": x.name, "op": x.op, "module": x.module, "shape": list(x.shape)}
                for x in network.calls
            ]
        if self._pass is not None:
            described["sites"] = self._pass.sites
        return described

    @property
    def card(self) -> dict[str, Any]:
        """What the card says of gradients and probes."""
        seen = self._pass
        return {
            "gradients": None
            if seen is None
            else {"mode": seen.mode, "reason": seen.reason, "ways": seen.ways},
            "probes": {
                name: {"split": probe.split, "n": probe.n, "capture": dict(probe.capture)}
                for name, probe in self._probes.items()
            },
            "minibatch": None if self.in_flight is None else self.in_flight.card,
            **_kind(self.network),
            "foreign_ops": [] if self.network is None else self.network.foreign,
        }

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights now, as a snapshot holds them."""
        return self._weights.read()

    @property
    def examples(self) -> dict[str, dict[str, Any]]:
        """Attributes of the groups of the probes, their digests among them."""
        static = {} if self._pass is None else self._pass.static
        return {group: attributes for group, (_, _, attributes) in static.items()}

    def declare(self, writer: Writer, seam: Seam | None = None) -> None:
        """Declare every stream and write what does not change: the probes and the network's table.

        seam: where an archive is taken up, which then holds all this already and has to agree.
        """
        writer.stream("weights", self._weights.arrays)
        if self._pass is not None:
            for group, (arrays, dims, attributes) in self._pass.static.items():
                writer.static(group, arrays, dims, attributes)
            for group, declared in self._pass.layout.items():
                writer.stream(group, declared, self._pass.attributes.get(group, {}))
        if self.in_flight is not None:
            self.in_flight.declare(writer)
        if seam is not None:
            self._versions, self._free = list(seam.versions), seam.free
            self._next_check = seam.step + 1
        known = self._versions[-1]["digest"] if self._versions else None
        if isinstance(self.network, Network) and self.network.digest != known:
            self._write_table(writer, from_step=0 if seam is None else seam.step + 1)

    def _write_table(self, writer: Writer, from_step: int) -> None:
        assert isinstance(self.network, Network)
        version, self._free = self._free, self._free + 1
        arrays = {f"table_{version}": np.frombuffer(self.network.to_json(), np.uint8)}
        dims: dict[str, tuple[str, ...]] = {f"table_{version}": (f"byte_{version}",)}
        constants = {}
        for i, (name, value) in enumerate(self.network.constants.items()):
            key = constants[name] = f"constant_{version}_{i}"
            arrays[key] = value.detach().cpu().numpy()
            dims[key] = tuple(f"{key}_{axis}" for axis in range(value.ndim))
        self._versions.append(
            {
                "version": version,
                "from_step": from_step,
                "digest": self.network.digest,
                "constants": constants,
            }
        )
        writer.static("network", arrays, dims, {"versions": self._versions})

    @property
    def layout(self) -> dict[str, Any]:
        """Arrays of a snapshot of all streams: {group: {array: (dtype, shape, dims)}}."""
        return {"weights": self._weights.arrays, **({} if self._pass is None else self._pass.layout)}

    # Snapshots.

    def snapshot(
        self, writer: Writer, streams: Collection[str], step: int, epoch_end: bool, last: bool = False
    ) -> None:
        """Give the writer the streams asked for, of the model as it is now, without waiting for its device."""
        for group, tensors in self.observe(writer, streams, step, last).items():
            arrays, shipment = self._transfer.send(tensors)
            writer.append(group, step, epoch_end, arrays, shipment)

    def observe(
        self, writer: Writer, streams: Collection[str], step: int, last: bool = False
    ) -> dict[str, Mapping[str, Given]]:
        """The arrays of the streams asked for, by group, of the model as it is now, on its device."""
        arrays: dict[str, Mapping[str, Given]] = {}
        if "weights" in streams:
            arrays["weights"] = self._weights.take()
        if self._pass is not None and set(streams) & self._pass.streams:
            if isinstance(self.network, EagerNetwork):
                self.network.refresh(self.model)
            elif last or step >= self._next_check:
                self._stay_current(writer, step)
        if self._pass is not None and set(streams) & self._pass.streams:
            arrays |= self._pass.observe(named_tensors(self.model), set(streams))
        if isinstance(self.network, EagerNetwork) and (unknown := self.network.take_unknown()):
            self._note(
                f"at step {step} the model went another way than at the start, through "
                f"{', '.join(unknown[:5])}: these are not recorded, and what it left out is NaN or off"
            )
        return arrays

    def _stay_current(self, writer: Writer, step: int) -> None:
        assert isinstance(self.network, Network)
        self._next_check = max(2 * step, self._next_check)
        verdict = currency(self.network, self.model, self._inputs, self._targets, **self._goal)
        if verdict.holds:
            return
        self._note(f"at step {step} {verdict.message}; the archive holds each version")
        before = _shape(self.network)
        self._trace()
        if not isinstance(self.network, Network) or _shape(self.network) != before:
            self._pass = None
            self._note(
                f"at step {step} the model has other sites, calls or layers than at the start, which one "
                "archive "
                "cannot hold: from here on only ids, scalars and weights are recorded; record the new model "
                "as a run "
                "of its own"
            )
            return
        self._pass = ProbePass(self.network, self._probes, tensors=named_tensors(self.model), **self._options)
        self._write_table(writer, from_step=step)


def _check_accepted(model: nn.Module, name: str, inputs: Any) -> None:
    """RecordError naming the probe where the model itself refuses its examples."""
    try:
        with quiet(grad=False):
            call_model(private_copy(model), inputs)
    except Exception as error:
        shapes = [f"{list(leaf.shape)} {leaf.dtype}" for leaf in leaves_of(inputs)]
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecordError(
            f"Probe {name!r}: the model refuses a batch of its inputs, {', '.join(shapes)} ({cause}): bring "
            "the probe "
            "into the form of the training batches."
        ) from error


def _untraced(*given: Any, refusal: Exception, **goal: Any) -> EagerNetwork:
    """The model itself in the table's place; why it could not be traced where that is no way either."""
    try:
        return EagerNetwork(*given, **goal, reason=str(refusal))
    except RecordError:
        raise
    except Exception as error:
        raise refusal from error


def _kind(network: Network | EagerNetwork | None) -> dict[str, Any]:
    if isinstance(network, EagerNetwork):
        return {"network": "eager", "network_reason": network.reason}
    return {"network": None if network is None else "table"}


def _layers(network: Network | EagerNetwork) -> dict[str, str]:
    return {name: layer.name for layer in network.layers for name in layer.parameters}


def _shape(network: Network | EagerNetwork) -> Any:
    return (
        [(site.name, site.shape, site.has_mask) for site in network.sites],
        [(call.name, call.shape) for call in network.calls],
        network.layers,
    )


def _some(probe: Probe, tensors: Mapping[str, torch.Tensor]) -> tuple[Any, Any]:
    """A few examples of a probe where the model is."""
    device = next(iter(tensors.values())).device if tensors else torch.device("cpu")

    def few(tree: Any) -> Any:
        index = torch.arange(_TRACED_WITH) % probe.n
        return rebuild(tree, iter([leaf[index].to(device) for leaf in leaves_of(tree)]))

    return few(probe.inputs), few(probe.targets)


def _unreached(
    network: Network | EagerNetwork, tensors: Mapping[str, torch.Tensor], inputs: Any, targets: Any
) -> list[str]:
    """A sentence naming the trainable parameters that the loss does not depend on."""
    names = [name for layer in network.layers for name in layer.parameters]
    unreached = dict.fromkeys(names)
    size = network.batch or _TRACED_WITH
    for start in range(0, _TRACED_WITH, size):
        index = (start + torch.arange(size)) % _TRACED_WITH
        some = [take(tree, index, _TRACED_WITH) for tree in (inputs, targets)]
        with torch.inference_mode(False), torch.enable_grad():
            live = {name: tensors[name].detach().requires_grad_() for name in unreached}
            _, losses = network.run({**tensors, **live}, *some)
            if losses is None or not live:
                return []
            if not losses.requires_grad:
                continue
            found = torch.autograd.grad(losses.sum(), list(live.values()), allow_unused=True)
        for name, gradient in zip(live, found, strict=True):
            if gradient is not None:
                del unreached[name]
    if not unreached:
        return []
    shown = ", ".join(list(unreached)[:5]) + (f" and {len(unreached) - 5} more" if len(unreached) > 5 else "")
    return [
        f"the loss does not depend on {shown}: their gradients are recorded as 0; look for a detach() or a "
        "module "
        "that forward never calls, or freeze them with requires_grad=False"
    ]
