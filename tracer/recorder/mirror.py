"""Logged scalars, also sent to the experiment tracker that the user already has."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from tracer.errors import RecordError
from tracer.network.randomness import untouched_random_state


class Mirror:
    """Sends each update's scalars to an object with `add_scalar(name, value, step)` or `log(dict, step=)`.

    TensorBoard's `SummaryWriter` has the first, a Weights & Biases run the second. card: what the archive
    says of it, its URL where it has one. failed: the error after which nothing was sent any more.
    """

    def __init__(self, target: Any) -> None:
        if not callable(getattr(target, "add_scalar", None)) and not callable(getattr(target, "log", None)):
            raise RecordError(
                f"mirror= got a {type(target).__name__}, expected an object with "
                "`add_scalar(name, value, step)` or `log({name: value}, step=step)`."
            )
        self._target = target
        self.card = {"class": f"{type(target).__module__}.{type(target).__qualname__}", "url": _url(target)}
        self.failed: Exception | None = None

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Send the scalars of an update."""
        if self.failed is not None or not values:
            return
        try:
            with untouched_random_state():
                self._send(step, values)
        except Exception as error:  # the tracker's troubles are not the training's
            self.failed = error

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        if callable(getattr(self._target, "add_scalar", None)):
            for name, value in values.items():
                self._target.add_scalar(name, value, step)
        else:
            self._target.log(dict(values), step=step)


def _url(target: Any) -> str | None:
    run = getattr(target, "run", None)  # the module wandb logs to its run of the moment
    for holder, name in product((target, run), ("url", "get_url")):
        url = getattr(holder, name, None)
        try:
            url = url() if callable(url) else url
        except Exception:
            continue
        if isinstance(url, str):
            return url
    return None
