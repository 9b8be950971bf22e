"""What tells runs apart: their names, and the plain values on their cards."""

from collections.abc import Mapping
from typing import Any

# Parts of a card that describe the recording or the machine, or are read by name below.
NOT_ATTRIBUTES = {
    "model", "optimizer", "loss", "snapshots", "environment", "gradients", "probes", "minibatch", "data",
    "foreign_ops", "attributes",
}  # fmt: skip


def name_of(path: str) -> str:
    """Name of a run: the last part of the path of its archive or analysis, without its suffix.

    >>> name_of("runs/mlp.zarr"), name_of("s3://bucket/mlp.zip"), name_of("run.3")
    ('mlp', 'mlp', 'run.3')
    """
    name = path.rstrip("/").rpartition("/")[2]
    return next(
        (name.removesuffix(end) for end in (".zarr", ".zip", ".analysis") if name.endswith(end)), name
    )


def attributes_of(card: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a card that may tell runs apart, those the user added first.

    Of the optimizer, its class and the settings of its first group of parameters; of the model, its class and
    number of parameters; anything else a card holds as single values, and all of `attributes`.

    >>> card = {"width": 64, "optimizer": {"class": "torch.optim.sgd.SGD", "groups": [{"lr": 0.1}]}}
    >>> attributes_of(card)
    {'width': 64, 'optimizer': 'SGD', 'lr': 0.1}
    """
    found = {name: value for name, value in card.items() if name not in NOT_ATTRIBUTES and _is_plain(value)}
    found |= {name: value for name, value in _mapping(card.get("attributes")).items() if _is_plain(value)}
    optimizer, model = card.get("optimizer"), card.get("model")
    for name, part in (("model", model), ("optimizer", optimizer), ("loss", card.get("loss"))):
        text = _mapping(part).get("class", part)
        if isinstance(text, str):
            found[name] = text.rpartition(".")[2] if name != "loss" else text
    for name, value in next(iter(_mapping(optimizer).get("groups", [])), {}).items():
        value = "/".join(map(str, value)) if isinstance(value, list) else value
        if _is_plain(value):
            found.setdefault(name, value)
    if "n_parameters" in _mapping(model):
        found["n_parameters"] = int(_mapping(model)["n_parameters"])
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
