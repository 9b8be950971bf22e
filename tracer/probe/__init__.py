"""Probe: a named, fixed set of examples of one split, examined at snapshots."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from tracer.errors import RecordError, did_you_mean
from tracer.ids import resolve
from tracer.network.copies import to_numpy
from tracer.network.pytree import Shared, leaves_of, rebuild, shared_in
from tracer.network.randomness import untouched_random_state
from tracer.probe.passes import ProbePass
from tracer.spec import PROBE_STREAMS, STREAMS

__all__ = ["CAPTURE", "Probe", "ProbePass", "named_probes"]

CAPTURE = {name: STREAMS[name].capture for name in PROBE_STREAMS}


_AGAIN = 16  # examples of a dataset read twice, to see whether reading draws random numbers


class Probe:
    """A fixed set of examples of one split.

    inputs, targets: tensors or arrays, examples first (inputs also a tuple or dict of them); they are copied.
    Or a map-style `Dataset` of (input, target) pairs and the indices to take; ids then are the dataset's own,
    a `Subset` resolved to its base. ids: whole numbers, unique within the split; default 0, 1, 2, ... split:
    default the probe's name; metrics look for `train`, what training sees, and `test`, what it does not.
    true_targets: targets before labels were corrupted. group: any partition of the examples. raw: inputs before
    normalisation, for measures of image complexity; False: no inputs are stored,
    only a digest of each, so that the archive gives none away (and nothing can be replayed on them). capture:
    how many examples, the first n, each stream takes (None: all), over the defaults in `CAPTURE`, which are
    lowered to what fits (`tracer.probe.fitting`).
    shared: names or places of inputs that all examples have in common, such as one edge index; they become
    constants of the network. asked: streams whose number was given, and is not lowered to what fits. varying: whether
    two readings of an example differ, as random augmentation makes them.
    RecordError where lengths differ, ids repeat, or nothing is given.

    >>> probe = Probe(torch.zeros(3, 2), torch.tensor([0, 1, 0]), capture={"masks": 2})
    >>> probe.n, probe.taken("masks"), probe.taken("gradients"), probe.ids.tolist()
    (3, 2, 3, [0, 1, 2])
    """

    def __init__(
        self,
        inputs: Any,
        targets: Any,
        *,
        ids: Any = None,
        split: str | None = None,
        true_targets: Any = None,
        group: Any = None,
        raw: Any = None,
        capture: Mapping[str, int | None] | None = None,
        shared: Iterable[str | int] = (),
    ) -> None:
        self.varying = False
        if _is_dataset(inputs):
            with untouched_random_state(inputs):
                inputs, targets, known, self.varying = _items(inputs, targets)
            ids = known if ids is None else ids
        self.inputs = _tensors(_with_shared(inputs, list(shared)), "inputs")
        self.targets = None if targets is None else _tensors(targets, "targets")
        self.n = len(leaves_of(self.inputs)[0])
        self.ids = _ids(np.arange(self.n) if ids is None else ids)
        self.split = split
        self.true_targets = _array(true_targets)
        self.group = _array(group)
        self.private = raw is False
        self.raw = None if raw is False else _array(raw)
        self.asked = frozenset(capture or {})
        self.capture = CAPTURE | _capture(capture or {})
        self._check()

    @classmethod
    def from_any(cls, name: str, value: Any) -> "Probe":
        """The probe meant by a Probe, (inputs, targets) or (dataset, indices); errors name the probe."""
        try:
            if isinstance(value, Probe):
                probe = value
            elif isinstance(value, tuple | list) and len(value) == 2:
                probe = cls(*value)
            elif _is_dataset(value):
                probe = cls(value, range(len(value)))
            else:
                raise RecordError(
                    f"got a {type(value).__name__}, expected (inputs, targets), (dataset, indices) or a Probe"
                )
        except RecordError as error:
            raise RecordError(f"Probe {name!r}: {error}") from None
        return probe if probe.split is not None else probe._with_split(name)

    def taken(self, stream: str) -> int:
        """How many examples, the first ones, a stream takes."""
        wanted = self.capture[stream]
        return self.n if wanted is None else min(wanted, self.n)

    def taking(self, counts: Mapping[str, int]) -> "Probe":
        """The same examples, of which each of these streams takes just so many, as if they had been asked for."""
        probe = object.__new__(Probe)
        fewer = {stream: count for stream, count in counts.items() if count != self.taken(stream)}
        probe.__dict__ = {**self.__dict__, "capture": {**self.capture, **fewer}, "asked": frozenset(CAPTURE)}
        return probe

    def absent_classes(self, n: int) -> list[int]:
        """Classes found among the targets but not among the first n; none where targets are not classes."""
        targets = self.targets
        if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point() or n == 0:
            return []
        return sorted(set(targets.tolist()) - set(targets[:n].tolist()))

    @property
    def digest(self) -> str:
        """SHA-256 over inputs, targets and ids: equal for equal examples in equal order."""
        digest = hashlib.sha256(self.ids.tobytes())
        for leaf in [*leaves_of(self.inputs), *leaves_of(self.targets)]:
            array = to_numpy(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored once: id, inputs (or their digests), targets, and true_targets, group, raw where given.

        Several input tensors are `inputs_0`, `inputs_1`, ... in the order of their names or places.
        """
        stored = self._given()
        if self.private:
            inputs = [to_numpy(leaf) for leaf in leaves_of(self.inputs)]
            stored = {name: array for name, array in stored.items() if not name.startswith("inputs")}
            stored["digest"] = np.stack([_digest_of(*parts) for parts in zip(*inputs, strict=True)])
        return stored

    def _given(self) -> dict[str, np.ndarray]:
        stored = {"id": self.ids}
        for kind, tree in (("inputs", self.inputs), ("targets", self.targets)):
            leaves = leaves_of(tree)
            names = [kind] if len(leaves) == 1 else [f"{kind}_{k}" for k in range(len(leaves))]
            stored |= {name: to_numpy(leaf) for name, leaf in zip(names, leaves, strict=True)}
        extra = {"true_targets": self.true_targets, "group": self.group, "raw": self.raw}
        return stored | {name: array for name, array in extra.items() if array is not None}

    def _with_split(self, split: str) -> "Probe":
        probe = object.__new__(Probe)
        probe.__dict__ = {**self.__dict__, "split": split}
        return probe

    def _check(self) -> None:
        if self.n == 0:
            raise RecordError("inputs hold no examples, expected at least one")
        for name, array in self._given().items():
            if array.ndim == 0 or len(array) != self.n:
                got = f"{len(array)} entries" if array.ndim else "a single number"
                raise RecordError(f"{name} has {got} for {self.n} inputs, expected one for each")
        values, counts = np.unique(self.ids, return_counts=True)
        if len(values) < self.n:
            raise RecordError(
                f"id {values[counts > 1][0]} occurs twice, but an example is identified by its split and id: "
                "give each example once"
            )


