"""Inner products of gradients from their sketches, and which examples are most alike by them; NumPy alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tracer.errors import ArgumentError, MissingTraceError
from tracer.spec import HOW

if TYPE_CHECKING:
    from tracer.archive import Archive

Table = Mapping[str, Any]


def products(left: np.ndarray, right: np.ndarray, sketch: Table, block: int | None = None) -> np.ndarray:
    """Inner products of the gradients of each layer, from sketches (n, element) and (m, element): (layer, n, m).

    sketch: the table of the layers and the number of blocks. block: what one block of a sketch adds to them, 0 for
    layers that are not sketched.

    >>> table = {"blocks": 2, "layers": [{"offset": 0, "size": 4, "buckets": 2}]}
    >>> one = np.array([[1.0, 2.0, 3.0, 0.0]])
    >>> products(one, one, table).tolist(), products(one, one, table, block=1).tolist()
    ([[[14.0]]], [[[9.0]]])
    """
    result = np.empty((len(sketch["layers"]), len(left), len(right)))
    for out, span in zip(result, _spans(sketch, block), strict=True):
        np.matmul(np.asarray(left[:, span], np.float64), np.asarray(right[:, span], np.float64).T, out=out)
    return result


def left_out(every: np.ndarray, one: np.ndarray, sketch: Table) -> np.ndarray:
    """Inner products (layer, ...) as the other blocks tell them, from those of all blocks and what one adds to them.

    How uncertain what follows from them is can be told by leaving out each block in turn (`standard_error`). `one` is
    overwritten by the result.

    >>> table = {"blocks": 2, "layers": [{"offset": 0, "size": 4, "buckets": 2}]}
    >>> left_out(np.array([14.0]), np.array([9.0]), table)
    array([10.])
    """
    rest = np.subtract(every, one, out=one)
    for i, layer in enumerate(sketch["layers"]):
        if layer["buckets"]:
            rest[i] *= sketch["blocks"] / (sketch["blocks"] - 1)
    return rest


def squares(values: np.ndarray, sketch: Table, without: int | None = None) -> np.ndarray:
    """Inner products of each gradient with itself, from sketches (n, element): (layer, n); a block can be left out."""
    weights = _weights(sketch, without)
    spans = _spans(sketch)
    return np.stack([np.square(np.asarray(values[:, span], np.float64)) @ weights[span] for span in spans])


def _spans(sketch: Table, block: int | None = None) -> list[slice]:
    """Where each layer's numbers are, or those of one block of them: none of a layer that is kept as it is."""
    spans = []
    for layer in sketch["layers"]:
        start, size = layer["offset"], layer["size"]
        if block is not None:
            size = size // sketch["blocks"] if layer["buckets"] else 0
            start += block * size
        spans.append(slice(start, start + size))
    return spans


def _weights(sketch: Table, without: int | None) -> np.ndarray:
    """What each number of a sketch counts in an inner product: those of a block that is left out nothing."""
    weights = np.ones(sum(layer["size"] for layer in sketch["layers"]))
    for layer in sketch["layers"] if without is not None else ():
        if layer["buckets"]:
            blocks = weights[layer["offset"] :][: layer["size"]].reshape(sketch["blocks"], -1)
            blocks[:] = sketch["blocks"] / (sketch["blocks"] - 1)
            blocks[without] = 0.0
    return weights


def standard_error(left_out: np.ndarray) -> np.ndarray:
    """Standard error of a number, from what it is with each block left out (block, ...): a jackknife.

    >>> float(standard_error(np.array([1.0, 2.0, 3.0])).round(4))
    1.1547
    """
    n = len(left_out)
    with np.errstate(invalid="ignore"):  # of an infinite value it is NaN
        return np.sqrt((n - 1) / n * np.square(left_out - left_out.mean(0)).sum(0))


