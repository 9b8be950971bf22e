"""An archive's network with any of its weights, on any inputs: the only part of analyze that loads torch.

    replay = Replay(tracer.open("runs/mlp.zarr"))
    state = replay.at(100)                                   # checked against what was recorded
    train = state.probe("train")
    state.loss(train)                                        # mean loss, float
    nearby = state.with_tensors({"fc.weight": state.tensors["fc.weight"] + 0.01})
    nearby.loss(train), nearby.gradient(train)

Metrics that name `states` among what they read are given `States`: one `State` a snapshot, made when looked
at.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Examples": "analyze.replay.examples",
    "Replay": "analyze.replay.replay",
    "State": "analyze.replay.state",
    "States": "analyze.replay.replay",
}

__all__ = ["Examples", "Replay", "State", "States"]


def __getattr__(name: str) -> Any:
    # Metrics import what is beside these without torch, so that listing them stays quick.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'analyze.replay' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
