"""Inputs and targets as lists of tensors: a tensor, or tuples, lists, dicts of tensors and plain values."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


class Shared:
    """A tensor that all examples have in common, such as one edge index: the same in every batch, and no leaf."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def leaves_of(tree: Any) -> list[Tensor]:
    """The tensors of a nested input, in order (dict entries by key).

    >>> import torch
    >>> [leaf.item() for leaf in leaves_of({"b": torch.tensor(2), "a": (torch.tensor(1), None)})]
    [1, 2]
    """
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves_of(tree[key])]
    if isinstance(tree, tuple | list):
        return [leaf for item in tree for leaf in leaves_of(item)]
    return []


def rebuild(tree: Any, leaves: Iterator[Tensor]) -> Any:
    """The same nested input with its tensors replaced, in the order of `leaves_of`."""
    if isinstance(tree, Tensor):
        return next(leaves)
    if isinstance(tree, dict):
        new = {key: rebuild(tree[key], leaves) for key in sorted(tree)}
        return {key: new[key] for key in tree}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(rebuild(item, leaves) for item in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(rebuild(item, leaves) for item in tree)
    return tree


def cloned(tree: Any) -> Any:
    """The same nested input in memory of its own: a forward pass may write into its inputs (`x.div_(255)`)."""
    return rebuild(tree, iter([leaf.clone() for leaf in leaves_of(tree)]))


def shared_in(tree: Any) -> list[Tensor]:
    """The tensors that all examples share, in order."""
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else ()
    return [item.tensor for item in items if isinstance(item, Shared)]


def whole(tree: Any) -> Any:
    """The same nested input as the user's code takes it: with the tensors that all examples share."""
    device = next((leaf.device for leaf in leaves_of(tree)), None)

    def put_back(item: Any) -> Any:
        return item.tensor.to(device) if isinstance(item, Shared) else item

    if isinstance(tree, dict):
        return {key: put_back(item) for key, item in tree.items()}
    plain = isinstance(tree, tuple | list) and not hasattr(tree, "_fields")
    return type(tree)(map(put_back, tree)) if plain else tree


def first_tensor(tree: Any) -> Tensor | None:
    """The first floating-point tensor of a model's output that has axes, dataclasses and mappings included."""
    if isinstance(tree, Tensor):
        return tree if tree.is_floating_point() and tree.ndim else None
    if hasattr(tree, "__dataclass_fields__") and not isinstance(tree, type):
        tree = [getattr(tree, name) for name in tree.__dataclass_fields__]
    elif hasattr(tree, "values"):
        tree = list(tree.values())
    if isinstance(tree, tuple | list):
        return next((tensor for item in tree if (tensor := first_tensor(item)) is not None), None)
    return None


def examples_in(tree: Any) -> int:
    """Number of examples: the size of the first tensor's first dimension, 0 without tensors."""
    return next((leaf.shape[0] for leaf in leaves_of(tree) if leaf.ndim), 0)


def take(tree: Any, index: Tensor, n: int) -> Any:
    """The examples at `index` of each tensor that holds n examples; other tensors stay."""
    chosen = [
        leaf.detach()[index.to(leaf.device)] if leaf.ndim and leaf.shape[0] == n else leaf.detach().clone()
        for leaf in leaves_of(tree)
    ]
    return rebuild(tree, iter(chosen))
