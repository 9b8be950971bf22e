"""Operands that stop a process whose kernels are not guarded: the known ones, each sure to do it."""

import os
import random
import resource
from collections.abc import Callable
from typing import Any

import torch

from tests.attacks.operands import Case
from tracer.network.program import resolve

LEAST = torch.iinfo(torch.int64).min


def quotient() -> Case:
    return made("aten.div.Tensor_mode", torch.tensor([LEAST]), torch.tensor([-1]), rounding_mode="trunc")


def label() -> Case:
    scores, targets = torch.zeros(9, 2, 5), torch.full((2, 3), 1 << 44)
    return made("aten.ctc_loss.IntList", scores, targets, [9, 8], [3, 2], 0, 0)


def statistics() -> Case:
    """Zeros are written over the size of the next piece of memory, which freeing theirs looks at."""
    op = "aten._native_batch_norm_legit_functional.default"
    return made(op, torch.zeros(4, 5000), None, None, torch.zeros(300), torch.ones(300), True, 1.0, 1e-5)


def number_of_dtype() -> Case:
    """A number where a dtype is declared is looked up in a table of far fewer."""
    return made("aten._to_copy.default", torch.zeros(2, 3), dtype=1000)


def made(op: str, *args: Any, **kwargs: Any) -> Case:
    return Case(op, list(args), kwargs, 0, random.Random(0))


KILLERS: dict[str, Callable[[], Case]] = {
    "the least number by -1": quotient,
    "a label beyond the last": label,
    "short statistics": statistics,
}
# What happens is undefined: it may also take all memory there is, so that it is never tried.
UNTRIED: dict[str, Callable[[], Case]] = {"the number of no dtype": number_of_dtype}


def ends() -> dict[str, int]:
    """The signal that each dies of in a child that calls the kernel itself; 0 where it lives."""
    found = {}
    for name, killer in KILLERS.items():
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            one = killer()
            resolve(one.op)(*one.args, **one.kwargs)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        found[name] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return found
