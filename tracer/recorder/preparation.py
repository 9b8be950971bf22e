"""Before a model is probed: whether it takes its examples, where they must lie, what its loss does not reach."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tracer.errors import ArchiveError, RecordError, first_line
from tracer.network import Network
from tracer.network.checks import reached
from tracer.network.checks import some as first_of
from tracer.network.copies import memory_returned, named_tensors, passing_copy, private_copy, quiet, unwrap
from tracer.network.estimate import Estimate, estimate
from tracer.network.loss_kind import judged
from tracer.network.objective import (
    Objective,
    Scored,
    call_model,
    objective_of,
    per_example,
    said_targets,
)
from tracer.network.pytree import cloned, examples_in, first_tensor, leaves_of, rebuild, take, whole
from tracer.network.table import DTYPES
from tracer.probe import Probe, ProbePass, fitting
from tracer.probe.answers import TOP, WHOLE
from tracer.probe.memory import chunks_of
from tracer.probe.needs import Needs
from tracer.recorder.forward.untraced import EagerNetwork
from tracer.recorder.structure import told
from tracer.spec import PROBE_STREAMS
from tracer.spec.correctness import Correctness
from tracer.writer import Writer

TRACED_WITH = 8  # examples shown to the tracer and the checks
_FIXED = 64  # examples in a table of a fixed number
_SURE = 1.25  # how much more than allowed an estimate must be to be believed
_SMALL = 1024  # a model so many times smaller than the memory is traced sooner than estimated
_KEPT = 8  # times the activations of an example that they take: a check holds two passes beside each other


@contextmanager
def in_one_sentence(writer: Callable[[], Writer | None]) -> Iterator[None]:
    """Make a RecordError of whatever goes wrong before training starts, and close what was begun to be written."""
    try:
        yield
    except BaseException as error:
        if (begun := writer()) is not None:
            begun.close("interrupted")
        if not isinstance(error, Exception) or isinstance(
            error, RecordError | ArchiveError | OSError | Warning
        ):
            raise
        raise RecordError(
            f"The recording could not begin ({first_line(error)}): give probes={{}} to record ids, scalars and weights "
            "alone."
        ) from error


def check_model(model: nn.Module) -> None:
    """RecordError naming a parameter or buffer that has no values, or none that an archive can hold."""
    inner = unwrap(model)
    for name, tensor in [*inner.named_parameters(), *inner.named_buffers()]:
        if is_lazy(tensor):
            problem = "is not initialised yet: run one batch through the model first"
        elif tensor.is_meta:
            problem = "is on the meta device and has no values: load or initialise the model first"
        elif tensor.layout != torch.strided or tensor.is_quantized:
            problem = "is sparse or quantized, which archives do not hold: record a dense model"
        elif tensor.dtype not in DTYPES.values():
            problem = f"is {tensor.dtype}, which archives do not hold: use a floating-point or integer dtype"
        else:
            continue
        raise RecordError(f"Tensor {name!r} of the model {problem}.")


def check_accepted(
    model: nn.Module, name: str, inputs: Any, targets: Any, *, loss: Any, objective: Objective | None
) -> list[str]:
    """RecordError naming the probe where the model, its loss or the objective refuses its examples; else what to say.

    With an objective, nothing but the objective calls the model.
    """
    with quiet(model, loss, objective, grad=True):  # all that a pass holds is let go before it ends
        return _check_accepted(model, name, cloned(inputs), cloned(targets), loss, objective)


def _check_accepted(
    model: nn.Module, name: str, inputs: Any, targets: Any, loss: Any, objective: Objective | None
) -> list[str]:
    shapes = _told(inputs)
    with passing_copy(model) as replica:
        if objective is not None:
            try:
                scored = objective_of(None, objective)(replica, inputs, targets)
                check_scored(scored, examples_in(inputs))
            except RecordError as error:
                raise RecordError(f"Probe {name!r}: {error}") from error
            except Exception as error:
                raise RecordError(
                    f"Probe {name!r}: objective= fails on a batch of its examples, inputs {shapes} and targets "
                    f"{_told(targets)} ({_cause(error)}): it is called as objective(model, inputs, targets), on a few "
                    "examples at a time, and returns (outputs, losses) with one loss per example."
                ) from error
            _check_own(scored.losses, model, _PAST["objective"])
            return []
        try:
            outputs = call_model(replica, inputs)
        except Exception as error:
            raise RecordError(
                f"Probe {name!r}: the model refuses a batch of its inputs, {shapes} ({_cause(error)}): bring the probe "
                "into the form of the training batches, or pass objective=(model, inputs, targets) -> (outputs, "
                "losses) where the model is called in another way."
            ) from error
        _check_own(first_tensor(outputs), model, _PAST["model"])
        if loss is None:
            return []
        kind_of = f"a {type(outputs).__name__}"
        if not isinstance(outputs, torch.Tensor) and _floating(outputs) != 1:
            raise RecordError(
                f"Probe {name!r}: the model returns {kind_of}, and loss= takes models that return one tensor: pass "
                "objective=(model, inputs, targets) -> (outputs, losses), which says what of it are the outputs."
            )
        try:
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                losses = (of_each := per_example(loss))(outputs, targets)
        except RecordError as error:
            raise RecordError(f"Probe {name!r}: {error}") from error
        except Exception as error:
            what = _told(outputs) if isinstance(outputs, torch.Tensor) else kind_of
            raise RecordError(
                f"Probe {name!r}: the loss refuses outputs {what} with targets {_told(targets)} ({_cause(error)}): "
                "bring the targets into the form of the training batches, or pass objective=(model, inputs, targets) "
                "-> (outputs, losses)."
            ) from error
        crossed = isinstance(targets, torch.Tensor) and targets.ndim != outputs.ndim
        if crossed and any(_BROADCAST in str(warning.message) for warning in heard):
            raise RecordError(
                f"Probe {name!r}: the loss compares outputs {_told(outputs)} with targets {_told(targets)}, where by "
                "broadcasting every example meets the targets of all others: give both one shape, as by y[:, None], or "
                "a loss= that takes the outputs' last axis off."
            )
        _check_own(losses, model, _PAST["loss"])
        return of_each.told(outputs, targets)


_BROADCAST = "different to the input size"  # what PyTorch warns of

# Who computes with the model that trains in the place of the copy of it that probes go through, and what to do.
_PAST = {
    "model": "The model's forward reaches {} of itself past self (through a global variable, say), so that no copy of "
    "it can be made: reach them through self.",
    "loss": "loss= computes with {} of the model, and is recorded as a function of outputs and targets alone: pass "
    "objective=(model, inputs, targets) -> (outputs, losses), which takes them from the model that it is given.",
    "objective": "objective= computes with {} of the model from outside, not of the one that it is given: call its "
    "first argument within it, as in objective(model, inputs, targets).",
}


def _check_own(result: torch.Tensor | None, model: nn.Module, sentence: str) -> None:
    """RecordError where what a private copy was asked for depends on parameters of the model itself."""
    if result is not None and (names := reached(result, model)):
        raise RecordError(sentence.format(told(list(map(repr, names)))))


def check_scored(scored: Scored, n: int) -> None:
    """RecordError where what an objective returned of n examples is not outputs and a number for each of them."""
    outputs = first_tensor(scored.outputs)
    if outputs is None or len(outputs) != n:
        told = "hold no floating-point tensor" if outputs is None else f"have shape {list(outputs.shape)}"
        raise RecordError(f"the objective's outputs {told}, expected one of {n} examples, examples first")
    for name, value in (("losses", scored.losses), ("correct", scored.correct)):
        if value is None and name == "correct":
            continue
        if not isinstance(value, torch.Tensor) or value.shape != (n,):
            told = (
                f"of shape {list(value.shape)}"
                if isinstance(value, torch.Tensor)
                else f"a {type(value).__name__}"
            )
            one = "one loss per example" if name == "losses" else "one number for each example"
            raise RecordError(
                f"the objective must give {one}: {name} are {told}, expected a tensor of shape [{n}]"
            )


def _told(tree: Any) -> str:
    return ", ".join(f"{list(leaf.shape)} {leaf.dtype}" for leaf in leaves_of(tree)) or "none"


def _cause(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _floating(tree: Any) -> int:
    """Number of floating-point tensors with axes in a nest, mappings and dataclasses included."""
    if isinstance(tree, torch.Tensor):
        return int(tree.is_floating_point() and tree.ndim > 0)
    if hasattr(tree, "__dataclass_fields__") and not isinstance(tree, type):
        tree = [getattr(tree, field) for field in tree.__dataclass_fields__]
    elif hasattr(tree, "values"):
        tree = list(tree.values())
    return sum(map(_floating, tree)) if isinstance(tree, tuple | list) else 0


def examples_to_trace_with(
    model: nn.Module, probes: Mapping[str, Probe], options: Mapping[str, Any], goal: Mapping[str, Any]
) -> tuple[int, int]:
    """How many examples the tracer and the checks are shown, and how many a table of a fixed number takes.

    Fewer than usual where they would fill the memory. RecordError, before anything is traced, where what was asked for
    clearly cannot fit.
    """
    probe, memory, gradients = next(iter(probes.values())), options["memory"], options["gradients"]
    two, tensors = some(probe, device_of(named_tensors(model)), 2), named_tensors(model)
    weights = sum(tensor.nbytes for tensor in tensors.values())
    small = (weights + sum(leaf.nbytes for leaf in leaves_of(two))) * _SMALL < memory
    found = None if small else estimate(model, *two, **goal)
    chunk = options["chunk"] or min(_FIXED, max(probe.n for probe in probes.values()))
    if found is None:
        return TRACED_WITH, chunk
    off = () if gradients != "none" else ("gradients",)
    streams = [stream for stream in PROBE_STREAMS if stream in options["streams"] and stream not in off]
    needs = _needs(found, options, weights)
    try:
        fitting.fit(probes, streams, replace(needs, memory=int(_SURE * memory)))
    except RecordError:
        fitting.fit(probes, streams, needs)  # refuses too, and says how much there is
    few = max(2, min(TRACED_WITH, memory // (_KEPT * max(1, found.nbytes))))
    return few, min(chunk, needs.chunks[0])


def _needs(e: Estimate, options: Mapping[str, Any], weights: int) -> Needs:
    """What a probe pass would take, by an estimate."""
    chunk, most = options["chunk"], options["sketch"].numbers
    numbers, classes = prod(e.outputs), max(e.outputs, default=1)
    outputs = 4 * numbers if classes <= WHOLE else numbers // classes * 8 * TOP
    one = {"outputs": outputs + 8, "sums": 8 * (e.sites + len(e.held)), "activations": 4 * e.units}
    held: dict[tuple[str, ...], int] = {(name,): 4 * size for name, size in e.held.items()}

    def stream(name: str, count: int) -> list[int]:
        return [e.masked * -(-count // 8) if name == "masks" else count * one.get(name, 0)]

    return Needs(
        stream=stream,
        exact=sum(held.values()),
        sketch=sum(4 * min(most, size) for size in e.held.values()),
        gradients=options["gradients"],
        gram=lambda n: 8 * len(held) * n * n,
        flight=(e.nbytes, e.nbytes // 4),  # at least
        padded=0,
        held=held,
        chunks=(chunk, chunk) if chunk else chunks_of(e.nbytes, options["memory"]),
        weights=weights,
        work=None,
        memory=options["memory"],
    )


def layer_of(network: Network | EagerNetwork) -> dict[str, str]:
    """The layer of each trainable parameter."""
    return {name: layer.name for layer in network.layers for name in layer.parameters}


def device_of(tensors: Mapping[str, torch.Tensor]) -> torch.device:
    """Where a model is."""
    return next((tensor.device for tensor in tensors.values()), torch.device("cpu"))


def some(probe: Probe, device: torch.device, n: int = TRACED_WITH) -> tuple[Any, Any]:
    """A few examples from all over a probe, which may be in order of class, where the model is."""
    index = torch.arange(n) % probe.n
    if n < probe.n:
        index = torch.randperm(probe.n, generator=torch.Generator().manual_seed(0))[:n]

    def few(tree: Any) -> Any:
        return rebuild(tree, iter([leaf[index].to(device) for leaf in leaves_of(tree)]))

    return few(probe.inputs), few(probe.targets)


def example_bytes(probes: Mapping[str, Probe]) -> int:
    """Bytes of the probes' inputs and targets in the archive, at most."""
    trees = [(probe.inputs, probe.targets) for probe in probes.values()]
    return sum(8 * leaf.numel() for leaf in leaves_of(trees))


