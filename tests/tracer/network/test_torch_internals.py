"""What `tracer.network.torch_internals` relies on in PyTorch. A failure here says what a new PyTorch has changed."""

import gc
import sys
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from tracer.network import trace, tracing
from tracer.network.copies import named_tensors
from tracer.network.program import resolve
from tracer.network.torch_internals import (
    _KEPT,
    HOOKS,
    Replaced,
    can_stay,
    composites,
    hushed,
    lean,
    modes_suspended,
    opened,
    stays,
    traced,
    without_fallback,
    without_guards,
)
from tracer.ops import OPS
from tracer.ops.decompositions import COMPOSITE, MISREAD


def test_modules_keep_their_hooks_under_the_names_known():
    held = {
        name for name, value in vars(nn.Linear(1, 1)).items() if isinstance(value, dict) and "hook" in name
    }
    marks = {name for name in held if name.endswith(("_with_kwargs", "_always_called"))}
    assert held - marks == set(HOOKS)


class Axes(nn.Module):
    """Sums over axes that it counts out, and changes what it has counted."""

    def forward(self, x):
        axes = torch.arange(1, x.ndim)
        places = torch.arange(3)
        places += 1
        return x.sum(axes.tolist())[:, None] * places.max().item() + torch.arange(start=0, end=4)[-1]


def test_numbers_that_are_counted_out_may_be_read():
    x = torch.randn(5, 3, 2)
    assert torch.equal(trace(Axes(), x).run({}, x)[0], Axes()(x))


def test_modules_keep_children_parameters_and_buffers_under_the_names_known():
    assert {"_modules", "_parameters", "_buffers", "training"} <= vars(nn.Linear(1, 1)).keys()


