from types import MappingProxyType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from tests.loops import blobs, mlp, run_loop
from tracer.errors import ArchiveError, RecordError
from tracer.recorder import RecordWarning


def test_rows_hold_the_ids_losses_and_rates_of_each_update(tmp_path):
    path = tmp_path / "run.zarr"
    _, ids, losses = run_loop(path)
    archive = tracer.open(path)
    rows = archive.rows
    assert rows["step"].tolist() == list(range(7))
    assert rows["epoch"].tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert rows["n_ids"].tolist() == [0, 8, 8, 8, 8, 8, 8]
    assert [archive.ids(step).tolist() for step in range(1, 7)] == ids
    assert np.isnan(rows["loss"][0]) and rows["loss"][1:].tolist() == losses
    np.testing.assert_array_equal(rows["lr"], np.full((7, 1), 0.1))
    assert archive.state == "complete"


def test_every_stream_is_taken_at_its_schedule_first_and_last(tmp_path):
    path = tmp_path / "run.zarr"
    run_loop(
        path, snapshots={"weights": tracer.at([2]), "masks": tracer.epochs(), "default": tracer.every(4)}
    )
    archive = tracer.open(path)
    assert archive.steps("weights").tolist() == [0, 2, 6]
    assert archive.steps("masks").tolist() == [0, 3, 6]
    assert archive.steps("gradients").tolist() == [0, 4, 6]


def test_snapshots_say_which_of_them_end_an_epoch(tmp_path):
    path = tmp_path / "run.zarr"
    run_loop(path, snapshots=tracer.every(3) | tracer.at([1]))
    archive = tracer.open(path)
    assert archive.steps("weights").tolist() == [0, 1, 3, 6]
    assert archive.epoch_ends.tolist() == [3, 6]


def test_weights_are_those_of_their_step(tmp_path):
    model = mlp()
    states = [{name: p.detach().clone() for name, p in model.named_parameters()}]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(
        lambda *_: states.append({name: p.detach().clone() for name, p in model.named_parameters()})
    )
    run_loop(tmp_path / "run.zarr", model, optimizer, snapshots=tracer.every(1))
    archive = tracer.open(tmp_path / "run.zarr")
    for step, state in enumerate(states):
        recorded = archive.weights(step)
        assert recorded.keys() == state.keys()
        for name, value in state.items():
            np.testing.assert_array_equal(recorded[name], value.numpy())


def test_masks_and_gradients_are_those_of_the_reloaded_weights(tmp_path):
    model, *_ = run_loop(tmp_path / "run.zarr")
    archive = tracer.open(tmp_path / "run.zarr")
    for step in archive.steps("masks"):
        model.load_state_dict({name: torch.from_numpy(w) for name, w in archive.weights(step).items()})
        for probe in archive.probes.values():
            x, y = torch.from_numpy(probe.inputs[:]), torch.from_numpy(probe.targets[:])
            hidden = model[0](x)
            np.testing.assert_array_equal(probe.masks("1", step), (hidden > 0).numpy())
            for i in range(len(x)):
                model.zero_grad()
                F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
                got = probe.gradients("2.weight", step)[i]
                np.testing.assert_allclose(got, model[2].weight.grad.numpy(), rtol=1e-4, atol=1e-7)


def simple_run(path, optimizer, model, **options):
    x, y = blobs()
    return tracer.record(path, model, optimizer, loss=F.cross_entropy, probes={"train": (x, y)}, **options)


def update(model, optimizer, rows=slice(None)):
    x, y = blobs()
    loss = F.cross_entropy(model(x[rows]), y[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def test_scalars_logged_before_the_update_belong_to_it(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*blobs()), batch_size=12)
    with simple_run(tmp_path / "a.zarr", optimizer, model) as run:
        for x, y in run.batches(loader):
            loss = F.cross_entropy(model(x), y)
            run.log(loss=loss, margin=torch.tensor([2.0]))
            loss.backward()
            optimizer.step()
        run.log(accuracy=0.5)
    rows = tracer.open(tmp_path / "a.zarr").rows
    assert np.isnan(rows["loss"]).tolist() == [True, False, False]
    np.testing.assert_array_equal(rows["margin"], [np.nan, 2.0, 2.0])
    np.testing.assert_array_equal(rows["accuracy"], [np.nan, np.nan, 0.5])


def test_accumulated_micro_batches_are_one_update(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*blobs()), batch_size=4)
    with simple_run(tmp_path / "a.zarr", optimizer, model) as run:
        for i, (x, y) in enumerate(run.batches(loader)):
            F.cross_entropy(model(x), y).backward()
            if i % 3 == 2:
                optimizer.step()
    archive = tracer.open(tmp_path / "a.zarr")
    assert archive.ids(1).tolist() == list(range(12)) and archive.ids(2).tolist() == list(range(12, 24))


