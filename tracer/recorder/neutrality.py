"""`tracer.check`: proof, on the user's own training function, that recording changes nothing.

The function is run twice without recording and once with it, from the same random state. Where the two bare
runs already differ, training itself is not repeatable and nothing can be claimed about that quantity.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from tracer.errors import RecordError
from tracer.network.copies import to_numpy, unwrap
from tracer.network.randomness import random_state, restore_random_state
from tracer.recorder import record
from tracer.recorder.arguments import check_first
from tracer.recorder.optimizers import in_use

QUANTITIES = (
    "parameters",
    "buffers",
    "gradients",
    "optimizer state",
    "training flags",
    "hooks",
    "random streams",
    "weights of every step",
    "logged values",
)


@dataclass(frozen=True)
class Verdict:
    """Outcome of `tracer.check`: for each quantity `identical`, `changed` or `not repeatable`."""

    table: dict[str, str]
    steps: int

    @property
    def neutral(self) -> bool:
        """Whether nothing changed and at least one quantity could be compared."""
        outcomes = set(self.table.values())
        return "changed" not in outcomes and "identical" in outcomes

    def __bool__(self) -> bool:
        return self.neutral

    def __str__(self) -> str:
        width = max(map(len, self.table))
        lines = [f"{name:<{width}}  {outcome}" for name, outcome in self.table.items()]
        return "\n".join([*lines, self.summary])

    @property
    def summary(self) -> str:
        """The outcome in one sentence."""
        word = "unchanged" if self.neutral else "NOT proved unchanged"
        return f"training over {self.steps} updates is {word} by recording"


def check(train: Callable[[Callable[..., Any]], Any]) -> Verdict:
    """Run `train(record)` without and with recording and compare digests of everything training leaves behind.

    `train` builds its model, loader and optimizer itself and uses the `record` it is given as it would use
    `tracer.record`; archives of the check go to a temporary folder. Raises RecordError if it never records.
    """
    if torch.cuda.is_available():
        torch.cuda.init()  # else the first run would begin with another random stream than the others
    start = random_state()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for recording in (False, False, True):
            restore_random_state(start)
            outcomes.append(_run(train, recording, Path(folder)))
    restore_random_state(start)
    first, second, recorded = outcomes
    table = {}
    for name in QUANTITIES:
        repeatable = first.digests[name] == second.digests[name]
        same = "identical" if first.digests[name] == recorded.digests[name] else "changed"
        table[name] = same if repeatable else "not repeatable"
    return Verdict(table, first.steps)


def digest(value: Any) -> str:
    """SHA-256 over the exact bits of nested tensors, arrays, numbers, text, lists and mappings."""
    sha = hashlib.sha256()
    _feed(sha, value)
    return sha.hexdigest()


def state_digests(model: nn.Module, optimizer: Any) -> dict[str, str]:
    """Digests of everything a training loop owns, by quantity; optimizer: as `tracer.record` takes it."""
    inner = unwrap(model)
    return {
        "parameters": digest(dict(inner.named_parameters())),
        "buffers": digest(dict(inner.named_buffers())),
        "gradients": digest({name: p.grad for name, p in inner.named_parameters()}),
        "optimizer state": digest([one.state_dict() for one in in_use(optimizer)]),
        "training flags": digest({name: module.training for name, module in inner.named_modules()}),
        "hooks": digest({name: _hooks(module) for name, module in inner.named_modules()}),
        "random streams": digest(random_state()),
    }


class _Witness:
    """Stands in for a recorder, or around one, and keeps what the check compares."""

    def __init__(self, recorder: Any, model: nn.Module, optimizer: Any) -> None:
        self._recorder = recorder
        self._model = model
        self._optimizer = optimizer
        self._weights: list[str] = []
        self._logged: list[Any] = []
        self._hook: Any = None
        self.digests: dict[str, str] = {}

    @property
    def steps(self) -> int:
        return len(self._weights)

    def __enter__(self) -> Any:
        if self._recorder is not None:
            self._recorder.__enter__()
        self._hook = register_optimizer_step_post_hook(self._stepped)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._hook is not None:
            self._hook.remove()
        if self._recorder is not None:
            self._recorder.__exit__(*error)
        self.digests = state_digests(self._model, self._optimizer)
        self.digests["weights of every step"] = digest(self._weights)
        self.digests["logged values"] = digest(self._logged)

    def start(self) -> Any:
        return self.__enter__()

    def close(self) -> None:
        if not self.digests:
            self.__exit__(None, None, None)

    def _stepped(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if any(optimizer is ours for ours in in_use(self._optimizer)):
            self._note()

    def _note(self) -> None:
        self._weights.append(digest(dict(unwrap(self._model).named_parameters())))

    def batches(self, loader: Iterable[Any], *args: Any, **options: Any) -> Any:
        return loader if self._recorder is None else self._recorder.batches(loader, *args, **options)

    @property
    def notes(self) -> list[str]:
        return [] if self._recorder is None else self._recorder.notes

    @property
    def resumed(self) -> int | None:
        return None if self._recorder is None else self._recorder.resumed

    def step(self, ids: Any = None, loss: Any = None, targets: Any = None) -> None:
        if self._optimizer is None:
            self._note()
        self._logged.append(loss)
        if self._recorder is not None:
            self._recorder.step(ids=ids, loss=loss, targets=targets)

    def log(self, **values: Any) -> None:
        self._logged.append({name: digest(value) for name, value in values.items()})
        if self._recorder is not None:
            self._recorder.log(**values)

    def __getattr__(self, name: str) -> Any:
        if self._recorder is None:
            return lambda *args, **options: None
        return getattr(self._recorder, name)


def _run(train: Callable[[Callable[..., Any]], Any], recording: bool, folder: Path) -> _Witness:
    witnesses: list[_Witness] = []

    def stand_in(path: Any, model: Any, optimizer: Any = None, **options: Any) -> _Witness:
        check_first(path, model)
        recorder = None
        if recording:
            recorder = record(folder / f"{len(witnesses)}.zarr", model, optimizer, **options)
        witnesses.append(_Witness(recorder, model, optimizer))
        return witnesses[-1]

    train(stand_in)
    if not witnesses:
        raise RecordError(
            "tracer.check: the function never called the `record` it was given, so there is nothing to compare; "
            "write `def train(record): ... with record(path, model, optimizer, ...) as run: ...`."
        )
    if not witnesses[-1].digests:
        raise RecordError(
            "tracer.check: the function never closed its recording, so what it ends with is not known; use `with`, or "
            "call run.close() at the end."
        )
    return witnesses[-1]


def _hooks(module: nn.Module) -> list[int]:
    return [
        len(getattr(module, name))
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    ]


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
        sha.update(to_numpy(value.detach().contiguous().view(-1).view(torch.uint8)).tobytes())
    elif isinstance(value, np.ndarray):
        sha.update(f"{value.dtype}{value.shape}".encode())
        sha.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key, item in value.items():
            sha.update(repr(key).encode())
            _feed(sha, item)
    elif isinstance(value, list | tuple):
        sha.update(f"[{len(value)}".encode())
        for item in value:
            _feed(sha, item)
    else:
        sha.update(repr(value).encode())