def correctness(
    network: Network | EagerNetwork,
    model: nn.Module,
    probe: Probe,
    n: int,
    *,
    loss: Any,
    objective: Objective | None,
) -> Correctness:
    """What the loss or the objective calls correct."""
    tensors = named_tensors(model)
    inputs, targets = (first_of(tree, network.batch or n) for tree in some(probe, device_of(tensors), n))
    said = None
    if objective is not None and network.correct is not None and getattr(targets, "ndim", 0) == 2:
        with quiet(model, objective, grad=True):
            said = said_targets(objective(private_copy(model), whole(inputs), targets))
    with memory_returned():
        return judged(network, tensors, (inputs, targets), probe.targets, loss, said)


def captured(probe: Probe, passes: ProbePass | None) -> dict[str, int | None]:
    """Of how many examples each stream is recorded; no word of tokens where the model has none."""
    without = () if passes is not None and "tokens" in passes.streams else ("tokens",)
    return {stream: count for stream, count in probe.capture.items() if stream not in without}


def complex_parameters(tensors: Mapping[str, torch.Tensor], network: Network | EagerNetwork) -> list[str]:
    """Names of the trainable parameters that are complex."""
    names = [name for layer in network.layers for name in layer.parameters]
    return [name for name in names if tensors[name].is_complex()]


