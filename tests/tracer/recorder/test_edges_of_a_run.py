"""What is logged late, named badly, or done twice: nothing is lost, and training is not stopped for it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tracer
from tests.loops import blobs
from tracer.errors import RecordError
from tracer.recorder import RecordWarning
from tracer.recorder.budget import Budget


def made(**options: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})


def loader(size: int = 6) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*blobs(24)), batch_size=size)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> torch.Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss


def rows(path: Path) -> Any:
    with tracer.open(path) as archive:
        return {name: archive.rows[name].tolist() for name in archive.rows}


def test_values_logged_after_a_batch_that_was_not_trained_on(tmp_path: Path) -> None:
    model, optimizer = made()
    with tracer.record(tmp_path / "run.zarr", model, optimizer, probes={}) as run:
        for number, batch in enumerate(run.batches(loader())):
            if number == 2:
                break
            run.log(loss=step(model, optimizer, batch))
        run.log(test_acc=0.9)
    assert rows(tmp_path / "run.zarr")["test_acc"][-1] == 0.9


def test_values_of_an_epoch_whose_last_batch_waits_for_an_update(tmp_path: Path) -> None:
    model, optimizer = made()
    with tracer.record(tmp_path / "run.zarr", model, optimizer, probes={}) as run:
        for epoch in range(2):
            for number, (x, y) in enumerate(run.batches(loader(5))):
                F.cross_entropy(model(x), y).backward()
                if number % 2:
                    optimizer.step()
                    optimizer.zero_grad()
            run.log(val_acc=float(epoch + 1))
    found = rows(tmp_path / "run.zarr")
    assert found["epoch"] == [0, 1, 1, 2, 2]
    np.testing.assert_array_equal(found["val_acc"], [np.nan, np.nan, 1, np.nan, 2])


def test_an_update_of_left_over_batches_is_of_their_epoch(tmp_path: Path) -> None:
    model, optimizer = made()
    path = tmp_path / "run.zarr"
    with tracer.record(path, model, optimizer, snapshots=tracer.epochs(), probes={}) as run:
        for _ in range(2):
            for number, (x, y) in enumerate(run.batches(loader(5))):
                F.cross_entropy(model(x), y).backward()
                if number % 2:
                    optimizer.step()
                    optimizer.zero_grad()
            optimizer.step()
            optimizer.zero_grad()
    assert rows(path)["epoch"] == [0, 1, 1, 1, 2, 2, 2]
    with tracer.open(path) as archive:
        assert archive.epoch_ends.tolist() == [3, 6] and archive.steps("weights").tolist() == [0, 3, 6]
        assert sorted(archive.ids(3).tolist()) == [20, 21, 22, 23]


def test_values_logged_after_a_flush(tmp_path: Path) -> None:
    model, optimizer = made()
    with tracer.record(tmp_path / "run.zarr", model, optimizer, probes={}) as run:
        for epoch in range(2):
            for batch in run.batches(loader(12)):
                step(model, optimizer, batch)
            run.flush()
            run.log(val_acc=epoch + 0.5)
    found = rows(tmp_path / "run.zarr")["val_acc"]
    np.testing.assert_array_equal(found, [np.nan, np.nan, np.nan, 0.5, 1.5])


def test_names_are_refused_where_they_are_given(tmp_path: Path) -> None:
    model, optimizer = made()
    with tracer.record(tmp_path / "run.zarr", model, optimizer, probes={}) as run:
        for number, batch in enumerate(run.batches(loader())):
            step(model, optimizer, batch)
            run.log(**{"train/acc": number, "x" * 300: 1.0, "é" * 200: 2.0})
            for name in ("train_acc", "a\ud800", "lr"):
                with pytest.raises(RecordError, match=r"name|stored in one place"):
                    run.log(**{name: 1.0})
    found = rows(tmp_path / "run.zarr")
    assert found["step"] == [0, 1, 2, 3, 4] and found["train/acc"][1:] == [0, 1, 2, 3]
    assert found["x" * 300][1:] == [1] * 4 and found["é" * 200][1:] == [2] * 4


def test_what_fails_at_the_end_leaves_what_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = made()
    path = tmp_path / "run.zarr"
    with (
        pytest.raises(RecordWarning, match="is NaN"),
        tracer.record(path, model, optimizer, probes={}, snapshots=tracer.every(1)) as run,
    ):
        for batch in run.batches(loader()):
            step(model, optimizer, batch)
        run.log(loss=float("nan"))
    with tracer.open(path) as archive:
        assert archive.state == "interrupted" and archive.rows["step"].tolist()[:4] == [0, 1, 2, 3]
    assert not list(tmp_path.glob("*.lock"))


def test_a_step_left_out_for_the_budget_and_then_taken_is_no_gap() -> None:
    budget = Budget(0.5, clock=lambda: 0.0)
    budget._spent = 1.0
    assert not budget.allows(3, {"masks"}) and not budget.allows(4, {"masks"})
    budget.taken(4, {"masks", "weights"})
    budget.taken(4, {"masks", "weights"})
    assert budget.gaps == [{"streams": ["masks"], "steps": [3]}]


def test_a_loss_logged_before_the_first_update_is_told(tmp_path: Path) -> None:
    model, optimizer = made()
    with (
        pytest.warns(RecordWarning, match="before the first update"),
        tracer.record(tmp_path / "run.zarr", model, optimizer, probes={}) as run,
    ):
        for batch in loader():
            run.log(loss=1.0)
            step(model, optimizer, batch)


def test_a_rate_that_is_none_is_undefined(tmp_path: Path) -> None:
    model, optimizer = made()
    optimizer.param_groups[0]["lr"] = None
    with tracer.record(tmp_path / "run.zarr", model, optimizer, probes={}):
        pass
    assert np.isnan(rows(tmp_path / "run.zarr")["lr"]).all()


def test_the_same_twice_is_once(tmp_path: Path) -> None:
    model, optimizer = made()
    with tracer.record(tmp_path / "run.zarr", model, [optimizer, optimizer], probes={}).start() as run:
        for batch in run.batches(loader()):
            step(model, optimizer, batch)
    assert rows(tmp_path / "run.zarr")["step"] == [0, 1, 2, 3, 4]
    with pytest.raises(RecordError, match="not open"):
        run.step()
    before = len(optimizer._optimizer_step_post_hooks)
    assert before == 0


def test_batches_for_two_optimizers_are_no_prefetching(tmp_path: Path) -> None:
    model, first = made()
    second = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with tracer.record(tmp_path / "run.zarr", model, [first, second], probes={}) as run:
        for number, batch in enumerate(run.batches(loader())):
            F.cross_entropy(model(batch[0]), batch[1]).backward()
            if number % 2:
                first.step()
                second.step()
    assert rows(tmp_path / "run.zarr")["n_ids"] == [0, 12, 0, 12, 0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="systems that fork")
def test_a_forked_child_leaves_quietly(tmp_path: Path) -> None:
    model, optimizer = made()
    with tracer.record(tmp_path / "run.zarr", model, optimizer, probes={}) as run:
        run.log(x=1.0)
        if (child := os.fork()) == 0:
            run.__exit__(SystemExit, SystemExit(0), None)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert rows(tmp_path / "run.zarr")["x"] == [1.0]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_step_compiles_nothing_of_the_recording(tmp_path: Path) -> None:
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model, optimizer = made()
    with tracer.record(tmp_path / "run.zarr", model, optimizer, snapshots=tracer.every(2), probes={}) as run:
        compiled = torch.compile(optimizer.step, backend=backend)
        for x, y in run.batches(loader()):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            compiled()
    torch._dynamo.reset()
    assert len(graphs) <= 1 and not run.notes
    with tracer.open(tmp_path / "run.zarr") as archive:
        assert archive.steps("weights").tolist() == [0, 2, 4]
