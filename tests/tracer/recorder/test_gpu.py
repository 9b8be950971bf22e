"""On a CUDA device: the same claims as on the processor, and that no update waits for a recording.

Run with `pytest -m gpu`. Training itself must be repeatable for neutrality to mean anything, so it uses
deterministic kernels, which AlexNet's adaptive pooling does not have. The one thing that is waited for are the currency
checks at steps 1, 2, 4, 8, ...; between them nothing is.
"""

import os
import warnings
from contextlib import nullcontext
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import tracer
from tests import zoo
from tests.devices import check_updates_at_once, updates_at_once
from tests.loops import blobs, mlp
from tests.oracles.gradients import check_gram, cosine_error, per_example
from tracer import bits
from tracer.errors import RecordError
from tracer.network import trace
from tracer.network.copies import named_tensors
from tracer.probe import Probe, ProbePass
from tracer.probe.packing import pack_on
from tracer.recorder import RecordWarning
from tracer.recorder.instrument import Instrument

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CUDA = torch.device("cuda", 0)
REPEATABLE = [name for name in zoo.MODELS if name not in ("AlexNet", "ResNet6")]
STYLES = (
    "sgd",
    "minibatch",
    "bf16",
    "adamw, fp16, scaler",
    "adamw, fused",
    "fused, scaler",
    "tf32",
    "minibatch, bf16",
    "compiled",
)


@pytest.fixture
def repeatable():
    """Kernels that give the same bits twice."""
    before, precision = torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision()
    torch.backends.cudnn.deterministic = True
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cudnn.deterministic = before
        torch.set_float32_matmul_precision(precision)


