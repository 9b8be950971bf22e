"""Whether the rules of a network's rows give the gradients that autograd gives, by a trial of a few examples."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.utils.hooks import RemovableHandle

from tracer.gradients import Piece, Plan
from tracer.gradients.forms import Form, Outer, Scatter, Tied
from tracer.network.table import Row

# Of a gradient's length: far above any rounding, bfloat16's too, and far below what a wrong rule misses.
_APART = 1 / 32


class Agreement:
    """Compares each parameter's gradients by its rules, summed over the examples, with its gradient by autograd.

    Every row that uses parameters is sent random signals in place of the loss's. Those of a loss may vanish, behind a
    branch that begins at zero, or cancel, before a normalisation: then there is nothing to compare, or rounding alone.

    tensors: what the network shall run with. wrong: parameters whose gradients differ, and how to say so.
    """

    def __init__(self, plan: Plan, tensors: Mapping[str, Tensor], n: int, batch: int) -> None:
        """Of `batch` examples that go through, `n` count."""
        self._plan, self._n, self._batch = plan, n, batch
        self.wrong: dict[str, str] = {}
        self._halves: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._generators: dict[torch.device, torch.Generator] = {}
        names = {name for unit in plan.units.values() for name in unit.names}
        own = {name: tensors[name].detach().requires_grad_() for name in names}
        self.tensors = {**tensors, **own}
        for name, tensor in own.items():
            self._handles.append(tensor.register_post_accumulate_grad_hook(partial(self._arrive, name)))

    def visit(self, row: Row, values: tuple[Any, ...], out: Any) -> None:
        """Have signals drawn for a row, before anyone else sees those that come back to it."""
        if row.name in self._plan.pieces:
            result = out if isinstance(out, Tensor) else out[0]
            self._handles.append(result.register_hook(partial(self._drawn, self._plan.pieces[row.name])))

    def run(self, losses: Tensor) -> None:
        """Send signals back, through rows and to parameters."""
        if losses.requires_grad:
            torch.autograd.backward(losses, torch.ones_like(losses))

    def receive(self, forms: Mapping[str, Form]) -> None:
        """Take gradients that rules gave."""
        for name, form in forms.items():
            self._meet(name, _total(form))
            if form.bias:
                self._meet(self._plan.partner[name], form.bias_rows().sum(0))

    def end(self) -> None:
        """Let go of what leads back here."""
        for handle in self._handles:
            handle.remove()

    def _drawn(self, piece: Piece, z: Tensor) -> Tensor:
        if z.device not in self._generators:  # the streams that training draws from are not touched
            self._generators[z.device] = torch.Generator(z.device).manual_seed(0)
        made = torch.randn(z.shape, dtype=z.dtype, device=z.device, generator=self._generators[z.device])
        examples = made.unflatten(piece.axis, (-1, self._batch, piece.inner))
        examples.narrow(piece.axis + 1, self._n, self._batch - self._n).zero_()
        return made

    def _arrive(self, name: str, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        self._meet(name, gradient.to_dense() if gradient.layout != torch.strided else gradient)

    def _meet(self, name: str, half: Tensor) -> None:
        # Compared as soon as both are there, and freed: all gradients of a language model are as large as it is.
        other = self._halves.pop(name, None)
        if other is None:
            self._halves[name] = half
            return
        if bool(vector_norm(half - other) > _APART * vector_norm(half)):
            self.wrong[name] = "its rule does not give the gradient that autograd gives"


def _total(form: Form) -> Tensor:
    """The sum of the gradients over the examples, as the gradient of one that has the positions of all."""
    if isinstance(form, Outer | Scatter | Tied):
        joined: dict[str, Any] = {name: x.flatten(0, 1).unsqueeze(0) for name, x in form.tensors.items()}
        form = replace(form, **joined)
    return form.rows().sum(0)
