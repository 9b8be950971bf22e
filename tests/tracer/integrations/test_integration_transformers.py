"""Transformers: a Trainer leaves the archive of the plain loop, and trains as without a recording."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

import tracer
import tracer.errors
from tests import trainers
from tests.loops import blobs
from tests.trainers import (
    Net,
    Order,
    Pairs,
    assert_same,
    assert_same_weights,
    check_ids_of_collated,
    dropped,
    notes_of,
    options,
    plain,
    reordered,
    sgd,
    watched,
)
from tracer.recorder import RecordWarning

trainers.skip_if_torchvision_is_broken()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what it imports
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from tracer.integrations.transformers import Recording

IDS = {"minibatch": False, "probes": {}}  # nothing but rows and weights
QUIET = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "logging_strategy": "no"}
PLAIN = {"save_strategy": "no", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
SIZES = {"num_train_epochs": trainers.EPOCHS, "per_device_train_batch_size": trainers.BATCH}
pytestmark = pytest.mark.slow


class Ordered(Trainer):
    """A Trainer that takes examples in the order of the plain loop."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return Order(self.train_dataset)


def train(
    path: Path,
    callbacks: Any = (),
    kind: type[Trainer] = Ordered,
    data: Dataset[Any] | None = None,
    resume: str | None = None,
    collate: Any = None,
    **settings: Any,
) -> tuple[Net, list[int]]:
    model = Net()
    arguments = TrainingArguments(
        str(path.parent / "checkpoints"),
        **{**QUIET, **PLAIN, **SIZES, "dataloader_pin_memory": False, **settings},
    )
    trainer = kind(
        model=model,
        args=arguments,
        train_dataset=Pairs(named=True) if data is None else data,
        data_collator=collate,
        eval_dataset=Pairs(named=True),
        optimizers=(sgd(model), None),
        callbacks=list(callbacks),
    )
    seen = watched(model)
    torch.manual_seed(1)
    trainer.train(resume_from_checkpoint=resume)
    return model, seen


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_archive_is_that_of_the_plain_loop(tmp_path: Path, accumulation: int) -> None:
    recording = Recording(tmp_path / "a.zarr", **options())
    model, seen = train(tmp_path / "a.zarr", [recording], gradient_accumulation_steps=accumulation)
    assert_same_weights(model, plain(tmp_path / "b.zarr", accumulation))
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert archive._source.read("steps/ids").tolist() == seen
        assert len(archive.epoch_ends) == trainers.EPOCHS


@pytest.mark.parametrize(
    ("collate", "workers"),
    [
        (reordered, 0),
        (reordered, 1),
        (dropped, 0),
    ],
    ids=["moved", "worker", "dropped"],
)
@pytest.mark.filterwarnings("ignore::tracer.recorder.messages.RecordWarning")
def test_ids_go_with_the_examples_that_a_collate_fn_moves(tmp_path: Path, collate: Any, workers: int) -> None:
    settings = {"collate": collate, "dataloader_num_workers": workers, "dataloader_drop_last": True}
    bare, plainly = train(tmp_path / "a.zarr", **settings)
    model, seen = train(tmp_path / "a.zarr", [Recording(tmp_path / "a.zarr", **options(**IDS))], **settings)
    assert_same_weights(model, bare)
    assert seen == plainly
    check_ids_of_collated(tmp_path / "a.zarr", seen, collate)


@pytest.mark.parametrize("bf16", [False, True])
def test_training_is_unchanged(tmp_path: Path, bf16: bool) -> None:
    outcomes = []
    for callbacks in ([], [Recording(tmp_path / "a.zarr", **options())]):
        settings = {"gradient_accumulation_steps": 2, "bf16": bf16, "eval_strategy": "epoch"}
        model, seen = train(tmp_path / "a.zarr", callbacks, Trainer, **settings)
        outcomes.append((model, seen, torch.get_rng_state().tolist()))
    assert_same_weights(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1:] == outcomes[1][1:]
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert notes_of(archive) == []
        assert archive._source.read("steps/ids").tolist() == seen
        evaluated = np.isfinite(archive.rows["eval_loss"])
        assert evaluated.tolist() == [step in (3, 6) for step in range(7)]


