"""Instrument: the network of a user's model as data, kept current, and everything observed through it.

At the start the three checks decide what can be trusted; what cannot is left out and said in one sentence.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from tracer.errors import ArchiveError, RecordError, first_line
from tracer.gradients.sketch import Setting
from tracer.network import Network
from tracer.network.checks import closure, currency
from tracer.network.copies import memory_returned, named_tensors, return_memory
from tracer.network.independence import independence
from tracer.network.objective import Objective
from tracer.network.reading import unreadable
from tracer.network.writing import stored
from tracer.probe import Probe, fitting, other_splits
from tracer.probe.passes import ProbePass
from tracer.recorder.device import Given, Transfer
from tracer.recorder.device.weights import Weights
from tracer.recorder.forward.untraced import EagerNetwork
from tracer.recorder.minibatch import InFlight, unfinished_bytes
from tracer.recorder.plan import announce_snapshots
from tracer.recorder.preparation import (
    captured,
    check_accepted,
    complex_parameters,
    correctness,
    device_of,
    example_bytes,
    examples_to_trace_with,
    layer_of,
    some,
    unreached,
)
from tracer.recorder.resume import ResumePoint
from tracer.recorder.stand_in import hooked, kind, traced
from tracer.recorder.structure import Structure, surviving, tensors_of, told
from tracer.schedule import Schedule
from tracer.spec import OBJECT_BYTES
from tracer.spec.correctness import Correctness
from tracer.writer import Writer


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
        sketch: Setting = Setting(),  # noqa: B008
        memory: int,
        chunk: int | None,
        cost: float = fitting.COST,
        batch_size: int | None = None,
        minibatch: Mapping[str, Schedule | None] | None = None,
    ) -> None:
        self.model = model
        # What is recorded in the place of the model's own weights.
        self.produced: Callable[[], Mapping[str, Tensor] | None] = lambda: None
        self.notes: list[str] = []
        self.announced: list[str] = []  # those that need no warning
        self._probes = dict(probes)
        self._goal: dict[str, Any] = {"loss": loss, "objective": objective}
        self._options: dict[str, Any] = {
            "streams": frozenset(streams),
            "gradients": gradients,
            "sketch": sketch,
            "memory": memory,
            "chunk": chunk,
            "cost": cost,
            "batch": batch_size,
        }
        self._next_check, self._compared = 1, 0  # the next step to compare at (0: every one), and the last
        self._versions: list[dict[str, Any]] = []
        self._free = 0  # number of the next version
        self.network: Network | EagerNetwork | None = None
        self._correctness: Correctness | None = None
        self._pass: ProbePass | None = None
        for name, probe in self._probes.items():
            if probe.varying:
                self._note(
                    f"Probe {name!r}: examples differ when read twice: the probe holds one random augmentation of "
                    "each example; give a dataset without augmentation to probe the examples themselves"
                )
        if self._probes:
            self._trace()
            assert self.network is not None
            probe = next(iter(self._probes.values()))
            self._correctness = correctness(self.network, model, probe, self._few, **self._goal)
            self._options["rule"] = self._correctness
            self._options["beside"] = unfinished_bytes(minibatch or (), self.network)
            self._examine()
        layers: dict[str, str] = {} if self.network is None else layer_of(self.network)
        self._weights = Weights(model, layers)
        self._with_weights = True
        self._lost: set[str] = set()  # tensors that the archive has no longer a place for
        self._structure = Structure(model)
        self._said: set[str] = set()  # names of tensors whose change was noted
        self._transfer = Transfer(memory if self._pass is None else self._pass.room)
        self.in_flight: InFlight | None = None
        if minibatch:
            # Without a pass the archive has no tables of sites that sums and masks could refer to.
            known = self.network if self._pass is not None else None
            rule, note, has = self._correctness, self._note, objective is not None
            self.in_flight = InFlight(model, known, minibatch, loss=loss, objective=has, note=note, rule=rule)

    # Setting up.

    def _trace(self) -> None:
        return_memory()
        name, probe = next(iter(self._probes.items()))
        self._few, chunk = examples_to_trace_with(self.model, self._probes, self._options, self._goal)
        self._inputs, self._targets = some(probe, device_of(named_tensors(self.model)), self._few)
        self._scale = check_accepted(self.model, name, self._inputs, self._targets, **self._goal)
        arguments = (self.model, self._inputs, self._targets)
        self.network = traced(*arguments, **self._goal, chunk=chunk)

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
        if unreal := complex_parameters(tensors, network):
            self._note(
                f"parameters {', '.join(unreal)} are complex, and inner products of gradients are of real ones "
                "alone: gradients are off; hold such a parameter as its real and imaginary part, as "
                "torch.view_as_complex takes them"
            )
            self._options["gradients"] = "none"
        size = example_bytes(self._probes)
        if isinstance(network, Network) and (refusal := unreadable(network, tensors, size)):
            self._note(
                f"everything is recorded, but readers of the archive refuse to run it again: {refusal}"
            )
        self._pass = ProbePass(network, self._probes, tensors=tensors, **self._options)  # type: ignore[arg-type]
        self._probes = self._pass.probes  # from here on no other numbers of examples
        # Which parameters a model that branches on values uses, a few examples cannot tell.
        known = isinstance(network, Network) or network.batch is None
        known = known and self._pass.mode != "none"
        useless = unreached(network, tensors, self._inputs, self._targets) if known else []
        self.announced = [*self._scale, *other_splits(self._probes), *self._pass.lowered, *hooked(self.model)]
        for note in [*useless, *self._pass.notes, *self.announced]:
            self._note(note)

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
            "gradients": seen and {"mode": seen.mode, "reason": seen.reason, "ways": seen.ways},
            "probes": {
                name: {"split": probe.split, "n": probe.n, "capture": captured(probe, seen)}
                for name, probe in self._probes.items()
            },
            "minibatch": None if self.in_flight is None else self.in_flight.card,
            **({} if self._correctness is None else {"correctness": self._correctness.to_card()}),
            **kind(self.network),
            "foreign_ops": [] if self.network is None else self.network.foreign,
        }

    def announce(self, writer: Writer) -> None:
        """Say in one line what a snapshot takes, and in one each what was lowered."""
        announce_snapshots(str(writer.path), self.layout, self._pass, self.announced)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights now, as a snapshot holds them."""
        return self._weights.read()

    @property
    def examples(self) -> dict[str, dict[str, Any]]:
        """Attributes of the groups of the probes, their digests among them."""
        static = {} if self._pass is None else self._pass.static
        return {group: attributes for group, (_, _, attributes) in static.items()}

    def declare(self, writer: Writer, resumed: ResumePoint | None = None) -> None:
        """Declare every stream and write what does not change: the probes and the network's table.

        resumed: where an archive is taken up, which then holds all this already and has to agree.
        """
        writer.stream("weights", self._weights.arrays, object_bytes=self.object_bytes)
        if self._pass is not None:
            for group, (arrays, dims, attributes) in self._pass.static.items():
                writer.static(group, arrays, dims, attributes)
            for group, declared in self._pass.layout.items():
                attributes = self._pass.attributes.get(group, {})
                writer.stream(group, declared, attributes, self.object_bytes)
        if self.in_flight is not None:
            self.in_flight.declare(writer)
        if resumed is not None:
            self._versions, self._free = list(resumed.versions), resumed.free
            self._next_check, self._compared = resumed.step + 1, resumed.step
        known = self._versions[-1]["digest"] if self._versions else None
        if isinstance(self.network, Network) and self.network.digest != known:
            self._write_table(writer, self.network, from_step=0 if resumed is None else resumed.step + 1)

    def _write_table(self, writer: Writer, network: Network, from_step: int) -> None:
        version, self._free = self._free, self._free + 1
        arrays, dims, known = stored(network, version)
        self._versions.append({"version": version, "from_step": from_step, **known})
        writer.static("network", arrays, dims, {"versions": self._versions})

    @property
    def layout(self) -> dict[str, Any]:
        """Arrays of a snapshot of all streams: {group: {array: (dtype, shape, dims)}}."""
        return {"weights": self._weights.arrays, **({} if self._pass is None else self._pass.layout)}

    @property
    def object_bytes(self) -> int:
        """Bytes of an object that snapshots of an array share, at most."""
        return OBJECT_BYTES if self._pass is None else self._pass.object_bytes

    # Snapshots.

    @memory_returned()
    def snapshot(
        self, writer: Writer, streams: Collection[str], step: int, epoch_end: bool, last: bool = False
    ) -> None:
        """Give the writer the streams asked for, of the model as it is now, without waiting for its device."""
        for group, tensors in self.observe(writer, streams, step, last).items():
            arrays, shipment = self._transfer.send(tensors)
            try:
                writer.append(group, step, epoch_end, arrays, shipment)
            except RecordError as error:
                self._pass = None
                self._note(f"{error}: from here on only ids, scalars and weights are recorded")

    def observe(
        self, writer: Writer, streams: Collection[str], step: int, last: bool = False
    ) -> dict[str, Mapping[str, Given]]:
        """The arrays of the streams asked for, by group, of the model as it is now, on its device."""
        arrays: dict[str, Mapping[str, Given]] = {}
        named = self.produced() or named_tensors(self.model)
        changed = self._see_changes(step, named)
        try:
            self._follow_device(named)
            if self._pass is not None and (changed or set(streams) & self._pass.streams):
                if isinstance(self.network, EagerNetwork) and not changed:
                    self.network.refresh(self.model)
                elif changed or last or step >= self._next_check:
                    self._stay_current(writer, step, changed)
            if self._pass is not None and set(streams) & self._pass.streams:
                arrays |= self._pass.observe(named, set(streams))
        except Exception as error:  # whatever has become of the model, its training goes on
            self._pass = None
            self._note(
                f"at step {step} the probes could not be observed ({first_line(error)}): from here on only ids, "
                "scalars and weights are recorded"
            )
        if "weights" in streams and self._with_weights:
            arrays["weights"] = self._weights.take(named)
            if changed and (lost := self._weights.misfits() - self._lost):
                self._lost |= lost
                self._note(f"from step {step} on the weights {told(sorted(map(repr, lost)))} are NaN")
        if isinstance(self.network, EagerNetwork) and (unknown := self.network.take_unknown()):
            self._note(
                f"at step {step} the model went another way than at the start, through "
                f"{', '.join(unknown[:5])}: these are not recorded, and what it left out is NaN or off"
            )
        return arrays

    def _see_changes(self, step: int, named: Mapping[str, Tensor]) -> bool:
        """Whether the model is made of something else than at the last snapshot; what, is noted once."""
        before, self._structure = self._structure, Structure(self.model, named, self._structure)
        phrases = before.changes(self._structure)
        new = [phrase for phrase in phrases if phrase.split("' ")[0] not in self._said]
        self._said |= {phrase.split("' ")[0] for phrase in new}
        if new:
            self._note(f"at step {step} the model has changed: {told(new)}")
        return bool(phrases)

    def _follow_device(self, named: Mapping[str, Tensor]) -> None:
        """Have the probes where the model has been moved to."""
        device = device_of(named)
        if self._pass is None or device == self._pass.device:
            return
        assert self.network is not None
        self._inputs, self._targets = some(next(iter(self._probes.values())), device, self._few)
        if isinstance(self.network, EagerNetwork):
            self.network.refresh(self.model)
        options = {**self._options, "gradients": self._pass.mode, "streams": self._pass.streams}
        self._pass = ProbePass(self.network, self._probes, tensors=named, **options)  # type: ignore[arg-type]

    def _stay_current(self, writer: Writer, step: int, changed: bool) -> None:
        """Trace the model again where the network is not what it computes."""
        before, passes, names = self.network, self._pass, named_tensors(self.model)
        assert before is not None and passes is not None
        since, self._compared = self._compared, step
        self._next_check = self._next_check and max(2 * step, self._next_check)
        if isinstance(before, Network) and not (changed and self._unknown_tensors(before)):
            verdict = currency(before, self.model, self._inputs, self._targets, **self._goal)
            if verdict.holds:
                return
            between = f" (between steps {since} and {step} the one before)" if step > since + 1 else ""
            if self._next_check:
                self._note(
                    f"at step {step} {verdict.message}; from here on every snapshot is compared, and the archive "
                    f"holds each version{between}"
                )
            self._next_check = 0
        try:
            self._trace()
        except (RecordError, ArchiveError) as error:
            self.network, self._pass = None, None
            self._note(f"at step {step} the model cannot be probed any more: {error}")
        network = self.network
        if network is None or (unknown := self._unknown_tensors(network)):
            self._pass = None
            self._with_weights = not changed
            what = network and f"needs {told(sorted(map(repr, unknown)))}, which the archive has no place for"
            self._note(
                f"at step {step} the network {what or 'is not known any more'}: from here on only ids"
                f"{', scalars and weights' if self._with_weights else ' and scalars'} are recorded; record the new "
                "model as a run of its own"
            )
            return
        options = {**self._options, "gradients": passes.mode, "streams": passes.streams}
        now = ProbePass(network, self._probes, tensors=names, **options)  # type: ignore[arg-type]
        streams = surviving(passes, now, before, network)
        if lost := passes.streams - streams:
            self._note(
                f"at step {step} the model has other sites, calls or layers than at the start, which one archive "
                f"cannot hold: from here on {', '.join(sorted(lost))} of the probes are not recorded; record the "
                "new model as a run of its own"
            )
            options = {**options, "streams": streams}
            now = ProbePass(network, self._probes, tensors=names, **options)  # type: ignore[arg-type]
        self._pass = now if streams else None
        if isinstance(network, Network):
            self._write_table(writer, network, from_step=step)

    def conclude(self, step: int) -> None:
        """Compare the network with the model, unless it was rebuilt, where the last state was recorded without."""
        if self._pass is None or not isinstance(self.network, Network) or self._compared == step:
            return
        examples = some(next(iter(self._probes.values())), device_of(named_tensors(self.model)), self._few)
        verdict = currency(self.network, self.model, *examples, **self._goal)
        if not verdict.holds and not self._structure.changes(Structure(self.model)):
            self._note(
                f"at the end {verdict.message}, and what the probes recorded after step {self._compared} may be of "
                "the model before: hold what training changes as a buffer of the model"
            )

    def _unknown_tensors(self, network: Network | EagerNetwork) -> set[str]:
        """Tensors of a network that the archive cannot hold as they are now."""
        stored = {row["name"] for row in self._weights.table} - self._weights.misfits()
        return tensors_of(network) - stored
