"""A network's table in float64."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from tracer.network import Network

_SINGLE = ("float32", "bfloat16", "float16")


def as_double(network: Network) -> Network:
    """The same network in float64: its constants, and rows that name a smaller floating-point type."""
    if getattr(network, "_double", None) is None:
        rows = [
            replace(
                row,
                args=_double(row.args),
                kwargs=_double(row.kwargs),
                dtype="float64" if row.dtype in _SINGLE else row.dtype,
            )
            for row in network.rows
        ]
        network._double = network.derived(  # type: ignore[attr-defined]
            rows=rows,
            inputs=[_declared(entry) for entry in network.inputs],
            targets=[_declared(entry) for entry in network.targets],
            constants={name: _constant(value) for name, value in network.constants.items()},
        )
    return network._double  # type: ignore[attr-defined]


def _double(value: Any) -> Any:
    if isinstance(value, list):
        return [_double(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"dtype"} and isinstance(value["dtype"], str):
            return {"dtype": "float64"} if value["dtype"] in _SINGLE else value
        return {key: _double(item) if isinstance(item, dict | list) else item for key, item in value.items()}
    return value


def _declared(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "dtype": "float64"} if entry["dtype"] in _SINGLE else entry


def _constant(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value
