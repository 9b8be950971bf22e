"""What a recording will take, and how it keeps to a budget."""

import itertools

import pytest
import torch.nn.functional as F

import tracer
from tests.loops import blobs, mlp, run_loop
from tests.tracer.recorder.test_loops import loader, recording, sgd
from tracer.errors import RecordError
from tracer.recorder.budget import Budget


def stored(path):
    """Bytes and files of the shards of all streams."""
    files = [
        file
        for folder in (path / "weights", path / "gram", path / "probes" / "train")
        for file in folder.rglob("c.*")
        if file.parent.name not in ("step", "epoch_end") and file.parent.parent.name != "train"
    ]
    return sum(file.stat().st_size for file in files), len(files)


def test_what_a_snapshot_takes_is_said_in_a_sentence(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("tracer.recorder.plan.announce", said.append)
    for number, count in enumerate((0, 3)):
        capture = {"outputs": count, "sums": 0, "masks": 0}
        probes = {"train": tracer.Probe(*blobs(6), capture=capture)}
        options = {"loss": F.cross_entropy, "probes": probes, "gradients": "none"}
        with tracer.record(tmp_path / str(number), mlp(), None, **options) as run:
            run.step()
    assert [line.partition(" examples: ")[2] for line in said] == [
        "weights.",
        "weights, outputs of 3 examples.",
    ]


def test_a_plan_tells_what_will_be_written(tmp_path):
    model = mlp()
    optimizer = sgd(model)
    schedule = {"gradients": tracer.epochs(2), "default": tracer.every(3)}
    with recording(tmp_path / "a.zarr", model, optimizer, snapshots=schedule) as run:
        plan = run.plan(epochs=4, steps_per_epoch=4)
        for _ in range(4):
            for x, y in run.batches(loader()):
                (model(x).sum() * 0 + y.sum() * 0).backward()
                optimizer.step()
    archive = tracer.open(tmp_path / "a.zarr")
    counts = {share.stream: share.snapshots for share in plan.shares}
    assert counts == {"outputs": 7, "masks": 7, "sums": 7, "gradients": 3, "weights": 7}
    assert len(archive.steps("gradients")) == 3 and len(archive.steps("masks")) == 7
    size, files = stored(tmp_path / "a.zarr")
    assert plan.files == files
    assert plan.bytes <= size <= plan.bytes + 26_000 * files  # the rest of an inner chunk, and the index
    assert plan.seconds > 0
    text = str(plan)
    assert "gradients" in text and "in total over 16 updates" in text


def test_a_plan_without_a_length_tells_of_one_snapshot(tmp_path):
    model = mlp()
    with recording(tmp_path / "a.zarr", model, sgd(model)) as run:
        plan = run.plan()
        assert plan.bytes is None and plan.snapshot_bytes > 0 and plan.snapshot_seconds > 0
        assert "in total" not in str(plan)
        with pytest.raises(RecordError, match="steps_per_epoch"):
            run.plan(epochs=3)


class Clock:
    """Time that only passes when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_budget_holds_its_share_and_names_its_gaps():
    clock = Clock()
    budget = Budget(0.1, clock)
    with budget.measured({"masks"}, always=True):
        clock.now += 1.0
    budget.start()
    taken = 0
    for step in range(1, 101):
        clock.now += 1.0
        if budget.allows(step, {"masks"}):
            with budget.measured({"masks"}):
                clock.now += 1.0
            taken += 1
    assert taken == 10
    (gap,) = budget.gaps
    assert gap["streams"] == ["masks"] and gap["steps"][:2] == [1, 2] and len(gap["steps"]) == 90


def test_unscheduled_streams_are_judged_by_the_cheapest_larger_snapshot():
    clock = Clock()
    budget = Budget(0.5, clock)
    for streams, cost in (({"masks", "sums"}, 2.0), ({"masks", "sums", "gradients"}, 8.0)):
        with budget.measured(streams, always=True):
            clock.now += cost
    assert budget.expected({"masks"}) == 2.0
    assert budget.expected({"gradients"}) == 8.0
    assert budget.expected({"weights"}) == 0.0


def test_thinned_snapshots_leave_gaps_but_never_first_last_or_ids(tmp_path, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr("tracer.recorder.budget.time.perf_counter", lambda: float(next(ticks)))
    run_loop(tmp_path / "a.zarr", budget=1e-6, snapshots=tracer.every(1))
    archive = tracer.open(tmp_path / "a.zarr")
    assert archive.snapshots.tolist() == [0, 6]
    assert archive.rows["n_ids"].tolist() == [0] + [8] * 6
    (gap,) = archive.attributes["gaps"]
    assert gap["steps"] == [1, 2, 3, 4, 5] or gap["steps"] == [1, 2, 3, 4, 5, 6]
    assert {"masks", "weights"} <= set(gap["streams"])
    assert archive.card["budget"] == 1e-6


@pytest.mark.parametrize("share", [0, -0.1, 1.5, True])
def test_a_budget_is_a_share(tmp_path, share):
    with pytest.raises(RecordError, match="budget"):
        run_loop(tmp_path / "a.zarr", budget=share)
