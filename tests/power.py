"""A disk that loses power, or a process that is killed: what may be on it after each system call.

`Disk(base)` follows every call below a folder that writes, names or removes files. After a power cut a file holds what
it held when it was last synced, and a directory its names of then; names changed since may have come through or not, in
any selection, and so may bytes of files not synced. After kill -9 all is there that was called for until then.
At the end of watching what was followed is compared with what is there: no call that changes a file goes unnoticed.
"""

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tracer.writer import place

_WRITING = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_RDWR
NONE, ALL, LAST, SOME = range(4)  # of the changes of names that are not synced
THE_END = "the end"
State = dict[str, bytes | None]  # path below the folder to bytes, None for a directory


@dataclass(eq=False)
class Node:
    """A file (``names`` is None) or directory: as programs see it, and as the disk has it for certain."""

    names: dict[str, "Node"] | None = None
    synced_names: dict[str, "Node"] = field(default_factory=dict)
    data: bytes = b""
    synced: bytes = b""


Change = list[tuple[Node, str, Node | None]]  # names of directories set or, with None, removed, at once


@dataclass(frozen=True)
class Crash:
    """What may be on the disk after a system call, and what had been acknowledged by then.

    killed: what is there if the process ends here; states: what may be there if the power is cut, by which of
    the changes of names not synced came through: `NONE`, `ALL`, the `LAST` alone, `SOME` of them.
    """

    after: str
    acknowledged: Any
    killed: State
    states: list[State]


