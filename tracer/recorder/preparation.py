"""Before a model is probed: whether it takes its examples, where they must lie, what its loss does not reach."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tracer.errors import RecordError
from tracer.network import Network
from tracer.network.copies import private_copy, quiet
from tracer.network.objective import call_model
from tracer.network.pytree import leaves_of, rebuild, take
from tracer.probe import Probe
from tracer.recorder.forward.untraced import EagerNetwork

TRACED_WITH = 8  # examples shown to the tracer and the checks


def check_accepted(model: nn.Module, name: str, inputs: Any) -> None:
    """RecordError naming the probe where the model itself refuses its examples."""
    try:
        with quiet(grad=False):
            call_model(private_copy(model), inputs)
    except Exception as error:
        shapes = [f"{list(leaf.shape)} {leaf.dtype}" for leaf in leaves_of(inputs)]
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecordError(
            f"Probe {name!r}: the model refuses a batch of its inputs, {', '.join(shapes)} ({cause}): bring "
            "the probe "
            "into the form of the training batches."
        ) from error


def untraced(*given: Any, refusal: Exception, **goal: Any) -> EagerNetwork:
    """The model itself in the table's place; why it could not be traced where that is no way either."""
    try:
        return EagerNetwork(*given, **goal, reason=str(refusal))
    except RecordError:
        raise
    except Exception as error:
        raise refusal from error


def kind(network: Network | EagerNetwork | None) -> dict[str, Any]:
    """What the card says of the network."""
    if isinstance(network, EagerNetwork):
        return {"network": "eager", "network_reason": network.reason}
    return {"network": None if network is None else "table"}


def layer_of(network: Network | EagerNetwork) -> dict[str, str]:
    """The layer of each trainable parameter."""
    return {name: layer.name for layer in network.layers for name in layer.parameters}


def device_of(tensors: Mapping[str, torch.Tensor]) -> torch.device:
    """Where a model is."""
    return next((tensor.device for tensor in tensors.values()), torch.device("cpu"))


def some(probe: Probe, device: torch.device) -> tuple[Any, Any]:
    """A few examples of a probe where the model is."""

    def few(tree: Any) -> Any:
        index = torch.arange(TRACED_WITH) % probe.n
        return rebuild(tree, iter([leaf[index].to(device) for leaf in leaves_of(tree)]))

    return few(probe.inputs), few(probe.targets)


def unreached(
    network: Network | EagerNetwork, tensors: Mapping[str, torch.Tensor], inputs: Any, targets: Any
) -> list[str]:
    """A sentence naming the trainable parameters that the loss does not depend on."""
    names = [name for layer in network.layers for name in layer.parameters]
    unreached = dict.fromkeys(names)
    size = network.batch or TRACED_WITH
    for start in range(0, TRACED_WITH, size):
        index = (start + torch.arange(size)) % TRACED_WITH
        some = [take(tree, index, TRACED_WITH) for tree in (inputs, targets)]
        with torch.inference_mode(False), torch.enable_grad():
            live = {name: tensors[name].detach().requires_grad_() for name in unreached}
            _, losses = network.run({**tensors, **live}, *some)
            if losses is None or not live:
                return []
            if not losses.requires_grad:
                continue
            found = torch.autograd.grad(losses.sum(), list(live.values()), allow_unused=True)
        for name, gradient in zip(live, found, strict=True):
            if gradient is not None:
                del unreached[name]
    if not unreached:
        return []
    shown = ", ".join(list(unreached)[:5]) + (f" and {len(unreached) - 5} more" if len(unreached) > 5 else "")
    return [
        f"the loss does not depend on {shown}: their gradients are recorded as 0; look for a detach() or a "
        "module "
        "that forward never calls, or freeze them with requires_grad=False"
    ]
