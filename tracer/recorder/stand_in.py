"""What is probed in the place of the user's model: its table, or a private copy of the model itself."""

from typing import Any

from torch import nn

from tracer.errors import ArchiveError, RecordError, first_line
from tracer.network import Network
from tracer.network.copies import unwrap
from tracer.network.hooks import FORWARD, OwnHooks
from tracer.network.memo import trace_once
from tracer.network.tracing import INSTEAD
from tracer.recorder.forward.untraced import EagerNetwork
from tracer.recorder.structure import told


def hooked(model: nn.Module) -> list[str]:
    """What to say of forward hooks of the user's, which are no part of what is probed."""
    own = OwnHooks(unwrap(model))
    names = [
        name or type(module).__name__
        for name, module in unwrap(model).named_modules()
        for kind in FORWARD
        for hook in getattr(module, kind).values()
        if not own(kind, hook)
    ]
    if not names:
        return []
    return [
        f"Forward hooks of your own (on {told(sorted(set(map(repr, names))))}) are no part of what is probed: where "
        "one changes what passes through, probes see the model without; put it into forward, or a parametrization."
    ]


def traced(*arguments: Any, chunk: int, **goal: Any) -> Network | EagerNetwork:
    """The table of a model, as `trace_once`; the model itself where that cannot be had."""
    try:
        return trace_once(*arguments, **goal, chunk=chunk)
    except (RecordError, ArchiveError) as refusal:
        return untraced(*arguments, **goal, refusal=refusal)


def untraced(*arguments: Any, refusal: Exception, **goal: Any) -> EagerNetwork:
    """The model itself in the table's place; why it could not be traced where that is no way either."""
    try:
        return EagerNetwork(*arguments, **goal, reason=str(refusal))
    except RecordError:
        raise
    except Exception as error:
        reason = str(refusal).partition(INSTEAD)[0]
        raise RecordError(
            f"{reason}; nor can the model be probed itself: {first_line(error)}; probes={{}} records all but probes"
        ) from error


def kind(network: Network | EagerNetwork | None) -> dict[str, Any]:
    """What the card says of the network."""
    if isinstance(network, EagerNetwork):
        return {"network": "eager", "network_reason": network.reason}
    return {"network": None if network is None else "table"}
