"""Processes of a server that has imported once what takes seconds: forks of this one might not differentiate."""

import multiprocessing
import os
import runpy
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
# The second is what every optimizer imports.
FORKS.set_forkserver_preload(["torch", "torch._dynamo", "tests.ranks_worker", "tests.attacks.fuzz_ops"])


def apart(function: Any, *arguments: Any) -> Any:
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, FORKS) as pool:
        return pool.submit(function, *arguments).result()


def run_in(folder: Path, script: str) -> None:
    """Run a script with the packages beside it in the place of those of this checkout; to be called `apart`."""
    theirs = {path.stem for path in folder.iterdir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in theirs]:
        del sys.modules[name]
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    runpy.run_path(script, run_name="__main__")
    used = [sys.modules[name] for name in theirs & sys.modules.keys()]
    assert used and all(Path(str(module.__file__)).is_relative_to(folder) for module in used)