def _reached(waiting: dict[str, None], name: str, leaf: torch.Tensor) -> None:
    leaf.grad = None  # at once: those of all parameters together take as much as the model
    del waiting[name]


def unreached(
    network: Network | EagerNetwork, tensors: Mapping[str, torch.Tensor], inputs: Any, targets: Any
) -> list[str]:
    """A sentence naming the trainable parameters that the loss does not depend on."""
    names = [name for layer in network.layers for name in layer.parameters]
    unreached = dict.fromkeys(names)
    n = examples_in(inputs)
    size = network.batch or n
    for start in range(0, n, size):
        index = (start + torch.arange(size)) % n
        some = [take(tree, index, n) for tree in (inputs, targets)]
        with torch.inference_mode(False), torch.enable_grad():
            live = {name: tensors[name].detach().requires_grad_() for name in unreached}
            _, losses = network.run({**tensors, **live}, *some)
            if losses is None or not live:
                return []
            if not losses.requires_grad:
                continue
            for name, leaf in live.items():
                leaf.register_post_accumulate_grad_hook(partial(_reached, unreached, name))
            torch.autograd.backward(losses.sum(), inputs=list(live.values()))
    if not unreached:
        return []
    shown = ", ".join(list(unreached)[:5]) + (f" and {len(unreached) - 5} more" if len(unreached) > 5 else "")
    return [
        f"the loss does not depend on {shown}: their gradients are recorded as 0; look for a detach() or a "
        "module "
        "that forward never calls, or freeze them with requires_grad=False"
    ]
