"""The arrays an archive holds, by the names metrics ask for; what is computed from them is in `derived`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from analyze.arrays import View, source
from tracer.archive.sketches import descent_rates
from tracer.errors import MissingTraceError


class Lazy(Sequence[Any]):
    """One item a snapshot, loaded when it is looked at and not kept."""

    def __init__(self, steps: Sequence[int], load: Callable[[int], Any]) -> None:
        self._steps, self._load = steps, load

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return Lazy(self._steps[position], self._load)
        return self._load(int(self._steps[position]))


class Gradients(dict[str, Any]):
    """Per-example gradients of one snapshot: tensor name to (example, *shape), loaded when looked at."""

    def __init__(self, view: View, step: int) -> None:
        super().__init__(dict.fromkeys(view.get("gradient_tensors")))
        self._view, self._step = view, step

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self:
            raise KeyError(name)
        return self._view.joined(lambda probe: probe.gradients(name, self._step))

    def linear_factors(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Inputs (example, in) and signals (example, out) of which a gradient is z_i a_i', where it is; else None."""
        parts = [(probe.linear_factors(name, self._step), count) for probe, count in self._view.parts()]
        if any(part is None for part, _ in parts):
            return None
        a, z = (np.concatenate([part[side][:count] for part, count in parts if part]) for side in (0, 1))
        return a, z

    def items(self) -> Iterator[tuple[str, np.ndarray]]:  # type: ignore[override]
        """Names and gradients, one tensor in memory at a time."""
        return ((name, self[name]) for name in self)

    def values(self) -> Iterator[np.ndarray]:  # type: ignore[override]
        """Gradients, one tensor in memory at a time."""
        return (self[name] for name in self)


# ---- in time ----


@source("outputs", "step", "example", "output", stream="outputs")
def _outputs(view: View) -> np.ndarray:
    return view.per_example(lambda probe, step: probe.outputs(step))


@source("token_log_probs", "step", "example", "token", stream="tokens")
def _token_log_probs(view: View) -> np.ndarray:
    return view.per_example(lambda probe, step: probe.tokens(step)["log_prob"]).astype(np.float64)


@source("token_correct", "step", "example", "token", stream="tokens")
def _token_correct(view: View) -> np.ndarray:
    return view.per_example(lambda probe, step: probe.tokens(step)["correct"]).astype(np.float64)


@source("token_losses", "step", "example", "token", stream="tokens")
def _token_losses(view: View) -> np.ndarray:
    return view.per_example(_loss_of_tokens).astype(np.float64)


def _loss_of_tokens(probe: Any, step: int) -> np.ndarray:
    tokens = probe.tokens(step)
    if "loss" not in tokens:
        raise MissingTraceError(
            f"probe {probe.name!r} has no loss of each token, since no row of the network gives one: have the loss "
            "average over the tokens of an example, or read token_log_probs"
        )
    return tokens["loss"]


@source("losses", "step", "example", needs=("correctness",), stream="outputs")
def _losses(view: View) -> np.ndarray:
    """NaN of examples that the loss leaves out: what is stored of them is 0, and no loss."""
    losses = view.per_example(lambda probe, step: probe.losses(step)).astype(np.float64)
    rule = view.get("correctness")
    if rule is not None and rule.kind == "class" and not rule.stated:
        losses[:, ~rule.has_answers(view.get("targets"))] = np.nan
    return losses


@source("sums_pre", "step", "example", "call", stream="sums")
def _sums_pre(view: View) -> np.ndarray:
    return view.per_example(lambda probe, step: probe.sums(step)[0])


@source("sums_post", "step", "example", "any_site", stream="sums")
def _sums_post(view: View) -> np.ndarray:
    return view.per_example(lambda probe, step: probe.sums(step)[1])


@source("bits", "step", "unit", "byte", stream="masks", itemsize=1)
def _bits(view: View) -> list[np.ndarray]:
    """Packed masks of each snapshot; probes side by side along `byte`, each on its own whole bytes."""
    return [read_bits(view, step) for step in view.steps]


