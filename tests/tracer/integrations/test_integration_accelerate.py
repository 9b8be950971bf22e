"""Accelerate: a prepared model, optimizer and loader give the archive of the plain loop."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import tracer
from tests import trainers
from tests.trainers import (
    Net,
    assert_same,
    assert_same_weights,
    check_ids_of_collated,
    dropped,
    loader,
    notes_of,
    options,
    plain,
    reordered,
    sgd,
    watched,
)
from tracer.errors import RecordError
from tracer.recorder import RecordWarning

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what it imports
    from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.state import AcceleratorState

    from tracer.integrations.accelerate import record

IDS = {"minibatch": False, "probes": {}}  # nothing but rows and weights


def train(
    path: Path | None,
    accumulation: int = 1,
    batches: Any = None,
    mixed_precision: str = "no",
    **changes: Any,
) -> tuple[Net, list[int]]:
    AcceleratorState._reset_state(reset_partial_state=True)  # one precision per process otherwise
    accelerator = Accelerator(
        cpu=True, gradient_accumulation_steps=accumulation, mixed_precision=mixed_precision
    )
    own = Net().train()
    model, optimizer, batches = accelerator.prepare(own, sgd(own), loader() if batches is None else batches)
    seen = watched(own)
    torch.manual_seed(1)
    if path is None:
        loop(accelerator, model, optimizer, batches, None)
    else:
        with record(path, model, optimizer, **options(**changes)) as run:
            loop(accelerator, model, optimizer, batches, run)
    return own, seen


def loop(accelerator: Accelerator, model: Any, optimizer: Any, batches: Any, run: Any) -> None:
    for _ in range(trainers.EPOCHS):
        losses = []
        for x, y in batches if run is None else run.batches(batches):
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.detach() / accelerator.gradient_accumulation_steps)
            if accelerator.sync_gradients:
                if run is not None:
                    run.log(loss=sum(losses))
                losses.clear()


@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_archive_is_that_of_the_plain_loop(tmp_path: Path, accumulation: int) -> None:
    model, seen = train(tmp_path / "a.zarr", accumulation)
    assert_same_weights(model, plain(tmp_path / "b.zarr", accumulation))
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert archive._source.read("steps/ids").tolist() == seen
        assert len(archive.epoch_ends) == trainers.EPOCHS


@pytest.mark.parametrize("mixed_precision", ["no", pytest.param("bf16", marks=pytest.mark.slow)])
def test_training_is_unchanged(tmp_path: Path, mixed_precision: str) -> None:
    bare, seen = train(None, 2, mixed_precision=mixed_precision)
    after = torch.get_rng_state()
    model, again = train(tmp_path / "a.zarr", 2, mixed_precision=mixed_precision)
    assert torch.equal(after, torch.get_rng_state()) and seen == again
    assert_same_weights(model, bare)
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert notes_of(archive) == []
        assert [call["name"] for call in archive.attributes["calls"]] == ["net.0", "net.4"]
        x = options()["probes"]["test"][0]
        step = int(archive.snapshots[-1])
        expected = model.eval().net(x).detach().numpy()  # outside autocast
        np.testing.assert_allclose(archive.probes["test"].outputs(step), expected, rtol=1e-5, atol=1e-6)


KINDS: dict[str, dict[str, Any]] = {
    "workers": {"num_workers": 2},
    "persistent workers": {"num_workers": 1, "persistent_workers": True},
    "drop last": {"drop_last": True},
}
WORKER = pytest.param(reordered, 1, marks=pytest.mark.slow)  # test_order.py has workers with a plain loop


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "workers")) for kind in KINDS]
)
def test_ids_are_those_of_the_batches_trained_on(tmp_path: Path, kind: str) -> None:
    _, seen = train(tmp_path / "a.zarr", batches=loader(**KINDS[kind]), **IDS)
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert archive._source.read("steps/ids").tolist() == seen
        assert len(archive.rows["step"]) == 1 + trainers.EPOCHS * (5 if kind == "drop last" else 6)


@pytest.mark.parametrize(
    ("collate", "workers"), [(reordered, 0), WORKER, (dropped, 0)], ids=["moved", "worker", "dropped"]
)
@pytest.mark.filterwarnings("ignore::tracer.recorder.messages.RecordWarning")
def test_ids_go_with_the_examples_that_a_collate_fn_moves(tmp_path: Path, collate: Any, workers: int) -> None:
    settings = {"collate_fn": collate, "num_workers": workers, "drop_last": True}
    batches = loader(**settings)
    bare, plainly = train(None, batches=loader(**settings))
    model, seen = train(tmp_path / "a.zarr", batches=batches, **IDS)
    assert_same_weights(model, bare)
    assert seen == plainly and batches.collate_fn is collate
    check_ids_of_collated(tmp_path / "a.zarr", seen, collate)


def test_persistent_workers_that_may_move_examples_are_noted(tmp_path: Path) -> None:
    batches = loader(collate_fn=reordered, num_workers=1, persistent_workers=True)
    with pytest.warns(RecordWarning, match="not seen in persistent workers"):
        _, seen = train(tmp_path / "a.zarr", batches=batches, **IDS)
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert sorted(archive._source.read("steps/ids").tolist()) == sorted(seen)


def test_the_rest_of_an_epoch_taken_up_again(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    own = Net().train()
    model, optimizer, batches = accelerator.prepare(own, sgd(own), loader())
    seen = watched(own)
    with record(tmp_path / "a.zarr", model, optimizer, **options(**IDS)) as run:
        for part in (skip_first_batches(batches, 2), batches):
            for x, y in run.batches(part):
                accelerator.backward(F.cross_entropy(model(x), y))
                optimizer.step()
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert archive._source.read("steps/ids").tolist() == seen and len(archive.rows["step"]) == 1 + 4 + 6


def test_where_ids_are_not_known_they_are_refused(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=True))
    own = Net()
    model, optimizer, batches = accelerator.prepare(own, sgd(own), loader())
    with (
        record(tmp_path / "a.zarr", model, optimizer, **options(**IDS)) as run,
        pytest.raises(RecordError, match=r"DataLoaderDispatcher .* ids=function_of_a_batch"),
    ):
        next(iter(run.batches(batches)))


def test_updates_that_a_scaler_leaves_out_are_marked(tmp_path: Path) -> None:
    own = Net().train()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = AcceleratedOptimizer(sgd(own), scaler=scaler)
    with record(tmp_path / "a.zarr", own, optimizer, **options(**IDS)) as run:
        for i, (x, y) in enumerate(run.batches(loader())):
            scaler.scale(F.cross_entropy(own(x), y) * (float("inf") if i == 1 else 1.0)).backward()
            optimizer.step()
            assert optimizer.step_was_skipped == (i == 1)
            optimizer.zero_grad()
    assert tracer.open(tmp_path / "a.zarr").rows["skipped"].tolist() == [step == 2 for step in range(7)]
