"""The list of operations: every name exists, none writes, draws or reads what it should not."""

import pytest
import torch

from tracer.network.program import resolve
from tracer.ops import ALLOWED, OPS, op

_DANGEROUS = ("from_file", "set_", "resize", "as_strided", "data", "_out", "save", "load", "record_stream")


@pytest.mark.parametrize("name", sorted(OPS))
def test_each_operation_is_functional_and_deterministic(name: str) -> None:
    call = resolve(name)
    base = name.split(".")[1] if name.startswith("aten.") else name
    assert not base.endswith("_")
    assert base != "item"
    assert not any(part in base for part in _DANGEROUS)
    if not isinstance(call, torch._ops.OpOverload):
        assert name == "getitem" or name.startswith("int.")
        return
    assert not call._schema.is_mutable
    assert not any(argument.is_out for argument in call._schema.arguments)
    if torch.Tag.nondeterministic_seeded in call.tags:
        assert OPS[name].random is not None


@pytest.mark.parametrize("name", sorted(name for name, entry in OPS.items() if entry.rule))
def test_the_arguments_of_parametrised_operations_are_where_the_rule_says(name: str) -> None:
    names = [argument.name for argument in resolve(name)._schema.arguments]  # type: ignore[attr-defined]
    rule = OPS[name].rule
    assert rule is not None
    assert names[rule.input] in ("input", "self", "mat1", "indices")
    assert names[rule.weight] in ("weight", "mat2", "other")
    assert rule.bias is None or names[rule.bias] in ("bias", "self")


@pytest.mark.parametrize("name", sorted(name for name, entry in OPS.items() if entry.random))
def test_what_makes_an_operation_random_is_where_the_entry_says(name: str) -> None:
    names = [argument.name for argument in resolve(name)._schema.arguments]  # type: ignore[attr-defined]
    assert {names[position] for position in OPS[name].random or ()} <= {
        "train",
        "training",
        "dropout",
        "dropout_p",
    }


def test_kinds_of_masks() -> None:
    kinds = {
        name: op(f"aten.{name}.default").activation
        for name in ("relu", "leaky_relu", "gelu", "tanh", "sigmoid")
    }
    assert [kind and kind.mask for kind in kinds.values()] == ["path", "gate", "convention", None, None]
    assert op("aten.linear.default").activation is None


def test_what_is_not_listed_means_nothing() -> None:
    assert "aten.bernoulli.default" not in ALLOWED
    assert op("aten.bernoulli.default").rule is None
