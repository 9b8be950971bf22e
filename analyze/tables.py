"""Results as tables: what every one says of where it comes from, and one row a value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.store.documents import to_cell

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

RUN = ("run", "path", "attributes")  # its name, where it is, and what tells it from others, as JSON
PROVENANCE = ("run_id", "archive_digest", "archive_state", "tracer_version")


def tidy(data: xr.Dataset) -> pd.DataFrame:
    """One row a value of a Dataset: `variable`, the labels of its dimensions and of its examples, `value`."""
    import pandas as pd

    frames = []
    for name, array in data.data_vars.items():
        index = np.indices(array.shape).reshape(array.ndim, array.size)
        columns: dict[str, Any] = {"variable": np.full(array.size, name, dtype=object)}
        for dim, positions in zip(array.dims, index, strict=True):
            labels = data.coords[dim].values if dim in data.coords else np.arange(array.sizes[dim])
            columns[str(dim)] = labels[positions]
            for extra in ("probe", "example_probe", "split", "id", "label"):
                if dim == "example" and extra in data.coords and data.coords[extra].dims == ("example",):
                    columns[f"example_{extra.removeprefix('example_')}"] = data.coords[extra].values[
                        positions
                    ]
        frames.append(pd.DataFrame({**columns, "value": array.values.reshape(-1)}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def neutral(table: pd.DataFrame) -> pd.DataFrame:
    """The same table with texts that a spreadsheet would run as formulas made plain texts, names included."""
    texts = [name for name in table.columns if table[name].dtype.kind not in "biufc"]
    return table.assign(**{name: _cells(table[name]) for name in texts}).rename(
        columns=to_cell, index=to_cell
    )


def _cells(texts: pd.Series) -> np.ndarray:
    import pandas as pd

    codes, distinct = pd.factorize(texts, use_na_sentinel=False)  # few: names and labels of many rows
    cells = np.empty(len(distinct), object)
    cells[:] = [to_cell(text) for text in distinct]
    return cells[codes]


def example_probe(data: xr.DataArray | xr.Dataset) -> np.ndarray:
    """Probe of each entry of `example`."""
    name = "example_probe" if "example_probe" in data.coords else "probe"
    return np.asarray(data.coords[name].values)