def test_attention_opened_shows_its_linear_layers():
    class Seen(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(getattr(function, "__name__", ""))
            if function is F.multi_head_attention_forward:
                with self:
                    return opened(function)(*args, **(kwargs or {}))
            return function(*args, **(kwargs or {}))

    assert any(name.startswith("has_torch_function") for name in F.multi_head_attention_forward.__globals__)
    seen, attention, x = [], nn.MultiheadAttention(4, 2), torch.randn(3, 1, 4)
    expected = attention(x, x, x)[0]
    with Seen():
        found = attention(x, x, x)[0]
    assert seen.count("linear") >= 2 and torch.equal(found, expected)


@pytest.mark.parametrize(
    "diagonal", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["causal", "not causal"]
)
def test_a_mask_is_asked_whether_it_is_causal_before_a_model_is_traced(diagonal):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

        def forward(self, x):
            mask = torch.tril(torch.ones(x.shape[1], x.shape[1]), diagonal).log()
            return self.encoder(x, mask=mask)

    question = torch.nn.modules.transformer._detect_is_causal_mask
    model, x = Masked().eval(), torch.randn(3, 5, 4)
    network = trace(model, x)
    assert torch.nn.modules.transformer._detect_is_causal_mask is question
    attention = [row for row in network.rows if "attention" in row.op]
    assert len(attention) == 1 and (True in [*attention[0].args, *attention[0].kwargs.values()]) == (
        diagonal == 0
    )
    with torch.no_grad():
        torch.testing.assert_close(network.run(named_tensors(model), x)[0], model(x))


def test_a_scaler_that_leaves_out_a_step_does_not_call_the_optimizer():
    weight = nn.Parameter(torch.ones(1))
    optimizer, called = torch.optim.SGD([weight], lr=1.0), []
    optimizer.register_step_pre_hook(lambda *_: called.append(1))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(weight.sum() * float("inf")).backward()
    assert torch.amp.GradScaler.step.__name__ == "step" and scaler.step(optimizer) is None and not called


def test_optimizers_modules_and_tensors_tell_what_is_asked_of_them():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    assert "_optimizer_step_post_hooks" in vars(optimizer)
    tensor = torch.ones(1)
    before = tensor._version
    tensor.add_(1)
    assert tensor._version > before


def test_a_loader_takes_its_sampler_from_the_attributes_known():
    loader = DataLoader(list(range(4)), batch_size=2)
    assert {"batch_sampler", "_iterator"} <= vars(loader).keys()
    loader.__dict__["batch_sampler"] = [[3], [1]]
    assert [batch.tolist() for batch in loader] == [[3], [1]]
    assert iter(loader)._index_sampler is loader.batch_sampler


def test_a_replaced_method_is_put_back_and_passes_on_where_it_was_replaced_again():
    class Base:
        def go(self):
            return 1

    class Inherits(Base):
        pass

    first = Replaced(Inherits, "go", lambda go: lambda self: go(self) + 10)
    second = Replaced(Inherits, "go", lambda go: lambda self: go(self) + 100)
    assert Inherits().go() == 111 and Base().go() == 1
    first.stop()
    assert Inherits().go() == 101
    second.stop()
    assert Inherits().go() == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_replaced_methods_leave_nothing_behind_in_whatever_order_they_stop(order):
    class Adds:
        def __init__(self, number):
            self.number = number

        def make(self, go):
            return lambda other: go(other) + self.number

    class Own:
        def go(self):
            return 1

    before = Own.go
    adding = [Adds(10**k) for k in range(3)]
    kept = [weakref.ref(one) for one in adding]
    replaced = [Replaced(Own, "go", one.make) for one in adding]
    del adding
    assert Own().go() == 112
    for number, k in enumerate(order):
        replaced[k].stop()
        replaced[k].stop()
        replaced[k] = None
        gc.collect()
        assert [one() is None for one in kept] == [k in order[: number + 1] for k in range(3)]
    assert Own.__dict__["go"] is before


def test_a_method_replaced_by_others_meanwhile_only_passes_on():
    class Own:
        def go(self):
            return 1

    first = Replaced(Own, "go", lambda go: lambda self: go(self) + 10)
    ours = Own.go
    Own.go = lambda self: ours(self) + 100
    second = Replaced(Own, "go", lambda go: lambda self: go(self) + 1000)
    assert Own().go() == 1111
    first.stop()
    assert Own().go() == 1101
    second.stop()
    assert Own().go() == 101


def test_vmap_does_not_warn_of_slow_operations_while_hushed_and_refuses_them_where_asked():
    values = torch.rand(3, 4)
    slow = torch.vmap(lambda a: torch.nn.functional.kl_div(a, a, reduction="sum"))
    with hushed():
        warnings.simplefilter("error")
        slow(values)
    with without_fallback(), pytest.raises(RuntimeError, match="aten::kl_div"):
        slow(values)
    with pytest.warns(UserWarning, match="batching rule for aten::kl_div"):
        slow(values)


def test_what_is_printed_while_hushed_is_kept_back(capsys):
    with hushed():
        print("export says", file=sys.stderr)
    print("we say", file=sys.stderr)
    assert capsys.readouterr().err == "we say\n"


@pytest.mark.parametrize("name", ["is_lazy", "_ConvNd"])
def test_names_that_are_imported_are_there(name):
    assert hasattr(nn.parameter if name == "is_lazy" else nn.modules.conv, name)


def test_losses_that_pytorch_misreads_have_forms_in_python_that_are_put_back():
    from torch._decomp import decomposition_table

    before = dict(decomposition_table)
    assert set(MISREAD) <= set(map(str, before))
    with composites([], bool):
        assert not set(MISREAD) & set(map(str, decomposition_table))
    assert decomposition_table == before


def test_a_trace_keeps_no_cache_of_what_operations_give_nor_lines_and_makes_less_code(monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    made = []
    code = torch.fx.Graph.python_code
    monkeypatch.setattr(torch.fx.Graph, "python_code", lambda *of, **how: made.append(1) or code(*of, **how))
    torch.export.export(nn.ReLU(), (torch.ones(2),))
    usual = len(made)
    before = torch._dynamo.config.fake_tensor_cache_enabled
    lines = getattr(torch.fx.config, "do_not_emit_stack_traces", None)
    with lean():
        assert not FakeTensorMode().cache_enabled
        program = torch.export.export(nn.ReLU(), (torch.ones(2),))
    assert torch._dynamo.config.fake_tensor_cache_enabled is before
    assert lines is getattr(torch.fx.config, "do_not_emit_stack_traces", None)
    assert lines is None or not any("stack_trace" in node.meta for node in program.graph.nodes)
    assert len(made) - usual < usual


def test_a_part_is_traced_with_symbols_as_sizes():
    batch = torch.export.Dim("batch")
    with hushed():
        program = torch.export.export(nn.Flatten(), (torch.ones(4, 2, 3),), dynamic_shapes=({0: batch},))
    (flatten,) = [node for node in program.graph.nodes if node.op == "call_function"]
    part = traced(flatten.target, [flatten.args[0].meta["val"]])
    assert "aten.view" in str(part) and "aten.sym_size.int" in str(part)


def test_a_program_is_rewritten_without_its_guards():
    rewritten = []
    for prepare in (without_guards, lambda program: program):
        batch = torch.export.Dim("batch")
        shapes = {"input": {0: batch}}
        with hushed():
            program = torch.export.export(nn.Linear(2, 3), (torch.randn(4, 2),), dynamic_shapes=shapes)
            rewritten.append(str(prepare(program).run_decompositions({}).graph))
        assert ("module" in vars(program)) is (prepare is without_guards), "check_guards= has gone"
    assert rewritten[0] == rewritten[1]


def test_a_program_is_decomposed_with_few_composite_operations_prepared():
    from torch.export import exported_program

    collect, aten = exported_program._collect_all_valid_cia_ops, torch.ops.aten
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
    with hushed():
        program = torch.export.export(model, (torch.randn(4, 2),), strict=False)
        with composites([aten.linear.default, aten.relu_.default], lambda name: name == "aten.selu.default"):
            assert exported_program._collect_all_valid_cia_ops() == {aten.linear.default, aten.selu.default}
            few = program.run_decompositions({})
        assert exported_program._collect_all_valid_cia_ops is collect
        every = program.run_decompositions({})
    assert str(few.graph) == str(every.graph) and "aten.relu.default" in str(few.graph)
    with composites([torch.ops.quantized.conv2d_groups.default], bool):
        assert exported_program._collect_all_valid_cia_ops is collect


def resized(mode, *sizes):
    return lambda: (nn.Upsample(scale_factor=2, mode=mode), torch.zeros(3, 2, *sizes))


# Of operations that have forms in Python too, how one comes into a program.
KEPT = {
    "aten.gru.input": lambda: (nn.GRU(4, 5, batch_first=True), torch.zeros(3, 2, 4)),
    "aten.lstm.input": lambda: (nn.LSTM(4, 5, batch_first=True), torch.zeros(3, 2, 4)),
    "aten.rnn_relu.input": lambda: (
        nn.RNN(4, 5, nonlinearity="relu", batch_first=True),
        torch.zeros(3, 2, 4),
    ),
    "aten.rnn_tanh.input": lambda: (nn.RNN(4, 5, batch_first=True), torch.zeros(3, 2, 4)),
    "aten.matmul.default": lambda: (Called(lambda x: x.matmul(x.transpose(1, 2))), torch.zeros(3, 2, 4)),
    "aten.one_hot.default": lambda: (Called(lambda x: F.one_hot(x.argmax(1), 4)), torch.zeros(3, 4)),
    "aten.upsample_bicubic2d.vec": resized("bicubic", 4, 4),
    "aten.upsample_bilinear2d.vec": resized("bilinear", 4, 4),
    "aten.upsample_linear1d.vec": resized("linear", 4),
    "aten.upsample_nearest1d.vec": resized("nearest", 4),
    "aten.upsample_nearest2d.vec": resized("nearest", 4, 4),
    "aten.upsample_nearest3d.vec": resized("nearest", 4, 4, 4),
    "aten.upsample_trilinear3d.vec": resized("trilinear", 4, 4, 4),
}


class Called(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.skipif(torch.__version__ < "2.8", reason="hooks cannot be read")
def test_hooks_on_what_is_kept_for_a_backward_pass_come_back_in_their_order():
    weight, seen = torch.ones(2, requires_grad=True), []

    def hooks(name):
        return torch.autograd.graph.saved_tensors_hooks(
            lambda kept: (seen.append(name), kept)[1], lambda kept: kept
        )

    with hooks("outer"):
        with hooks("inner"):
            with modes_suspended():
                (weight * weight).sum().backward()
            assert not seen
            weight.exp()
        weight.exp()
    assert seen == ["inner", "outer"]


def test_the_default_device_stays_where_modes_are_suspended():
    def kinds():
        return [type(mode) for mode in torch.overrides._get_current_function_mode_stack()]

    with torch.device("meta"), torch.overrides.BaseTorchFunctionMode():
        before = kinds()
        with pytest.raises(ZeroDivisionError), modes_suspended():
            assert torch.empty(1).device.type == "meta" and len(kinds()) == 1
            raise ZeroDivisionError
        assert kinds() == before and len(before) == 2


class Beside(nn.Module):
    def __init__(self, modules):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs):
        return [part(x) for part, x in zip(self.parts, inputs, strict=True)]


# Tracing all takes longer than all other tests of this file: by default one of each kind, and an LSTM in test_parts.py.
USUAL = ["aten.matmul.default", "aten.one_hot.default", "aten.upsample_bilinear2d.vec"]


@pytest.mark.skipif(torch.__version__ < _KEPT, reason="a trace of the whole is asked before")
@pytest.mark.parametrize(
    "names", [USUAL, pytest.param(list(KEPT), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_what_is_taken_to_be_kept_whole_is(recwarn, names):
    forms = (COMPOSITE, torch._C.DispatchKey.Autograd)
    written_too = {
        name
        for name, target in ((name, resolve(name)) for name in OPS)
        if isinstance(target, torch._ops.OpOverload)
        and can_stay(target)
        and any(form in target.py_kernels for form in forms)
    }
    assert written_too == KEPT.keys()
    modules, inputs = zip(*(KEPT[name]() for name in names), strict=True)
    batch = torch.export.Dim("batch", max=100)
    shapes = (tuple({0: batch} for _ in inputs),)
    program = torch.export.export(Beside(modules).eval(), inputs, dynamic_shapes=shapes, strict=False)
    for made in (program, tracing._rewritten(program, {})):
        assert {resolve(name) for name in names} <= {*tracing._targets(made)}
    assert all(stays(resolve(name)) for name in KEPT)