KINDS: dict[str, dict[str, Any]] = {
    "workers": {"dataloader_num_workers": 2},
    "persistent workers": {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
    "drop last": {"dataloader_drop_last": True},
    "no whole epoch": {"max_steps": 9},
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_batches_trained_on(tmp_path: Path, kind: str) -> None:
    recording = Recording(tmp_path / "a.zarr", **options(**IDS))
    _, seen = train(tmp_path / "a.zarr", [recording], Trainer, **KINDS[kind])
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert archive.state == "complete"
        assert archive._source.read("steps/ids").tolist() == seen
        assert len(archive.epoch_ends) == (1 if kind == "no whole epoch" else 2)


class BreakOff(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 11:
            raise RuntimeError("the lights went out")


@pytest.mark.parametrize("managed", [False, True])
def test_a_training_that_broke_off_and_went_on(tmp_path: Path, managed: bool) -> None:
    path = tmp_path / "a.zarr"
    saving = {"save_strategy": "steps", "save_steps": 4, "save_only_model": False}

    def again(*callbacks: Any, resume: str | None = None) -> list[int]:
        recording = Recording(path, resume=True, **options(**IDS))
        if not managed:
            return train(path, [recording, *callbacks], Trainer, resume=resume, **saving)[1]
        with recording:
            return train(path, [recording, *callbacks], Trainer, resume=resume, **saving)[1]

    try:
        again(BreakOff())
    except RuntimeError as error:
        assert "lights" in str(error)
    with tracer.open(path) as archive:  # what held the loader is gone with the error
        assert archive.state == "interrupted" and archive.rows["step"][-1] == 11
        seen = [i for step in range(1, 9) for i in archive.ids(step)]
    seen += again(resume=str(tmp_path / "checkpoints" / "checkpoint-8"))
    with tracer.open(path) as archive:
        assert archive.state == "complete" and archive.epoch_ends.tolist() == [6, 12]
        assert archive._source.read("steps/ids").tolist() == seen
        (entry,) = archive.attributes["tracer"]["resumes"]
        assert (entry["step"], entry["dropped"]) == (8, 11)


def test_the_last_state_is_that_of_the_last_update_and_not_the_best(tmp_path: Path) -> None:
    last: dict[str, Any] = {}

    class Look(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            last.update({name: value.clone() for name, value in model.state_dict().items()})

    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    best = {"metric_for_best_model": "eval_loss", "greater_is_better": True}  # which is the worse one
    recording = Recording(tmp_path / "a.zarr", **options(**IDS))
    model, _ = train(tmp_path / "a.zarr", [Look(), recording], **settings, **best)
    with tracer.open(tmp_path / "a.zarr") as archive:
        stored = archive.weights(int(archive.snapshots[-1]))
    np.testing.assert_array_equal(stored["net.0.weight"], last["net.0.weight"])
    assert not torch.equal(model.net[0].weight, last["net.0.weight"])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([{"x": x, "labels": y} for x, y in zip(*blobs(trainers.N), strict=True)])


def test_ids_that_are_not_known_are_left_out_or_given(tmp_path: Path) -> None:
    numbers = {tuple(row): i for i, row in enumerate(blobs(trainers.N)[0].tolist())}
    changes = options(**IDS)
    settings = {"data": Stream(), "max_steps": 7}
    with pytest.warns(RecordWarning, match=r"No example ids .* Stream, which is iterable"):
        train(tmp_path / "a.zarr", [Recording(tmp_path / "a.zarr", **changes)], **settings)

    def number(batch: Any) -> list[int]:
        return [numbers[tuple(row)] for row in batch["x"].tolist()]

    given = Recording(tmp_path / "b.zarr", ids=number, **changes)
    _, seen = train(tmp_path / "b.zarr", [given], **settings)
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert archive.rows["n_ids"].tolist() == [0] * 8
    with tracer.open(tmp_path / "b.zarr") as archive:
        assert archive._source.read("steps/ids").tolist() == seen
        assert len(seen) == trainers.N + trainers.BATCH


def test_nothing_is_left_in_place(tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.data_loader import DataLoaderShard

    before = Accelerator.backward, DataLoaderShard.__iter__, DataLoader.__iter__
    train(tmp_path / "a.zarr", [Recording(tmp_path / "a.zarr", **options(**IDS))], max_steps=1)
    assert before == (Accelerator.backward, DataLoaderShard.__iter__, DataLoader.__iter__)


def heads() -> list[Any]:
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        GPT2Config,
        GPT2LMHeadModel,
        T5Config,
        T5ForConditionalGeneration,
    )

    bert = BertConfig(
        vocab_size=13,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        num_labels=3,
    )
    gpt = GPT2Config(
        vocab_size=13, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    t5 = T5Config(
        vocab_size=13, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return [GPT2LMHeadModel(gpt), BertForSequenceClassification(bert), T5ForConditionalGeneration(t5)]


def test_objectives_of_heads_are_those_of_the_models_and_say_what_is_correct() -> None:
    from tracer.integrations.heads import objective_of_head
    from tracer.network.objective import scored

    torch.manual_seed(0)
    tokens = torch.randint(0, 13, (4, 5))
    labels = tokens.clone()
    labels[:, -1] = -100
    for model in heads():
        model.eval()
        one = type(model).__name__ == "BertForSequenceClassification"
        targets = tokens[:, 0] % 3 if one else labels
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        with torch.no_grad():
            found = scored(objective_of_head(model)(model, inputs, targets))
            wanted = model(**inputs, labels=targets)
        assert found.losses.mean().item() == pytest.approx(wanted.loss.item(), rel=1e-5)
        logits, aligned = wanted.logits, targets
        if type(model).__name__ == "GPT2LMHeadModel":
            logits, aligned = logits[:, :-1], targets[:, 1:]
        right = [
            np.mean([bool(a.argmax() == t) for a, t in zip(rows, true.flatten(), strict=True) if t != -100])
            for rows, true in zip(
                logits.flatten(1, -2) if logits.ndim > 2 else logits[:, None], aligned, strict=True
            )
        ]
        np.testing.assert_allclose(found.correct, right, rtol=1e-6)
    with pytest.raises(tracer.errors.RecordError, match="Net has none of the heads"):
        objective_of_head(Net())
