"""One state of a network: its table with one set of weights, run on any examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analyze.arrays.classes import correct_share
from analyze.replay import batch_norm, derivatives
from analyze.replay.examples import Examples
from analyze.replay.float64 import as_double
from tracer import bits
from tracer.errors import ArgumentError, MissingTraceError, did_you_mean
from tracer.network import Heard, Network
from tracer.probe.memory import chunk_sizes
from tracer.rerun import observe, part, places, settled
from tracer.spec.correctness import UNSAID

Given = Any  # Examples, the name of a probe, or inputs (a tensor or a tuple of them)


class State:
    """A network with one set of weights. Nothing here changes it: `with_tensors` makes another one.

    step: of the snapshot the weights come from. network: the table. tensors: parameters and buffers by
    name, as stored. parameters: names of the trainable ones, in the order of the layers. layers: layer to
    its parameters. exact: whether the recorded outputs came out bit for bit (None: none are recorded at
    this step, or the weights were changed).

    Every method takes `examples`: `Examples` (of `probe`), the name of a probe, or plain inputs, then with
    `targets` where a loss is needed. They go through in chunks, so memory stays bounded. `masks` (site to
    bool (example, unit), as `masks` returns) holds the nonlinearities to fixed on/off patterns.
    """

    def __init__(
        self,
        step: int,
        network: Network,
        tensors: Mapping[str, Tensor],
        *,
        probe: Callable[[str], Examples] | None = None,
        memory: int = 1 << 30,
        exact: bool | None = None,
    ) -> None:
        self.step, self.network, self.tensors, self.exact = step, network, dict(tensors), exact
        self.layers = {layer.name: layer.parameters for layer in network.layers}
        self.parameters = [name for names in self.layers.values() for name in names]
        self._probe, self.memory = probe, memory

    def __repr__(self) -> str:
        return f"<State of step {self.step}: {len(self.tensors)} tensors, exact={self.exact}>"

    @property
    def device(self) -> torch.device:
        """Where its tensors are; the processor if it has none."""
        return next((tensor.device for tensor in self.tensors.values()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters, float64 after `double`."""
        return next((t.dtype for t in self.tensors.values() if t.is_floating_point()), torch.float32)

    def probe(self, name: str, limit: int | None = None) -> Examples:
        """The examples of a probe, or its first `limit`."""
        if self._probe is None:
            raise MissingTraceError(f"this state knows no probes, {name!r} neither; give inputs and targets")
        examples = self._probe(name).first(limit)
        return examples.double() if self.dtype == torch.float64 else examples

    # ---- other states ----

    def with_tensors(self, changes: Mapping[str, Tensor]) -> State:
        """The same network with some tensors replaced; the others are shared, so this costs nothing."""
        for name, tensor in changes.items():
            if name not in self.tensors:
                raise MissingTraceError(f"there is no tensor {name!r}; {did_you_mean(name, self.tensors)}")
            if tensor.shape != self.tensors[name].shape:
                raise ArgumentError(
                    f"{name!r} has shape {tuple(self.tensors[name].shape)}, got {tuple(tensor.shape)}"
                )
        moved = {name: tensor.to(self.tensors[name]) for name, tensor in changes.items()}
        return self._other(self.network, self.tensors | moved)

    def with_batch_norm_from(self, examples: Given) -> State:
        """The same weights with running statistics of BatchNorm taken anew from these examples.

        As in training: layer after layer, each normalised by what it sees now. Several chunks are averaged
        by their number of examples; each chunk is normalised by itself. Without BatchNorm, the same state.
        """
        chosen = self.suited(examples)
        chunks = [part(chosen.inputs, a, b) for a, b in self._chunks(chosen, derivative=False)]
        statistics = batch_norm.statistics(self.network, self.tensors, chunks)
        return self.with_tensors(statistics) if statistics else self

    def double(self) -> State:
        """The same state in float64, network, weights and constants: slower, and exact to 1e-15."""
        tensors = {name: t.double() if t.is_floating_point() else t for name, t in self.tensors.items()}
        return self._other(as_double(self.network), tensors)

    def movable(self) -> State:
        """The same state with weights that can be moved by little: in float64 where one has less than 32 bits."""
        small = any(self.tensors[name].dtype.itemsize < 4 for name in self.parameters)
        return self.double() if small else self

    def _other(self, network: Network, tensors: Mapping[str, Tensor]) -> State:
        return State(self.step, network, tensors, probe=self._probe, memory=self.memory)

    # ---- weights as one vector ----

    def flat(self, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        """Trainable parameters (or a gradient with their names) end to end, (P,)."""
        if not self.parameters:
            raise MissingTraceError("needs parameters that are trained; the network of this archive has none")
        named = self.tensors if tensors is None else tensors
        return torch.cat([named[name].reshape(-1) for name in self.parameters])

    def unflat(self, vector: Tensor) -> dict[str, Tensor]:
        """The reverse of `flat`: by name, each in its shape; feed it to `with_tensors`."""
        shapes = [self.tensors[name].shape for name in self.parameters]
        pieces = vector.split([shape.numel() for shape in shapes])
        return {
            name: piece.reshape(shape)
            for name, piece, shape in zip(self.parameters, pieces, shapes, strict=True)
        }

    # ---- forward ----

    def outputs(self, examples: Given, *, masks: Mapping[str, Tensor] | None = None) -> Tensor:
        """Outputs of the model, (example, ...)."""
        chosen = self.suited(examples)
        return torch.cat([outputs for outputs, _ in self._run(chosen, masks, losses=False)])

    def losses(
        self, examples: Given, targets: Any = None, *, masks: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Loss of each example, (example,)."""
        chosen = self._with_targets(examples, targets)
        pieces = [losses for _, losses in self._run(chosen, masks, losses=True) if losses is not None]
        return torch.cat(pieces)

    def loss(
        self, examples: Given, targets: Any = None, *, masks: Mapping[str, Tensor] | None = None
    ) -> float:
        """Mean loss of the examples that the loss counts, added up in float64."""
        chosen = self._with_targets(examples, targets)
        return chosen.mean(self.losses(chosen, masks=masks))

    def correct(self, examples: Examples, outputs: Any = None) -> np.ndarray:
        """Share of each example's answers that are correct, float64 (example,); see `derived.correct_share`.

        outputs: of these examples, where they are there already. MissingTraceError where the loss knows no
        correctness.
        """
        examples = self.suited(examples)
        if examples.rule is not None and examples.rule.stated:
            return self._stated(examples)
        if not isinstance(examples.targets, Tensor):
            raise MissingTraceError("targets are not one tensor, so there is no error to count")
        known = self.outputs(examples) if outputs is None else outputs
        values, targets = (np.asarray(_plain(tree)) for tree in (known, examples.targets))
        return correct_share(values[None], targets, examples.rule)[0]

    def _stated(self, examples: Examples) -> np.ndarray:
        if self.network.correct is None:
            raise MissingTraceError(UNSAID)
        shares = []
        with settled(grad=False):
            for start, stop in self._chunks(examples, derivative=False):
                heard = Heard(self.network)
                self.run_chunk(self.tensors, examples, start, stop, {}, losses=True, visit=heard)
                shares.append(heard.value[: stop - start].double().cpu().numpy())  # type: ignore[index]
        return np.concatenate(shares)

    def masks(self, examples: Given) -> dict[str, Tensor]:
        """Which units are on, bool (example, unit), by site; only sites that have masks."""
        chosen = self.suited(examples)
        packed = self._observe(chosen, "masks")["bits"]
        return {
            name: torch.from_numpy(bits.unpack(packed[units], chosen.n)).to(self.device).contiguous()
            for name, units in places(self.network, "masks")
        }

    def activations(self, examples: Given) -> dict[str, Tensor]:
        """Outputs of every site, float32 (example, unit), on the processor."""
        values = torch.from_numpy(self._observe(self.suited(examples), "activations")["values"])
        return {name: values[:, units] for name, units in places(self.network, "activations")}

    def sums(self, examples: Given) -> tuple[np.ndarray, np.ndarray]:
        """Sums of the outputs of each call and of each site: float64 (example, call) and (example, site)."""
        sums = self._observe(self.suited(examples), "sums")
        return sums["pre"], sums["post"]

    # ---- backward ----

    def gradient(
        self, examples: Given, targets: Any = None, *, masks: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Gradient of `loss` by trainable parameter."""
        chosen = self._with_targets(examples, targets)
        return derivatives.gradient(self, chosen, self._chunks(chosen, derivative=True), masks or {})

    def loss_and_gradient(self, examples: Given, targets: Any = None) -> tuple[float, dict[str, Tensor]]:
        """Mean loss as in `loss` and its gradient by trainable parameter: of one pass."""
        chosen = self._with_targets(examples, targets)
        chunks = self._chunks(chosen, derivative=True)
        losses, gradients = derivatives.with_losses(self, chosen, chunks, {})
        return chosen.mean(losses), gradients

    def per_example_gradients(self, examples: Given, targets: Any = None) -> dict[str, Tensor]:
        """Gradient of each example's loss: (example, *shape) by trainable parameter; all are held at once."""
        chosen = self._with_targets(examples, targets)
        return derivatives.per_example(self, chosen, self._chunks(chosen, derivative=True))

    def gram(self, examples: Given, targets: Any = None) -> Tensor:
        """Inner products of the examples' gradients within each layer: float64 (layer, example, example)."""
        chosen = self._with_targets(examples, targets)
        return derivatives.gram(self, chosen, self._chunks(chosen, derivative=True))

    def hvp(self, vector: Mapping[str, Tensor], examples: Given, targets: Any = None) -> dict[str, Tensor]:
        """Hessian of `loss` times a vector, both by trainable parameter."""
        chosen = self._with_targets(examples, targets)
        return derivatives.hvp(self, vector, chosen, self._chunks(chosen, derivative=True))

    # ---- inside ----

    def suited(self, examples: Given) -> Examples:
        """Examples given in any way, with numbers as the weights are."""
        if isinstance(examples, str):
            return self.probe(examples)
        chosen = examples if isinstance(examples, Examples) else Examples(examples)
        return chosen.double() if self.dtype == torch.float64 else chosen

    def _with_targets(self, examples: Given, targets: Any) -> Examples:
        chosen = self.suited(examples)
        if targets is not None:
            chosen = self.suited(Examples(chosen.inputs, targets, chosen.chunks, rule=chosen.rule))
        if chosen.targets is None and self.network.targets:
            raise MissingTraceError("a loss needs targets: give examples that have them, or targets=")
        if self.network.no_loss:
            raise MissingTraceError(f"the loss cannot be computed: {self.network.no_loss}")
        if self.network.losses is None:
            raise MissingTraceError(
                "this network was recorded without a loss; give the loss along with model="
            )
        return chosen

    def _chunks(self, examples: Examples, *, derivative: bool) -> list[tuple[int, int]]:
        """Bounds of the chunks: those of the probe, cut further where a derivative needs more memory."""
        backward, forward = chunk_sizes(self.network, self.memory, None)
        limit = backward if derivative else forward
        chunks = examples.chunks or [(0, examples.n)]
        return [(a, min(a + limit, stop)) for start, stop in chunks for a in range(start, stop, limit)]

    def _run(
        self, examples: Examples, masks: Mapping[str, Tensor] | None, *, losses: bool
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Outputs and losses of each chunk."""
        with settled(grad=False):
            return [
                self.run_chunk(self.tensors, examples, start, stop, masks or {}, losses=losses)
                for start, stop in self._chunks(examples, derivative=False)
            ]

    def run_chunk(
        self,
        tensors: Mapping[str, Tensor],
        examples: Examples,
        start: int,
        stop: int,
        masks: Mapping[str, Tensor],
        *,
        losses: bool,
        visit: Any = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs and losses of some of the examples with these tensors; grad mode is the caller's."""
        size = self.network.batch
        inputs = part(examples.inputs, start, stop, size)
        targets = part(examples.targets, start, stop, size) if losses else None
        fixed = {name: part(mask, start, stop, size).contiguous() for name, mask in masks.items()}
        outputs, computed = self.network.run(tensors, inputs, targets, masks=fixed, visit=visit)
        return outputs[: stop - start], None if computed is None else computed[: stop - start]

    def _observe(self, examples: Examples, stream: str) -> dict[str, np.ndarray]:
        bounds = self._chunks(examples, derivative=False)
        return observe(self.network, self.tensors, examples.inputs, bounds, stream)


def _plain(values: Any) -> Any:
    """A tensor as NumPy knows it; bfloat16, which it lacks, in float64."""
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()
