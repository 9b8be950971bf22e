"""The list of operations: every name exists, none writes, draws or reads what it should not."""

import ast
from pathlib import Path

import pytest
import torch

import analyze
import tracer
from tests import parsed
from tracer.network.program import resolve
from tracer.ops import OPS, op

_DANGEROUS = ("from_file", "set_", "resize", "as_strided", "data", "_out", "save", "load", "record_stream")


def test_each_operation_is_functional_and_deterministic() -> None:
    for name, entry in OPS.items():
        call = resolve(name)
        base = name.split(".")[1] if name.startswith("aten.") else name
        assert not base.endswith("_") and base != "item", name
        assert not any(part in base for part in _DANGEROUS), name
        if not isinstance(call, torch._ops.OpOverload):
            assert name == "getitem" or name.startswith("int."), name
            continue
        schema = call._schema
        assert not schema.is_mutable, name
        assert not any(argument.is_out for argument in schema.arguments), name
        for value in [*schema.arguments, *schema.returns]:
            assert value.alias_info is None or not value.alias_info.is_write, name
            assert str(value.type) not in ("Generator", "Storage", "Stream"), name
        draws = any("nondeterministic" in str(tag) for tag in call.tags)
        assert not draws or entry.random is not None, name


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
    assert "aten.bernoulli.default" not in OPS
    assert op("aten.bernoulli.default").rule is None


# ---- nonlinearities are what their records say ----

# Of operations that take more than the tensor: what goes with it.
ARGUMENTS = {
    "aten.threshold.default": (0.0, 0.0),
    "aten.clamp.default": (0.0, 4.0),
    "aten.clamp_min.default": (0.0,),
    "aten.maximum.default": (torch.zeros(()),),
    "aten.prelu.default": (torch.tensor([0.3]),),
    "aten._prelu_kernel.default": (torch.tensor([0.3], dtype=torch.float64),),
    "aten.rrelu.default": (0.1, 0.3),
    "aten.leaky_relu.default": (0.2,),
}


@pytest.mark.parametrize("name", sorted(name for name, entry in OPS.items() if entry.activation))
def test_a_nonlinearity_is_what_its_record_says(name: str) -> None:
    activation = OPS[name].activation
    assert activation is not None
    args = ARGUMENTS.get(name, ())
    args = tuple(arg.double() if isinstance(arg, torch.Tensor) else arg for arg in args)
    x = torch.linspace(-9, 9, 2001, dtype=torch.float64).requires_grad_()
    out = resolve(name)(x, *args)
    slope = torch.autograd.grad(out.sum(), x)[0]
    low, high = activation.ends((None, *args))
    inside = torch.ones_like(x, dtype=torch.bool)
    for end, beyond in ((low, x < (low or 0)), (high, x > (high or 0))):
        if end is not None:
            assert (out[beyond] == end).all() and not slope[beyond].any()
            inside &= ~beyond
    if activation.mask in ("path", "gate"):
        assert (slope[inside & (x > 0)] == 1).all()
        off = slope[(x < 0) & inside]
        assert (
            (off.unique() == activation.slope).all() if activation.mask == "path" else len(off.unique()) == 1
        )
    if activation.contracts:
        assert not resolve(name)(torch.zeros(1, dtype=torch.float64), *args).any()
        assert slope.abs().max() <= 1
    assert len(activation.keywords) >= len(activation.zero)


# ---- one home ----

HOME = Path(tracer.__file__).parent
OTHERS = [
    file
    for file in [*HOME.rglob("*.py"), *Path(analyze.__file__).parent.rglob("*.py"), HOME.parent / "cli.py"]
    if HOME / "ops" not in file.parents
]
# Names of forms of gradients, which are named after operations.
FORMS = {record.rule.name for record in OPS.values() if record.rule is not None}
# Others, such as "add" or "index", are words of English too.
DISTINCT = (
    {
        record.short
        for record in OPS.values()
        if "_" in record.short or any(map(str.isdigit, record.short)) or record.activation is not None
    }
    - FORMS
    - {"log10"}
)


def texts(file: Path) -> list[str]:
    tree = parsed(file)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    prose = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and node.body
             and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]


def test_no_other_code_names_operations() -> None:
    assert {"conv2d", "hardtanh", "relu", "sym_size"} <= DISTINCT
    for file in OTHERS:
        text = file.read_text(encoding="utf-8")
        assert "aten." not in text, file
        if any(name in text for name in DISTINCT):
            assert not DISTINCT & set(texts(file)), file


def test_each_kind_of_operation_has_a_file_that_can_be_read() -> None:
    files = list((HOME / "ops").glob("*.py"))
    assert len(files) > 5
    assert all(len(file.read_text().splitlines()) < 400 for file in files)
