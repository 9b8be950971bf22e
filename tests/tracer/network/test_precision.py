"""Full float32 inside, and a user's settings, newer and older ones, as they were outside."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tracer.network import trace
from tracer.network.checks import closure, currency
from tracer.network.precision import full_precision

NEWER = hasattr(getattr(torch.backends.cudnn, "conv", None), "fp32_precision")  # PyTorch 2.9
CUDNN, MATMUL = torch.backends.cudnn, torch.backends.cuda.matmul


def told(read):
    try:
        return read()
    except RuntimeError:
        return "said twice, and differently"


def settings():
    kinds = (CUDNN.conv, CUDNN.rnn, MATMUL, torch.backends.mkldnn.matmul) if NEWER else ()
    older = (lambda: CUDNN.allow_tf32, torch.get_float32_matmul_precision, lambda: MATMUL.allow_tf32)
    return [kind.fp32_precision for kind in kinds], [told(read) for read in older]


def high():
    torch.set_float32_matmul_precision("high")


def medium():
    torch.set_float32_matmul_precision("medium")


def newer():
    MATMUL.fp32_precision = "tf32"


def one_of_two():
    CUDNN.conv.fp32_precision = "ieee"


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    CUDNN.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("choose", [lambda: None, high, medium, *[newer, one_of_two] * NEWER])
def test_settings_come_back(choose):
    choose()
    before = settings()
    with full_precision():
        kinds, older = settings()
        assert not {"tf32", "bf16"} & set(kinds)
        if choose in (high, medium):
            assert older == [False, "highest", False]
    assert settings() == before


def test_what_reads_the_older_settings_runs_inside():
    """`torch.backends.cudnn.flags` does, which models and `torch.export` use."""

    class Careful(nn.Linear):
        def forward(self, x):
            with torch.backends.cudnn.flags(enabled=False):
                return super().forward(x)

    high()
    model, x, y = Careful(3, 2), torch.randn(4, 3), torch.arange(4) % 2
    with full_precision():
        model(x)
    network = trace(model, x, y, F.cross_entropy)
    assert closure(network, model, x, y, F.cross_entropy).holds
    assert currency(network, model, x, y, F.cross_entropy).holds
