"""The training side of an archive: minibatches as training saw them, and the training set. NumPy only."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer import bits
from tracer.archive.source import Source
from tracer.errors import MissingTraceError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

_HOW = {
    "loss": 'minibatch={"loss"} and a loss',
    "correct": 'minibatch={"correct"} and targets that are classes',
    "pre": 'minibatch={"sums"} and probes',
    "post": 'minibatch={"sums"} and probes',
}


class Rows(dict[str, np.ndarray]):
    """Every update, by column, as `Archive.rows` has it: arrays by name, and whatever a pandas table can do.

    `rows["loss"]` is an array. What a dict has not, such as `rows.loc[100:]`, `rows.head()` or `rows.plot(y="loss")`,
    is that of `to_dataframe`; AttributeError where pandas is not installed, or has no such thing either.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what copying, pickling and notebooks ask everything for
            raise AttributeError(f"rows have no {name!r}")
        try:
            return getattr(self.to_dataframe(), name)
        except ImportError as error:
            raise AttributeError(f"rows have no {name!r} without pandas") from error

    def _repr_html_(self) -> str | None:
        """The table, in a notebook."""
        try:
            return str(self.to_dataframe().to_html(max_rows=10))
        except ImportError:
            return None

    def to_dataframe(self) -> "pd.DataFrame":
        """One row an update, by step; the rates of several parameter groups are `lr_0`, `lr_1`, ..."""
        import pandas as pd

        columns: dict[str, np.ndarray] = {}
        for name, values in self.items():
            if values.ndim == 1:
                columns[name] = values
            elif values.shape[1] == 1:
                columns[name] = values[:, 0]
            else:
                columns |= {f"{name}_{k}": values[:, k] for k in range(values.shape[1])}
        return pd.DataFrame(columns).set_index("step")


class MinibatchView:
    """Training minibatches, as the forward pass before each update saw them, in train mode.

    Step s is the update that produced state s, so everything here was computed at state s - 1. Rows follow
    the order of `ids`. Errors: MissingTraceError for a step or array that was not recorded.
    """

    def __init__(self, source: Source) -> None:
        if not source.has("minibatch"):
            raise MissingTraceError(f"{source.path!r} holds no minibatches; record with minibatch=True")
        self._source = source
        self.attributes: dict[str, Any] = source.group_attributes("minibatch")

    def __repr__(self) -> str:
        return f"<MinibatchView: {len(self.steps)} updates; {', '.join(map(str, self.attributes.get('captured', [])))}>"

    @cached_property
    def _sizes(self) -> np.ndarray:
        return self._source.read("steps/n_ids").astype(np.int64)

    @cached_property
    def steps(self) -> np.ndarray:
        """Updates whose ids are known, int64."""
        return self._source.read("steps/step")[self._sizes > 0]

    @cached_property
    def offsets(self) -> np.ndarray:
        """Rows of the k-th of `steps` are `offsets[k]` to `offsets[k + 1]`, int64 (step + 1,)."""
        return np.concatenate([[0], np.cumsum(self._sizes[self._sizes > 0])]).astype(np.int64)

    def rows(self, name: str, steps: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """One array (ids, loss, correct, pre or post) of some updates, or of all, one after another."""
        path = "steps/ids" if name == "ids" else f"minibatch/{name}"
        if not self._source.has(path):
            how = f"record with {_HOW[name]}" if name in _HOW else did_you_mean(name, _HOW)
            raise MissingTraceError(f"the minibatches of {self._source.path!r} have no {name}; {how}")
        if steps is None:
            return self._source.read(path)
        where = [self._where(int(step)) for step in steps]
        together = all(first[1] == second[0] for first, second in pairwise(where))
        if where and together:
            return self._source.read(path, slice(where[0][0], where[-1][1]))
        parts = [self._source.read(path, slice(start, stop)) for start, stop in where]
        return np.concatenate(parts) if parts else self._source.read(path, slice(0, 0))

    def ids(self, step: int) -> np.ndarray:
        """Ids of the examples of an update, int64 (id,)."""
        return self.rows("ids", [step])

    def loss(self, step: int) -> np.ndarray:
        """Loss of each example, float64 (id,), NaN where not known."""
        return self.rows("loss", [step])

    def correct(self, step: int) -> np.ndarray:
        """1 for each example classified correctly, 0 for others, -1 where not known: int8 (id,)."""
        return self.rows("correct", [step])

    def sums(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums of the outputs of each call and of each site: float32 (id, call) and (id, site)."""
        return self.rows("pre", [step]), self.rows("post", [step])

    @property
    def mask_steps(self) -> np.ndarray:
        """Updates with masks, int64."""
        return self._source.steps(self._masks())

    def masks(self, site: str, step: int) -> np.ndarray:
        """Which units of a site were on, bool (id, unit)."""
        path = self._masks()
        sites = self._source.attributes.get("sites", [])
        entry = next((entry for entry in sites if entry["name"] == site), None)
        if entry is None:
            hint = did_you_mean(site, [entry["name"] for entry in sites])
            raise MissingTraceError(f"there is no site {site!r}; {hint}")
        if entry.get("start") is None or site in self._source.group_attributes(path).get("missing", []):
            raise MissingTraceError(f"site {site!r} has no masks of minibatches")
        units = slice(entry["start"], entry["start"] + entry["n_units"])
        packed = self._source.snapshot(f"{path}/bits", step, (units,))
        return bits.unpack(packed, int(self._source.snapshot(f"{path}/n", step)))

    def _masks(self) -> str:
        if not self._source.has("minibatch/masks"):
            raise MissingTraceError(
                f"{self._source.path!r} holds no masks of minibatches; record with "
                f"minibatch={{'masks': schedule}}"
            )
        return "minibatch/masks"

    def _where(self, step: int) -> tuple[int, int]:
        at = int(np.searchsorted(self.steps, step))
        if at == len(self.steps) or self.steps[at] != step:
            raise MissingTraceError(f"no ids of update {step} are recorded in {self._source.path!r}")
        return int(self.offsets[at]), int(self.offsets[at + 1])


class DataView:
    """The training set: one entry an example, in the order of `ids`; None for what was not stored.

    Errors: MissingTraceError where no training set was given.
    """

    def __init__(self, source: Source) -> None:
        if not source.has("data"):
            raise MissingTraceError(f"{source.path!r} holds no training set; record with data=dataset")
        self._source = source
        self.attributes: dict[str, Any] = source.group_attributes("data")

    def __repr__(self) -> str:
        return f"<DataView: {len(self.ids)} examples>"

    @cached_property
    def ids(self) -> np.ndarray:
        """Ids as in `Archive.ids`, int64, increasing."""
        return self._source.read("data/id")

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Targets, (example, ...)."""
        return self._optional("label")

    @cached_property
    def alpha(self) -> np.ndarray | None:
        """Entropy of the values of each input, bits, float64 (example,)."""
        return self._optional("alpha")

    @cached_property
    def digests(self) -> np.ndarray | None:
        """BLAKE2b-128 of the bytes of each input, uint8 (example, 16)."""
        return self._optional("digest")

    @cached_property
    def inputs(self) -> np.ndarray | None:
        """Inputs, (example, ...)."""
        return self._optional("inputs")

    def _optional(self, name: str) -> np.ndarray | None:
        return self._source.read(f"data/{name}") if self._source.has(f"data/{name}") else None
