"""Weights that are loaded or written between updates: a step is what its update led to, and what it is not is said."""

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import tracer
from tests.loops import blobs, mlp
from tracer.recorder import RecordWarning

X, Y = blobs()
State = dict[str, Tensor]


class Loop:
    """A training of which only the first and the last step are recorded."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path, self.model = path, mlp()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        defaults = {"optimizer": self.optimizer, "probes": {}, "snapshots": tracer.every(100)}
        self.record = tracer.record(path, self.model, **{**defaults, **options})

    def update(self, times: int = 1) -> State:
        """The weights after so many updates."""
        for _ in range(times):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(X), Y).backward()
            self.optimizer.step()
        return self.state()

    def state(self) -> State:
        return copy.deepcopy(self.model.state_dict())

    def recorded(self, step: int) -> dict[str, np.ndarray]:
        return tracer.open(self.path).weights(step)

    @property
    def notes(self) -> list[str]:
        return tracer.open(self.path).attributes["notes"]


def same(recorded: dict[str, np.ndarray], state: State) -> bool:
    return all(np.array_equal(recorded[name], tensor.numpy()) for name, tensor in state.items())


@pytest.mark.parametrize("assign", [False, True])
def test_the_last_step_is_what_its_update_led_to_though_the_best_weights_are_loaded_back(tmp_path, assign):
    loop = Loop(tmp_path / "a.zarr", loss=F.cross_entropy, probes={"train": (X, Y)}, gradients="none")
    with pytest.warns(RecordWarning, match="After update 3 other weights were loaded"), loop.record:
        best = loop.update()
        last = loop.update(2)
        loop.model.load_state_dict(best, assign=assign)
    assert same(loop.recorded(3), last) and same(loop.state(), best)
    loop.model.load_state_dict(last)
    outputs = tracer.open(loop.path).probes["train"].outputs(3)
    np.testing.assert_allclose(outputs, loop.model(X).detach(), rtol=1e-6, atol=1e-6)


def test_weights_that_are_evaluated_and_put_back_are_no_matter(tmp_path):
    loop = Loop(tmp_path / "a.zarr")
    with warnings.catch_warnings(), loop.record:
        warnings.simplefilter("error")
        best = loop.update()
        for _ in range(2):
            last = loop.update()
            loop.model.load_state_dict(best)
            loop.model.load_state_dict(last)
    assert same(loop.recorded(3), last) and loop.notes == []


def test_an_update_that_begins_with_loaded_weights_is_told_of_once(tmp_path):
    loop = Loop(tmp_path / "a.zarr")
    with pytest.warns(RecordWarning, match="After update 1 other weights .* the next update began with them"):
        loop.record.start()
        first = loop.update()
        for _ in range(2):
            loop.model.load_state_dict({name: 2 * tensor for name, tensor in first.items()})
            last = loop.update()
        loop.record.close()
    assert same(loop.recorded(3), last) and len(loop.notes) == 1


def test_loading_may_be_the_update_where_they_are_counted_by_hand(tmp_path):
    loop = Loop(tmp_path / "a.zarr", optimizer=None)
    with warnings.catch_warnings(), loop.record as run:
        warnings.simplefilter("error")
        for k in (2, 3):
            loop.model.load_state_dict({name: k * tensor for name, tensor in loop.state().items()})
            run.step()
    assert same(loop.recorded(2), loop.state()) and loop.notes == []


def test_weights_that_are_loaded_before_the_first_update_are_not_those_of_step_0(tmp_path):
    loop = Loop(tmp_path / "a.zarr")
    with pytest.warns(RecordWarning, match="before the first update: .* load them before"), loop.record:
        start = loop.state()
        loop.model.load_state_dict({name: 2 * tensor for name, tensor in start.items()})
        loop.update()
    assert same(loop.recorded(0), start)


def test_loading_is_no_update_of_the_batch_that_was_fetched_and_not_trained_on(tmp_path):
    loop, loader = Loop(tmp_path / "a.zarr"), DataLoader(TensorDataset(X, Y), batch_size=8)
    with pytest.warns(RecordWarning, match="After update 2 other weights"), loop.record as run:
        start = loop.state()
        for number, _ in enumerate(run.batches(loader)):
            if number == 2:
                break
            last = loop.update()
        loop.model.load_state_dict(start)
    assert tracer.open(loop.path).snapshots.tolist() == [0, 2] and same(loop.recorded(2), last)


def test_what_is_trained_uncounted_after_loading_is_the_last_state(tmp_path):
    loop, loader = Loop(tmp_path / "a.zarr"), DataLoader(TensorDataset(X, Y), batch_size=12)
    with pytest.warns(RecordWarning, match="counted"), loop.record as run:
        start = loop.state()
        loop.update()
        loop.model.load_state_dict(start)
        for _ in run.batches(loader):
            with torch.no_grad():
                loop.model[0].weight.mul_(2)
        last = loop.state()
    assert same(loop.recorded(2), last)


def test_a_flush_records_the_weights_that_a_checkpoint_saves(tmp_path):
    loop = Loop(tmp_path / "a.zarr")
    with (
        pytest.warns(RecordWarning, match=r"run\.flush\(\) recorded of step 2 is of these"),
        loop.record as run,
    ):
        best = loop.update()
        loop.update()
        loop.model.load_state_dict(best)
        run.flush()
    assert same(loop.recorded(2), best)


def test_weights_written_after_the_last_update_are_told_of_and_a_flush_is_before_them(tmp_path):
    for flushed in (False, True):
        loop = Loop(tmp_path / f"{flushed}.zarr")
        with warnings.catch_warnings(record=True) as heard, loop.record as run:
            warnings.simplefilter("always")
            last = loop.update()
            if flushed:
                run.flush()
            with torch.no_grad():
                loop.model[0].weight.mul_(2)
        said = [str(one.message) for one in heard if "the weights were written" in str(one.message)]
        assert bool(said) != flushed and same(loop.recorded(1), last) == flushed


def test_a_copy_of_a_recorded_model_is_loaded_unheard_and_nothing_stays_behind(tmp_path):
    loop, saved = Loop(tmp_path / "a.zarr"), io.BytesIO()
    with loop.record:
        loop.update()
        double = {name: 2 * tensor for name, tensor in loop.state().items()}
        torch.save(loop.model, saved)
        for other in (
            copy.deepcopy(loop.model),
            torch.load(io.BytesIO(saved.getvalue()), weights_only=False),
        ):
            other.load_state_dict(double)
            assert same({name: tensor.numpy() for name, tensor in other.state_dict().items()}, double)
    assert loop.notes == []
    assert not loop.model._load_state_dict_pre_hooks and not loop.model._load_state_dict_post_hooks