class Disk:
    def __init__(self, base: Path, seed: int = 0, *, power: bool = True) -> None:
        self.base = base.resolve()
        self._power = power
        self.crashes: list[Crash] = []
        self.acknowledged: Any = None
        self._dice = random.Random(seed)
        self._lock = threading.RLock()
        self._open: dict[int, Node] = {}
        self._pending: list[Change] = []
        self._root = self._found(self.base)

    def _found(self, path: Path) -> Node:
        """What is there at the start is on the disk for certain."""
        if not path.is_dir():
            data = path.read_bytes()
            return Node(data=data, synced=data)
        names = {entry.name: self._found(entry) for entry in path.iterdir()}
        return Node(names=names, synced_names=dict(names))

    # ---- places ----

    def _place(self, path: Any, dir_fd: int | None = None) -> tuple[Node, str] | None:
        """Directory and name of a path, None for one elsewhere."""
        text = os.fspath(path)
        where = Path(os.fsdecode(text))
        if dir_fd is not None:
            where = Path(os.readlink(f"/proc/self/fd/{dir_fd}")) / where  # noqa: PTH115
        try:
            parts = _absolute(where).relative_to(self.base).parts
        except ValueError:
            return None
        node = self._root
        for part in parts[:-1]:
            assert node.names is not None
            node = node.names[part]
        return (node, parts[-1]) if parts else None

    def _node(self, path: Any, dir_fd: int | None = None) -> Node | None:
        if dir_fd is None and _absolute(path) == self.base:
            return self._root
        place = self._place(path, dir_fd)
        return None if place is None or place[0].names is None else place[0].names.get(place[1])

    # ---- calls ----

    def _change(self, change: Change, what: str) -> None:
        for node, name, target in change:
            assert node.names is not None
            if target is None:
                node.names.pop(name, None)
            else:
                node.names[name] = target
        self._pending.append(change)
        self._crash(what)

    def opened(self, fd: int, path: Any, flags: int, dir_fd: int | None) -> None:
        if not flags & _WRITING:
            if (found := self._node(path, dir_fd)) is not None:
                self._open[fd] = found
            return
        place = self._place(path, dir_fd)
        if place is None:
            return
        node = (place[0].names or {}).get(place[1])
        if node is None:
            node = Node()
            self._change([(place[0], place[1], node)], f"create {place[1]}")
        elif flags & os.O_TRUNC:
            node.data = b""
            self._crash(f"truncate {place[1]}")
        self._open[fd] = node

    def wrote(self, fd: int, data: bytes) -> None:
        if fd in self._open:
            self._open[fd].data += data
            self._crash("write")

    def synced(self, fd: int) -> None:
        node = self._open.get(fd)
        if node is None:
            return
        if node.names is None:
            node.synced = node.data
        chosen, names = [], set()
        for change in reversed(self._pending):  # with a change go those before it of the same names
            if any(target is node or (target, name) in names for target, name, _ in change):
                chosen.append(change)
                names |= {(target, name) for target, name, _ in change}
        for change in reversed(chosen):
            _apply(change)
            self._pending.remove(change)
        self._crash("sync")

    def closed(self, fd: int) -> None:
        self._open.pop(fd, None)

    def renamed(
        self, source: Any, target: Any, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        one, two = self._place(source, src_dir_fd), self._place(target, dst_dir_fd)
        change: Change = []
        if one is not None:
            assert one[0].names is not None
            node = one[0].names[one[1]]
            change.append((*one, None))
            change += [] if two is None else [(*two, node)]
        self._change(change, f"rename {Path(source).name} to {Path(target).name}")

    def renamed_at_once(self, done: bool, one: Any, two: Any, flags: int) -> None:
        if done:
            (self.exchanged if flags & place._EXCHANGE else self.renamed)(one, two)

    def exchanged(self, one: Any, two: Any) -> None:
        a, b = self._place(one), self._place(two)
        assert a is not None and b is not None and a[0].names is not None and b[0].names is not None
        self._change([(*a, b[0].names[b[1]]), (*b, a[0].names[a[1]])], "exchange")

    def made(self, path: Any, dir_fd: int | None) -> None:
        if (place := self._place(path, dir_fd)) is not None:
            self._change([(*place, Node(names={}))], f"mkdir {place[1]}")

    def removed(self, path: Any, dir_fd: int | None) -> None:
        if (place := self._place(path, dir_fd)) is not None:
            self._change([(*place, None)], f"remove {place[1]}")

    # ---- crashes ----

    def _crash(self, after: str) -> None:
        states = self._states() if self._power else []
        self.crashes.append(Crash(after, self.acknowledged, dict(self._seen(self._root, "")), states))

    def _states(self) -> list[State]:
        some = [change for change in self._pending if self._dice.random() < 0.5]
        return [
            self._state([], False),
            self._state(self._pending, False),
            self._state(self._pending[-1:], False),
            self._state(some, True),
        ]

    def _seen(self, node: Node, prefix: str) -> Iterator[tuple[str, bytes | None]]:
        for name, child in (node.names or {}).items():
            yield f"{prefix}{name}", None if child.names is not None else child.data
            if child.names is not None:
                yield from self._seen(child, f"{prefix}{name}/")

    def _state(self, changes: list[Change], torn: bool) -> State:
        overlay: dict[Node, dict[str, Node]] = {}
        for change in changes:
            for node, name, target in change:
                names = overlay.setdefault(node, dict(node.synced_names))
                if target is None:
                    names.pop(name, None)
                else:
                    names[name] = target
        return dict(self._listed(self._root, "", overlay, torn))

    def _listed(
        self, node: Node, prefix: str, overlay: dict[Node, dict[str, Node]], torn: bool
    ) -> Iterator[tuple[str, bytes | None]]:
        for name, child in overlay.get(node, node.synced_names).items():
            if child.names is not None:
                yield f"{prefix}{name}", None
                yield from self._listed(child, f"{prefix}{name}/", overlay, torn)
            elif torn and child.data != child.synced:
                yield f"{prefix}{name}", child.data[: self._dice.randrange(len(child.data) + 1)]
            else:
                yield f"{prefix}{name}", child.synced

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the calls of this process, of all its threads."""
        with (
            mock.patch.multiple(os, **self._patches()),
            mock.patch.object(place, "_renameat2", self._after(place._renameat2, self.renamed_at_once)),
        ):
            yield
        self._crash(THE_END)
        there = {
            str(path.relative_to(self.base)): None if path.is_dir() else path.read_bytes()
            for path in self.base.rglob("*")
        }
        assert self.crashes[-1].killed == there, "a file was changed by a call that is not followed"

    def _patches(self) -> dict[str, Callable[..., Any]]:
        def opened(fd: int, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            if flags & (_WRITING | os.O_DIRECTORY) or Path(path).is_dir():
                self.opened(fd, path, flags, dir_fd)

        def wrote(n: int, fd: int, buffers: Any) -> None:
            data = bytes(buffers) if isinstance(buffers, bytes) else b"".join(map(bytes, buffers))
            self.wrote(fd, data[:n])

        return {
            "open": self._after(os.open, opened),
            "write": self._after(os.write, wrote),
            "writev": self._after(os.writev, wrote),
            "fsync": self._after(os.fsync, lambda _, fd: self.synced(fd)),
            "close": self._after(os.close, lambda _, fd: self.closed(fd)),
            "rename": self._after(os.rename, lambda _, a, b, **folders: self.renamed(a, b, **folders)),
            "replace": self._after(os.replace, lambda _, a, b, **folders: self.renamed(a, b, **folders)),
            "mkdir": self._after(os.mkdir, lambda _, path, *a, dir_fd=None: self.made(path, dir_fd)),
            "unlink": self._after(os.unlink, lambda _, path, *, dir_fd=None: self.removed(path, dir_fd)),
            "remove": self._after(os.remove, lambda _, path, *, dir_fd=None: self.removed(path, dir_fd)),
            "rmdir": self._after(os.rmdir, lambda _, path, *, dir_fd=None: self.removed(path, dir_fd)),
        }

    def _after(self, call: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                result = call(*arguments, **options)
                note(result, *arguments, **options)
                return result

        return called


def _absolute(path: Any) -> Path:
    """A path without links resolved, of what may be gone."""
    return Path(os.path.abspath(os.fspath(path)))  # noqa: PTH100


def _apply(change: Change) -> None:
    for node, name, target in change:
        if target is None:
            node.synced_names.pop(name, None)
        else:
            node.synced_names[name] = target


def write_state(state: State, folder: Path) -> None:
    """Put what was on the disk into a folder."""
    folder.mkdir()
    for name, data in state.items():
        if data is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
