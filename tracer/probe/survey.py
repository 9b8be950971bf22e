"""A first look before recording: what one or two examples give, and which way gives which gradient."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from tracer.gradients import Backward, Plan, RuleError, Unit
from tracer.gradients.collect import compact
from tracer.gradients.forms import Form, Full
from tracer.gradients.leftover import Leftover
from tracer.network import Network
from tracer.network.pytree import leaves_of
from tracer.probe.agreement import Agreement
from tracer.probe.examples import Examples


class Survey:
    """What a first look at the network shows.

    outputs, losses: of one example. plan: which rows give which gradients. leftover: the way for those without a rule,
    None where there are none. forms: compact gradients of the two examples, sizes alone. needed: bytes that an
    example's backward pass needs of its forward pass, None where none was run.
    """

    def __init__(
        self,
        network: Network,
        tensors: Mapping[str, Tensor],
        examples: Examples,
        gradients: bool,
        excluded: Mapping[str, str] | None,
    ) -> None:
        """Without `gradients` only outputs are looked at; `excluded`: parameters never to use a rule for."""
        self._network = network
        self.plan = Plan.of(network, excluded)
        self.forms: dict[str, Form] = {}
        self.leftover: Leftover | None = None
        self.needed: int | None = None
        n = min(2, examples.probe.n, network.batch or 2)
        if not gradients:
            with torch.no_grad():
                self._keep(*examples.through(tensors, 0, n))
            return
        self._try_rules(tensors, examples, n)
        if self.plan.leftover:
            self.leftover = Leftover(network, list(self.plan.leftover))
            self._add(left_over(self.leftover, tensors, examples, 0, n))

    def _try_rules(self, tensors: Mapping[str, Tensor], examples: Examples, n: int) -> None:
        counted = True
        while True:
            batch = examples.batch(n)
            agreement = Agreement(self.plan, tensors, n, batch)
            backward = Backward(self.plan, n, batch, partial(self._receive, agreement))
            held = Held([*tensors.values(), *leaves_of(list(examples.cut(0, n)))])
            try:
                with torch.enable_grad(), held if counted else nullcontext():
                    watchers = [agreement.visit, backward.visit]
                    outputs, losses = examples.through(agreement.tensors, 0, n, watchers)
            except RuntimeError as error:
                # An objective that takes derivatives by torch.func does not run where what is kept is looked at.
                if not counted or "saved tensor hooks" not in str(error):
                    raise
                counted = False
                continue
            held.add(backward.waiting)
            self.needed = held.nbytes // batch
            self._keep(outputs, losses)
            try:
                agreement.run(losses)  # type: ignore[arg-type]
                backward.run(losses)  # type: ignore[arg-type]  # what is left: rows that the loss does not use
                wrong = agreement.wrong
            except RuleError as error:
                wrong = dict.fromkeys(error.names, str(error))
            finally:
                agreement.end()
            if not wrong:
                return
            self.plan = Plan.of(self._network, self.plan.leftover | wrong)
            self.forms.clear()

    def _receive(self, agreement: Agreement, _: Unit, forms: Mapping[str, Form]) -> None:
        agreement.receive(forms)
        self._add(forms)

    def _add(self, forms: Mapping[str, Form]) -> None:
        """Sizes of some gradients, without their values: those of a language model are hundreds of megabytes."""
        smaller = compact(forms, self.plan.partner)
        self.forms |= {name: form.without_values() for name, form in smaller.items()}

    def _keep(self, outputs: Tensor, losses: Tensor | None) -> None:
        """Of one example, and nothing of what made them."""
        self.outputs = outputs.detach()[:1].clone()
        self.losses = None if losses is None else losses.detach()[:1].clone()

    @property
    def ways(self) -> dict[str, str]:
        """How each layer's gradients come: "rows", "vmap", "loop", or two of them joined by "+"."""
        ways: dict[str, set[str]] = {layer.name: set() for layer in self._network.layers}
        for name, layer in self.plan.layer_of.items():
            rest = self.leftover is not None and name in self.plan.leftover
            ways[layer].add(self.leftover.way if rest and self.leftover else "rows")
        return {layer: "+".join(sorted(kinds)) for layer, kinds in ways.items()}


class Held(saved_tensors_hooks):
    """Adds up the bytes of what is kept for a backward pass, each piece of memory once, and none that is there anyway.

    But for what is counted nothing changes: tensors are kept as they are.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._sizes: dict[int, int] = {}
        super().__init__(self._pack, lambda tensor: tensor)

    @property
    def nbytes(self) -> int:
        """All of it."""
        return sum(self._sizes.values())

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count what is kept in another way."""
        for tensor in tensors:
            self._pack(tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        if tensor.layout != torch.strided:
            return tensor.detach()
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself would be held by what made it


def left_over(
    leftover: Leftover, tensors: Mapping[str, Tensor], examples: Examples, start: int, stop: int
) -> dict[str, Form]:
    """Gradients without a rule, of some examples."""
    rows = leftover.rows(tensors, *examples.cut(start, stop), stop - start)
    return {name: Full(values) for name, values in rows.items()}
