"""Processes of a server that has imported once what takes seconds: forks of this one might not differentiate."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
# The second is what every optimizer imports.
FORKS.set_forkserver_preload(["torch", "torch._dynamo", "tests.ranks_worker", "tests.attacks.fuzz_ops"])


def apart(function: Any, *arguments: Any) -> Any:
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, FORKS) as pool:
        return pool.submit(function, *arguments).result()
