"""What a model is made of, so that a change of it during training is noticed at the next snapshot."""

import weakref
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from tracer.network import Network
from tracer.network.copies import named_tensors, unwrap, unwrapped_name
from tracer.probe.passes import ProbePass
from tracer.spec import stream_of

_MOST = 4  # changes told one by one


class _Tensor(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype
    trainable: bool  # now, or at a time before: its gradients are recorded


class Structure:
    """The modules of a model and the shapes and dtypes of its tensors at one time; `named`: these, if they are at hand.

    before: that of an earlier time. A tensor that was trainable then counts as trainable, frozen or not.

    >>> before = Structure(nn.Linear(2, 3))
    >>> before.changes(Structure(nn.Linear(2, 4)))[0]
    "'weight' has shape (4, 2) instead of (3, 2)"
    """

    def __init__(
        self,
        model: nn.Module,
        named: Mapping[str, torch.Tensor] | None = None,
        before: "Structure | None" = None,
    ) -> None:
        inner = unwrap(model)
        trainable = {unwrapped_name(name) for name, p in inner.named_parameters() if p.requires_grad}
        if before is not None:
            trainable |= {name for name, tensor in before._tensors.items() if tensor.trainable}
        self._tensors: dict[str, _Tensor] = {
            name: _Tensor(tuple(tensor.shape), tensor.dtype, name in trainable)
            for name, tensor in (named_tensors(model) if named is None else named).items()
        }
        self._modules = [(unwrapped_name(name), weakref.ref(m)) for name, m in inner.named_modules()]

    def changes(self, now: "Structure") -> list[str]:
        """What is different now, one phrase for each tensor, or for the first module where no tensor is."""
        before, after = self._tensors, now._tensors
        phrases = [f"{name!r} is gone" for name in before if name not in after]
        phrases += [f"{name!r} is new" for name in after if name not in before]
        for name in before:
            if name in after:
                phrases += _difference(name, before[name], after[name])
        if not phrases:
            phrases += self._other_modules(now)[:1]
        return phrases

    def _other_modules(self, now: "Structure") -> list[str]:
        before, after = dict(self._modules), dict(now._modules)
        return [
            f"module {name!r} is another one"
            for name in [*after, *before]
            if name not in before or name not in after or before[name]() is not after[name]()
        ]


def _difference(name: str, before: _Tensor, after: _Tensor) -> list[str]:
    if before.shape != after.shape:
        return [f"{name!r} has shape {after.shape} instead of {before.shape}"]
    if before.dtype != after.dtype:
        return [f"{name!r} is {after.dtype} instead of {before.dtype}"]
    if after.trainable and not before.trainable:
        return [f"{name!r} has become trainable, and its gradients are not recorded"]
    return []


def told(phrases: Collection[str]) -> str:
    """A few of them and the number of the others."""
    rest = len(phrases) - _MOST
    return ", ".join(list(phrases)[:_MOST]) + (f" and {rest} more" if rest > 0 else "")


def surviving(before: ProbePass, now: ProbePass, network: Any, other: Any) -> set[str]:
    """Streams of a pass that mean the same in another one, made of a network that took the place of the first."""
    sites = [(site.name, site.shape, site.has_mask) for site in network.sites]
    same_sites = sites == [(site.name, site.shape, site.has_mask) for site in other.sites]
    same_calls = [(x.name, x.shape) for x in network.calls] == [(x.name, x.shape) for x in other.calls]
    same = {
        "outputs": True,
        "tokens": True,
        "masks": same_sites,
        "activations": same_sites,
        "sums": same_sites and same_calls,
        "gradients": network.layers == other.layers and before.mode == now.mode,
    }
    survivors = {stream for stream in before.streams & now.streams if same[stream]}
    for group, arrays in before.layout.items():
        blocks = [p.attributes.get(group, {}).get("blocks") for p in (before, now)]
        if now.layout.get(group) != arrays or blocks[0] != blocks[1]:
            survivors.discard(stream_of(group))
    return survivors


def tensors_of(network: Any) -> set[str]:
    """Names of the tensors a network runs with."""
    if isinstance(network, Network):
        return {*network.parameters, *network.buffers}
    return {name for layer in network.layers for name in layer.parameters}