def repeatable_loss(outputs, targets):
    """That of the zoo, but for its mean over words, which a kernel of PyTorch adds up in any order."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def training(name, style):
    """A training function as `tracer.check` takes it: four updates on the device, dropout on."""

    def train(record):
        inner, x, y = zoo.build(name, n=16, dropout=0.3)
        inner.to(CUDA).train()
        torch.manual_seed(1)
        torch._dynamo.reset()
        torch.set_float32_matmul_precision("high" if style == "tf32" else "highest")
        backend = "inductor" if find_spec("triton") else "aot_eager"
        model = torch.compile(inner, backend=backend) if style == "compiled" else inner
        if style.startswith("adamw"):
            optimizer = torch.optim.AdamW(inner.parameters(), lr=1e-3, fused="fused" in style)
        else:
            optimizer = torch.optim.SGD(inner.parameters(), lr=0.05, momentum=0.9, fused="fused" in style)
        scaler = torch.amp.GradScaler("cuda", init_scale=2.0**14, enabled="scaler" in style)
        kind = torch.float16 if "scaler" in style else torch.bfloat16 if "bf16" in style else None
        precision = nullcontext() if kind is None else torch.autocast("cuda", kind)
        batches = [
            (x[i : i + 4].to(CUDA), y[i : i + 4].to(CUDA), np.arange(i, i + 4)) for i in range(0, 16, 4)
        ]
        options = {"minibatch": True} if "minibatch" in style else {}
        probes = {"train": (x[:6], y[:6])}
        with record(
            "run", model, optimizer, loss=zoo.loss, probes=probes, snapshots=tracer.every(1), **options
        ) as run:
            for number, (inputs, targets, _) in enumerate(run.batches(batches, ids=lambda batch: batch[2])):
                with precision:
                    loss = repeatable_loss(model(inputs), targets)
                optimizer.zero_grad()
                # The second update overflows and is left out.
                scaler.scale(loss * (float("inf") if number == 1 and scaler.is_enabled() else 1.0)).backward()
                scaler.step(optimizer)
                scaler.update()
                run.log(loss=loss, scale=scaler.get_scale())

    return train


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", REPEATABLE)
def test_training_is_unchanged(name, style, repeatable):
    with warnings.catch_warnings():
        # Compiling warns of the machine, a scheduler of a skipped update, recording of what a style leaves out.
        warnings.simplefilter("ignore")
        verdict = tracer.check(training(name, style))
    assert set(verdict.table.values()) == {"identical"}, str(verdict)


def test_the_check_sees_the_random_stream_of_the_device(monkeypatch, repeatable):
    observe = Instrument.observe

    def drawing(self, *args, **options):
        torch.rand(1, device=CUDA)
        return observe(self, *args, **options)

    monkeypatch.setattr(Instrument, "observe", drawing)
    verdict = tracer.check(training("MLP", "sgd"))
    assert verdict.table["random streams"] == "changed" and verdict.table["parameters"] == "changed"


def test_a_thousand_snapshots_with_an_update_right_after_each(tmp_path):
    check_updates_at_once(tmp_path / "run.zarr", updates_at_once(tmp_path / "run.zarr", "cuda", 1000))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("name", zoo.MODELS)
def test_between_the_checks_no_update_waits(tmp_path, name):
    model, x, y = zoo.build(name, n=64)
    model.to(CUDA)
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.01, device=CUDA), fused=True)
    batches = [(x[i : i + 4].to(CUDA), y[i : i + 4].to(CUDA), np.arange(i, i + 4)) for i in range(0, 60, 4)]
    options = {"probes": {"train": (x[:6], y[:6])}, "snapshots": tracer.every(1), "minibatch": True}
    try:
        with (
            warnings.catch_warnings(action="ignore", category=RecordWarning),
            tracer.record(tmp_path / "run.zarr", model, optimizer, loss=zoo.loss, **options) as run,
        ):
            for number, (inputs, targets, _) in enumerate(
                run.batches(batches, ids=lambda batch: batch[2]), 1
            ):
                torch.cuda.set_sync_debug_mode("error" if number > 8 else "default")
                loss = zoo.loss(model(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
            torch.cuda.set_sync_debug_mode("default")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    archive = tracer.open(tmp_path / "run.zarr")
    assert archive.steps("weights").tolist() == list(range(16))
    assert np.isfinite(archive.rows["loss"][1:]).all()
    np.testing.assert_allclose(archive.rows["lr"][:, 0], 0.01, rtol=1e-6)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_the_device_sees_what_the_processor_sees(name):
    """Outputs within 1e-4, masks equal where |pre-activation| is above 1e-4, angles of gradients within 1e-4."""
    model, x, y = zoo.build(name, n=11)
    probe = Probe(x, y, split="train", capture={"activations": None, "gradients": 8})
    found = {}
    for place in ("cpu", "cuda"):
        model.to(place)
        given = (x[:4].to(place), y[:4].to(place))
        network = trace(model, *given, zoo.loss)
        seen = ProbePass(network, {"train": probe}, tensors=named_tensors(model), gradients="exact", chunk=4)
        found[place] = seen.run(named_tensors(model), seen.streams)
        assert seen.ways and "gradients" in seen.streams
    ours, theirs = found["cuda"], found["cpu"]
    assert ours.keys() == theirs.keys()
    for group in ("probes/train/outputs", "probes/train/sums", "probes/train/activations"):
        for key, values in theirs[group].items():
            np.testing.assert_allclose(ours[group][key], values, rtol=1e-4, atol=1e-4)
    for mine, wanted in zip(ours["gram"]["gram"], theirs["gram"]["gram"], strict=True):
        assert cosine_error(torch.from_numpy(mine), torch.from_numpy(wanted)) < 1e-4
    if "probes/train/masks" in theirs:
        masks = [bits.unpack(run["probes/train/masks"]["bits"], 11) for run in (ours, theirs)]
        assert (masks[0] != masks[1]).mean() < 1e-3


@pytest.mark.parametrize("name", ["LSTM", "ViT", "CNN"])
def test_gradients_are_those_of_autograd_on_the_device(name):
    model, x, y = zoo.build(name, n=6)
    network = trace(model.to(CUDA), x.to(CUDA), y.to(CUDA), zoo.loss)
    probe = Probe(x, y, split="train")
    seen = ProbePass(network, {"train": probe}, tensors=named_tensors(model), streams=["gradients"], chunk=4)
    observed = seen.run(named_tensors(model), {"gradients"})
    theirs = per_example(model, zoo.loss, x.to(CUDA), y.to(CUDA))
    exact = per_example(model.cpu(), zoo.loss, x, y, double=True)
    for position, layer in enumerate(network.layers):
        rows = ([found[p].cpu() for p in layer.parameters] for found in (exact, theirs))
        check_gram(torch.from_numpy(observed["gram"]["gram"][position]), *rows)


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("shape", [(1, 1), (13, 70), (64, 1000)])
def test_bits_are_packed_alike(shape, start):
    pre = torch.randn(shape)
    assert torch.equal(pack_on(pre.to(CUDA), start).cpu(), pack_on(pre, start))


def settings():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return (
        cudnn.allow_tf32,
        cudnn.enabled,
        cudnn.benchmark,
        cudnn.deterministic,
        cudnn.conv.fp32_precision,
        cudnn.rnn.fp32_precision,
        matmul.fp32_precision,
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.cuda.current_stream().cuda_stream,
        torch.cuda.current_device(),
    )


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("benchmark", [False, True])
def test_settings_of_kernels_stay(tmp_path, benchmark, precision):
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = benchmark
    torch.set_float32_matmul_precision(precision)
    try:
        model, x, y = zoo.build("CNN", n=8)
        optimizer = torch.optim.SGD(model.to(CUDA).parameters(), lr=0.1)
        expected, probes = settings(), {"train": (x, y)}
        with tracer.record(tmp_path / "run.zarr", model, optimizer, loss=zoo.loss, probes=probes) as run:
            zoo.loss(model(x.to(CUDA)), y.to(CUDA)).backward()
            optimizer.step()
            assert settings() == expected
            run.step(ids=range(8))
        assert settings() == expected
        assert not any("gradient" in note or "no longer computes" in note for note in run.notes), run.notes
    finally:
        torch.backends.cudnn.benchmark = before
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_updates_are_marked(tmp_path, fused):
    model = mlp().to(CUDA)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cuda", init_scale=4.0)
    x, y = (tensor.to(CUDA) for tensor in blobs(24))
    with tracer.record(tmp_path / "run.zarr", model, optimizer, probes={}, snapshots=tracer.every(1)):
        for number in range(4):
            loss = nn.functional.cross_entropy(model(x), y) * (float("inf") if number == 1 else 1.0)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    archive = tracer.open(tmp_path / "run.zarr")
    assert archive.rows["skipped"].tolist() == [False, False, True, False, False]


def test_an_update_within_a_captured_graph_is_refused(tmp_path):
    model = mlp().to(CUDA)
    optimizer = torch.optim.Adam(model.parameters(), capturable=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with tracer.record(tmp_path / "run.zarr", model, optimizer, probes={}):
        optimizer.step()
        with pytest.raises(RecordError, match="optimizer=None"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            optimizer.step()


def test_a_plan_measures_the_device_and_a_budget_charges_it(tmp_path):
    model, x, y = zoo.build("VGG19BN", n=64, width=16)
    optimizer = torch.optim.SGD(model.to(CUDA).parameters(), lr=0.01)
    probes, inputs, targets = {"train": (x, y)}, x[:4].to(CUDA), y[:4].to(CUDA)
    with tracer.record(
        tmp_path / "run.zarr",
        model,
        optimizer,
        loss=zoo.loss,
        probes=probes,
        snapshots=tracer.every(1),
        budget=0.01,
    ) as run:
        assert run.plan(steps=10).seconds > 0
        for _ in range(20):
            optimizer.zero_grad()
            zoo.loss(model(inputs), targets).backward()
            optimizer.step()
    archive = tracer.open(tmp_path / "run.zarr")
    assert archive.attributes["gaps"] and archive.steps("weights")[-1] == 20
