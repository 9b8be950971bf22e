"""What metrics are given of the network of an archive: states, and the network itself."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from analyze.arrays import View, source
from analyze.arrays.recorded import Lazy, refuse_complex
from tracer.errors import missing_package


def _replay() -> ModuleType:
    # Declaring these arrays must not load torch; making them does.
    try:
        from analyze.replay import replay
    except ModuleNotFoundError as error:
        raise missing_package(error) or error from None
    return replay


@source("states", "step", "element", stream="weights", itemsize=8, lazy=True, of="network")
def _states(view: View) -> Any:
    refuse_complex(view)
    return _replay().states_of(view)


@source("last_state", stream="weights", of="last")
def _last_state(view: View) -> Any:
    refuse_complex(view)
    return _replay().last_state_of(view)


@source("network", of="network")
def _network(view: View) -> Any:
    return _replay().networks_of(view).at()


@source("networks", "step", lazy=True, of="network")
def _networks(view: View) -> Lazy:
    return Lazy(view.steps, _replay().networks_of(view).at)
