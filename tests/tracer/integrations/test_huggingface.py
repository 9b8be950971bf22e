"""Hugging Face models, built from a configuration: recorded like any other, with several named inputs."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tracer
from tests.trainers import skip_if_torchvision_is_broken
from tracer.verify import verify

skip_if_torchvision_is_broken()

SIZES = {
    "vocab_size": 17,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 8,
    "num_labels": 3,
    "pad_token_id": 0,
}


def built(name: str, **options: Any) -> nn.Module:
    """A model of the package, which takes seconds to import: of two processes that run tests one need not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        import transformers

        config, model = (
            getattr(transformers, f"{name}{part}") for part in ("Config", "ForSequenceClassification")
        )
    torch.manual_seed(0)
    made: nn.Module = model(config(**{**SIZES, **options}))
    return made


def bert(**options: Any) -> nn.Module:
    return built("Bert", **options)


def llama() -> nn.Module:
    return built("Llama", num_key_value_heads=1, attention_dropout=0.1, bos_token_id=1, eos_token_id=2)


MODELS = {"bert": bert, "llama": llama}
PARAMS = ["bert", pytest.param("llama", marks=pytest.mark.slow)]


def sentences(n: int = 12) -> tuple[dict[str, Tensor], Tensor]:
    """Every other one is shorter and padded."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(3, 17, (n, 6), generator=generator)
    mask = torch.ones_like(words)
    mask[::2, 4:] = 0
    return {"input_ids": words * mask, "attention_mask": mask}, torch.arange(n) % 3


def objective(model: nn.Module, inputs: dict[str, Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    scores = model(**inputs).logits
    return scores, F.cross_entropy(scores, targets, reduction="none")


def training(build: Callable[[], nn.Module]) -> Callable[[Any], None]:
    """Three updates by the loss that the model computes itself, as `tracer.check` takes it."""

    def train(record: Any) -> None:
        model = build().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        inputs, targets = sentences()
        data = TensorDataset(inputs["input_ids"], inputs["attention_mask"], targets)
        batches = DataLoader(data, batch_size=4, shuffle=True)
        probe = {name: values[:4] for name, values in inputs.items()}
        with record(
            "run.zarr",
            model,
            optimizer,
            objective=objective,
            probes={"train": (probe, targets[:4])},
            snapshots=tracer.at([3]),
        ) as run:
            for words, mask, labels in run.batches(batches):
                loss = model(input_ids=words, attention_mask=mask, labels=labels).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.log(loss=loss)

    return train


@pytest.fixture(scope="module", params=PARAMS)
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Any]:
    """What was recorded of each model, and whether recording changed its training."""
    path = tmp_path_factory.mktemp("hub") / "run.zarr"
    name: str = request.param

    def recording(_: Any, *args: Any, **options: Any) -> Any:
        return tracer.record(path, *args, **options)

    training(MODELS[name])(recording)
    return name, path, tracer.check(training(MODELS[name]))


def test_the_model_is_a_table_that_replays(recorded: tuple[str, Path, Any]) -> None:
    name, path, _ = recorded
    with tracer.open(path) as archive:
        assert archive.card["network"] == "table" and archive.attributes["notes"] == []
        smooth = "intermediate_act_fn:gelu" if name == "bert" else "mlp.act_fn:silu"
        assert any(site.endswith(smooth) for site in archive.sites)
        assert archive.probes["train"].masks(archive.sites[0], 3).shape == (4, 6 * 12)
        assert set(archive.card["gradients"]["ways"].values()) <= {"rows", "vmap"}
    assert verify(path, full=True, replay=True).ok


def test_gradients_are_those_of_autograd_one_example_at_a_time(recorded: tuple[str, Path, Any]) -> None:
    name, path, _ = recorded
    model = MODELS[name]().eval()
    inputs, targets = sentences()
    with tracer.open(path) as archive:
        probe = archive.probes["train"]
        for step in (0, 3):
            weights = {key: torch.from_numpy(value) for key, value in archive.weights(step).items()}
            missing, extra = model.load_state_dict(weights, strict=False)
            assert not missing and all(key not in model.state_dict() for key in extra)
            for i in range(4):
                one = {key: values[i : i + 1] for key, values in inputs.items()}
                _, loss = objective(model, one, targets[i : i + 1])
                assert loss.item() == pytest.approx(float(probe.losses(step)[i]), rel=1e-5)
                wanted = torch.autograd.grad(loss.sum(), list(model.parameters()))
                for (key, _), gradient in zip(model.named_parameters(), wanted, strict=True):
                    expected = gradient.numpy().ravel().astype(float)
                    got = probe.gradients(key, step)[i].ravel().astype(float)
                    size = np.linalg.norm(expected)
                    assert np.linalg.norm(got) == pytest.approx(size, rel=1e-4, abs=1e-6), key
                    if size > 1e-6:
                        assert 1 - got @ expected / (size * np.linalg.norm(got)) < 1e-5, key


def test_training_is_unchanged(recorded: tuple[str, Path, Any]) -> None:
    verdict = recorded[2]
    assert verdict.steps == 3
    assert verdict and set(verdict.table.values()) == {"identical"}, str(verdict)
