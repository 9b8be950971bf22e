"""`data=`: what is stored once of every training example, whose ids the updates name.

The dataset is read item by item, with every random stream put back afterwards: Python's, NumPy's, PyTorch's
and the generators it holds itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor

from tracer.announce import announce
from tracer.complexity import BINS, entropy_of, scaled
from tracer.errors import RecordError
from tracer.ids import resolve
from tracer.network.copies import to_numpy
from tracer.network.randomness import untouched_random_state
from tracer.writer import Writer

_TWICE = 16  # items read twice, to see whether reading draws random numbers
_HELD = 64 << 20  # bytes of inputs that are not read again for their entropies
_TOGETHER = 4096  # small arrays that are laid into one
_DIGEST = 16  # bytes of an input's digest
_MANY = 50_000  # items whose reading is announced, since it takes seconds


@dataclass
class TrainingSet:
    """One entry an example, ids unique; None where something is not known. notes: why, one sentence each."""

    ids: np.ndarray
    labels: np.ndarray | None = None
    alpha: np.ndarray | None = None
    digests: np.ndarray | None = None
    inputs: np.ndarray | None = None
    span: tuple[float, float] = (0.0, 1.0)
    notes: list[str] = field(default_factory=list)

    def write(self, writer: Writer) -> None:
        """Write the group `data`."""
        trees = {
            "id": self.ids,
            "label": self.labels,
            "alpha": self.alpha,
            "digest": self.digests,
            "inputs": self.inputs,
        }
        arrays = {name: values for name, values in trees.items() if values is not None}
        dims = {
            name: ("example", *(f"{name}_{axis}" for axis in range(1, values.ndim)))
            for name, values in arrays.items()
        }
        if self.digests is not None:
            dims["digest"] = ("example", "digest_byte")
        about = {} if self.alpha is None else {"complexity": {"bins": BINS, "range": list(self.span)}}
        writer.static("data", arrays, dims, about)


def read(dataset: Any, *, inputs: bool = False) -> TrainingSet:
    """Read a map-style dataset of (input, target) items; `inputs` keeps the inputs too.

    alpha is the entropy of an input's values in 1,000 bins over the range of pixels where all inputs lie in
    it, else over the range of all inputs (which takes a second reading where they are large). A dataset that
    augments its inputs at random gives labels only. RecordError where the dataset has no length, or an item cannot be
    read.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise RecordError(
            f"data is a {type(dataset).__name__}, expected a dataset with a length and items by index; an "
            "iterable dataset has no stable ids."
        )
    with untouched_random_state(dataset):
        if len(dataset) > _MANY:
            announce(
                f"Reading the {len(dataset):,} examples of data= once, for their ids, labels and complexities."
            )
        ids, first = np.unique(_ids(dataset), return_index=True)
        return _Reading(dataset, first).training_set(ids.astype(np.int64), inputs)


class _Column:
    """Arrays of one shape and dtype, of which many take little more memory than their values.

    differ: whether some had another shape or dtype, which leaves none of them.
    """

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self.nbytes, self.complete, self.differ = 0, True, False

    def add(self, array: np.ndarray | None) -> None:
        """Append one; None leaves all of them out."""
        if array is None or not self.complete or not self._fits(array):
            self.differ |= array is not None and self.complete
            self.drop()
            return
        self.nbytes += array.nbytes
        self._rows.append(array)
        if len(self._rows) == _TOGETHER:
            self._blocks.append(np.stack(self._rows))
            self._rows.clear()

    def _fits(self, array: np.ndarray) -> bool:
        other = self._rows[-1] if self._rows else self._blocks[-1][-1] if self._blocks else array
        return (other.shape, other.dtype) == (array.shape, array.dtype)

    def drop(self) -> None:
        """Hold nothing, from now on."""
        self.complete = False
        self._blocks.clear()
        self._rows.clear()

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from chain(*self._blocks, self._rows)

    def stacked(self) -> np.ndarray | None:
        """All in one array, None where some were none or differed."""
        if not self.complete:
            return None
        return np.concatenate([*self._blocks, *([np.stack(self._rows)] if self._rows else [])])