def named_probes(probes: Mapping[str, Any]) -> dict[str, Probe]:
    """The probes of a recording by name; RecordError for two of one split, or a name that is no folder's."""
    named = {name: Probe.from_any(name, value) for name, value in probes.items()}
    _check_shared(named)
    by_split: dict[str | None, str] = {}
    for name, probe in named.items():
        if not name or name != name.strip() or any(sign in name for sign in "/\\.:\0"):
            raise RecordError(f"{name!r} cannot name a probe: use letters, digits, '-' and '_'")
        other = by_split.setdefault(probe.split, name)
        if other != name:
            raise RecordError(
                f"probes {other!r} and {name!r} are both of split {probe.split!r}: join them, or give split="
            )
    return named


def other_splits(probes: Mapping[str, Probe]) -> list[str]:
    """A note where no probe is of a split that metrics of training, or of the gap to unseen examples, speak of.

    >>> other_splits({"seen": Probe(torch.zeros(1, 2), torch.zeros(1), split="train")})
    []
    """
    splits = [str(probe.split) for probe in probes.values()]
    if not splits or {"train", "test"} & set(splits):
        return []
    return [
        f"No probe is of split 'train' or 'test', but {' and '.join(map(repr, splits))}: metrics that speak of "
        "training examples, or of a gap to unseen ones, will be left out; name the probes 'train' and 'test', or give "
        "tracer.Probe(..., split='train')."
    ]


def _check_shared(probes: Mapping[str, Probe]) -> None:
    """RecordError where probes differ in what all examples have in common: one network holds it."""
    first: list[Tensor] | None = None
    for name, probe in probes.items():
        shared = shared_in(probe.inputs)
        same = first is None or [x.shape for x in shared] == [x.shape for x in first]
        if not same or not all(torch.equal(a, b) for a, b in zip(shared, first or [], strict=False)):
            raise RecordError(
                f"Probe {name!r} shares other inputs among its examples than the first probe does: give such inputs "
                "once for each example, examples first"
            )
        first = shared