def read_bits(view: View, step: int) -> np.ndarray:
    """Packed masks (unit, byte) at one step, of the view's sites and probes."""
    joint = [probe.bits(step) for probe, _ in view.parts()]
    units = [
        np.arange(site["start"], site["start"] + site["n_units"], dtype=np.int64)
        for site in view.masked_sites
    ]
    if view.sites is not None:
        joint = [bits[np.concatenate(units)] for bits in joint]
    return joint[0] if len(joint) == 1 else np.concatenate(joint, axis=1)


@source("activations", "step", "example", "any_unit", stream="activations", itemsize=4)
def _activations(view: View) -> list[np.ndarray]:
    _refuse_linear(view)
    return [activations_at(view, site, view.steps) for site in view.archive.sites]


def _refuse_linear(view: View) -> None:
    if not view.archive.sites:
        raise MissingTraceError(
            "the network has no nonlinearity that was recorded, so there are no activations to compare"
        )


def activations_at(view: View, site: str, steps: Sequence[int]) -> np.ndarray:
    """Post-activation values (step, example, unit) of one site."""
    rows = [view.joined(lambda probe, s=step: probe.activations(site, s)) for step in steps]  # type: ignore[misc]
    return np.stack([row.reshape(len(row), -1) for row in rows])


@source(
    "gradients", "step", "element", stream="gradients", needs=("gradient_tensors",), itemsize=4, lazy=True
)
def _gradients(view: View) -> Lazy:
    return Lazy(view.steps, lambda step: Gradients(view, step))


def refuse_complex(view: View) -> None:
    """MissingTraceError where a trainable parameter is complex: metrics of weights take them for real numbers."""
    for tensor in view.archive.tensors:
        if tensor.get("trainable") and str(tensor.get("dtype")).startswith("complex"):
            raise MissingTraceError(
                f"parameter {tensor['name']!r} is complex, and norms, steps and noise are defined for real weights "
                "alone; hold it as its real and imaginary part, as torch.view_as_complex takes them"
            )


@source("weights", "step", "element", stream="weights", itemsize=8, lazy=True)
def _weights(view: View) -> Lazy:
    refuse_complex(view)
    return Lazy(view.steps, view.archive.weights)


@source("step", "step")
def _step(view: View) -> np.ndarray:
    return np.asarray(view.steps, np.int64)


@source("epoch", "step")
def _epoch(view: View) -> np.ndarray:
    return np.array([view.archive.epoch_of(step) for step in view.steps], np.int64)


@source("epoch_end", "step")
def _epoch_end(view: View) -> np.ndarray:
    return np.isin(view.steps, view.archive.epoch_ends)


@source("lr", "step", "param_group")
def _lr(view: View) -> np.ndarray:
    rows = view.archive.rows
    rate = np.asarray(rows["lr"], np.float64)
    at = np.searchsorted(rows["step"], view.steps)
    return rate.reshape(len(rate), -1)[at]


@source("descent_rate", "step", "param_group", needs=("lr",))
def _descent_rate(view: View) -> np.ndarray:
    """Learning rates along the negative gradient: below 0 of groups that an optimizer with maximize=True moves up."""
    return descent_rates(view.archive, view.steps)


# ---- the same at every snapshot ----


@source("alpha", of="data")
def _alpha(view: View) -> np.ndarray:
    alpha = view.archive.data.alpha
    if alpha is None:
        raise MissingTraceError(
            "the training set was stored without complexities, its notes say why; record with data=dataset "
            "whose inputs are numbers and not augmented"
        )
    return alpha


@source("alpha_ids", of="data")
def _alpha_ids(view: View) -> np.ndarray:
    return view.archive.data.ids


@source("layer")
def _layer(view: View) -> np.ndarray:
    return np.array([*view.archive.layers, "all"])


@source("site", "site")
def _site(view: View) -> np.ndarray:
    return np.array([site["name"] for site in view.masked_sites])


@source("any_site")
def _any_site(view: View) -> np.ndarray:
    return np.array(list(view.archive.sites))


@source("calls")
def _calls(view: View) -> np.ndarray:
    return np.array(list(view.archive.calls))


@source("call_units")
def _call_units(view: View) -> np.ndarray:
    return np.array([prod(call["shape"]) for call in view.archive.call_table], np.int64)


