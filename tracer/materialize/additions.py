"""What is written beside the arrays that are filled in: tables, attributes, probes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tracer.archive import Archive
from tracer.materialize.filling import Filling
from tracer.materialize.rewrite import Additions, Arrays
from tracer.network import Network
from tracer.network.copies import to_numpy
from tracer.rerun.passes import kept
from tracer.spec import OF_GRADIENTS

Dims = dict[str, tuple[str, ...]]


def describe(archive: Archive, filling: Filling) -> Additions:
    """Everything a new archive holds beyond the old one, but the arrays of its snapshots."""
    additions, source = Additions(steps=filling.missing), archive._source
    for group, steps in filling.missing.items():
        old = source.group_attributes(group).get("materialized", [])
        additions.attributes[group] = {"materialized": sorted({*old, *steps})}
        grown = source.has(group) and filling.grown(group)
        if grown or not source.has(group):
            additions.layout[group] = filling.layout(group)
            additions.attributes[group] |= filling.first.attributes.get(group, {})
        if grown:
            additions.adapt[group] = _extended(
                source.shape("gram/gram")[-1], filling.layout(group)["gram"][1]
            )
    for name in filling.wants:
        _probe(filling, name, additions)
    additions.attributes[""] = _root(archive, filling)
    if not source.has("network"):
        arrays, dims, additions.attributes["network"] = _network(filling.network)
        additions.static["network"] = (arrays, dims)
    return additions


def _probe(filling: Filling, name: str, additions: Additions) -> None:
    want, path, attributes = filling.wants[name], f"probes/{name}", additions.attributes
    if want.new:
        arrays, dims, attributes[path] = filling.first.static[path]
        additions.static[path] = (arrays, dims)
        return
    attributes[path] = {"capture": want.all}
    if not want.recorded:
        attributes[path]["chunks"] = [list(bounds) for bounds in filling.first.chunks[name]]
    elif filling.first.chunks[name] != want.chunks:
        for group in filling.missing:
            if group.startswith(f"{path}/"):
                attributes[group]["chunks"] = [list(bounds) for bounds in filling.first.chunks[name]]


def _root(archive: Archive, filling: Filling) -> dict[str, Any]:
    """Tables the archive lacks, and its card."""
    seen, network = filling.first, filling.network
    root: dict[str, Any] = {"card": {"probes": {}}}
    for name, want in filling.wants.items():
        known = archive.card.get("probes", {}).get(name, {})
        told = known.get("capture", {})
        capture = {**told, **{stream: n for stream, n in want.all.items() if stream not in want.recorded}}
        root["card"]["probes"][name] = {"split": want.probe.split, "n": want.probe.n, "capture": capture}
    if kept(archive) is None and any(group.rpartition("/")[2] in OF_GRADIENTS for group in filling.missing):
        root["card"]["gradients"] = {"mode": seen.mode, "reason": seen.reason, "ways": seen.ways}
    if not archive.site_table:
        root["sites"] = seen.sites
    if not archive.call_table:
        root["calls"] = [
            {"name": call.name, "op": call.op, "module": call.module, "shape": list(call.shape)}
            for call in network.calls
        ]
    if not archive.layer_table:
        root["layers"] = [{"name": x.name, "parameters": list(x.parameters)} for x in network.layers]
        owner = {name: layer.name for layer in network.layers for name in layer.parameters}
        root["tensors"] = [{**row, "layer": owner.get(row["name"])} for row in archive.tensors]
    return root


def _network(network: Network) -> tuple[Arrays, Dims, dict[str, Any]]:
    """Arrays, dimensions and attributes of group `network` with one version."""
    arrays = {"table_0": np.frombuffer(network.to_json(), np.uint8)}
    dims: Dims = {"table_0": ("byte_0",)}
    constants = {}
    for i, (name, value) in enumerate(network.constants.items()):
        key = constants[name] = f"constant_0_{i}"
        arrays[key] = to_numpy(value)
        dims[key] = tuple(f"{key}_{axis}" for axis in range(value.ndim))
    version = {"version": 0, "from_step": 0, "digest": network.digest, "constants": constants}
    return arrays, dims, {"versions": [version]}


def _extended(old: int, shape: tuple[int, ...]) -> Callable[[Arrays], Arrays]:
    """Recorded inner products among the first examples, made larger: NaN where an example was added since."""

    def adapt(arrays: Arrays) -> Arrays:
        gram = np.full(shape, np.nan)
        gram[:, :old, :old] = arrays["gram"]
        return {"gram": gram}

    return adapt
