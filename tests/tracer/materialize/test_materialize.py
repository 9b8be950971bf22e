import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
import zarr
from torch import nn

import tracer
from analyze.catalogue import available_metrics
from analyze.engine.plan import make_plan
from tests.loops import blobs, mlp, record_text, run_loop
from tracer.errors import ArchiveError, MissingTraceError, RecordError
from tracer.materialize import materialize
from tracer.materialize.rewrite import Additions, rewrite
from tracer.probe import CAPTURE
from tracer.recorder import RecordWarning
from tracer.recovery.resume import resume

NOTHING = dict.fromkeys(CAPTURE, 0)
EVERYTHING = {"outputs": None, "sums": None, "masks": 10, "gradients": 8, "activations": 5}
ASKED = {stream: 24 if count is None else count for stream, count in EVERYTHING.items()}
SHAPE = (3, 8, 8)


def model():
    torch.manual_seed(0)
    convolution, relu = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.ReLU(inplace=True)  # which is called twice
    start = (convolution, nn.BatchNorm2d(4), relu, nn.Flatten(), nn.Linear(64, 8), relu)
    return nn.Sequential(*start, nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3))


def record(path, capture, *, names=("train", "test"), **options):
    data = blobs(24, SHAPE)
    splits = {"train": data, "test": blobs(9, SHAPE, seed=7)}
    probes = {name: tracer.Probe(*splits[name], capture=capture) for name in names}
    run_loop(path, model(), data=data, probes=probes, snapshots=tracer.every(4), **options)
    return path


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A run that recorded everything."""
    return record(tmp_path_factory.mktemp("full") / "run.zarr", EVERYTHING)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The same run, with weights alone."""
    return record(tmp_path_factory.mktemp("bare") / "run.zarr", NOTHING, gradients="none")


@pytest.fixture
def copy(bare, tmp_path):
    return shutil.copytree(bare, tmp_path / "run.zarr")


def arrays(path):
    """Every array of an archive, but the manifest and the clock."""
    with tracer.open(path) as archive:
        members = zarr.open_group(archive._source.as_zarr(), mode="r").members(max_depth=None)
        return {
            name: (np.asarray(node[...]), node.metadata.dimension_names)
            for name, node in members
            if isinstance(node, zarr.Array) and not name.startswith("manifest/") and name != "steps/time"
        }


def assert_equal(path, other):
    """The same arrays, bit for bit."""
    ours, theirs = arrays(path), arrays(other)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        (a, dims), (b, others) = ours[name], theirs[name]
        assert a.dtype == b.dtype and a.shape == b.shape and dims == others, name
        assert a.tobytes() == b.tobytes(), name


@pytest.fixture(scope="module")
def filled(bare, tmp_path_factory):
    """What was filled in of all that a recording stores."""
    return materialize(bare, **ASKED, output=tmp_path_factory.mktemp("filled") / "run.zarr")


def test_weights_alone_become_what_recording_would_have_stored(filled, full):
    assert_equal(filled.path, full)
    assert set(filled.exact.values()) == {None} and filled.notes == []
    assert filled.added["probes/train/masks"] == tracer.open(filled.path).steps("weights").tolist()


# Filled in together above; alone, by default, those that go through the network backwards.
ALONE = ("gradients",)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(stream, marks=[pytest.mark.slow] * (stream not in ALONE))
        for stream in sorted(CAPTURE.keys() - {"tokens"})
    ],
)
def test_each_stream_alone_equals_its_recording(copy, tmp_path, stream):
    capture = {**NOTHING, stream: 8}
    recorded = record(tmp_path / "other.zarr", capture, gradients="exact")
    materialize(copy, **{stream: 8}, mode="exact")
    assert_equal(copy, recorded)


def test_tokens_are_filled_in_of_a_model_that_has_them_and_else_refused(copy, tmp_path):
    with pytest.raises(RecordError, match="no tokens to fill in; record a probe whose targets"):
        materialize(copy, tokens=8)
    record_text(tmp_path / "text.zarr")
    record_text(tmp_path / "less.zarr", capture={"tokens": 0})
    materialize(tmp_path / "less.zarr", tokens=True)
    assert_equal(tmp_path / "less.zarr", tmp_path / "text.zarr")


def test_snapshots_between_recorded_ones_are_filled_in(full, tmp_path):
    path = tmp_path / "sparse.zarr"
    never = {"weights": tracer.every(4), "default": tracer.at([])}
    data = blobs(24, SHAPE)
    probes = {
        "train": tracer.Probe(*data, capture=EVERYTHING),
        "test": tracer.Probe(*blobs(9, SHAPE, seed=7), capture=EVERYTHING),
    }
    run_loop(path, model(), data=data, probes=probes, snapshots=never)
    assert tracer.open(path).steps("masks").tolist() == [0, 6]
    result = materialize(path)
    assert result.exact == {4: None} and {tuple(steps) for steps in result.added.values()} == {(4,)}
    assert_equal(path, full)
    with tracer.open(path) as a, tracer.open(full) as b:
        assert a.card["probes"] == b.card["probes"] and a.attributes["sites"] == b.attributes["sites"]
        for group in a._source.streams():
            ours, theirs = a._source.group_attributes(group), b._source.group_attributes(group)
            assert {**ours, "materialized": 0} == {**theirs, "materialized": 0}
    assert materialize(path).added == {}


