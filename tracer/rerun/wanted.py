"""What an archive is to hold once it is filled in: examples of each probe, stream by stream."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tracer.archive import Archive
from tracer.archive.probes import ProbeView
from tracer.errors import RecordError
from tracer.probe import CAPTURE, Probe
from tracer.probe.answers import is_tokens
from tracer.rerun.stored import Networks, probe_of
from tracer.spec import HOW, PROBE_STREAMS
from tracer.spec.correctness import Correctness

Take = bool | int | None


@dataclass
class Wanted:
    """A probe, and of how many of its examples each stream is recorded and is to be computed.

    chunks: in which its examples went through the network, empty where none did. new: it is not in the
    archive.
    """

    probe: Probe
    recorded: dict[str, int] = field(default_factory=dict)
    added: dict[str, int] = field(default_factory=dict)
    chunks: list[tuple[int, int]] = field(default_factory=list)
    new: bool = False

    @property
    def all(self) -> dict[str, int]:
        """Examples of every stream, once it is filled in."""
        return {**self.added, **self.recorded}

    @property
    def taking(self) -> Probe:
        """The probe, with these numbers as its capture."""
        return self.probe.taking(dict.fromkeys(CAPTURE, 0) | self.all)


def wanted(
    archive: Archive, networks: Networks, step: int, takes: Mapping[str, Take], new: Mapping[str, Probe]
) -> dict[str, Wanted]:
    """Every probe of the archive, then the new ones; `takes`: what the user asked for, by stream."""
    missing: dict[str, Wanted] = {}
    cards = archive.card.get("probes", {})
    for name, view in archive.probes.items():
        recorded = _recorded(archive, view)
        # Where nothing was recorded the recording's numbers are all 0: then those it would usually take.
        capture = cards.get(name, {}).get("capture") if recorded else None
        probe = probe_of(view, networks.at(step), capture)
        chunks = [(int(start), int(stop)) for start, stop in view.chunks]
        added = _with_tokens(archive, name, probe, takes, _added(name, probe, takes, recorded))
        missing[name] = Wanted(probe, recorded, added, chunks)
    splits = {item.probe.split: name for name, item in missing.items()}
    usual = {stream for item in missing.values() for stream in item.all} or set(PROBE_STREAMS)
    for name, probe in new.items():
        if name in missing:
            raise RecordError(f"the archive already has a probe {name!r}: choose another name")
        if probe.split in splits:
            raise RecordError(
                f"probes {splits[probe.split]!r} and {name!r} are both of split {probe.split!r}: give split="
            )
        asked = takes if any(takes.values()) else dict.fromkeys(usual)
        added = _with_tokens(archive, name, probe, takes, _added(name, probe, asked, {}))
        missing[name] = Wanted(probe, added=added, new=True)
    return missing


def _recorded(archive: Archive, view: ProbeView) -> dict[str, int]:
    held = {stream: archive._source.has(f"probes/{view.name}/{stream}") for stream in PROBE_STREAMS}
    held["gradients"] = view.name in dict(archive.gram_probes) or view.has_sketches
    return {stream: count for stream, count in view.capture.items() if held.get(stream) and count}


def _added(name: str, probe: Probe, takes: Mapping[str, Take], recorded: Mapping[str, int]) -> dict[str, int]:
    """How many examples each stream that is asked for takes; what is recorded keeps its number."""
    named = any(take is not None for take in takes.values())
    added = {}
    for stream, take in takes.items():
        if take is False or (take is None and named):
            continue
        usual = recorded.get(stream) or probe.taken(stream)
        if take is None:
            count = usual
        elif take is True:
            count = usual or probe.n
        else:
            count = _number(name, probe, stream, take, recorded)
        if count:
            added[stream] = count
    return added


def _with_tokens(
    archive: Archive, name: str, probe: Probe, takes: Mapping[str, Take], added: dict[str, int]
) -> dict[str, int]:
    """The same, without tokens where the model has none; refused where they were asked for by name."""
    if "tokens" in added and not is_tokens(Correctness.from_card(archive.card), probe.targets):
        if takes.get("tokens"):
            raise RecordError(f"probe {name!r} has no tokens to fill in; {HOW['tokens']}")
        del added["tokens"]
    return added


def _number(name: str, probe: Probe, stream: str, take: Any, recorded: Mapping[str, int]) -> int:
    if isinstance(take, bool) or not isinstance(take, int) or take < 0:
        raise RecordError(f"{stream}={take!r}: expected True, False or a number of examples")
    count = min(take, probe.n)
    if count != recorded.get(stream, count):
        raise RecordError(
            f"{stream} of probe {name!r} are recorded for {recorded[stream]} examples, not {count}: say "
            f"{stream}=True to fill in the missing snapshots, or add the examples as a probe of another name"
        )
    return count
