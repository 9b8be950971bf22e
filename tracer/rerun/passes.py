"""A probe pass in the chunks of examples that the recording made."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from tracer.archive import Archive
from tracer.gradients.sketch import Setting
from tracer.network import Network
from tracer.probe import Probe
from tracer.probe.examples import Examples
from tracer.probe.passes import ProbePass
from tracer.rerun.wanted import Wanted
from tracer.spec.correctness import Correctness


def as_recorded(archive: Archive) -> dict[str, Any]:
    """Options of a pass that follow from what an archive holds: what is correct, whether outputs are whole, draws."""
    has = archive._source.has
    sketched = next((view.sketch for view in archive.probes.values() if view.has_sketches), None)
    drawn = {} if sketched is None else {"sketch": Setting(sketched["tolerance"], sketched["seed"])}
    return drawn | {
        "rule": Correctness.from_card(archive.card),
        "whole": any(has(f"probes/{name}/outputs/outputs") for name in archive.probes),
    }


def kept(archive: Archive) -> str | None:
    """How an archive keeps gradients: "exact", "gram", "sketch"; None where it has none."""
    has = archive._source.has
    if any(has(f"probes/{name}/gradients") for name in archive.probes):
        return "exact"
    if has("gram"):
        return "gram"
    return "sketch" if any(view.has_sketches for view in archive.probes.values()) else None


class FillPass(ProbePass):
    """A probe pass in the chunks of the recording, or in those it would have made if nothing was recorded."""

    def __init__(self, network: Network, wants: Mapping[str, Wanted], **options: Any) -> None:
        self._wants = wants
        super().__init__(network, {name: want.taking for name, want in wants.items()}, **options)

    def _examples(
        self,
        probes: Mapping[str, Probe],
        tensors: Mapping[str, Tensor],
        streams: Iterable[str],
        gradients: str,
        sizes: tuple[int, int],
    ) -> list[Examples]:
        examples = super()._examples(probes, tensors, streams, gradients, sizes)
        for p in examples:
            stored = self._wants[p.name].chunks
            covered = bool(stored) and stored[-1][1] >= max(p.taken.values(), default=0)
            backward = [(start, stop) for start, stop in stored if start < p.n_gradients]
            if covered and all(
                stop <= p.n_gradients and stop - start <= sizes[0] for start, stop in backward
            ):
                p.chunks = stored
        return examples

    @property
    def chunks(self) -> dict[str, list[tuple[int, int]]]:
        """Bounds of the chunks of each probe."""
        return {p.name: p.chunks for p in self._probes}