def test_a_probe_added_afterwards_is_as_if_recorded(full, tmp_path):
    path = record(tmp_path / "one.zarr", EVERYTHING, names=("train",))
    seen = []
    test = tracer.Probe(*blobs(9, SHAPE, seed=7), capture=EVERYTHING)
    result = materialize(path, probes={"test": test}, progress=lambda *told: seen.append(told))
    assert_equal(path, full)
    assert all(result.exact.values()) and seen[-1][:2] == (3, 3)
    with tracer.open(path) as archive:
        assert archive.gram_probes == [("train", 8), ("test", 8)]
        assert archive.probes["test"].split == "test"
        assert archive.probes["test"].gradients("0.weight", 4).shape == (8, 4, 3, 3, 3)


def test_inner_products_with_an_added_probe_are_undefined_without_weights(tmp_path):
    path = tmp_path / "run.zarr"
    schedules = {"weights": tracer.at([]), "default": tracer.every(3)}
    run_loop(path, snapshots=schedules, probes={"train": blobs()})
    before = tracer.open(path).gram(3)
    materialize(path, probes={"test": blobs(9, seed=7)})
    with tracer.open(path) as archive:
        gram = archive.gram(3)
        np.testing.assert_array_equal(gram[:, :24, :24], before)
        assert np.isnan(gram[:, 24:]).all() and np.isnan(gram[:, :, 24:]).all()
        assert np.isfinite(archive.gram(6)).all()
        assert archive.steps("masks", "test").tolist() == [0, 6]


def test_every_metric_of_a_full_recording_can_then_be_planned(filled, full):
    def planned(path):
        found = {}
        with tracer.open(path) as archive:
            for name, card in available_metrics().items():
                try:
                    make_plan(card, {}, archive, {})
                    found[name] = "planned"
                except MissingTraceError as error:
                    found[name] = str(error)
        return found

    assert planned(filled.path) == planned(full)


def test_what_was_recorded_of_the_training_itself_is_carried_over(tmp_path):
    path, (x, y) = tmp_path / "run.zarr", blobs()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    probe = tracer.Probe(x, y, true_targets=y, group=y, raw=x, capture=NOTHING)
    with tracer.record(
        path, net, optimizer, loss=F.cross_entropy, probes={"train": probe}, gradients="none", title="carried"
    ) as run:
        for step in range(5):
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            run.step(ids=np.arange(step), loss=loss)
            if step % 2:
                run.log(**{"top-1": 0.5})
            if step == 2:
                run.end_epoch()
    before, old = arrays(path), tracer.open(path)
    materialize(path, masks=True)
    after, new = arrays(path), tracer.open(path)
    for name, (values, dims) in before.items():
        np.testing.assert_array_equal(after[name][0], values)
        assert after[name][1] == dims
    assert (new.run_id, new.state, new.epoch_ends.tolist()) == (old.run_id, "complete", [3])
    assert new.rows["top-1"][2] == 0.5 and new.ids(4).tolist() == [0, 1, 2]
    assert (
        new.attributes["title"] == "carried" and new.attributes["created_at"] == old.attributes["created_at"]
    )
    assert new.digest != old.digest
    ends = new._source.read("probes/train/masks/epoch_end")
    np.testing.assert_array_equal(new.steps("masks")[ends], [3])


def test_the_result_opens_with_xarray_and_without_warnings(filled):
    tree = xr.open_datatree(filled.path, engine="zarr")
    assert tree["probes/train/masks"].sizes["masks_byte"] == 2
    assert tree["gram"].sizes["example"] == 16


def test_chosen_steps_and_another_place_leave_the_archive_as_it_was(copy, bare, tmp_path):
    out = tmp_path / "more.zarr"
    result = materialize(copy, masks=8, steps=[4], output=out)
    assert result.path == out and result.added["probes/train/masks"] == [4]
    assert tracer.open(out).steps("masks").tolist() == [4]
    assert_equal(copy, bare)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["more.zarr", "run.zarr"]


def test_what_cannot_be_done_is_refused_and_nothing_changes(full, copy, bare, tmp_path):
    mine = shutil.copytree(full, tmp_path / "full.zarr")
    second = tracer.Probe(*blobs(9, SHAPE), split="test")
    refused = [
        (MissingTraceError, "no weights are recorded at step 5", copy, {"masks": 8, "steps": [5]}),
        (RecordError, "masks of probe 'train' are recorded for 10", mine, {"masks": 4}),
        (RecordError, "expected True, False or a number", copy, {"masks": -1}),
        (RecordError, "already has a probe 'train'", copy, {"probes": {"train": blobs(9, SHAPE)}}),
        (
            RecordError,
            "both of split 'test'",
            copy,
            {"probes": {"x": second}},
        ),
        (RecordError, "each input has shape", copy, {"probes": {"x": blobs(9)}}),
        (RecordError, "mode='full'", copy, {"mode": "full"}),
        (ArchiveError, "exists already", copy, {"output": mine}),
        (ArchiveError, "there is no archive", tmp_path / "none.zarr", {}),
    ]
    for error, message, path, options in refused:
        with pytest.raises(error, match=message):
            materialize(path, **options)
    assert_equal(copy, bare)
    assert_equal(mine, full)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["full.zarr", "run.zarr"]


