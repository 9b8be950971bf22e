"""Reading an archive: look, slice, hand to xarray. Needs NumPy and Zarr, not PyTorch."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tracer.archive import ranks
from tracer.archive.digests import Digests
from tracer.archive.probes import ProbeView
from tracer.archive.shown import facts, in_html
from tracer.archive.sketches import Similar, similar
from tracer.archive.source import Source
from tracer.archive.training import DataView, MinibatchView, Rows
from tracer.errors import ArchiveError, MissingTraceError, did_you_mean
from tracer.spec import HOW

if TYPE_CHECKING:
    import xarray


def open(path: str | os.PathLike[str], *, rank: int | None = None) -> "Archive":
    """Open an archive: a directory, a zip file of one, or an fsspec URL. It may still be recording.

    What is seen is the last commit before this call. Of a run on several processes, it is what all of them
    have committed: nothing after the last update of the slowest. ``rank``: what one process recorded, all of
    it. Errors: ArchiveError, in one sentence, for anything that is not an archive of a version this release
    reads. A newer minor version is warned of, and a rank whose archive cannot be read.
    """
    return Archive(path, rank=rank)


class Archive:
    """One commit of an archive. Arrays are read when asked for; also a context manager.

    committed: the last update that each process had committed, by rank, -1 for none; what came after the least
    of them is not shown.

    Errors: MissingTraceError, from any reading method, for a step or name that was not recorded.
    """

    def __init__(self, path: str | os.PathLike[str], *, rank: int | None = None) -> None:
        self._source = Source(path)
        self._others: dict[int, Source] = {}
        self._parted = False  # whether there is anything of other ranks
        try:
            if rank is None:
                self._others, self._parted = ranks.readable(self._source)
            elif rank:
                first, self._source = self._source, ranks.connect(self._source, rank)
                first.close()
            self.committed = ranks.last_steps(self._source, self._others)
            ranks.level(self._source, self._others.values())
        except BaseException:
            self.close()
            raise
        self.path = self._source.path

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        for source in (self._source, *self._others.values()):
            source.close()

    # ---- what it is ----

    @property
    def attributes(self) -> dict[str, Any]:
        """All root attributes."""
        return self._source.attributes

    @property
    def card(self) -> dict[str, Any]:
        """How the run was made: model class, optimizer, loss, schedules, versions, settings."""
        return self.attributes.get("card", {})

    @property
    def state(self) -> str:
        """``recording``, ``complete`` or ``interrupted``."""
        return self._source.record["state"]

    @property
    def run_id(self) -> str:
        """Random id of the run."""
        return self._source.record["run_id"]

    @property
    def digest(self) -> str:
        """Digest of this commit, 64 hexadecimal digits: root document, manifest and tails of all ranks included."""
        own = self._source.record["digest"]
        return ranks.digest(own, self._others) if self._others else own

    def digest_of(self, group: str, step: int | None = None) -> str:
        """Digest of the values of a stream at a step, or of a group: `probes/train` is what is known of its examples.

        It changes only with what it is of, where `digest` changes with every commit. Empty for what was not recorded.
        """
        return self._digests.of(group, step)

    @cached_property
    def _digests(self) -> Digests:
        return Digests(self._source)

    @property
    def world_size(self) -> int:
        """Processes that trained."""
        told = self.attributes.get("rank")
        return ranks.world_size(self._source) if told is None else int(told["world_size"])

    @cached_property
    def ranks(self) -> "dict[int, Archive]":
        """What each process recorded, by rank: its ids, its losses, its times. Rank 0 has everything else too."""
        sources = [self._source, *self._others.values()]
        return {rank: _of(source) for rank, source in zip(self.committed, sources, strict=True)}

    # ---- steps and updates ----

    @cached_property
    def snapshots(self) -> np.ndarray:
        """Steps at which anything was recorded, int64, increasing."""
        return _union([self._source.steps(path) for path in self._source.streams()])

    def steps(self, stream: str, probe: str | None = None) -> np.ndarray:
        """Steps at which a stream (``weights``, ``masks``, ...) was recorded, of one probe or of any."""
        known = self._source.streams()
        wanted = [
            path
            for path in known
            if path == stream or (path.endswith(f"/{stream}") and path.startswith("probes/"))
        ]
        if probe is not None:
            wanted = [path for path in wanted if path == f"probes/{self.probes[probe].name}/{stream}"]
        if not wanted:
            names = dict.fromkeys(path.rpartition("/")[2] for path in known)
            where = "" if probe is None else f" of probe {probe!r}"
            raise MissingTraceError(
                f"stream {stream!r}{where} was not recorded; {did_you_mean(stream, names)}"
            )
        return _union([self._source.steps(path) for path in wanted])

    @cached_property
    def epoch_ends(self) -> np.ndarray:
        """Steps of the snapshots taken at ends of epochs, int64, increasing."""
        ends = [
            (self._source.steps(path), self._source.column(f"{path}/epoch_end"))
            for path in self._source.streams()
        ]
        return _union([steps[at] for steps, at in ends])

    @cached_property
    def rows(self) -> Rows:
        """Every update: step, epoch, time, n_ids, loss, skipped, scalars (step,); lr (step, param_group).

        A dict of arrays, and where pandas is a table too: `rows.loc[100:]`, `rows.plot(y="loss")`.
        """
        columns = Rows()
        for array in self._source.children("steps"):
            name = self._source.group_attributes(f"steps/{array}").get("logged_as", array)
            if array != "ids":
                self._source.keep(f"steps/{array}")
                columns[name] = self._source.read(f"steps/{array}")
        return columns

    def ids(self, step: int, *, rank: int | None = None) -> np.ndarray:
        """Ids of the examples of the update that produced this state, int64; empty for step 0.

        Of several processes: those of all, in the order of their ranks, or of one; where only rank 0 recorded,
        its own. MissingTraceError where the archive of a rank is missing beside those of others.
        """
        if rank is None and self._parted:
            ranks.check_all(self._source, self._others)
            return np.concatenate([part.ids(step) for part in self.ranks.values()])
        if rank is not None:
            if rank not in self.ranks:
                raise MissingTraceError(
                    f"rank {rank} is not recorded in {self.path!r}; {list(self.ranks)} are"
                )
            return self.ranks[rank].ids(step)
        row = self._source.row("steps", step)
        start = int(self.rows["n_ids"][:row].sum(dtype=np.int64))
        stop, held = start + int(self.rows["n_ids"][row]), self._source.shape("steps/ids")[0]
        if not 0 <= start <= stop <= held:
            raise ArchiveError(
                f"'steps/n_ids' of {self.path!r} does not fit its {held} ids; the archive is damaged"
            )
        return self._source.read("steps/ids", slice(start, stop))

    def epoch_of(self, step: int) -> int:
        """Epoch of the last update up to this step."""
        row = int(np.searchsorted(self._source.steps("steps"), step, side="right")) - 1
        if row < 0:
            raise MissingTraceError(f"no update up to step {step} is recorded in {self.path!r}")
        return int(self._source.column("steps/epoch")[row])

    @cached_property
    def milestones(self) -> np.ndarray:
        """Steps of the first update made with changed learning rates, int64. Empty for a constant rate."""
        rates, steps = self.rows["lr"], self.rows["step"]
        first = int(np.searchsorted(steps, 1))  # row 0 is no update
        same = (rates[first + 1 :] == rates[first:-1]) | (
            np.isnan(rates[first + 1 :]) & np.isnan(rates[first:-1])
        )
        return steps[first + 1 :][~same.all(axis=1)]

    def array(self, group: str, name: str, step: int | None = None) -> np.ndarray:
        """Any stored array, by its group and name: what is stored of a step, or all of it.

        `archive.array("probes/train/outputs", "loss", 100)` is (example,), and (step, example) without the step.
        Values are as stored, in the dtype they are stored in: masks packed, gradients as blocks. Errors:
        MissingTraceError for an array that is not there, or a step that is not recorded in its group; ArchiveError
        for one that is damaged, or that its files cannot fill.
        """
        path = f"{group}/{name}"
        return self._source.read(path) if step is None else self._source.snapshot(path, step)

    # ---- the network ----

    @property
    def site_table(self) -> list[dict[str, Any]]:
        """Every site: name, op, module, shape, n_units, start, has_mask."""
        return self.attributes.get("sites", [])

    @property
    def call_table(self) -> list[dict[str, Any]]:
        """Every call: name, op, module, shape."""
        return self.attributes.get("calls", [])

    @property
    def layer_table(self) -> list[dict[str, Any]]:
        """Every layer: name, parameters."""
        return self.attributes.get("layers", [])

    @property
    def tensors(self) -> list[dict[str, Any]]:
        """Every parameter and buffer: name, kind, shape, dtypes, array, offset, trainable, layer."""
        return self.attributes.get("tensors", [])

    @property
    def sites(self) -> list[str]:
        """Names of the sites, in order of execution."""
        return [entry["name"] for entry in self.site_table]

    @property
    def calls(self) -> list[str]:
        """Names of the calls, in order of execution."""
        return [entry["name"] for entry in self.call_table]

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in order of first use, without `all`."""
        return [entry["name"] for entry in self.layer_table]

    def weights(self, step: int) -> dict[str, np.ndarray]:
        """Parameters and buffers by name, in their own dtype (bfloat16 as float32)."""
        self._need("weights", HOW["weights"])
        flat = {
            name: self._source.snapshot(f"weights/{name}", step)
            for name in {row["array"] for row in self.tensors}
        }
        result = {}
        for row in self.tensors:
            values = flat[row["array"]][row["offset"] : row["offset"] + prod(row["shape"])]
            result[row["name"]] = values.reshape(row["shape"])
        return result

    def network(self, step: int | None = None) -> tuple[bytes, dict[str, np.ndarray]]:
        """Return the traced network that holds at a step (default: the last): JSON and constants, as data.

        The constants are tensors of the model that are neither parameters nor buffers, by name.
        """
        self._need("network", self._how_to_replay)
        versions = self._source.group_attributes("network").get("versions", [])
        valid = [entry for entry in versions if step is None or entry["from_step"] <= step]
        if not valid:
            starts = [entry["from_step"] for entry in versions]
            since = f" for step {step}; the first holds from step {min(starts)}" if starts else ""
            raise MissingTraceError(f"no network is recorded{since}")
        entry = max(valid, key=lambda entry: (entry["from_step"], entry["version"]))
        table = self._source.read(f"network/table_{entry['version']}").tobytes()
        constants = entry.get("constants", {})
        return table, {name: self._source.read(f"network/{array}") for name, array in constants.items()}

    @property
    def _how_to_replay(self) -> str:
        if self.card.get("network") == "eager":
            return (
                "the model was probed itself, since it could not be traced; give one that can be, with the same "
                "weights, by `tracer analyze --model pkg.module:factory`"
            )
        if not self.probes:
            return "it is traced where record() is given probes, which `tracer analyze --model` needs too"
        return "give your own by `tracer analyze --model pkg.module:factory`"

    # ---- probes ----

    @cached_property
    def probes(self) -> Mapping[str, ProbeView]:
        """Probes by name."""
        return _Probes({name: ProbeView(self._source, name) for name in self._source.children("probes")})

    @property
    def gram_probes(self) -> list[tuple[str, int]]:
        """(probe, number of examples) in the order of the Gram matrices' rows."""
        return [(name, n) for name, n in self._source.group_attributes("gram").get("probes", [])]

    def gram(self, step: int, examples: slice | None = None) -> np.ndarray:
        """Inner products of gradients, float64 (layer, example, example_2), joint over the probes.

        examples: rows to read, one after another, where all would take too much memory.
        """
        self._need("gram", HOW["gram"])
        rows = () if examples is None else (slice(None), examples)
        return self._source.snapshot("gram/gram", step, rows)

    def similar(
        self,
        probe: str,
        id: int,
        *,
        by: Literal["influence", "cosine"] = "influence",
        among: str | None = None,
        steps: Sequence[int] | None = None,
        top: int | None = 10,
    ) -> Similar:
        """Examples whose gradients are most like that of an example of a probe, the most alike first, at most `top`.

        by: "influence" is the sum over snapshots of learning rate times inner product, as TracIn has it: by how much
        steps on them lower its loss; without learning rates the sum of the inner products. "cosine" is that sum over
        the root of both examples' own. among: a probe to look in (default: all others, or this one where it is alone).
        steps: default all with gradients. It reads sketches, and says the standard error that they bring, or Grams.
        MissingTraceError where neither is recorded, or not of this example.
        """
        return similar(self, probe, id, by, among, steps, top)

    # ---- training ----

    @cached_property
    def minibatch(self) -> MinibatchView:
        """Training minibatches as training saw them."""
        return MinibatchView(self._source)

    @cached_property
    def data(self) -> DataView:
        """The training set, one entry an example."""
        return DataView(self._source)

    # ---- elsewhere ----

    def to_xarray(self) -> "xarray.DataTree":
        """Return the archive as a DataTree that reads an array when it is used."""
        import xarray

        tree = xarray.open_datatree(self._source.as_zarr(), engine="zarr")  # type: ignore[arg-type]
        for rank, source in self._others.items():
            tree[ranks.within(rank)] = xarray.open_datatree(source.as_zarr(), engine="zarr")  # type: ignore[arg-type]
        return tree

    def __repr__(self) -> str:
        return f"<Archive {self.path!r}: {'; '.join(f'{name} {value}' for name, value in facts(self))}>"

    def _repr_html_(self) -> str:
        return in_html(self.path, str(self.attributes.get("title", self.path)), facts(self))

    def _need(self, group: str, how: str) -> None:
        if not self._source.has(group):
            raise MissingTraceError(f"{self.path!r} holds no {group}; {how}")


def _of(source: Source) -> Archive:
    """The archive of one rank, whose files another archive keeps open."""
    part = Archive.__new__(Archive)
    part._source, part._others, part._parted, part.path = source, {}, False, source.path
    part.committed = ranks.last_steps(source, {})
    return part


class _Probes(dict[str, ProbeView]):
    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __missing__(self, name: str) -> ProbeView:
        raise MissingTraceError(f"there is no probe {name!r}; {did_you_mean(name, self)}")


def _union(steps: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.empty(0, np.int64), *steps]))