class _Reading:
    """Reads the chosen items of a dataset."""

    def __init__(self, dataset: Any, chosen: np.ndarray) -> None:
        self._dataset, self._chosen = dataset, chosen
        self._notes: list[str] = []

    def training_set(self, ids: np.ndarray, keep: bool) -> TrainingSet:
        """Everything that can be known of the items."""
        made = TrainingSet(ids, notes=self._notes)
        problem = self._problem()
        labels, inputs = _Column(), _Column()
        if problem:
            self._notes.append(problem)
            for i in self._chosen:
                labels.add(_array(self._item(int(i))[1]))
            made.labels = self._stacked(labels, "labels")
            return made
        digests = np.empty((len(ids), _DIGEST), np.uint8)
        alpha = np.empty(len(ids))
        low, high, pixels = np.inf, -np.inf, True
        for place, i in enumerate(self._chosen):
            array, label = self._numbers(int(i))
            labels.add(_array(label))
            digests[place] = np.frombuffer(blake2b(array.tobytes(), digest_size=_DIGEST).digest(), np.uint8)
            inputs.add(array)
            if not keep and inputs.nbytes > _HELD:
                inputs.drop()
            smallest, largest = _extremes(array)
            low, high = min(low, smallest), max(high, largest)
            top = 255.0 if array.dtype == np.uint8 else 1.0
            pixels = pixels and smallest >= 0 and largest <= top
            if pixels:
                alpha[place] = _entropy(array, 0.0, top)
        made.span = (0.0, top) if pixels else (low, high)
        if not pixels:
            again = inputs if inputs.complete else (self._numbers(int(i))[0] for i in self._chosen)
            for place, array in enumerate(again):
                alpha[place] = _entropy(array, low, high)
        made.digests, made.alpha = digests, alpha
        made.labels = self._stacked(labels, "labels")
        made.inputs = self._stacked(inputs, "inputs") if keep else None
        return made

    def _problem(self) -> str:
        """Why nothing can be known of the inputs, "" if all is well."""
        n = len(self._chosen)
        for place in np.unique(np.linspace(0, n - 1, min(_TWICE, n)).astype(int)):
            index = int(self._chosen[place])
            first, second = (_array(self._item(index)[0]) for _ in range(2))
            if first is None or second is None:
                return "The inputs of data= are no arrays of numbers: only ids and labels are stored."
            if not np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
                return (
                    "Items of data= differ when read twice, as random augmentation makes them: only ids and "
                    "labels are stored, no complexity; give the same dataset without augmentation."
                )
        return ""

    def _numbers(self, index: int) -> tuple[np.ndarray, Any]:
        value, label = self._item(index)
        array = _array(value)
        if array is None:
            raise RecordError(
                f"data: the input of item {index} is a {type(value).__name__}, expected numbers."
            )
        return array, label

    def _item(self, index: int) -> tuple[Any, Any]:
        try:
            item = self._dataset[index]
        except Exception as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RecordError(
                f"data: item {index} of {type(self._dataset).__name__} cannot be read: {cause}."
            ) from error
        if isinstance(item, tuple | list):
            return (item[0], item[1]) if len(item) > 1 else (item[0] if item else None, None)
        return item, None

    def _stacked(self, column: _Column, what: str) -> np.ndarray | None:
        if column.differ:
            self._notes.append(f"The {what} of data= differ in shape or dtype, so they are not stored.")
        return column.stacked()


def _ids(dataset: Any) -> np.ndarray:
    n = len(dataset)
    if n == 0:
        raise RecordError("data: the dataset is empty, expected the training examples.")
    return resolve(dataset, list(range(n)))


def _array(value: Any) -> np.ndarray | None:
    """An input or target as numbers, None if it is none (text, a nest)."""
    if isinstance(value, Tensor):
        return to_numpy(value)
    if value is None or isinstance(value, str | bytes | dict | list | tuple):
        return None
    array = np.asarray(value)
    return array if array.dtype.kind in "biuf" else None


def _extremes(array: np.ndarray) -> tuple[float, float]:
    """Smallest and largest finite value; an empty range where there is none."""
    finite = array[np.isfinite(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else (np.inf, -np.inf)


def _entropy(array: np.ndarray, low: float, high: float) -> float:
    """Entropy of one input, NaN for one that holds nothing or a value that is not finite."""
    if not array.size or not np.isfinite(array).all():
        return float("nan")
    return entropy_of(scaled(array.reshape(-1), low, high))