def test_without_an_optimizer_the_user_counts(tmp_path):
    model = mlp()
    with simple_run(tmp_path / "a.zarr", None, model) as run:
        for _ in range(3):
            with torch.no_grad():
                model[0].bias.add_(0.1)
            run.step(ids=[4, 2], loss=0.25)
        run.end_epoch()
    archive = tracer.open(tmp_path / "a.zarr")
    assert archive.rows["loss"][1:].tolist() == [0.25] * 3
    assert archive.ids(3).tolist() == [4, 2]
    assert archive.epoch_ends.tolist() == [3]


def test_an_exception_in_the_loop_keeps_what_was_recorded_and_is_raised_again(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyError, match="mine"), simple_run(tmp_path / "a.zarr", optimizer, model):
        update(model, optimizer)
        update(model, optimizer)
        raise KeyError("mine")
    archive = tracer.open(tmp_path / "a.zarr")
    assert archive.state == "interrupted"
    assert archive.rows["step"].tolist() == [0, 1, 2]
    update(model, optimizer)  # the hook is gone


def test_a_prefetcher_outside_is_warned_of(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*blobs()), batch_size=8)
    with simple_run(tmp_path / "a.zarr", optimizer, model) as run:
        ahead = iter(run.batches(loader))
        queue = [next(ahead), next(ahead)]
        with pytest.warns(RecordWarning, match="fetches ahead"):
            while queue:
                x, y = queue.pop(0)
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                queue += [batch for batch in [next(ahead, None)] if batch]


def test_a_nan_loss_is_said_once_and_recording_goes_on(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = simple_run(tmp_path / "a.zarr", optimizer, model)
    with pytest.warns(RecordWarning, match="loss of update 1 is NaN") as caught, recorder as run:
        for _ in range(3):
            update(model, optimizer)
            run.log(loss=float("nan"))
    assert len(caught) == 1
    assert tracer.open(tmp_path / "a.zarr").rows["step"].tolist() == [0, 1, 2, 3]


def bad(tmp_path, **changes):
    options = {"loss": F.cross_entropy, "probes": {"train": blobs()}, **changes}
    if callable(options["probes"]["train"]):
        options["probes"] = {"train": options["probes"]["train"]()}
    model = options.pop("model", None) or mlp()
    path = options.pop("path", tmp_path / "a.zarr")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tracer.record(path, model, optimizer, **options):
        raise AssertionError("this recording must not start")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"probes": {"train": (torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))}}, "no examples"),
        (
            {"probes": {"train": (torch.zeros(4, 5), torch.zeros(4, dtype=torch.long))}},
            "Probe 'train': the model refuses",
        ),
        ({"probes": {"train": (torch.zeros(4, 6), torch.zeros(3, dtype=torch.long))}}, "3"),
        ({"probes": {"train": lambda: tracer.Probe(*blobs(4), ids=[1, 2, 2, 3])}}, "id 2 occurs twice"),
        ({"loss": lambda outputs, targets: outputs.std()}, "neither the mean nor the sum"),
        ({"snapshots": 100}, "expected a schedule"),
        ({"gradients": "all"}, "exact"),
        ({"loss": None}, "loss"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(tmp_path, changes, sentence):
    with pytest.raises(RecordError, match=sentence) as caught:
        bad(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.zarr").exists()


def test_an_existing_path_is_refused_and_untouched(tmp_path):
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / "mine.txt").write_text("keep")
    with pytest.raises(ArchiveError, match="exists"):
        bad(tmp_path)
    assert (path / "mine.txt").read_text() == "keep"


def test_parameters_that_never_reach_the_loss_are_named(tmp_path):
    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.unused = mlp(), nn.Linear(2, 2)

        def forward(self, x):
            return self.body(x)

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()

        def forward(self, x):
            return self.body(x).detach()

    x, y = blobs()
    for model, name in ((Loose(), "unused"), (Detached(), "body")):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        recorder = tracer.record(
            tmp_path / f"{name}.zarr", model, optimizer, loss=F.cross_entropy, probes={"train": (x, y)}
        )
        with pytest.warns(RecordWarning, match=name), recorder as run:
            assert any(name in note for note in run.notes)
        assert tracer.open(tmp_path / f"{name}.zarr").steps("outputs").tolist() == [0]


def test_a_closed_recorder_says_so(tmp_path):
    model = mlp()
    run = simple_run(tmp_path / "a.zarr", torch.optim.SGD(model.parameters(), lr=0.1), model)
    with pytest.raises(RecordError, match="not open"):
        run.log(loss=1.0)
    with run:
        pass
    with pytest.raises(RecordError, match="not open"):
        run.log(loss=1.0)
    with (
        pytest.raises(RecordError, match="choose another"),
        simple_run(tmp_path / "b.zarr", None, model) as run,
    ):
        run.log(step=3)


def test_facts_given_about_a_run_are_on_its_card(tmp_path):
    given = {"width": 8, "data": MappingProxyType({"shuffled": np.float32(0.5), "n": torch.tensor([3, 4])})}
    run_loop(tmp_path / "a.zarr", epochs=1, attributes=given)
    found = tracer.open(tmp_path / "a.zarr").card["attributes"]
    assert found == {"width": 8, "data": {"shuffled": 0.5, "n": [3, 4]}}
