"""Two examples through everything, before recording: the outputs, and which way gives which gradient."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tracer.gradients import Backward, Plan, RuleError
from tracer.gradients.collect import compact
from tracer.gradients.forms import Form, Full
from tracer.gradients.leftover import Leftover
from tracer.network import Network
from tracer.probe.examples import Examples


class Survey:
    """What a first look at the network shows.

    outputs, losses: of two examples. plan: which rows give which gradients. leftover: the way for those
    without a rule, None where there are none. forms: compact gradients of the two examples, for their sizes.
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
        n = min(2, examples.probe.n)
        if not gradients:
            with torch.no_grad():
                self.outputs, self.losses = examples.through(tensors, 0, n)
            return
        self._try_rules(tensors, examples, n)
        if self.plan.leftover:
            self.leftover = Leftover(network, list(self.plan.leftover))
            self.forms |= left_over(self.leftover, tensors, examples, 0, n)
        self.forms = compact(self.forms, self.plan.partner)

    def _try_rules(self, tensors: Mapping[str, Tensor], examples: Examples, n: int) -> None:
        while True:
            batch = examples.batch(n)
            backward = Backward(self.plan, n, batch, lambda _, forms: self.forms.update(forms))
            with torch.enable_grad():
                self.outputs, self.losses = examples.through(tensors, 0, n, [backward.visit])
            try:
                backward.run(self.losses)  # type: ignore[arg-type]
                return
            except RuleError as error:
                excluded = self.plan.leftover | dict.fromkeys(error.names, str(error))
                self.plan = Plan.of(self._network, excluded)
                self.forms.clear()

    @property
    def ways(self) -> dict[str, str]:
        """How each layer's gradients come: "rows", "vmap", "loop", or two of them joined by "+"."""
        ways: dict[str, set[str]] = {layer.name: set() for layer in self._network.layers}
        for name, layer in self.plan.layer_of.items():
            rest = self.leftover is not None and name in self.plan.leftover
            ways[layer].add(self.leftover.way if rest and self.leftover else "rows")
        return {layer: "+".join(sorted(kinds)) for layer, kinds in ways.items()}


def left_over(
    leftover: Leftover, tensors: Mapping[str, Tensor], examples: Examples, start: int, stop: int
) -> dict[str, Form]:
    """Gradients without a rule, of some examples."""
    rows = leftover.rows(tensors, *examples.cut(start, stop), stop - start)
    return {name: Full(values) for name, values in rows.items()}
