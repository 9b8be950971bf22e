"""The files of a small Zarr group, made at once: xarray and Zarr ask another thread thirty times a result.

Objects are those that `xarray.Dataset.to_zarr` writes, to the byte; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.spec import fill_value
from tracer.store.documents import GroupNode, to_json

if TYPE_CHECKING:
    import xarray as xr

ZSTD = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}


def files(data: xr.Dataset) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file of the group of a dataset: numbers, booleans and texts, one object an array."""
    from xarray.conventions import encode_dataset_coordinates

    variables, attributes = encode_dataset_coordinates(data)
    yield "zarr.json", GroupNode(dict(attributes)).text().encode()
    for name, variable in variables.items():
        values = np.asarray(variable.values)
        document = _document(values, [str(dim) for dim in variable.dims], variable.attrs)
        yield f"{name}/zarr.json", to_json(document).encode()
        if values.size:
            yield "/".join([str(name), "c", *("0" for _ in values.shape)]), _object(values)


def _document(values: np.ndarray, dims: list[str], attributes: dict[str, Any]) -> dict[str, Any]:
    chunk = [max(1, size) for size in values.shape]
    known: dict[str, Any]
    if _is_text(values):
        known = {"data_type": "string", "fill_value": "", "codecs": [{"name": "vlen-utf8"}, ZSTD]}
    else:
        order = {"configuration": {"endian": "little"}} if values.dtype.itemsize > 1 else {}
        codecs = [{"name": "bytes", **order}, ZSTD]
        known = {"data_type": values.dtype.name, "fill_value": fill_value(values.dtype), "codecs": codecs}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": values.shape,
        **known,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "dimension_names": dims,
        "attributes": attributes,
        "storage_transformers": [],
    }


def _object(values: np.ndarray) -> bytes:
    from numcodecs.vlen import VLenUTF8
    from numcodecs.zstd import Zstd

    if _is_text(values):
        content = VLenUTF8().encode(values.astype(object).ravel())
    else:
        content = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return bytes(Zstd(level=0).encode(content))


def _is_text(values: np.ndarray) -> bool:
    return values.dtype.kind in "OTU"
