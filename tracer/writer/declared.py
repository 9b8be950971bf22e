"""What a recording has declared, so that mistakes are refused where the user makes them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tracer import spec
from tracer.errors import RecordError, did_you_mean

Shape = tuple[int, ...]
Dims = tuple[str, ...]


class Declared:
    """Names, dtypes, shapes and dimensions of the arrays of an archive being written."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._sizes: dict[str, dict[str, int]] = {}
        self._streams: dict[str, dict[str, tuple[np.dtype, Shape, Dims]]] = {}
        self._ragged: dict[str, tuple[np.dtype, Shape]] = {}
        self._last: dict[str, int] = {}
        self._scalars: dict[str, str] = {array.name: "" for array in spec.step_columns()}
        self._held: dict[str, tuple[np.dtype, Shape, Dims]] = {}  # arrays of an archive taken up again

    def restore(
        self, nodes: Mapping[str, Mapping[str, Any]], rows: Iterable[str], last: Mapping[str, int]
    ) -> None:
        """Enter what an archive holds already: its documents, its groups with steps, the last step of each."""
        streams = {group: {} for group in rows if group != "steps"}  # type: ignore[var-annotated]
        for path, node in nodes.items():
            group, _, name = path.rpartition("/")
            if node["node_type"] != "array" or group in ("steps", "manifest"):
                if "logged_as" in node["attributes"]:
                    self._scalars[node["attributes"]["logged_as"]] = name
                continue
            dtype, shape, dims = (
                np.dtype(node["data_type"]),
                tuple(node["shape"]),
                tuple(node["dimension_names"]),
            )
            grows = dims[:1] == ("step",) or (group == "minibatch" and dims[:1] == ("id",))
            if grows:
                shape, dims = shape[1:], dims[1:]
            self._taken.add(path)
            self._held[path] = dtype, shape, dims
            self._add_sizes(group, name, shape, dims)
            if group in streams and name not in spec.STREAM_COLUMNS:
                streams[group][name] = dtype, shape, dims
            elif grows and group not in streams:
                self._ragged[path] = dtype, shape
        self._streams, self._last = streams, {group: last[group] for group in streams}

    def again(self, group: str, arrays: Mapping[str, tuple[np.dtype, Shape, Dims]]) -> bool:
        """Whether an archive taken up again has all of these arrays; refuse them if it has others instead."""
        if not any(f"{group}/{name}" in self._held for name in arrays):
            return False
        for name, declared in arrays.items():
            held = self._held.get(f"{group}/{name}")
            if held != declared:
                there = "none" if held is None else f"{held[0]} {held[1]}"
                raise RecordError(
                    f"cannot resume: '{group}/{name}' is {declared[0]} {declared[1]} now and {there} in the archive; "
                    "resume with the model, probes and settings of the recording, or record into a new archive"
                )
        return True

    def add(self, group: str, name: str, dtype: np.dtype, shape: Shape, dims: Dims) -> None:
        """Enter a static array."""
        self._check_names(group, name, dtype, shape, dims)
        if "step" in dims or group in self._streams:
            raise RecordError(
                f"'{group}/{name}' does not change; declare it outside the groups that have steps"
            )
        self._add_sizes(group, name, shape, dims)

    def add_stream(self, group: str, arrays: Mapping[str, tuple[np.dtype, Shape, Dims]]) -> None:
        """Enter a stream."""
        if group in self._streams:
            raise RecordError(f"stream {group!r} is declared twice")
        for name, (dtype, shape, dims) in arrays.items():
            if name in spec.STREAM_COLUMNS or "step" in dims:
                raise RecordError(
                    f"'{group}/{name}': the step axis and its columns are added by the stream itself"
                )
            self._check_names(group, name, dtype, shape, dims)
            self._add_sizes(group, name, shape, dims)
        self._streams[group] = dict(arrays)
        self._last[group] = -1

    def add_ragged(self, group: str, arrays: Mapping[str, tuple[np.dtype, Shape, Dims]]) -> None:
        """Enter columns along the ids of the updates."""
        for name, (dtype, shape, dims) in arrays.items():
            self._check_names(group, name, dtype, shape, dims)
            self._add_sizes(group, name, shape, dims)
            self._ragged[f"{group}/{name}"] = (dtype, shape)

    def check_examples(self, step: int, n: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Refuse arrays of the examples of an update that are not as declared."""
        for path, values in arrays.items():
            if path not in self._ragged:
                raise RecordError(f"no column {path!r} was declared; {did_you_mean(path, self._ragged)}")
            dtype, shape = self._ragged[path]
            if values.dtype != dtype or values.shape != (n, *shape):
                raise RecordError(
                    f"{path!r} at step {step} should be {dtype} {(n, *shape)}, one row for each id, "
                    f"got {values.dtype} {values.shape}"
                )

    def check_snapshot(
        self, group: str, step: int, arrays: Mapping[str, np.ndarray | Sequence[np.ndarray]]
    ) -> None:
        """Refuse a snapshot that is not as declared, or out of order."""
        if group not in self._streams:
            raise RecordError(f"no stream {group!r} was declared; {did_you_mean(group, self._streams)}")
        declared = self._streams[group]
        if arrays.keys() != declared.keys():
            raise RecordError(f"stream {group!r} takes the arrays {sorted(declared)}, got {sorted(arrays)}")
        for name, (dtype, shape, _) in declared.items():
            array = arrays[name]
            parts = [array] if isinstance(array, np.ndarray) else array
            got = array.shape if isinstance(array, np.ndarray) else (sum(map(len, parts)),)
            if any(part.dtype != dtype for part in parts) or got != shape:
                raise RecordError(
                    f"'{group}/{name}' at step {step} should be {dtype} {shape}, got {parts[0].dtype} {got}"
                )
        if step <= self._last[group]:
            raise RecordError(
                f"{group!r}: step {step} came after step {self._last[group]}; snapshots go forward"
            )
        self._last[group] = step

    def check_scalars(self, names: Iterable[str]) -> None:
        """Refuse names of scalars that an archive cannot tell from its own columns or from each other."""
        for name in names:
            if name in self._scalars and not self._scalars[name]:
                raise RecordError(f"{name!r} is a column of every archive; log the scalar under another name")
            if name not in self._scalars:
                if not name.isprintable():
                    raise RecordError(
                        f"{name!r} cannot be the name of a scalar: use letters that can be printed"
                    )
                key = spec.scalar_key(name)
                rival = next((other for other, used in self._scalars.items() if (used or other) == key), None)
                if rival is not None:
                    raise RecordError(
                        f"scalars {name!r} and {rival!r} would be stored in one place; rename one"
                    )
                self._scalars[name] = key

    def _check_names(self, group: str, name: str, dtype: np.dtype, shape: Shape, dims: Dims) -> None:
        path = f"{group}/{name}"
        if not group or not name or "/" in name or any(part in ("", ".", "..") for part in path.split("/")):
            raise RecordError(
                f"{path!r} cannot be the path of an array; use names without '/' between single slashes"
            )
        if path in self._taken:
            raise RecordError(f"array {path!r} is declared twice")
        if np.dtype(dtype).kind not in "biufc" or np.dtype(dtype).itemsize > 16:
            raise RecordError(
                f"{path!r} has dtype {dtype}, which archives do not hold; use bool, integers or floats"
            )
        if len(dims) != len(shape) or len(set(dims)) != len(dims):
            raise RecordError(
                f"{path!r} of shape {shape} needs {len(shape)} different dimension names, got {dims}"
            )
        self._taken.add(path)

    def _add_sizes(self, group: str, name: str, shape: Shape, dims: Dims) -> None:
        """Check sizes against this group and every group above or below, as xarray aligns them all."""
        for dim, size in zip(dims, shape, strict=True):
            for other, sizes in self._sizes.items():
                related = other == group or other.startswith(f"{group}/") or group.startswith(f"{other}/")
                if related and sizes.get(dim, size) != size:
                    raise RecordError(
                        f"dimension {dim!r} of '{group}/{name}' has size {size}, "
                        f"but {sizes[dim]} in {other!r}; rename one of them"
                    )
            self._sizes.setdefault(group, {})[dim] = size
