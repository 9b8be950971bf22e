"""Where a recorder works: beside a training that may be watched by others."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.autograd import set_detect_anomaly
from torch.profiler import record_function

from tracer.network.randomness import untouched_random_state
from tracer.network.torch_internals import modes_suspended


@contextmanager
def unseen() -> Iterator[None]:
    """Leave random streams as they were, and what the user counts operations with as if nothing had been run.

    A profiler sees everything that a process does; in it all this stands under one name. What of a
    gradient is NaN is to be recorded, and no anomaly of the training.
    """
    with modes_suspended(), record_function("tracer"), set_detect_anomaly(False), untouched_random_state():
        yield
