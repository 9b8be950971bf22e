"""Whether what is recorded follows from the recorded weights: every probe pass made again and compared."""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from tracer import archive as archives
from tracer.archive import Archive
from tracer.bits import unpack
from tracer.errors import ArchiveError, MissingTraceError, RecordError
from tracer.network import Network
from tracer.network.fixed_masks import by_example
from tracer.rerun import RELATIVE, amplification, part, places, recorded
from tracer.rerun.passes import FillPass, as_recorded, kept
from tracer.rerun.stored import Networks, tensors_of, to_device, usable_device
from tracer.rerun.wanted import Wanted, wanted
from tracer.spec import PROBE_STREAMS, stream_of
from tracer.verify.report import Report

_OF_LOSSES = frozenset({"gradients", "tokens"})


def compare(path: str | os.PathLike[str], report: Report, device: str | torch.device = "cpu") -> None:
    """Replay every snapshot that has weights on a device; what differs by more than rounding is a finding.

    What cannot be replayed (no network, an operation off the list, no inputs) is a note.
    """
    place = usable_device(device)
    with archives.open(path) as archive:
        try:
            _Replay(archive, report, place).run()
        except (ArchiveError, MissingTraceError, RecordError) as error:
            report.notes.append(f"not replayed: {error}")
        except (
            RuntimeError,
            IndexError,
            TypeError,
            ValueError,
        ) as error:  # what PyTorch says of wrong arguments
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            report.add("replay", "network", f"the network cannot be run on its inputs ({first})")


