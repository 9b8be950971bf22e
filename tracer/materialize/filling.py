"""How what is missing in an archive is computed: probe passes on stored weights, in the recorded chunks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.archive import Archive
from tracer.errors import ArchiveError, MissingTraceError
from tracer.network import Network
from tracer.network.checks import closure
from tracer.network.independence import independence
from tracer.probe.layout import Declared
from tracer.rerun import part, reproduces
from tracer.rerun.passes import FillPass, as_recorded
from tracer.rerun.stored import Networks, tensors_of, to_device
from tracer.rerun.wanted import Wanted
from tracer.spec import GRADIENTS_OFF, stream_of

Arrays = dict[str, np.ndarray]
_CHECKED_WITH = 8  # examples


class Filling:
    """Computes the groups of an archive that are missing at steps with weights.

    network, first: network and pass of the first of the steps. wants: what each probe is to hold. missing:
    group to the steps to compute. exact: step to whether recorded outputs came out bit for bit, None where
    none are recorded there.
    """

    def __init__(
        self,
        archive: Archive,
        networks: Networks,
        wants: dict[str, Wanted],
        steps: Sequence[int],
        device: torch.device,
        **options: Any,
    ) -> None:
        """Options: those of a `ProbePass`."""
        self._archive, self._networks, self.wants, self._device = archive, networks, wants, device
        self._options = options
        self._passes: dict[Network, FillPass] = {}
        self._given: dict[str, tuple[Any, Any]] = {}
        self.exact: dict[int, bool | None] = {}
        tensors = tensors_of(archive, steps[0], device)
        self.notes = self._examine(networks.at(steps[0]), tensors)
        self.network = networks.at(steps[0])
        self.first = self._pass(steps[0], tensors)
        self.notes += self.first.notes
        self.missing = self._missing(set(steps))

    def _examine(self, network: Network, tensors: dict[str, Tensor]) -> list[str]:
        """Leave out, or refuse, what a recording would have left out."""
        probe = next(iter(self.wants.values())).probe
        n = min(_CHECKED_WITH, probe.n)
        few = part(probe.inputs, 0, n), None if probe.targets is None else part(probe.targets, 0, n)
        inputs, targets = (to_device(tree, self._device) for tree in few)
        alone = independence(network, tensors, inputs, None if network.losses is None else targets)
        if not alone.holds:
            raise ArchiveError(f"nothing can be filled in: {alone.message}")
        if not any("gradients" in want.added for want in self.wants.values()):
            return []
        why = f"{network.no_loss or 'the network was recorded without a loss'}: gradients are off"
        if network.losses is not None and self._networks.model is not None:
            same = closure(network, self._networks.model, *few, self._networks.loss)
            why = "" if same.holds else same.message
        elif network.losses is not None:
            said = self._archive.attributes.get("notes") or ()
            why = next((note for note in said if GRADIENTS_OFF in note), "")
        if why:
            for want in self.wants.values():
                want.added.pop("gradients", None)
        return [why] if why else []

    def _pass(self, step: int, tensors: dict[str, Tensor]) -> FillPass:
        network = self._networks.at(step)
        if network not in self._passes:
            self._passes[network] = FillPass(
                network, self.wants, tensors=tensors, **as_recorded(self._archive), **self._options
            )
        return self._passes[network]

    def _missing(self, steps: set[int]) -> dict[str, set[int]]:
        source = self._archive._source
        missing = {}
        for group in self.first.layout:
            there = source.has(group) and not self.grown(group)
            missing[group] = steps - ({int(step) for step in source.steps(group)} if there else set())
        return {group: at for group, at in missing.items() if at and self._asked(group)}

    def _asked(self, group: str) -> bool:
        """Whether a group is asked for, not only recorded."""
        if group == "gram":
            return any("gradients" in want.added for want in self.wants.values())
        return stream_of(group) in self.wants[group.split("/")[1]].added

    def grown(self, group: str) -> bool:
        """Whether a recorded group gets a larger shape, which only inner products may."""
        source, declared = self._archive._source, self.first.layout[group]
        same = all(source.shape(f"{group}/{name}")[1:] == shape for name, (_, shape, _) in declared.items())
        if not same and group != "gram":
            raise ArchiveError(
                f"{group!r} is recorded in another shape than it is computed in: leave it as it is"
            )
        return not same

    def layout(self, group: str) -> Declared:
        """The arrays of a group."""
        return self.first.layout[group]

    def make(self, step: int) -> dict[str, Arrays]:
        """What is missing at a step; ArchiveError where its weights do not reproduce what is recorded."""
        groups = [group for group, steps in self.missing.items() if step in steps]
        tensors = tensors_of(self._archive, step, self._device)
        self.exact[step] = reproduces(
            self._archive, step, self._networks.at(step), tensors, self._examples_of
        )
        streams = {stream_of(group) for group in groups}
        arrays = self._pass(step, tensors).run(tensors, streams)
        for group in groups:
            if group not in arrays:
                raise MissingTraceError(
                    f"the network of step {step} gives no {group!r}, that of other steps does"
                )
        return {group: arrays[group] for group in groups}

    def _examples_of(self, name: str) -> tuple[Any, Any]:
        if name not in self._given:
            probe = self.wants[name].probe
            self._given[name] = to_device(probe.inputs, self._device), to_device(probe.targets, self._device)
        return self._given[name]
