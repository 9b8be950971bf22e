"""A probe of an archive: its examples, and what was recorded of them at each snapshot."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tracer import bits
from tracer.archive import gradients as factors
from tracer.archive.source import Source
from tracer.errors import ArchiveError, MissingTraceError, did_you_mean
from tracer.spec import HOW, OF_GRADIENTS, PROBE_STREAMS
from tracer.spec.correctness import UNSAID


class Top(NamedTuple):
    """What stands for outputs over more than 4,096 classes; each answer's, where an example has several.

    top_score, top_class: (example, ..., k), the largest scores, falling, and their classes. log_sum_exp: (example, ...)
    of all scores; what is subtracted from a score to have the logarithm of its probability. entropy: (example, ...) of
    the softmax of all scores, in nats. target_score: (example,) of the target, where an example has one class.
    """

    top_score: np.ndarray
    top_class: np.ndarray
    log_sum_exp: np.ndarray
    entropy: np.ndarray
    target_score: np.ndarray | None = None


class ProbeView:
    """The probe ``name``. Arrays are read when asked for.

    Errors: every reading method raises MissingTraceError for a stream, step or name that was not recorded,
    and says how to record it.
    """

    def __init__(self, source: Source, name: str) -> None:
        self._source = source
        self._path = f"probes/{name}"
        self.name = name
        self.attributes: dict[str, Any] = source.group_attributes(self._path)

    def __repr__(self) -> str:
        names = (*PROBE_STREAMS, *OF_GRADIENTS)
        streams = ", ".join(stream for stream in names if self._source.has(f"{self._path}/{stream}"))
        return (
            f"<ProbeView {self.name!r}: {self.n} examples of split {self.split!r}; {streams or 'no streams'}>"
        )

    @property
    def split(self) -> str:
        """Name of the split the examples belong to."""
        return self.attributes.get("split", self.name)

    @property
    def n(self) -> int:
        """Number of examples."""
        return self._source.shape(f"{self._path}/id")[0]

    @property
    def capture(self) -> dict[str, int]:
        """Number of examples each stream holds, the first ones."""
        return {
            stream: self.n if n is None else min(n, self.n)
            for stream, n in self.attributes.get("capture", {}).items()
        }

    @property
    def chunks(self) -> list[list[int]]:
        """[start, stop] of the examples that were run together."""
        return self.attributes.get("chunks", [[0, self.n]])

    @property
    def n_masks(self) -> int:
        """Number of examples with masks."""
        return self.capture.get("masks", self.n)

    @cached_property
    def ids(self) -> np.ndarray:
        """Ids within the split, int64 (example,)."""
        return self._source.read(f"{self._path}/id")

    @cached_property
    def inputs(self) -> np.ndarray | None:
        """What the network is given, (example, ...); None if only a digest was stored, or several tensors were."""
        return self._static("inputs")

    @cached_property
    def targets(self) -> np.ndarray | None:
        """Targets as trained, (example, ...)."""
        return self._static("targets")

    @cached_property
    def true_targets(self) -> np.ndarray | None:
        """Targets before labels were corrupted, if given."""
        return self._static("true_targets")

    @cached_property
    def group(self) -> np.ndarray | None:
        """The user's partition of the examples, if given."""
        return self._static("group")

    @cached_property
    def raw(self) -> np.ndarray | None:
        """Inputs before normalisation, if given."""
        return self._static("raw")

    def n_tensors(self, kind: str) -> int:
        """How many tensors the `inputs` or the `targets` of an example are; 0 where none are stored."""
        if self._source.has(f"{self._path}/{kind}"):
            return 1
        return sum(
            self._source.has(f"{self._path}/{kind}_{k}")
            for k in range(len(self._source.children(self._path)))
        )

    def steps(self, stream: str) -> np.ndarray:
        """Steps at which a stream was recorded, int64."""
        return self._source.steps(self._stream(stream))

    def outputs(self, step: int) -> np.ndarray:
        """Outputs of the network, (example, ...)."""
        path = self._stream("outputs")
        if self.has_top:
            raise MissingTraceError(
                f"of the {self.n_classes:,} outputs of each answer of probe {self.name!r} the "
                f"{self._source.shape(f'{path}/top_score')[-1]} largest are recorded: read them as top(step), or run "
                "the network again, which gives all of them"
            )
        return self._source.snapshot(f"{path}/outputs", step)

    @property
    def has_top(self) -> bool:
        """Whether the largest scores of each answer stand for the outputs."""
        return self._source.has(f"{self._path}/outputs/top_score")

    @property
    def n_classes(self) -> int:
        """How many classes the largest scores are taken from."""
        return int(self._source.group_attributes(self._stream("outputs")).get("classes", 0))

    def top(self, step: int) -> Top:
        """The largest scores of each answer, where these stand for the outputs."""
        path = self._stream("outputs")
        if not self.has_top:
            raise MissingTraceError(f"outputs of probe {self.name!r} are recorded whole: read outputs(step)")
        there = [name for name in Top._fields if self._source.has(f"{path}/{name}")]
        return Top(**{name: self._source.snapshot(f"{path}/{name}", step) for name in there})

    def tokens(self, step: int) -> dict[str, np.ndarray]:
        """Of the answer at every token: `log_prob` of the target, `correct`, and `loss` where known: (example, token).

        float32, NaN where the loss leaves a token out. Attribute `first` of the stream says of which target the first
        answer is.
        """
        path = self._stream("tokens")
        names = [name for name in ("log_prob", "correct", "loss") if self._source.has(f"{path}/{name}")]
        return {name: self._source.snapshot(f"{path}/{name}", step) for name in names}

    def losses(self, step: int) -> np.ndarray:
        """Loss of each example, (example,)."""
        return self._source.snapshot(f"{self._stream('outputs')}/loss", step)

    def correct(self, step: int) -> np.ndarray:
        """Share of each example's answers that are correct, as the objective said, float32 (example,)."""
        path = f"{self._stream('outputs')}/correct"
        if not self._source.has(path):
            raise MissingTraceError(f"probe {self.name!r} has no correctness: {UNSAID}")
        return self._source.snapshot(path, step)

    def bits(self, step: int) -> np.ndarray:
        """Packed masks of all sites, uint8 (unit, byte); see `tracer.bits`."""
        return self._source.snapshot(f"{self._stream('masks')}/bits", step)

    def masks(self, site: str, step: int) -> np.ndarray:
        """Which units of a site are on, bool (example, unit)."""
        entry = self._site(site)
        if entry.get("start") is None:
            raise MissingTraceError(
                f"site {site!r} ({entry.get('op')}) has no on/off pattern; read its activations instead"
            )
        units = slice(entry["start"], entry["start"] + entry["n_units"])
        packed = self._source.snapshot(f"{self._stream('masks')}/bits", step, (units,))
        return bits.unpack(packed, self.n_masks)

    def sums(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums of the outputs of each call and of each site: float64 (example, call) and (example, site)."""
        path = self._stream("sums")
        return self._source.snapshot(f"{path}/pre", step), self._source.snapshot(f"{path}/post", step)

    def activations(self, site: str, step: int) -> np.ndarray:
        """Outputs of a site, float32 (example, unit)."""
        path = f"{self._stream('activations')}/values"
        entry, sites = self._site(site), self._source.attributes.get("sites", [])
        start = sum(other["n_units"] for other in sites[: sites.index(entry)])
        total = sum(other["n_units"] for other in sites)
        if total != self._source.shape(path)[2]:
            raise ArchiveError(
                f"{path!r} holds {self._source.shape(path)[2]} units where the sites have {total}"
            )
        return self._source.snapshot(path, step, (slice(None), slice(start, start + entry["n_units"])))

    def gradients(self, tensor: str, step: int) -> np.ndarray:
        """Gradient of each example's loss with respect to a tensor, (example, *shape): as precise as it."""
        path = self._stream("gradients")
        row = self._source.row(path, step)
        blocks = self._source.group_attributes(path).get("blocks", [])
        return factors.rebuild(
            blocks, tensor, lambda start, stop: self._source.read(f"{path}/values", (row, slice(start, stop)))
        )

    def linear_factors(self, tensor: str, step: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Inputs (example, in) and signals (example, out) whose outer products are a tensor's gradients; else None."""
        path = self._stream("gradients")
        row = self._source.row(path, step)
        blocks = self._source.group_attributes(path).get("blocks", [])
        return factors.linear_factors(
            blocks, tensor, lambda start, stop: self._source.read(f"{path}/values", (row, slice(start, stop)))
        )

    @property
    def has_sketches(self) -> bool:
        """Whether sketches of gradients are recorded."""
        return self._source.has(f"{self._path}/sketches")

    @property
    def sketch(self) -> dict[str, Any]:
        """How sketches were made, and where the layers lie: layers, blocks, seed, tolerance."""
        return self._source.group_attributes(self._stream("sketches"))

    def sketches(self, step: int) -> np.ndarray:
        """Sketches of each example's gradient, of all layers, float32 (example, element); see `sketch`."""
        return self._source.snapshot(f"{self._stream('sketches')}/values", step)

    def _static(self, name: str) -> np.ndarray | None:
        path = f"{self._path}/{name}"
        return self._source.read(path) if self._source.has(path) else None

    def _stream(self, stream: str) -> str:
        path = f"{self._path}/{stream}"
        if not self._source.has(path):
            how = HOW.get(stream) or did_you_mean(stream, PROBE_STREAMS)
            raise MissingTraceError(f"probe {self.name!r} has no {stream}; {how}")
        return path

    def _site(self, name: str) -> dict[str, Any]:
        sites = self._source.attributes.get("sites", [])
        match = next((site for site in sites if site["name"] == name), None)
        if match is None:
            raise MissingTraceError(
                f"there is no site {name!r}; {did_you_mean(name, [site['name'] for site in sites])}"
            )
        return match
