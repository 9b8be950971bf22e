"""The network table against the eager model it was traced from."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from benchmarks.harness import Work, case
from benchmarks.models import MODELS
from tracer.network import Network, trace
from tracer.network.copies import named_tensors


@case("the eager model", repeats=9)
def table_run() -> Iterator[tuple[str, Work, Work, float]]:
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model, x, y = build()
        model.eval()
        network, tensors = trace(model, x[:8], y[:8], F.cross_entropy), named_tensors(model)

        def ours(network: Network = network, tensors: dict = tensors, x: torch.Tensor = x) -> None:
            with torch.no_grad():
                network.run(tensors, x)

        def theirs(model: torch.nn.Module = model, x: torch.Tensor = x) -> None:
            with torch.no_grad():
                model(x)

        yield name, ours, theirs, 1.05
