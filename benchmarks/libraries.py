"""Sketches of gradients beside libraries that project them, where they are installed: TRAK, Bergson and LogIX.

`pip install traker bergson logix-ai transformers` brings them; `python -m benchmarks.libraries` prints a table with a
row for each model, way and size: CPU time in forward and backward passes of the same batch (median of three, TRAK once;
draws that a library keeps are made before), bytes an example in float32, and root mean square errors of cosines over
pairs of examples: of all that a way covers together, of a piece (a layer, or a module) on average, and of what it
covers against the whole network, which counts what it leaves out too. Means of two seeds of model and projection.

Each is called as its own documentation has it: `TRAKer.featurize` on the CPU with the loss as the model's output,
Bergson's `InMemoryCollector` around its own forward and backward pass, and `LogIX.add_lora` with its logged gradients.
LogIX is the implementation of LoGra.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.models import cnn, mlp, vit
from benchmarks.scale import loss
from benchmarks.sketches import Case, error
from tracer.gradients.sketch import Setting

Pieces = list[tuple[list[str], np.ndarray]]  # tensors together, and their inner products (example, example)
Run = Callable[[], tuple[Pieces, int]]  # with how many numbers are kept of an example


class Scores(nn.Module):
    """A language model of the transformers library: scores of each token but the first."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).logits[:, :-1]


def gpt2() -> tuple[nn.Module, Tensor, Tensor]:
    """A GPT-2 of 0.9 million parameters, and sequences of 64 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=512,
        n_positions=64,
        n_embd=128,
        n_layer=4,
        n_head=4,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    tokens = torch.randint(0, 512, (32, 64))
    return Scores(GPT2LMHeadModel(config)), tokens, tokens[:, 1:]


MODELS = {"MLP": (mlp, 64), "CNN": (cnn, 32), "ViT": (vit, 16), "GPT-2": (gpt2, 16)}


def exact(case: Case) -> dict[str, np.ndarray]:
    """Inner products of each tensor's gradients, an example at a time."""
    names, parameters = zip(*case.model.named_parameters(), strict=True)
    rows = [
        torch.autograd.grad(loss(case.model(case.x[i : i + 1]), case.y[i : i + 1]), parameters)
        for i in range(len(case.x))
    ]
    flat = [torch.stack([row.flatten().double() for row in tensor]) for tensor in zip(*rows, strict=True)]
    return {name: (row @ row.T).numpy() for name, row in zip(names, flat, strict=True)}


def ours(case: Case, k: int, seed: int, folder: Path) -> Run:
    made = case.recorded("sketch", Setting(seed=seed))
    tensors = {
        layer: [name for name, of in case.plan.layer_of.items() if of == layer] for layer in case.layers
    }
    return lambda: (lambda grams, numbers: (list(zip(tensors.values(), grams[:-1], strict=True)), numbers))(
        *made()
    )


def gram(rows: Any) -> np.ndarray:
    flat = torch.as_tensor(rows).detach().flatten(1).double()
    return (flat @ flat.T).numpy()


def trak(case: Case, k: int, seed: int, folder: Path) -> Run:
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput

    class Loss(AbstractModelOutput):
        def __init__(self) -> None:
            pass

        @staticmethod
        def get_output(model: nn.Module, weights: Any, buffers: Any, x: Tensor, y: Tensor) -> Tensor:
            return loss(functional_call(model, (weights, buffers), (x[None],)), y[None])

        @staticmethod
        def get_out_to_loss_grad(model: nn.Module, weights: Any, buffers: Any, batch: Any) -> Tensor:
            return torch.ones(len(batch[0]), 1)

    n = len(case.x)
    traker = TRAKer(
        case.model,
        Loss(),
        n,
        save_dir=folder,
        device="cpu",
        proj_dim=k,
        use_half_precision=False,
        projector_seed=seed,
        logging_level=logging.ERROR,
    )
    traker.load_checkpoint(case.model.state_dict(), model_id=0)

    def run() -> tuple[Pieces, int]:
        traker.featurize((case.x, case.y), num_samples=n)
        names = [name for name, _ in case.model.named_parameters()]
        return [(names, gram(np.array(traker.saver.current_store["grads"])))], k

    return run


