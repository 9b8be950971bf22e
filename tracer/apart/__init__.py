"""A process of its own for the networks of archives: where a kernel crashes, it takes nothing with it.

    done = shared().call(function, *arguments, memory=2 << 30)

One process is kept for all calls of this one. It is started when first needed, as a fresh interpreter with
this one's path, and again where it died. Calls and results travel through pipes between the two; what comes back
is read as plain values (`tracer.apart.answers`), so that an archive that took the process over gets no further.
"""

import atexit
import contextlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from tracer.apart import answers
from tracer.errors import ArchiveError

ROOM = 8 << 30  # bytes of memory besides four times what a call is allowed for its arrays
_HEAD = struct.Struct("<cQ")  # kind of a message and its length
_RESULT, _ERROR, _PROGRESS = b"r", b"e", b"p"

Progress = Callable[..., None]


class WorkerDiedError(ArchiveError):
    """The process that ran an archive's network is no more; the message says of what."""


class Apart:
    """A process that is kept; calls are made one after another."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def start(self, *modules: str) -> None:
        """Start the process, if there is none, and have it import these while this one does something else."""
        with self._lock:
            self._started(modules)

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        memory: int = 2 << 30,
        progress: Progress | None = None,
        **named: Any,
    ) -> Any:
        """What a function, known by its module and name, returns over there, as `tracer.apart.answers` reads it.

        memory: bytes that its arrays may take; over there no more than four times as much and 8 GiB is had.
        progress: called here as the function, which then is given one, calls its own. Errors: what the
        function raises; WorkerDiedError where the process ends, or answers what is no answer.
        """
        content = pickle.dumps((function, arguments, named, memory, progress is not None))
        with self._lock:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            try:
                send(process.stdin, _RESULT, content)
                while True:
                    kind, content = receive(process.stdout, most=ROOM + 4 * memory)
                    value = answers.read(content)
                    if kind != _PROGRESS:
                        break
                    if progress is not None:
                        progress(*value)
            except (EOFError, OSError):
                raise WorkerDiedError(_how(self._ended())) from None
            except answers.ForeignAnswerError as error:
                self._ended(kill=True)
                raise WorkerDiedError(str(error)) from None
            except BaseException:
                self._ended(kill=True)  # its answer would be taken for that of the next call
                raise
        if kind == _ERROR and isinstance(value, Exception):
            raise value
        return value

    def close(self) -> None:
        """End the process, in the middle of a call too."""
        if (process := self._process) is not None and self._owner == os.getpid():
            process.kill()  # so that a thread that waits for its answer lets go of the lock
        with self._lock:
            if self._process is not None and self._owner == os.getpid():
                self._ended(kill=True)

    def _started(self, modules: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
        if self._process is None or self._owner != os.getpid():
            paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                # Nothing is imported from the directory it is started in: archives of others may lie there.
                [sys.executable, "-P", "-m", "tracer.apart", *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": paths},
            )
        return self._process

    def _ended(self, *, kill: bool = False) -> int:
        process, self._process = self._process, None
        assert process is not None and process.stdin is not None and process.stdout is not None
        if kill:
            process.kill()
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        return process.wait()


def _how(code: int) -> str:
    if code >= 0:
        return f"the worker that ran the network ended with exit code {code}; run again"
    name = signal.Signals(-code).name
    why = "perhaps for lack of memory: lower --memory" if -code == signal.SIGKILL else "nothing else is lost"
    return f"the worker that ran the network died with signal {-code} ({name}), {why}"


@cache
def shared() -> Apart:
    """The one process kept by this one; it ends with it."""
    apart = Apart()
    atexit.register(apart.close)
    return apart


def send(pipe: IO[bytes], kind: bytes, content: bytes) -> None:
    """Write a message."""
    pipe.write(_HEAD.pack(kind, len(content)))
    pipe.write(content)
    pipe.flush()


def receive(pipe: IO[bytes], most: int | None = None) -> tuple[bytes, bytes]:
    """Read a message of at most so many bytes; EOFError where the other end is gone."""
    head = pipe.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise EOFError
    kind, length = _HEAD.unpack(head)
    if most is not None and length > most:
        raise answers.ForeignAnswerError
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError
    return kind, content


def serve(modules: Sequence[str] = ()) -> None:
    """Do what comes in, until nothing can: this process ends with the one that asks, in the middle of a call too.

    modules: imported first, if they can be; a call that needs one says what is wrong with it.
    """
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not come between the messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # this process is ended by the one that waits for it
    _limit("RLIMIT_CORE", 0)
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, calls), daemon=True).start()
    for module in modules:
        with contextlib.suppress(ImportError):
            import_module(module)
    while True:
        send(outgoing, *_answer(calls.get(), outgoing))


def _listen(incoming: IO[bytes], calls: "queue.SimpleQueue[bytes]") -> None:
    try:
        while True:
            calls.put(receive(incoming)[1])
    except (EOFError, OSError):
        os._exit(0)  # whoever asked is gone, and nobody would read what is being computed


def _answer(content: bytes, outgoing: IO[bytes]) -> tuple[bytes, bytes]:
    try:
        function, arguments, named, memory, tells = pickle.loads(content)
        _limit("RLIMIT_DATA", ROOM + 4 * memory)
        if tells:
            named["progress"] = lambda *what: send(outgoing, _PROGRESS, answers.written(what))
        return _RESULT, answers.written(function(*arguments, **named))
    except Exception as error:
        return _ERROR, answers.written(error)


def _limit(name: str, most: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not every system has limits
        import resource

        what = getattr(resource, name)
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