@source("site_units")
def _site_units(view: View) -> np.ndarray:
    return np.array([site["n_units"] for site in view.archive.site_table], np.int64)


@source("layer_tensors")
def _layer_tensors(view: View) -> dict[str, list[str]]:
    """Trainable parameters by layer; where no network was recorded, by the module that holds them."""
    if view.archive.layer_table:
        return {layer["name"]: list(layer["parameters"]) for layer in view.archive.layer_table}
    modules: dict[str, list[str]] = {}
    for tensor in view.archive.tensors:
        if tensor["trainable"]:
            modules.setdefault(tensor["name"].rpartition(".")[0] or tensor["name"], []).append(tensor["name"])
    return modules


@source("tensors")
def _tensors(view: View) -> list[dict[str, Any]]:
    return [dict(tensor) for tensor in view.archive.tensors]


@source("card", of="card")
def _card(view: View) -> dict[str, Any]:
    return dict(view.archive.card)


@source("rows", of="rows")
def _rows(view: View) -> dict[str, np.ndarray]:
    return dict(view.archive.rows)


@source("milestones", of="rows")
def _milestones(view: View) -> Any:
    return view.archive.milestones


@source("initial_weights", stream="weights", of="first")
def _initial_weights(view: View) -> dict[str, np.ndarray]:
    refuse_complex(view)
    return view.archive.weights(int(view.archive.steps("weights")[0]))


@source("activations_first", "example", "any_unit", stream="activations", of="first")
def _activations_first(view: View) -> list[np.ndarray]:
    return _activations_end(view, 0)


@source("activations_last", "example", "any_unit", stream="activations", of="last")
def _activations_last(view: View) -> list[np.ndarray]:
    return _activations_end(view, -1)


def _activations_end(view: View, position: int) -> list[np.ndarray]:
    _refuse_linear(view)
    step = int(next(view.parts())[0].steps("activations")[position])
    return [activations_at(view, site, [step])[0] for site in view.archive.sites]


@source("gradient_tensors", stream="gradients", needs=("layer_tensors",), of="first")
def _gradient_tensors(view: View) -> list[str]:
    first, _ = next(view.parts())
    step = int(first.steps("gradients")[0])
    names = [name for names in view.get("layer_tensors").values() for name in names]
    return [name for name in names if _has_gradient(first, name, step)]


def _has_gradient(probe: Any, name: str, step: int) -> bool:
    try:
        probe.gradients(name, step)
    except MissingTraceError:
        return False
    return True


@source("ids", "example")
def _ids(view: View) -> np.ndarray:
    return view.joined(lambda probe: probe.ids)


@source("split", "example")
def _split(view: View) -> np.ndarray:
    return np.repeat([probe.split for probe, _ in view.parts()], view.counts)


@source("probe", "example")
def _probe(view: View) -> np.ndarray:
    return np.repeat(list(view.probes), view.counts)


def _optional(view: View, name: str, hint: str) -> np.ndarray:
    absent = [probe for probe, _ in view.parts() if getattr(probe, name) is None]
    if absent and (several := absent[0].n_tensors(name)):
        raise MissingTraceError(f"{name} are {several} tensors an example, and this needs one")
    if absent:
        raise MissingTraceError(f"probe {absent[0].name!r} holds no `{name}`; {hint}")
    return view.joined(lambda probe: getattr(probe, name))


@source("inputs", "example")
def _inputs(view: View) -> np.ndarray:
    return _optional(view, "inputs", "record the probe with its inputs")


@source("targets", "example")
def _targets(view: View) -> np.ndarray:
    return _optional(view, "targets", "record the probe with its targets")


@source("raw", "example")
def _raw(view: View) -> np.ndarray:
    return _optional(view, "raw", "give tracer.Probe(raw=...) the inputs before normalisation")


@source("true_targets", "example")
def _true_targets(view: View) -> np.ndarray:
    return _optional(view, "true_targets", "give tracer.Probe(true_targets=...) the uncorrupted targets")


@source("group", "example")
def _group(view: View) -> np.ndarray:
    return _optional(view, "group", "give tracer.Probe(group=...) a group for each example")