def bergson(case: Case, k: int, seed: int, folder: Path) -> Run:
    from bergson import GradientProcessor, IndexConfig, InMemoryCollector
    from bergson.collector.collector import fwd_bwd_factory
    from datasets import Dataset

    model, n = case.model.inner, len(case.x)
    config = IndexConfig(run_path=str(folder))
    processor = GradientProcessor(projection_dim=k, projection_seed=seed)
    data, mask = Dataset.from_dict({"input_ids": case.x.tolist()}), torch.ones_like(case.x, dtype=torch.bool)
    mask[:, -1] = False
    both_passes = fwd_bwd_factory(config)
    prefix = next(name for name, module in model.named_children() if module is model.base_model)

    def run() -> tuple[Pieces, int]:
        collector = InMemoryCollector(model=model.base_model, data=data, cfg=config, processor=processor)
        with collector.with_batch(mask):
            losses = both_passes(model, case.x, case.x, {})
        collector.process_batch(list(range(n)), losses=losses)
        collector.teardown()
        rows = collector.gradients
        return [([f"inner.{prefix}.{name}.weight"], gram(one)) for name, one in rows.items()], sum(
            one.shape[1] for one in rows.values()
        )

    return run


def logix(case: Case, k: int, seed: int, folder: Path) -> Run:
    from logix import LogIX
    from logix.config import LoggingConfig, LoRAConfig
    from logix.utils import get_logger

    get_logger().setLevel(logging.ERROR)
    torch.manual_seed(seed)
    run_ = LogIX(str(folder), logging_config=LoggingConfig())
    run_.watch(case.model)
    run_.add_lora(lora_config=LoRAConfig(rank=k))
    run_.setup({"grad": ["log"]})

    def run() -> tuple[Pieces, int]:
        with run_(data_id=[str(i) for i in range(len(case.x))]):
            case.model.zero_grad()
            (len(case.x) * loss(case.model(case.x), case.y)).backward()
        rows = {name: log["grad"] for name, log in run_.get_log()[1].items()}
        pieces = [([name.removesuffix(".logix_lora_B") + ".weight"], gram(one)) for name, one in rows.items()]
        return pieces, sum(one[0].numel() for one in rows.values())

    return run


Way = Callable[[Case, int, int, Path], Run]
WAYS: dict[str, tuple[Way, tuple[int, ...], tuple[str, ...]]] = {  # sizes, and the models that it takes
    "tracer": (ours, (8 * 128,), ("MLP", "CNN", "ViT", "GPT-2")),
    "trak": (trak, (512, 2048), ("MLP", "CNN", "ViT", "GPT-2")),
    "bergson": (bergson, (16, 32), ("GPT-2",)),
    "logix": (logix, (16, 64), ("MLP", "CNN", "ViT")),
}


def row(name: str, way: str, k: int, seed: int, true: dict[str, np.ndarray]) -> tuple[float, ...]:
    """(passes, bytes an example, error of all it covers, of a piece, against the whole network)."""
    build, n = MODELS[name]
    case = Case(build, n, seed)
    step = case.step
    with TemporaryDirectory() as folder:
        run = WAYS[way][0](case, k, seed, Path(folder))
        if way == "logix":  # it changes the model
            step = Case(build, n, seed).step
        spent = []
        for _ in range(1 if way == "trak" else 4):
            times = [time.process_time()]
            for work in (step, run):
                result = work()
                times.append(time.process_time())
            spent.append((times[2] - times[1]) / (times[1] - times[0]))
    pieces, numbers = result  # type: ignore[misc]
    truth = [sum(true[tensor] for tensor in tensors) for tensors, _ in pieces]
    each = [error(one, of) for (_, one), of in zip(pieces, truth, strict=True)]
    whole = sum(one for _, one in pieces)
    return (
        float(np.median(spent[-3:])),
        4.0 * numbers,
        error(whole, sum(truth)),
        float(np.mean(each)) if len(each) > 1 else np.nan,
        error(whole, sum(true.values())),
    )


def rows(name: str, seeds: int) -> Iterator[tuple[str, int, np.ndarray]]:
    """(way, size, mean of `row` over seeds) of one model, by every way that there is."""
    build, n = MODELS[name]
    true = [exact(Case(build, n, seed)) for seed in range(seeds)]
    for way, (_, sizes, models) in WAYS.items():
        if name in models and (way == "tracer" or find_spec(way)):
            for k in sizes:
                yield way, k, np.mean([row(name, way, k, seed, true[seed]) for seed in range(seeds)], axis=0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(
        "| model | way | size | passes | bytes an example | error, all it covers | a piece | whole network |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or MODELS:
        for way, k, (passes, size, *errors) in rows(name, seeds=2):
            told = " | ".join(f"{one:.2g}" for one in errors)
            print(f"| {name} | {way} | {k} | {passes:.2g} | {size:,.0f} | {told} |", flush=True)
