"""What tells runs apart: their names, what the user gave as attributes, and what was trained."""

from collections.abc import Mapping
from typing import Any

from tracer.store.files import as_utf8
from tracer.store.store import parted

SINGLE = str | int | float  # and truth values


def name_of(path: str) -> str:
    """Name of a run: the last part of the path of its archive or analysis, without its suffix, as `shown`.

    >>> name_of("runs/mlp.zarr"), name_of("s3://bucket/mlp.zip"), name_of("run.3")
    ('mlp', 'mlp', 'run.3')
    """
    name, ending = parted(shown(path).rstrip("/").rpartition("/")[2])
    return name if ending else name.removesuffix(".analysis")


def shown(path: str) -> str:
    r"""A path as text that can be stored: bytes that are no UTF-8 become what a terminal shows of them.

    >>> shown("runs/\udcff.zarr")
    'runs/\\udcff.zarr'
    """
    return as_utf8(path).decode()


def attributes_of(card: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a card that may tell runs apart: what the user gave as `attributes`, then what was trained.

    Of the model its class and number of parameters, of the optimizer its class and the settings of its first group of
    parameters, and the loss. Where both have a name, it is the user's. Lists are their text. The rest of a card says
    how the run was recorded and where, which is nothing to compare runs by.

    >>> optimizer = {"class": "torch.optim.adam.Adam", "groups": [{"lr": 0.1, "betas": [0.9, 0.99]}]}
    >>> attributes_of({"attributes": {"hidden": [64, 32]}, "optimizer": optimizer, "network": "table"})
    {'hidden': '[64, 32]', 'optimizer': 'Adam', 'lr': 0.1, 'betas': '[0.9, 0.99]'}
    """
    optimizer, model = card.get("optimizer"), card.get("model")
    trained: dict[str, Any] = {}
    for name, part in (("model", model), ("optimizer", optimizer), ("loss", card.get("loss"))):
        text = _mapping(part).get("class", part)
        if isinstance(text, str):
            trained[name] = text.rpartition(".")[2] if name != "loss" else text
    for name, value in next(iter(_mapping(optimizer).get("groups", [])), {}).items():
        trained.setdefault(name, value)
    if "n_parameters" in _mapping(model):
        trained["n_parameters"] = int(_mapping(model)["n_parameters"])
    own = given(card)
    return own | {name: value for name, value in _single_values(trained).items() if name not in own}


def given(card: Mapping[str, Any]) -> dict[str, Any]:
    """What the user gave as `attributes`: those of a mapping within by the names of both.

    >>> given({"attributes": {"data": {"shuffled": 0.5}, "hidden": [64, 32]}})
    {'data.shuffled': 0.5, 'hidden': '[64, 32]'}
    """
    return _single_values(_mapping(card.get("attributes")))


def _single_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are single values, within mappings too, and lists as their text."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": inner for key, inner in _single_values(value).items()}
        elif isinstance(value, SINGLE | list):
            found[name] = str(value) if isinstance(value, list) else value
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
