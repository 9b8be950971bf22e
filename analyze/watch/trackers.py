"""The numbers of an analysis, sent to the experiment tracker that the user already has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyze.comparison.measures import series
from tracer.errors import MissingPackageError

if TYPE_CHECKING:
    import xarray as xr

TRACKERS = ("tensorboard", "wandb", "mlflow")


def mirror_metrics(results: Mapping[str, xr.Dataset], mirror: Any) -> int:
    """Send the numbers that tell results to a tracker, step by step, and return how many values were sent.

    They are those of `Results.summary`, at every snapshot, by names such as `stiffness/cosine/train-train/all`.
    `mirror` has `add_scalar(name, value, step)`, as TensorBoard's writer, or `log({name: value}, step=step)`, as a run
    of Weights & Biases. Undefined values are left out; of one value a run, the step is the last of its metric's others,
    else 0. TypeError for any other object.
    """
    add, log = getattr(mirror, "add_scalar", None), getattr(mirror, "log", None)
    if not callable(add) and not callable(log):
        raise TypeError(
            f"mirror= got a {type(mirror).__name__}, expected an object with `add_scalar(name, value, step)` or "
            "`log({name: value}, step=step)`"
        )
    rows: dict[int, dict[str, float]] = {}
    for metric, data in results.items():
        last = int(data["step"].values[-1]) if "step" in data.coords and data.sizes.get("step") else 0
        for label, (steps, values) in series(data, metric).items():
            for step, value in zip(steps or [last], values, strict=True):
                if math.isfinite(value):
                    rows.setdefault(step, {})[name_of(label)] = value
    for step, named in sorted(rows.items()):
        if callable(add):
            for name, value in named.items():
                add(name, value, step)
        elif callable(log):
            log(named, step=step)
    return sum(map(len, rows.values()))


def name_of(label: str) -> str:
    """A measure's label as trackers group names.

    >>> name_of("stiffness.cosine[train-train, all]")
    'stiffness/cosine/train-train/all'
    """
    name, _, labels = label.rstrip("]").partition("[")
    return "/".join([*name.split("."), *(part for part in labels.split(", ") if part)])


def check(kind: str, place: str) -> None:
    """MissingPackageError, in one sentence, where the tracker's package is not installed; NotADirectoryError where
    TensorBoard's directory cannot be one.
    """
    if find_spec(kind) is None:
        raise MissingPackageError(f"--to {kind} needs the package {kind}: pip install {kind}", name=kind)
    if kind == "tensorboard" and any(path.is_file() for path in (Path(place), *Path(place).parents)):
        raise NotADirectoryError(
            f"--to tensorboard writes into a directory, and {place!r} is a file or below one"
        )


@contextmanager
def tracker(kind: str, place: str, run: str) -> Iterator[Any]:
    """A tracker for `mirror_metrics`: TensorBoard in the directory `place/run`, a W&B project, an MLflow server."""
    check(kind, place)
    package = import_module("tensorboard.summary" if kind == "tensorboard" else kind)
    if kind == "tensorboard":
        writer = package.Writer(str(Path(place) / run))
        try:
            yield writer
        finally:
            writer.close()
    elif kind == "wandb":
        with package.init(project=place, name=run) as opened:
            yield opened
    else:
        package.set_tracking_uri(place)
        with package.start_run(run_name=run):
            yield _MLflow(package)


class _MLflow:
    """MLflow's module as an object with `log`."""

    def __init__(self, package: Any) -> None:
        self._package = package

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the values of a step."""
        self._package.log_metrics(dict(values), step=step)