class _Replay:
    def __init__(self, archive: Archive, report: Report, device: torch.device) -> None:
        self._archive, self._report, self._device = archive, report, device
        self._networks = Networks(archive)
        self._passes: dict[Network, FillPass] = {}
        self._wants: dict[str, Wanted] = {}

    def run(self) -> None:
        weighed = {int(step) for step in self._archive.steps("weights")}
        source = self._archive._source
        groups = [g for g in source.streams() if g == "gram" or g.startswith("probes/")]
        recorded = {group: {int(step) for step in source.steps(group)} for group in groups}
        steps = sorted(weighed & set().union(*recorded.values()))
        for step in steps:
            self._step(step, [group for group in groups if step in recorded[group]])
        self._report.counts["replayed"] = len(steps)
        for what, gap in self._report.rounding.items():
            self._report.notes.append(f"{what} agree within rounding only (at most {gap:.2g} apart)")

    def _step(self, step: int, groups: list[str]) -> None:
        tensors = tensors_of(self._archive, step, self._device)
        network = self._networks.at(step)
        if (
            network.no_loss
            and f"losses and gradients are not replayed: {network.no_loss}" not in self._report.notes
        ):
            self._report.notes.append(f"losses and gradients are not replayed: {network.no_loss}")
        if network not in self._passes:
            self._passes[network] = self._pass(network, step, tensors)
        streams = {stream_of(group) for group in groups}
        replayed = self._passes[network].run(tensors, streams)
        for group in groups:
            for name, values in replayed.get(group, {}).items():
                stored = self._archive._source.snapshot(f"{group}/{name}", step)
                explain = partial(self._margins, network, tensors, group.split("/")[1:2])
                self._array(f"{group}/{name}", step, values, stored, explain)

    def _pass(self, network: Network, step: int, tensors: Mapping[str, torch.Tensor]) -> FillPass:
        self._wants = wanted(self._archive, self._networks, step, dict.fromkeys(PROBE_STREAMS), {})
        for want in self._wants.values():
            want.added = {}
        mode = kept(self._archive) or "none"
        if mode != "sketch" and any(view.has_sketches for view in self._archive.probes.values()):
            self._report.notes.append(
                f"sketches of gradients are not replayed where {mode} gradients are there too"
            )
        memory = int(self._archive.card.get("memory") or 1 << 30)
        recorded = as_recorded(self._archive)
        return FillPass(network, self._wants, tensors=tensors, gradients=mode, memory=memory, **recorded)

    def _array(
        self,
        path: str,
        step: int,
        replayed: np.ndarray,
        stored: np.ndarray,
        margins: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        if replayed.shape != stored.shape:
            self._report.add("replay", path, f"has shape {stored.shape} where replay gives {replayed.shape}")
            return
        for what, ours, theirs in self._pieces(path, replayed, stored):
            if np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
                continue
            if path.endswith("/bits"):
                apart, scale = margins(ours ^ theirs), 1.0
                count, gap = len(apart), float(apart.max(initial=0.0))
                why = f"{count} bits differ at step {step}, where |pre-activation| is up to {gap:.2g} of its largest"
            else:
                scale = float(np.nan_to_num(np.abs(theirs)).max(initial=0.0))
                same = np.isnan(ours) == np.isnan(theirs)
                gap = float(np.nanmax(np.abs(ours - theirs))) if same.all() else np.inf
                why = f"{what} differ by {gap:.3g} at step {step}, where {scale:.3g} is the largest value"
            if gap > RELATIVE * scale and gap > RELATIVE * self._amplification(path, step) * scale:
                self._report.add("replay", path, why)
            else:
                rounding = self._report.rounding
                rounding[path] = max(gap, rounding.get(path, 0.0))

    def _amplification(self, path: str, step: int) -> float:
        """How many times more than outputs this differs by rounding, since it follows from losses."""
        group, _, name = path.rpartition("/")
        if stream_of(group) not in _OF_LOSSES and name != "loss":
            return 1.0
        probe = path.split("/")[1]
        views = [self._archive.probes[probe]] if path.startswith("probes/") else self._archive.probes.values()
        return max((amplification(*recorded(view, step)) for view in views), default=1.0)

    def _pieces(
        self, path: str, replayed: np.ndarray, stored: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Parts whose values are of one magnitude: layers of inner products and sketches, parts of gradient blocks."""
        if path == "gram/gram":
            yield from zip(self._archive.layers, replayed, stored, strict=True)
        elif path.endswith("/gradients/values"):
            for block in self._archive._source.group_attributes(path.rpartition("/")[0])["blocks"]:
                for one in block["parts"]:
                    span = slice(one["offset"], one["offset"] + int(np.prod(one["shape"])))
                    yield f"{one['name']} of {block['tensor']!r}", replayed[span], stored[span]
        elif path.endswith("/sketches/values"):
            for layer in self._archive._source.group_attributes(path.rpartition("/")[0])["layers"]:
                span = slice(layer["offset"], layer["offset"] + layer["size"])
                yield f"layer {layer['layer']!r}", replayed[:, span], stored[:, span]
        else:
            yield "values", replayed, stored

    def _margins(
        self, network: Network, tensors: Mapping[str, torch.Tensor], probe: list[str], bits: np.ndarray
    ) -> np.ndarray:
        """|pre-activation| of each bit that is set, as a share of the largest of its site."""
        want = self._wants[probe[0]]
        n = want.all["masks"]
        differing = unpack(bits, n)
        spans = dict(places(network, "masks"))
        rows = {network.rows[site.row].name: site for site in network.sites if site.name in spans}
        apart: list[np.ndarray] = []

        def watch(row: Any, values: tuple[Any, ...], out: Any) -> None:
            site = rows.get(row.name)
            if site is not None:
                live = by_example(values[site.argument], row, size)[: taken.stop - taken.start]
                before = live.abs().cpu().numpy()
                apart.append((before / max(before.max(), 1e-300))[differing[taken, spans[site.name]]])

        size = network.batch or n
        with torch.no_grad():
            for start in range(0, n, size):
                taken = slice(start, min(start + size, n))
                inputs = part(want.probe.inputs, taken.start, taken.stop, size)
                network.run(tensors, to_device(inputs, self._device), visit=watch)
        return np.concatenate([np.empty(0), *apart])
