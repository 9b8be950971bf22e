"""Sketches of gradients beside exact inner products and other projections: time, bytes, and error of cosines.

`python -m benchmarks.sketches` prints a table: CPU time in forward and backward passes of the same batch,
bytes an example, and the root mean square error of cosines over pairs of examples, of the whole network and of a
layer on average.

- *two-sided, k × k*: dense normal projections of both factors of a layer (as LoGra and Bergson have them); tensors
  without factors are projected whole to k² numbers.
- *one-sided, k*: the whole gradient, from `vmap(grad)`, by random signs (as TRAK has it).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import pairwise
from math import prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.models import cnn, mlp, vit
from benchmarks.scale import loss
from tracer.archive.sketches import products
from tracer.gradients import Backward, Plan
from tracer.gradients.forms import Correlation, Form, Outer
from tracer.gradients.sketch import Setting
from tracer.network import Network, trace
from tracer.network.copies import named_tensors
from tracer.probe import Probe
from tracer.probe.passes import ProbePass

MODELS = {"MLP": (mlp, 64), "CNN": (cnn, 32), "ViT": (vit, 16)}
SIGNS = 1 << 22  # random signs made at a time
ONE_SIDED = 1024

Grams = tuple[
    np.ndarray, int
]  # inner products (layer, n, n), those of the network last; numbers kept of an example


class Case:
    """A model with a batch, its table, and the ways of getting at inner products."""

    def __init__(self, build: Callable[[], tuple[nn.Module, Tensor, Tensor]], n: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model, x, y = build()
        self.model.eval()
        self.x, self.y = x[:n], y[:n]
        self.tensors = named_tensors(self.model)

    @cached_property
    def network(self) -> Network:
        return trace(self.model, self.x[:4], self.y[:4], loss)

    @cached_property
    def plan(self) -> Plan:
        return Plan.of(self.network)

    @property
    def layers(self) -> list[str]:
        return [layer.name for layer in self.network.layers]

    def step(self) -> None:
        torch.autograd.grad(loss(self.model(self.x), self.y), list(self.model.parameters()))

    def recorded(self, gradients: str, sketch: Setting = Setting()) -> Callable[[], Grams]:  # noqa: B008
        probe = Probe(
            self.x, self.y, split="train", capture={"gradients": len(self.x), "masks": 0, "sums": 0}
        )
        seen = ProbePass(
            self.network,
            {"train": probe},
            tensors=self.tensors,
            streams=["gradients"],
            gradients=gradients,
            sketch=sketch,
            memory=8 << 30,
            chunk=len(self.x),
        )

        def run() -> Grams:
            arrays = seen.run(self.tensors, {"gradients"})
            if gradients == "gram":
                return with_all(arrays["gram"]["gram"]), 0
            values = arrays["probes/train/sketches"]["values"]
            return with_all(products(values, values, seen.attributes["probes/train/sketches"])), values.shape[
                1
            ]

        return run

    def two_sided(self, k: int) -> Callable[[], Grams]:
        generator = torch.Generator().manual_seed(1)
        normal = partial(torch.randn, generator=generator)
        matrices: dict[str, tuple[Tensor, ...]] = {}
        for name in self.plan.layer_of:
            shape = self.tensors[name].shape
            if len(shape) > 1:
                matrices[name] = normal(shape[0], k) / k**0.5, normal(prod(shape[1:]), k) / k**0.5
            elif shape.numel() > k * k:
                matrices[name] = (normal(shape.numel(), k * k) / k,)

        def run() -> Grams:
            rows: dict[str, list[Tensor]] = {layer: [] for layer in self.layers}

            def receive(unit: object, forms: dict[str, Form]) -> None:
                for name, form in forms.items():
                    layer = rows[self.plan.layer_of[name]]
                    layer.append(projected(form, matrices.get(name, ())))
                    if form.bias:
                        bias = matrices.get(self.plan.partner[name], ())
                        layer.append(form.bias_rows() @ bias[0] if bias else form.bias_rows())

            backward = Backward(self.plan, len(self.x), len(self.x), receive)
            _, losses = self.network.run(self.tensors, self.x, self.y, visit=backward.visit)
            backward.run(losses)  # type: ignore[arg-type]
            return grams([torch.cat(rows[layer], 1) for layer in self.layers])

        return run

    def one_sided(self) -> Grams:
        parameters = {name: p.detach() for name, p in self.model.named_parameters()}

        def loss(weights: dict[str, Tensor], example: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(self.model, weights, (example[None],)), target[None])

        with sdpa_kernel(SDPBackend.MATH):
            rows = vmap(grad(loss), (None, 0, 0))(parameters, self.x, self.y)
        generator, total = torch.Generator().manual_seed(1), torch.zeros(len(self.x), ONE_SIDED)
        for gradient in rows.values():
            for part in gradient.flatten(1).split(SIGNS // ONE_SIDED, dim=1):
                signs = torch.randint(0, 2, (part.shape[1], ONE_SIDED), generator=generator, dtype=torch.int8)
                total += part @ (2.0 * signs - 1)
        return grams([total / ONE_SIDED**0.5])


def projected(form: Form, matrices: Sequence[Tensor]) -> Tensor:
    """Of the weight alone; what has no factors is made and then projected from both sides."""
    if len(matrices) < 2:
        rows = form.rows().flatten(1)
        return rows @ matrices[0] if matrices else rows
    left, right = matrices
    match form:
        case Outer():
            return torch.bmm((form.z @ left).mT, form.a @ right).flatten(1)
        case Correlation() if form.geometry.groups == 1 and len(form.geometry.kernel) == 2:
            geometry = form.geometry
            seen = F.unfold(form.a, geometry.kernel, geometry.dilation, geometry.padding, geometry.stride)
            return torch.bmm((form.z.flatten(2).mT @ left).mT, seen.mT @ right).flatten(1)
    rows = form.rows().flatten(2)
    return (left.T @ (rows @ right)).flatten(1)


def grams(rows: Sequence[Tensor]) -> Grams:
    each = [row.double() @ row.double().T for row in rows]
    return with_all(np.stack([one.numpy() for one in each])), sum(row.shape[1] for row in rows)


def with_all(layers: np.ndarray) -> np.ndarray:
    return np.concatenate([layers, layers.sum(0, keepdims=True)])


def error(gram: np.ndarray, exact: np.ndarray) -> float:
    """Root mean square over pairs of the difference of two matrices of cosines."""
    cosines = []
    for one in (gram, exact):
        length = np.sqrt(np.diagonal(one))
        cosines.append(one / np.maximum(length * length[:, None], 1e-300))
    off = ~np.eye(len(gram), dtype=bool)
    return float(np.sqrt(np.mean(np.square(cosines[0] - cosines[1])[off])))


def rows_of(name: str, repeats: int = 3) -> Iterator[tuple[str, str, float, int, float, float]]:
    """(model, way, passes, numbers, error of the network's cosines, of a layer's) of every way."""
    build, n = MODELS[name]
    made = Case(build, n)
    exact, _ = made.recorded("gram")()
    ways: dict[str, Callable[[], Grams]] = {
        "exact inner products": made.recorded("gram"),
        "sketches": made.recorded("sketch"),
        "two-sided, 16 × 16": made.two_sided(16),
        "two-sided, 32 × 32": made.two_sided(32),
        f"one-sided, {ONE_SIDED}": made.one_sided,
    }
    for way, run in ways.items():
        spent = []
        for _ in range(1 if run == made.one_sided else repeats):
            times = [time.process_time()]
            for work in (made.step, run):
                result = work()
                times.append(time.process_time())
            one, ours = (after - before for before, after in pairwise(times))
            spent.append(ours / one)
        gram, numbers = result  # type: ignore[misc]
        layers = [error(a, b) for a, b in zip(gram[:-1], exact[:-1], strict=False)] if len(gram) > 2 else []
        whole = error(gram[-1], exact[-1])
        yield name, way, float(np.median(spent)), numbers, whole, float(np.mean(layers)) if layers else np.nan


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("| model | way | passes | bytes an example | error, network | error, a layer |")
    print("|---|---|---|---|---|---|")
    for model in MODELS:
        for _, way, passes, numbers, whole, layer in rows_of(model):
            print(
                f"| {model} | {way} | {passes:.2g} | {4 * numbers:,} | {whole:.2g} | {layer:.2g} |",
                flush=True,
            )
