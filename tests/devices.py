"""Devices that tests record on: one that copies late and in any order, and what is asked of every device."""

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor, nn

import tracer
from tracer.recorder.device import Mark

_GARBAGE = 0xA5


class SlowCopy:
    """A copy that is made when it is waited for, or before by chance."""

    def __init__(self, lane: "SlowLane", pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._lane, self._pairs = lane, pairs
        self.buffers = {host.data_ptr() for host, _ in pairs if host.numel()}
        self.done = False

    def query(self) -> bool:
        with self._lane.lock:
            self._lane.drift()
            return self.done

    def synchronize(self) -> None:
        with self._lane.lock:
            self._lane.drift()
            self.finish()

    def finish(self) -> None:
        if not self.done:
            self.done = True
            self._lane.waiting.remove(self)
            self._lane.out_of_order += self._lane.waiting[:1] != [] and self is not self._lane.first
            for host, tensor in self._pairs:
                host.copy_(tensor)


class SlowLane:
    """Stands in for a side stream, over memory of the host.

    The tensors themselves are copied late: whoever writes into them meanwhile, or reads or reuses a buffer
    too early, finds garbage.
    """

    def __init__(self, seed: int = 0) -> None:
        self.lock = threading.RLock()
        self.waiting: list[SlowCopy] = []
        self.first: SlowCopy | None = None
        self.fetched = self.out_of_order = self.most = 0
        self.buffers: set[int] = set()
        self._chance = random.Random(seed)

    def allocate(self, size: int) -> np.ndarray:
        buffer = np.full(size, _GARBAGE, np.uint8)
        self.buffers.add(buffer.ctypes.data)
        return buffer

    def fetch(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> SlowCopy:
        copy = SlowCopy(self, list(pairs))
        with self.lock:
            for other in self.waiting:
                assert not other.buffers & copy.buffers, "a buffer is used again before its copy is made"
            for host, _ in pairs:
                host.reshape(-1).view(torch.uint8).fill_(_GARBAGE)
            self.waiting.append(copy)
            self.fetched += 1
            self.most = max(self.most, len(self.waiting))
            self.drift()
        return copy

    def mark(self) -> Mark:
        raise AssertionError("only a budget asks for the time")

    def drift(self) -> None:
        """Perhaps make one of the copies that wait, any of them."""
        if self.waiting and self._chance.random() < 0.3:
            self.first = self.waiting[0]
            self._chance.choice(self.waiting).finish()


def everything(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an archive that do not depend on when it was made."""
    group = zarr.open_group(path, mode="r")
    arrays = {name: array for name, array in group.members(None) if isinstance(array, zarr.Array)}
    skipped = ("steps/time", "manifest/")
    return {name: np.asarray(array[...]) for name, array in arrays.items() if not name.startswith(skipped)}


def updates_at_once(path: Path, device: str, snapshots: int, **options: Any) -> list[np.ndarray]:
    """Change all weights right after each of so many snapshots; the weights that each should hold."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).to(device)
    expected = []
    with tracer.record(path, model, None, snapshots=tracer.every(1), **{"probes": {}, **options}) as run:
        for step in range(snapshots + 1):
            expected.append(torch.cat([p.detach().flatten() for p in model.parameters()]).cpu().numpy())
            if step == snapshots:
                break
            value = torch.full((), float(step), device=device)
            run.log(value=value)
            value.fill_(-1)
            with torch.no_grad():
                for tensor in [*model.parameters(), *model.buffers()]:
                    tensor.add_(1)
            run.step()
    return expected


def check_updates_at_once(path: Path, expected: list[np.ndarray]) -> None:
    """Every snapshot holds the weights of its step, bit for bit, and every row its own number."""
    archive = tracer.open(path)
    assert archive.steps("weights").tolist() == list(range(len(expected)))
    for step, values in enumerate(expected):
        weights = archive.weights(step)
        names = [name for name in weights if "running" not in name and "num_batches" not in name]
        np.testing.assert_array_equal(np.concatenate([weights[name].ravel() for name in names]), values)
        assert int(weights["1.num_batches_tracked"]) == step
    assert archive.rows["value"][:-1].tolist() == list(range(len(expected) - 1))
