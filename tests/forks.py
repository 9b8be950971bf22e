"""Processes that have imported what this one has, which takes a fresh one seconds."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
import torch._dynamo  # as every optimizer does

# The library of an accelerator lets no fork differentiate.
FORKS: Any = multiprocessing.get_context("spawn" if torch.accelerator.is_available() else "fork")


def apart(function: Any, *arguments: Any) -> Any:
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, FORKS) as pool:
        return pool.submit(function, *arguments).result()
