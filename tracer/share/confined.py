"""A function of this package in a process of its own, which may neither take too much nor take others down with it."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from tracer.errors import ArchiveError

MEMORY = 8 << 30  # bytes of address space
FILE = 1 << 30  # bytes of a file it writes, unless it finds that it has to write larger ones
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from tracer.share.confined import work; work()"
)


def confined(
    function: Callable[..., object],
    arguments: Sequence[Any],
    *,
    what: str,
    seconds: float,
    progress: Callable[..., None] | None = None,
) -> None:
    """Call a public function of a module with values that JSON has, and a `progress` that is passed on.

    ``seconds``: of processor time. Errors: ArchiveError with the sentence that the function ended in, or, where its
    process died or took more than it may, with one that names ``what`` it was about.
    """
    task = {"module": function.__module__, "name": function.__name__, "arguments": list(arguments)}
    child = subprocess.Popen(
        [sys.executable, "-c", _START, json.dumps([path or os.getcwd() for path in sys.path])],  # noqa: PTH109
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"},
        text=True,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({**task, "seconds": seconds, "file": FILE}))
        child.stdin.close()
        end: dict[str, Any] = {}
        try:
            for line in child.stdout:
                told = json.loads(line)
                if "progress" in told:
                    if progress is not None:
                        progress(*told["progress"])
                else:
                    end = told
        except BaseException:
            child.kill()
            raise
    if end.get("done"):
        return
    if "refused" in end:
        raise ArchiveError(end["refused"])
    if "failed" in end:
        raise OSError(end["failed"])
    raise ArchiveError(
        f"{what} is damaged or made to harm: reading it {_fate(child.returncode)}; nothing was kept"
    )


def work() -> None:
    """The other side: read a task, do it within the limits, and say how it ended."""
    task = json.loads(sys.stdin.read())
    limit(task["seconds"], task["file"])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints has no place in the answer

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=out, flush=True)

    function = getattr(import_module(task["module"]), task["name"])
    try:
        function(*task["arguments"], lambda *told: say({"progress": told}))
    except ArchiveError as error:
        say({"refused": str(error)})
    except (OSError, MemoryError) as error:
        say({"failed": str(error) or type(error).__name__})
    else:
        say({"done": True})


def limit(seconds: float, file: int = FILE) -> None:
    """Bound what this process may take."""
    for what, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_CORE, 0),
    ):
        soft = _bounded(what, most)
        resource.setrlimit(what, (soft, soft))
    resource.setrlimit(
        resource.RLIMIT_FSIZE,
        (_bounded(resource.RLIMIT_FSIZE, file), resource.getrlimit(resource.RLIMIT_FSIZE)[1]),
    )


def allow(file: int) -> None:
    """Let this process write files of so many bytes, where it may not already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft != resource.RLIM_INFINITY and file > soft:
        resource.setrlimit(resource.RLIMIT_FSIZE, (_bounded(resource.RLIMIT_FSIZE, file), hard))


def _bounded(what: int, most: int) -> int:
    hard = resource.getrlimit(what)[1]
    return most if hard == resource.RLIM_INFINITY else min(most, hard)


def _fate(code: int) -> str:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "took longer or more memory than a file of its size can need"
    return f"ended the process that read it ({signal.Signals(-code).name})" if code < 0 else "failed"
