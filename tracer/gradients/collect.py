"""What becomes of the gradients of a snapshot: Gram matrices over all probes' examples, and stored blocks."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from tracer.gradients import Plan, Unit, inner_products
from tracer.gradients.forms import Correlation, Form, Full, Outer, Scatter, Tied

Place = Callable[[str, Form], Tensor | None]

_EXACT_INTEGERS = 1 << 24  # float32 holds every integer up to here


def compact(
    forms: Mapping[str, Form], partner: Mapping[str, str], place: Place = lambda *_: None
) -> dict[str, Form]:
    """Each tensor's gradients in the smaller way: as full rows or as the factors that make them.

    `partner`: the bias that goes with a weight; where factors stay, they go on speaking for it. `place`: of a
    tensor and its form, where rows that are made now shall lie (None: anywhere).
    """
    smaller: dict[str, Form] = {}
    for name, form in forms.items():
        shape = form.shape
        full = prod(shape) + (shape[0] if form.bias else 0)
        if full > form.factor_size and getattr(form, "size", 0) <= _EXACT_INTEGERS:
            smaller[name] = form
            continue
        smaller[name] = Full(form.rows(place(name, form)))
        if form.bias:
            smaller[partner[name]] = Full(form.bias_rows())
    return smaller


class Blocks:
    """How the exact gradients of a probe's n examples lie in a flat array: see `tracer.gradients`.

    dtype: of the array, float64 where a parameter is, else float32.
    """

    def __init__(
        self,
        n: int,
        forms: Mapping[str, Form],
        shapes: Mapping[str, Sequence[int]],
        plan: Plan,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """From compact forms of any examples, for their sizes, and the shapes of all trainable tensors."""
        self.n, self.size, self.dtype = n, 0, dtype
        self.blocks: list[dict[str, Any]] = []
        self._position: dict[str, int] = {}
        self._places: dict[str, list[tuple[str, int, list[int]]]] = {}
        sources = {plan.partner[name]: name for name, form in forms.items() if form.bias}
        for name in sorted(
            shapes, key=lambda name: name in sources
        ):  # a source comes before what refers to it
            if name in forms:
                described = _described(forms[name])
            elif name in sources:
                described = [({"form": "sum", "source": self._position[sources[name]]}, {})]
            else:
                described = [({"form": "zero"}, {})]
            block = {"tensor": name, "layer": plan.layer_of[name], "shape": list(shapes[name])}
            self._position[name] = len(self.blocks)
            self._places[name] = []
            for description, attributes in described:  # what blocks of one tensor give adds up
                parts = self._parts({part: getattr(forms[name], at) for part, at in attributes.items()})
                self._places[name] += [
                    (attributes[part["name"]], part["offset"], part["shape"][1:]) for part in parts
                ]
                self.blocks.append({**block, **description, "parts": parts})

    @property
    def nbytes(self) -> int:
        """Bytes of one snapshot."""
        return self.dtype.itemsize * self.size

    def _parts(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        parts = []
        for name, tensor in tensors.items():
            size = [self.n, *tensor.shape[1:]]
            parts.append({"name": name, "offset": self.size, "shape": size})
            self.size += prod(size)
        return parts

    def place(self, values: Tensor, start: int, name: str, form: Form) -> Tensor | None:
        """Where in `values` the rows of a form belong, from example `start` on; None if of another dtype."""
        if form.signal.dtype != values.dtype:
            return None
        ((_, offset, shape),) = self._places[name]
        return _part(values, offset, shape, start, form.signal.shape[0])

    def write(self, values: Tensor, start: int, forms: Mapping[str, Form]) -> None:
        """Put the gradients of some examples, from example `start` on, in their places in `values`."""
        for name, form in forms.items():
            for attribute, offset, shape in self._places[name]:
                tensor = getattr(form, attribute)
                whole = _part(values, offset, shape, start, tensor.shape[0])
                if whole.data_ptr() != tensor.data_ptr():  # rows may have been made there
                    whole.copy_(tensor)


def _part(values: Tensor, offset: int, shape: Sequence[int], start: int, n: int) -> Tensor:
    one = prod(shape)
    first = offset + start * one
    return values[first : first + n * one].view(n, *shape)


def _described(form: Form) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """What blocks say of a form, each with the attribute that its parts are."""
    match form:
        case Outer():
            return [({"form": "outer"}, {"a": "a", "z": "z"})]
        case Correlation():
            geometry = form.geometry
            sizes = {key: list(getattr(geometry, key)) for key in ("kernel", "stride", "padding", "dilation")}
            return [({"form": "conv", **sizes, "groups": geometry.groups}, {"a": "a", "z": "z"})]
        case Scatter():
            return [({"form": "scatter"}, {"index": "index", "z": "z"})]
        case Tied():
            outer, scatter = {"a": "a", "z": "z"}, {"index": "index", "z": "s"}
            return [({"form": "outer"}, outer), ({"form": "scatter"}, scatter)]
        case _:
            return [({"form": "full"}, {"grad": "values"})]


class Collector:
    """Gathers one snapshot: gradients arrive chunk after chunk, layer after layer, and are freed early."""

    def __init__(
        self,
        plan: Plan,
        layers: Mapping[str, int],
        n: int,
        chunks: int,
        blocks: Mapping[str, Blocks],
        device: torch.device,
    ) -> None:
        """Expect n examples of all probes in `chunks` chunks; `blocks` by probe where exact ones are kept.

        layers: their positions.
        """
        self._plan, self._layers, self._chunks, self._blocks = plan, layers, chunks, blocks
        # Made before what lives shorter: memory at the end of the heap would go back to the system each time.
        self._gram = torch.empty(len(layers), n, n, dtype=torch.float64, device=device)
        self._empty = set(layers.values())
        self._held: dict[tuple[str, ...], list[dict[str, Form]]] = {}
        self.values = {
            probe: torch.empty(block.size, dtype=block.dtype, device=device)
            for probe, block in blocks.items()
        }

    def begin(self, probe: str, start: int) -> None:
        """Say which examples come next: of `probe`, from `start` on."""
        self._probe, self._start = probe, start

    def receive(self, unit: Unit, forms: dict[str, Form]) -> None:
        """Take the gradients of some parameters for the examples of this chunk."""
        if self._blocks:
            blocks, values, start = self._blocks[self._probe], self.values[self._probe], self._start
            forms = compact(forms, self._plan.partner, partial(blocks.place, values, start))
            blocks.write(values, start, forms)
        elif self._chunks > 1:
            forms = compact(forms, self._plan.partner)
        if self._chunks > 1:
            held = self._held.setdefault(unit.names, [])
            held.append(forms)
            if len(held) < self._chunks:
                return
            del self._held[unit.names]
            forms = {name: Form.join([part[name] for part in held]) for name in forms}
        for name, form in forms.items():
            layer = self._layers[self._plan.layer_of[name]]
            if layer in self._empty:
                inner_products(form, self._gram[layer])
            else:
                self._gram[layer].add_(inner_products(form))
            self._empty.discard(layer)

    def arrays(self) -> dict[str, dict[str, Tensor]]:
        """{group: {array: values}} of the snapshot, inner products among them: (layer, example, example), symmetric."""
        for layer in self._empty:
            self._gram[layer].zero_()
        blocks = {f"probes/{name}/gradients": {"values": values} for name, values in self.values.items()}
        return blocks | {"gram": {"gram": self._gram}}