def descent_rates(archive: "Archive", steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """Learning rates along the negative gradient at some steps, float64 (step, param_group).

    Below 0 for groups that an optimizer with maximize=True moves up; NaN where none is recorded.
    """
    recorded = np.asarray(archive.rows["lr"], np.float64)
    rates = recorded.reshape(len(recorded), -1)[np.searchsorted(archive.rows["step"], steps)]
    optimizer = archive.card.get("optimizer")
    groups = optimizer.get("groups", []) if isinstance(optimizer, dict) else []
    up = [bool(group.get("maximize", False)) for group in groups]
    if len(up) == rates.shape[1]:
        rates[:, up] *= -1.0
    return rates


class Similar(NamedTuple):
    """Examples by how alike their gradients are to one example's, the most alike first.

    probe: name of the probe each is in; id: its id; value: (n,); error: its standard error that comes of sketching, 0
    where gradients are exact. steps: the snapshots that are added up. rated: whether learning rates are in it.
    """

    probe: np.ndarray
    id: np.ndarray
    value: np.ndarray
    error: np.ndarray
    steps: np.ndarray
    rated: bool


def similar(
    archive: "Archive",
    probe: str,
    id: int,
    by: str,
    among: str | None,
    steps: Sequence[int] | None,
    top: int | None,
) -> Similar:
    """See `Archive.similar`."""
    if by not in ("influence", "cosine"):
        raise ArgumentError(f"by={by!r}: expected 'influence' or 'cosine'")
    names = _with_gradients(archive)
    for name in (probe, *([] if among is None else [among])):
        if archive.probes[name].name not in names:
            raise MissingTraceError(
                f"probe {name!r} has no sketches and no Grams of gradients; {HOW['sketches']}"
            )
    position = np.flatnonzero(archive.probes[probe].ids[: names[probe]] == id)
    if not len(position):
        raise MissingTraceError(
            f"no gradient of example {id} of probe {probe!r} is recorded, only of its first {names[probe]}"
        )
    others = [name for name in names if name != probe] or [probe] if among is None else [among]
    stored = archive.steps("sketches" if archive.probes[probe].has_sketches else "gram")
    chosen = stored if steps is None else np.asarray(steps, np.int64)
    rates = descent_rates(archive, chosen)
    known = np.isfinite(rates)
    rated = bool(known.any())
    weights = (
        np.where(known, rates, 0).sum(1) / np.maximum(known.sum(1), 1) if rated else np.ones(len(chosen))
    )
    total: Any = 0.0  # (way, 3, example): products, and squared lengths of the one and of the others
    for step, weight in zip(chosen, weights, strict=True):
        total = total + weight * _products(archive, int(step), names, (probe, int(position[0])), others)
    values = total[:, 0] if by == "influence" else _cosines(total)
    where = np.repeat(others, [names[name] for name in others])
    ids = np.concatenate([archive.probes[name].ids[: names[name]] for name in others])
    error = standard_error(values[1:]) if len(values) > 1 else np.zeros(len(ids))
    order = np.argsort(-values[0], kind="stable")
    order = order[(where[order] != probe) | (ids[order] != id)][:top]
    return Similar(where[order], ids[order], values[0][order], error[order], chosen, rated)


def _with_gradients(archive: "Archive") -> dict[str, int]:
    """Probes that have sketches, else those that have Grams, with the number of examples."""
    sketched = {name: view.capture["gradients"] for name, view in archive.probes.items() if view.has_sketches}
    return sketched or dict(archive.gram_probes)


def _products(
    archive: "Archive", step: int, names: Mapping[str, int], one: tuple[str, int], others: Sequence[str]
) -> np.ndarray:
    """Of a step: with all blocks, then with each left out, (way, 3, example); with Grams in one way alone."""
    (probe, position), view = one, archive.probes[one[0]]
    if view.has_sketches:
        own = np.asarray(view.sketches(step)[position], np.float64)
        rest = np.concatenate([archive.probes[name].sketches(step) for name in others]).astype(np.float64)
        ways = [_weights(view.sketch, without) for without in (None, *range(view.sketch["blocks"]))]
        squares = np.square(rest)
        return np.stack(
            [[rest @ (own * way), np.full(len(rest), own @ (own * way)), squares @ way] for way in ways]
        )
    gram, starts = archive.gram(step).sum(0), dict(zip(names, np.cumsum([0, *names.values()]), strict=False))
    rows = np.concatenate([starts[name] + np.arange(names[name]) for name in others])
    row = starts[probe] + position
    return np.stack([gram[row, rows], np.full(len(rows), gram[row, row]), gram[rows, rows]])[None]


def _cosines(total: np.ndarray) -> np.ndarray:
    """NaN where a length is 0, or, with rates below 0, is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        lengths = np.sqrt(total[:, 1]) * np.sqrt(total[:, 2])
        return np.where(lengths > 0, total[:, 0] / lengths, np.nan)
