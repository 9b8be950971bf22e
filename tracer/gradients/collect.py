"""What becomes of the gradients of a snapshot: Gram matrices over all probes' examples, and stored blocks."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from tracer.gradients import Plan, Unit, inner_products
from tracer.gradients.forms import Correlation, Form, Full, Outer, Scatter

_EXACT_INTEGERS = 1 << 24  # float32 holds every integer up to here


def compact(forms: Mapping[str, Form], partner: Mapping[str, str]) -> dict[str, Form]:
    """Each tensor's gradients in the smaller way: as full rows or as the factors that make them.

    `partner`: the bias that goes with a weight; where factors stay, they go on speaking for it.
    """
    smaller: dict[str, Form] = {}
    for name, form in forms.items():
        full = prod(form.shape) + (form.shape[0] if form.bias else 0)
        if full > form.factor_size and getattr(form, "size", 0) <= _EXACT_INTEGERS:
            smaller[name] = form
            continue
        smaller[name] = Full(form.rows())
        if form.bias:
            smaller[partner[name]] = Full(form.bias_rows())
    return smaller


class Blocks:
    """How the exact gradients of a probe's n examples lie in a flat float32 array: see `tracer.gradients`."""

    def __init__(
        self, n: int, forms: Mapping[str, Form], shapes: Mapping[str, Sequence[int]], plan: Plan
    ) -> None:
        """From compact forms of any examples, for their sizes, and the shapes of all trainable tensors."""
        self.n, self.size = n, 0
        self.blocks: list[dict[str, Any]] = []
        self._position: dict[str, int] = {}
        sources = {plan.partner[name]: name for name, form in forms.items() if form.bias}
        for name in sorted(
            shapes, key=lambda name: name in sources
        ):  # a source comes before what refers to it
            if name in forms:
                description, tensors = _described(forms[name])
            elif name in sources:
                description, tensors = {"form": "sum", "source": self._position[sources[name]]}, {}
            else:
                description, tensors = {"form": "zero"}, {}
            block = {"tensor": name, "layer": plan.layer_of[name], "shape": list(shapes[name])}
            self._position[name] = len(self.blocks)
            self.blocks.append({**block, **description, "parts": self._parts(tensors)})

    def _parts(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        parts = []
        for name, tensor in tensors.items():
            size = [self.n, *tensor.shape[1:]]
            parts.append({"name": name, "offset": self.size, "shape": size})
            self.size += prod(size)
        return parts

    def write(self, values: Tensor, start: int, forms: Mapping[str, Form]) -> None:
        """Put the gradients of some examples, from example `start` on, in their places in `values`."""
        for name, form in forms.items():
            tensors = _described(form)[1]
            for part in self.blocks[self._position[name]]["parts"]:
                size, tensor = part["shape"], tensors[part["name"]]
                whole = values[part["offset"] : part["offset"] + prod(size)].view(size)
                whole[start : start + len(tensor)].copy_(tensor)


def _described(form: Form) -> tuple[dict[str, Any], dict[str, Tensor]]:
    match form:
        case Outer():
            return {"form": "outer"}, {"a": form.a, "z": form.z}
        case Correlation():
            geometry = form.geometry
            sizes = {key: list(getattr(geometry, key)) for key in ("kernel", "stride", "padding", "dilation")}
            return {"form": "conv", **sizes, "groups": geometry.groups}, {"a": form.a, "z": form.z}
        case Scatter():
            return {"form": "scatter"}, {"index": form.index, "z": form.z}
        case _:
            return {"form": "full"}, {"grad": form.rows()}


class Collector:
    """Gathers one snapshot: gradients arrive chunk after chunk, layer after layer, and are let go early."""

    def __init__(
        self,
        plan: Plan,
        layers: Sequence[str],
        n: int,
        chunks: int,
        blocks: Mapping[str, Blocks],
        device: torch.device,
    ) -> None:
        """Expect n examples of all probes in `chunks` chunks; `blocks` by probe where exact ones are kept."""
        self._plan, self._chunks, self._blocks = plan, chunks, blocks
        self._gram: dict[str, Tensor | None] = dict.fromkeys(layers)
        self._n = n
        self._held: dict[tuple[str, ...], list[dict[str, Form]]] = {}
        self._device = device
        self.values = {
            probe: torch.empty(block.size, dtype=torch.float32, device=device)
            for probe, block in blocks.items()
        }

    def begin(self, probe: str, start: int) -> None:
        """Say which examples come next: of `probe`, from `start` on."""
        self._probe, self._start = probe, start

    def receive(self, unit: Unit, forms: dict[str, Form]) -> None:
        """Take the gradients of some parameters for the examples of this chunk."""
        if self._blocks or self._chunks > 1:
            forms = compact(forms, self._plan.partner)
        if self._blocks:
            self._blocks[self._probe].write(self.values[self._probe], self._start, forms)
        if self._chunks > 1:
            held = self._held.setdefault(unit.names, [])
            held.append(forms)
            if len(held) < self._chunks:
                return
            del self._held[unit.names]
            forms = {name: Form.join([part[name] for part in held]) for name in forms}
        for name, form in forms.items():
            layer, products = self._plan.layer_of[name], inner_products(form)
            before = self._gram[layer]
            self._gram[layer] = products if before is None else before.add_(products)

    def gram(self) -> Tensor:
        """Inner products of all gradients: float64 (layer, example, example), exactly symmetric."""
        size = (len(self._gram), self._n, self._n)
        out = torch.zeros(size, dtype=torch.float64, device=self._device)
        for layer, products in zip(out, self._gram.values(), strict=True):
            if products is not None:
                layer.copy_(products)
        return out