def test_weights_that_do_not_reproduce_the_recording_are_refused(full, tmp_path):
    path = tmp_path / "tampered.zarr"

    def changed(given):
        return {name: values + np.array(1, values.dtype) for name, values in given.items()}

    rewrite(tracer.open(full), path, Additions(adapt={"weights": changed}))
    before = arrays(path)
    with pytest.raises(ArchiveError, match="does not reproduce the recorded outputs"):
        materialize(path, probes={"x": tracer.Probe(*blobs(9, SHAPE), split="other")})
    assert arrays(path).keys() == before.keys()


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Reversing(nn.Module):
    """A model whose backward pass is not that of its forward computation."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.second(Reversal.apply(self.first(x)))


def test_gradients_a_recording_refused_stay_out(tmp_path):
    path = tmp_path / "run.zarr"
    with pytest.warns(RecordWarning, match="gradients are off"):
        run_loop(path, Reversing(), snapshots={"weights": tracer.every(4), "default": tracer.at([])})
    result = materialize(path, outputs=True, gradients=True)
    assert not any("gradients" in group or group == "gram" for group in result.added)
    assert any("gradients are off" in note for note in result.notes)
    assert tracer.open(path).steps("outputs").tolist() == [0, 4, 6]


def test_an_archive_without_network_takes_the_user_s_model(tmp_path):
    path, other = tmp_path / "run.zarr", tmp_path / "full.zarr"
    probes = {"train": blobs(), "test": blobs(9, seed=7)}
    run_loop(path, mlp(), probes={})
    run_loop(other, mlp(), probes=probes)
    with pytest.raises(MissingTraceError, match="holds no network"):
        materialize(path, probes=probes)
    materialize(path, probes=probes, model=lambda: (mlp(seed=5), F.cross_entropy))
    assert_equal(path, other)
    with tracer.open(path) as a, tracer.open(other) as b:
        assert (a.sites, a.calls, a.layers, a.tensors) == (b.sites, b.calls, b.layers, b.tensors)
        assert a.network()[0] == b.network()[0]


def test_chunks_are_those_of_the_recording(tmp_path):
    path = tmp_path / "run.zarr"
    capture = {**NOTHING, "outputs": None}
    probe = tracer.Probe(*blobs(40), capture=capture)
    run_loop(path, probes={"train": probe}, chunk=16, gradients="none")
    materialize(path, masks=40, gradients=8)
    with tracer.open(path) as archive:
        assert archive.probes["train"].chunks == [[0, 16], [16, 32], [32, 40]]
        # Gradients end within a recorded chunk, so what came later went through in chunks of its own.
        masks = archive._source.group_attributes("probes/train/masks")
        assert masks["chunks"][0] == [0, 8]
        assert "chunks" not in archive._source.group_attributes("probes/train/outputs")


def test_an_exchange_that_was_interrupted_is_undone_first(copy, bare, tmp_path):
    copy.rename(tmp_path / ".run.zarr.01234567.original")
    (tmp_path / ".run.zarr.89abcdef.part").mkdir()
    materialize(copy, masks=8)
    assert tracer.open(copy).steps("masks").tolist() == tracer.open(bare).steps("weights").tolist()
    assert [item.name for item in tmp_path.iterdir()] == ["run.zarr"]


def test_a_reader_from_before_is_told_instead_of_given_other_steps(copy):
    first, *_, last = tracer.open(copy).steps("weights").tolist()
    materialize(copy, steps=[first, last], masks=8)
    with tracer.open(copy) as reader:
        assert reader._source.snapshot("probes/train/masks/bits", last).any()
        materialize(copy, masks=8)
        with pytest.raises(
            ArchiveError, match="filled in or replaced since it was opened here; open it again"
        ):
            reader._source.snapshot("probes/train/masks/bits", last)


def test_how_often_a_recording_was_resumed_is_carried_over(copy):
    resume(copy).close()
    before = tracer.open(copy).attributes["tracer"]["resumes"]
    materialize(copy, masks=8)
    assert tracer.open(copy).attributes["tracer"]["resumes"] == before != []


def test_a_disk_that_fails_leaves_the_archive_as_it_was(copy, bare, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tracer.store.files.os.writev", full)
    with pytest.raises(ArchiveError, match="No space left on device; what was recorded is as it was"):
        materialize(copy, masks=8)
    assert_equal(copy, bare)
    assert [item.name for item in tmp_path.iterdir()] == ["run.zarr"]


def test_a_packed_archive_is_filled_in_elsewhere(bare, full, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "run"), "zip", bare)
    with pytest.raises(ArchiveError, match=r"no directory.*output="):
        materialize(packed, masks=8)
    materialize(packed, **ASKED, output=tmp_path / "out" / "run.zarr")
    assert_equal(tmp_path / "out" / "run.zarr", full)
