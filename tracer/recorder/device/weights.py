"""The weights stream: parameters and buffers by name, laid end to end in one flat array per dtype."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from tracer.network.copies import named_tensors, to_numpy, unwrap, unwrapped_name
from tracer.network.table import DTYPES

# NumPy has no bfloat16; float32 holds each of its values exactly.
_STORED_AS = {torch.bfloat16: torch.float32}


class Weights:
    """Where each tensor of a model lies in the flat arrays of one snapshot."""

    def __init__(self, model: nn.Module, layer_of: Mapping[str, str]) -> None:
        self._model = model
        parameters = {unwrapped_name(name): p.requires_grad for name, p in unwrap(model).named_parameters()}
        self.table: list[dict[str, Any]] = []
        self.sizes: dict[str, int] = {}
        for name, tensor in named_tensors(model).items():
            stored = str(_STORED_AS.get(tensor.dtype, tensor.dtype)).removeprefix("torch.")
            self.table.append(
                {
                    "name": name,
                    "kind": "parameter" if name in parameters else "buffer",
                    "shape": list(tensor.shape),
                    "dtype": stored,
                    "source_dtype": str(tensor.dtype).removeprefix("torch."),
                    "array": stored,
                    "offset": self.sizes.get(stored, 0),
                    "trainable": parameters.get(name, False),
                    "layer": layer_of.get(name),
                }
            )
            self.sizes[stored] = self.sizes.get(stored, 0) + tensor.numel()

    @property
    def arrays(self) -> dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]]:
        """Declaration for the writer: dtype, shape and dimension of each flat array."""
        return {name: (name, (size,), (f"{name}_element",)) for name, size in self.sizes.items()}

    def take(self, named: Mapping[str, torch.Tensor] | None = None) -> dict[str, list[torch.Tensor]]:
        """The live weights of each dtype, flat, where the model is: they are to be copied before the next update.

        named: the model's tensors, if they are at hand.
        In the place of one that is gone or has another shape now stands NaN (0 where the dtype has none).
        """
        pieces: dict[str, list[torch.Tensor]] = {name: [] for name in self.sizes}
        live = whole(named_tensors(self._model) if named is None else named)
        home = next((tensor.device for tensor in live.values()), None)  # a model may lie on several
        for row in self.table:
            tensor, dtype = live.get(row["name"]), DTYPES[row["array"]]
            if tensor is None or not _fits(tensor, row):
                tensor = torch.full((prod(row["shape"]),), _undefined(dtype), dtype=dtype, device=home)
            elif tensor.device != home or tensor.dtype != dtype:
                tensor = tensor.to(home, dtype, non_blocking=True)
            pieces[row["array"]].append(tensor.reshape(-1))
        return pieces

    def misfits(self) -> set[str]:
        """Names of the tensors that the model has no longer, or no longer in a form that can be stored."""
        live = named_tensors(self._model)
        rows = {row["name"]: row for row in self.table}
        return {name for name, row in rows.items() if name not in live or not _fits(live[name], row)}

    def read(self) -> dict[str, np.ndarray]:
        """A copy in memory of the host, end to end, waited for."""
        return {name: to_numpy(torch.cat(parts)) for name, parts in self.take().items()}


def whole(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Tensors by name as one process holds them.

    Where several hold them in pieces, copies on the host, gathered one by one: every process has to ask for them.
    """
    if not any(hasattr(tensor, "full_tensor") for tensor in tensors.values()):
        return tensors
    return {
        name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).cpu()
        for name, tensor in tensors.items()
    }


def _fits(tensor: torch.Tensor, row: Mapping[str, Any]) -> bool:
    """Whether the tensor's values can stand in its place exactly."""
    dtype = DTYPES[row["array"]]
    exact = tensor.dtype.is_floating_point == dtype.is_floating_point
    exact = exact and torch.promote_types(tensor.dtype, dtype) == dtype
    return list(tensor.shape) == row["shape"] and (tensor.dtype == dtype or exact)


def _undefined(dtype: torch.dtype) -> float:
    return float("nan") if dtype.is_floating_point or dtype.is_complex else 0