def _digest_of(*parts: np.ndarray) -> np.ndarray:
    """BLAKE2b-128 of the bytes of one example's inputs."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _is_dataset(value: Any) -> bool:
    return isinstance(value, Dataset) or (
        hasattr(value, "__getitem__")
        and hasattr(value, "__len__")
        and not isinstance(value, Tensor | np.ndarray | Sequence | Mapping)
    )


def _items(dataset: Any, indices: Any) -> tuple[Any, Any, np.ndarray, bool]:
    chosen = _ids(range(len(dataset)) if indices is None else indices)
    if len(chosen) == 0:
        raise RecordError("no indices are given, expected at least one")
    outside = chosen[(chosen < 0) | (chosen >= len(dataset))]
    if len(outside):
        raise RecordError(f"index {outside[0]} is outside the dataset of {len(dataset)} examples")
    items = [_item(dataset, int(i)) for i in chosen]
    try:
        batch = default_collate(items)
    except (TypeError, RuntimeError, KeyError) as error:
        raise RecordError(
            f"the dataset's items cannot be put together ({str(error).splitlines()[0]}); give inputs and targets "
            "as tensors instead"
        ) from error
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise RecordError(
            "the dataset's items are not (input, target) pairs; give inputs and targets as tensors instead"
        )
    again = np.linspace(0, len(chosen) - 1, _AGAIN).astype(int)
    varying = any(not _equal(items[place], _item(dataset, int(chosen[place]))) for place in again)
    *inputs, targets = batch
    ids = resolve(dataset, chosen.tolist())
    return (inputs[0] if len(inputs) == 1 else tuple(inputs)), targets, ids, varying


def _item(dataset: Any, index: int) -> Any:
    try:
        return dataset[index]
    except Exception as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecordError(f"item {index} of {type(dataset).__name__} cannot be read: {cause}") from error


def _equal(first: Any, second: Any) -> bool:
    pair = [leaves_of(default_collate([item])) for item in (first, second)]
    return len(pair[0]) == len(pair[1]) and all(
        one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())
        for one, other in zip(*pair, strict=True)
    )


def _tensors(value: Any, what: str) -> Any:
    """The same nest of tensors, as copies that no later change of the user's can reach."""
    if isinstance(value, np.ndarray) or (isinstance(value, list) and not leaves_of(value)):
        try:
            value = torch.as_tensor(np.asarray(value))
        except TypeError:
            raise RecordError(f"{what} are an array of {np.asarray(value).dtype}, expected numbers") from None
        except ValueError as error:
            raise RecordError(f"{what} are no array of numbers: {str(error).splitlines()[0]}") from None
    elif isinstance(value, tuple | dict):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        converted = {key: torch.as_tensor(x) if isinstance(x, np.ndarray) else x for key, x in pairs}
        value = converted if isinstance(value, dict) else tuple(converted.values())
    leaves = leaves_of(value)
    if not leaves or any(leaf.ndim == 0 for leaf in leaves):
        kind = "without axes" if leaves else f"a {type(value).__name__}"
        raise RecordError(f"{what} are {kind}, expected a tensor or array with examples first")
    if any(
        leaf.layout != torch.strided or leaf.is_meta or leaf.is_quantized
        for leaf in [*leaves, *shared_in(value)]
    ):
        raise RecordError(
            f"{what} are sparse, quantized or on the meta device, expected dense tensors with values: x.to_dense()"
        )
    if len({len(leaf) for leaf in leaves}) > 1:
        raise RecordError(
            f"the tensors of {what} hold {[len(leaf) for leaf in leaves]} examples, expected one number; name inputs "
            "that all examples have in common, as in Probe(inputs, targets, shared=['edge_index'])"
        )
    with torch.inference_mode(False), torch.no_grad():
        return rebuild(value, iter(map(_own, leaves)))


def _own(tensor: Tensor) -> Tensor:
    """Values in memory of their own, in order: as a loader's batches have them, and the archive that is run again."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        return tensor  # refused, with a sentence
    return tensor.clone(memory_format=torch.contiguous_format)


def _with_shared(inputs: Any, shared: Sequence[str | int]) -> Any:
    """The inputs with those that all examples have in common marked so."""
    if not shared:
        return inputs
    items = dict(inputs) if isinstance(inputs, Mapping) else None
    if isinstance(inputs, tuple | list):
        items = dict(enumerate(inputs))
    known = [] if items is None else list(items)
    for name in shared:
        if items is None or name not in items:
            raise RecordError(f"shared= names {name!r}, and the inputs are {known or 'a single tensor'}")
        value = items[name]
        if not isinstance(value, Tensor | np.ndarray):
            raise RecordError(
                f"input {name!r} is shared and a {type(value).__name__}, expected a tensor or array"
            )
        items[name] = Shared(_own(torch.as_tensor(value)))
    assert items is not None
    return items if isinstance(inputs, Mapping) else tuple(items.values())


def _ids(value: Any) -> np.ndarray:
    ids = _array(list(value) if isinstance(value, range) else value)
    if ids is None or ids.ndim != 1 or (ids.dtype.kind not in "iu" and len(ids)):
        got = "nothing" if ids is None else f"{ids.dtype} of shape {ids.shape}"
        raise RecordError(f"ids are {got}, expected one whole number for each example")
    return ids.astype(np.int64)


def _array(value: Any) -> np.ndarray | None:
    if value is None:
        return None
    try:
        return to_numpy(value) if isinstance(value, Tensor) else np.array(value)
    except ValueError as error:
        raise RecordError(
            f"ids, true_targets, group or raw are no array: {str(error).splitlines()[0]}"
        ) from None


def _capture(wanted: Mapping[str, int | None]) -> dict[str, int | None]:
    for stream, count in wanted.items():
        if stream not in CAPTURE:
            raise RecordError(f"capture: there is no stream {stream!r}; {did_you_mean(stream, CAPTURE)}")
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
            raise RecordError(
                f"capture: {stream} is {count!r}, expected a number of examples, or None for all"
            )
    return dict(wanted)
