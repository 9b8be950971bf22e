"""A network as data: a table of operations that runs with any weights, written as JSON and read without
trust.
"""

from tracer.network.copies import private_copy
from tracer.network.network import Heard, Network
from tracer.network.program import Visit
from tracer.network.reading import read
from tracer.network.tracing import trace

__all__ = ["Heard", "Network", "Visit", "private_copy", "read", "trace"]
