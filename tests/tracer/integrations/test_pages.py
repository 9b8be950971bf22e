"""The pieces of `integrations.md`, run as they are written."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.nn import functional as F
from torch.utils.data import DataLoader

import tracer
from tests import ROOT, trainers
from tests.loops import blobs
from tests.project.test_docs import blocks
from tests.trainers import Net, Pairs, sgd

trainers.skip_if_torchvision_is_broken()
pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]
LIGHTNING, TRANSFORMERS, ACCELERATE = blocks(ROOT / "docs" / "integrations.md", "python")


def run(piece: str, **names: Any) -> None:
    x, y = blobs(trainers.N)
    exec(compile(piece, "integrations.md", "exec"), {"tracer": tracer, "F": F, "x": x, "y": y, **names})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_lightning() -> None:
    from tests.tracer.integrations.test_integration_lightning import Module, Trainer

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = partial(Trainer, accelerator="cpu", logger=False, **quiet)
    run(LIGHTNING, Trainer=trainer, module=Module(), loader=DataLoader(Pairs(), batch_size=8))
    assert len(tracer.open("runs/mlp.zarr").epoch_ends) == 10


def test_transformers() -> None:
    from transformers import TrainingArguments

    from tests.tracer.integrations.test_huggingface import bert, sentences
    from tests.tracer.integrations.test_integration_transformers import QUIET, Trainer

    tokens, labels = sentences()
    data = [
        {**{name: value[i] for name, value in tokens.items()}, "labels": labels[i]}
        for i in range(len(labels))
    ]
    arguments = TrainingArguments(
        "out", max_steps=2, save_strategy="no", dataloader_pin_memory=False, **QUIET
    )
    words = {"texts": [], "labels": labels, "tokenizer": lambda texts, padding, return_tensors: tokens}
    run(
        TRANSFORMERS,
        Trainer=Trainer,
        model=bert(num_hidden_layers=0),
        arguments=arguments,
        data=data,
        **words,
    )
    assert tracer.open("runs/bert.zarr").state == "complete"


def test_accelerate() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        from accelerate import Accelerator

    model = Net()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    loader = DataLoader(Pairs(), batch_size=4)
    run(ACCELERATE, accelerator=accelerator, model=model, optimizer=sgd(model), loader=loader)
    assert tracer.open("runs/mlp.zarr").rows["step"].tolist() == [0, 1, 2, 3]
