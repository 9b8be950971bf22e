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

from analyze.replay.examples import Examples
from analyze.replay.replay import Replay, States, networks_of, replay_of, states_of
from analyze.replay.state import State

__all__ = ["Examples", "Replay", "State", "States", "networks_of", "replay_of", "states_of"]
