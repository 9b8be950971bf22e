"""Archives of runs on several processes, as files: what is shown of them, what is refused, what travels."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray

import tracer
from tests.attacks.hostile import change_root, nodes
from tests.loops import mlp
from tests.recording import declare, put, put_row
from tracer.archive.ranks import every
from tracer.archive.source import Source
from tracer.archive.summary import summarize
from tracer.errors import ArchiveError, MissingTraceError, RecordError
from tracer.recorder import RecordWarning, ranks
from tracer.recorder.ranks import Process
from tracer.recorder.ranks.writer import Parent, RankWriter
from tracer.recovery.repair import repair
from tracer.recovery.resume import resume
from tracer.share import export_hdf5, import_hdf5, pack, pull, push, unpack
from tracer.store.documents import document_digest
from tracer.verify import verify
from tracer.writer import Writer

WORLD = 3


def ids(rank: int, step: int) -> np.ndarray:
    return 100 * rank + 10 * step + np.arange(2 if step else 0)


def write(path: Path, ends: dict[int, int], world: int = WORLD) -> None:
    """A run of which each rank has updates up to a step; rank 0 a snapshot of each."""
    with_run: dict[str, str] = {}
    for rank, last in ends.items():
        root = {"title": "run", **({"rank": {"rank": rank, "world_size": world}} if rank else {})}
        writer = Writer(path / f"ranks/{rank}" if rank else path, attributes=root, **with_run)
        if not rank:
            with_run = {"run_id": writer.run_id}
            writer.attributes("ranks", {"world_size": world})
            declare(writer)
        for step in range(last + 1):
            put_row(writer, step, ids=ids(rank, step), loss=float(rank), epoch=step)
            if not rank:
                put(writer, step)
        writer.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path / "run.zarr", {0: 5, 1: 5, 2: 5})
    return tmp_path / "run.zarr"


def assert_whole(path: Path | str) -> None:
    with tracer.open(path) as archive:
        assert list(archive.ranks) == [0, 1, 2]
        for step in range(6):
            np.testing.assert_array_equal(archive.ids(step), np.concatenate([ids(k, step) for k in range(3)]))
        assert [part.rows["loss"][3] for part in archive.ranks.values()] == [0, 1, 2]
    report = verify(path, full=True)
    assert report.ok, str(report)


def test_one_archive_shows_what_every_rank_recorded(run):
    assert_whole(run)
    with tracer.open(run) as archive:
        assert archive.world_size == 3
        assert archive.ids(4, rank=2).tolist() == ids(2, 4).tolist()
        assert archive.rows["loss"][1] == 0
        assert archive.digest != tracer.open(run, rank=0).digest
        assert "ranks 3 of 3" in repr(archive)
        tree = archive.to_xarray()
        np.testing.assert_array_equal(tree["ranks/2/steps/ids"].values[:2], ids(2, 1))
        with pytest.raises(MissingTraceError, match=r"rank 7 is not recorded"):
            archive.ids(1, rank=7)
    with warnings.catch_warnings(action="error"):
        xarray.open_datatree(run, engine="zarr").close()
        xarray.open_datatree(run / "ranks/1", engine="zarr").close()


@pytest.mark.parametrize("zipped", [False, True])
def test_other_ranks_are_found_after_the_program_changed_its_directory(run, monkeypatch, zipped):
    path = pack(run, zip=True) if zipped else run
    monkeypatch.chdir(path.parent)
    source = Source(path.name)
    monkeypatch.chdir("/")
    others = every(source)
    assert sorted(others) == [1, 2]
    for one in (source, *others.values()):
        one.close()


def test_nothing_is_shown_after_the_last_update_of_the_slowest_rank(tmp_path):
    write(path := tmp_path / "run.zarr", {0: 5, 1: 3, 2: 4})
    with tracer.open(path) as archive:
        assert archive.committed == {0: 5, 1: 3, 2: 4}
        assert archive.rows["step"].tolist() == [0, 1, 2, 3] == archive.snapshots.tolist()
        assert [len(part.rows["step"]) for part in archive.ranks.values()] == [4, 4, 4]
        assert archive.ids(3).tolist() == [*ids(0, 3), *ids(1, 3), *ids(2, 3)]
        np.testing.assert_array_equal(archive._source.snapshot("weights/float32", 3), 3)
        with pytest.raises(MissingTraceError, match="step 4"):
            archive._source.snapshot("weights/float32", 4)
        assert archive.to_xarray()["steps"].sizes == {"step": 4, "id": 6, "param_group": 1}
        assert summarize(archive)["recorded"]["not shown"] == "updates 4 to 5, which rank 1 lacks"
    with tracer.open(path, rank=0) as archive, tracer.open(path, rank=2) as second:
        assert archive.rows["step"][-1] == archive.snapshots[-1] == 5
        assert second.rows["step"][-1] == 4
        assert second.ids(4).tolist() == ids(2, 4).tolist()
    report = verify(path, full=True)
    assert report.ok
    assert "rank 1 ends at step 3, others at step 5" in str(report)


def test_a_packed_run_ends_there_too_and_loses_nothing(tmp_path):
    write(path := tmp_path / "run.zarr", {0: 5, 1: 3, 2: 4})
    for packed in (pack(path), pack(path, zip=True)):
        with tracer.open(packed) as archive:
            assert archive.committed == {0: 5, 1: 3, 2: 4}
            assert archive.ids(3).tolist() == [*ids(0, 3), *ids(1, 3), *ids(2, 3)]
            assert archive.steps("weights").tolist() == [0, 1, 2, 3]
            np.testing.assert_array_equal(archive._source.read("weights/float32")[:, 0], range(4))
    assert tracer.open(tmp_path / "run.zip", rank=0).rows["step"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_rank_that_has_committed_nothing_hides_everything_but_its_own_archives(tmp_path):
    write(path := tmp_path / "run.zarr", {0: 2, 1: -1, 2: 2})
    with tracer.open(path) as archive:
        assert not len(archive.rows["step"]) and not len(archive.snapshots)
    assert len(tracer.open(path, rank=0).rows["step"]) == 3


def test_rank_0_alone_is_a_run_too(tmp_path):
    write(path := tmp_path / "run.zarr", {0: 2})
    with tracer.open(path) as archive:
        assert archive.world_size == 3 and list(archive.ranks) == [0]
        assert archive.ids(1).tolist() == ids(0, 1).tolist()
    report = verify(path)
    assert report.ok and "rank 0 of 3 alone was recorded" in report.notes


def test_a_lost_rank_is_found_and_ids_are_not_made_up(run):
    shutil.rmtree(run / "ranks/1")
    with tracer.open(run) as archive:
        assert list(archive.ranks) == [0, 2]
        assert archive.ids(2, rank=2).tolist() == ids(2, 2).tolist()
        with pytest.raises(MissingTraceError, match=r"lacks what rank 1 of 3 recorded"):
            archive.ids(2)
    assert [finding.where for finding in verify(run).findings] == ["ranks/1"]


def test_damage_within_a_rank_is_found_under_its_path_and_mended(run):
    (run / "ranks/2/steps/ids/c.0").write_bytes(b"torn")
    (run / "ranks/2/stray").write_text("")
    (run / "ranks/note").write_text("")
    assert {finding.where for finding in verify(run).findings} == {
        "ranks/2/steps/ids/c.0",
        "ranks/2/stray",
        "ranks/note",
    }
    repaired = repair(run)
    assert "ranks/2' now ends at step 0" in str(repaired)
    assert run.with_name("run.zarr.rank2.cut-1").is_dir()
    assert verify(run, full=True).ok
    with tracer.open(run) as archive:
        assert archive.committed == {0: 5, 1: 5, 2: 0}
        assert archive.rows["step"].tolist() == [0]


def test_a_rank_without_a_run_says_so_and_leaves_nothing(tmp_path):
    parent = Parent(tmp_path / "run.zarr")
    writer = RankWriter(parent, 1, {}, {})
    put_row(writer, 0)
    writer.close("interrupted")  # before any update: nothing is lost
    writer = RankWriter(parent, 1, {}, {})
    for step in range(101):
        put_row(writer, step)
    with pytest.warns(RecordWarning, match="rank 0 records no run"):
        writer.commit()
    writer.commit()
    with pytest.raises(ArchiveError, match="same path on every rank"):
        writer.close()
    kind = RankWriter(parent, 1, {}, {"on_error": "warn"})
    put_row(kind, 1)
    with pytest.warns(RuntimeWarning, match="rank 0 records no run"):
        kind.close()
    assert not list(tmp_path.iterdir())


def test_a_rank_begins_once_the_run_is_there(tmp_path):
    writer = RankWriter(Parent(tmp_path / "run.zarr"), 1, {"rank": {"rank": 1, "world_size": 2}}, {})
    put_row(writer, 0, ids=ids(1, 0))
    put_row(writer, 1, ids=ids(1, 1))
    writer.commit()
    write(tmp_path / "run.zarr", {0: 2}, world=2)
    put_row(writer, 2, ids=ids(1, 2))
    writer.close()
    with tracer.open(tmp_path / "run.zarr") as archive:
        assert archive.ids(2).tolist() == [*ids(0, 2), *ids(1, 2)]
    assert verify(tmp_path / "run.zarr", full=True).ok


@pytest.mark.parametrize(
    ("ends", "process", "resume", "why"),
    [
        ({0: 5, 1: 5}, Process(1, 2), False, "exists: choose another path"),
        ({0: 5}, Process(1, 2), False, "exists: choose another path"),
        ({0: 5, 1: 5}, Process(1, 3), True, "2 processes recorded it and 3 train now"),
        ({0: 5}, Process(1, 2), True, "rank 1 has recorded nothing in it"),
        (
            {0: 5, 1: 4},
            Process(1, 2),
            True,
            "every rank has updates up to step 4, and no snapshot until then",
        ),
        ({0: 5, 1: -1}, Process(1, 2), True, "every rank has updates up to step -1"),
    ],
)
def test_a_rank_refuses_before_training_what_it_cannot_go_on_with(tmp_path, ends, process, resume, why):
    write(path := tmp_path / "run.zarr", ends, world=2)
    before = sorted(path.rglob("*"))
    with pytest.raises((ArchiveError, RecordError), match=why):
        ranks.begin(path, mlp(), process, resume, None)
    assert sorted(path.rglob("*")) == before


def spoil(path: Path, change: dict[str, object]) -> None:
    """Change the commit record or attributes of an archive, with a digest that fits."""
    document = json.loads((path / "zarr.json").read_text())
    attributes = document["attributes"]
    for name, value in change.items():
        holder = attributes["tracer"] if name in attributes["tracer"] else attributes
        holder[name] = value
    attributes["tracer"]["digest"] = "0" * 64
    text = json.dumps(document, separators=(",", ":"))
    digest = document_digest(text.encode())
    (path / "zarr.json").write_text(text.replace(f'"digest":"{"0" * 64}"', f'"digest":"{digest}"', 1))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"run_id": "f" * 32}, "belongs to another run"),
        ({"rank": {"rank": 2, "world_size": 3}}, "is not that of rank 1 of 3"),
        ({"rank": {"rank": 1, "world_size": 4}}, "is not that of rank 1 of 3"),
        ({"rank": 1}, "its attribute 'rank' is no object"),
    ],
)
def test_an_archive_that_is_not_of_this_rank_of_this_run_is_not_shown(run, change, why):
    spoil(run / "ranks/1", change)
    with pytest.warns(UserWarning, match=why):
        archive = tracer.open(run)
    assert list(archive.ranks) == [0, 2]
    with pytest.raises(MissingTraceError, match="rank 1"):
        archive.ids(1)
    with pytest.raises(ArchiveError, match=why):
        tracer.open(run, rank=1)
    assert [finding.where for finding in verify(run).findings] == ["ranks/1/zarr.json"]
    with pytest.raises(ArchiveError, match=why):
        pack(run)


def test_an_absurd_number_of_processes_and_links_are_refused(run, tmp_path):
    shutil.move(run / "ranks/1", tmp_path / "elsewhere")
    (run / "ranks/1").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="link"):
        assert list(tracer.open(run).ranks) == [0, 2]
    change_root(run, lambda root: nodes(root)["ranks"]["attributes"].update(world_size=1 << 40))
    with pytest.raises(ArchiveError, match="number of processes"):
        tracer.open(run)


def test_ranks_travel_with_the_run(run):
    place = run.parent
    assert_whole(pack(run))
    assert_whole(pack(run, zip=True))
    assert_whole(unpack(place / "run.zip", place / "unpacked.zarr"))
    assert_whole(unpack(run))
    export_hdf5(run, place / "run.h5")
    assert_whole(import_hdf5(place / "run.h5", place / "imported.zarr"))
    with xarray.open_datatree(place / "run.h5", engine="h5netcdf") as tree:
        np.testing.assert_array_equal(tree["ranks/1/steps/ids"].values[:2], ids(1, 1))
    moved = push(run, "memory://ranks/run.zarr")
    assert moved.kept == 0
    assert push(run, "memory://ranks/run.zarr").sent == 0
    assert_whole("memory://ranks/run.zarr")
    pull("memory://ranks/run.zarr", place / "pulled.zarr")
    assert_whole(place / "pulled.zarr")


def test_a_rank_that_is_being_recorded_is_not_packed(run):
    writer = resume(run / "ranks/2")
    try:
        with pytest.raises(ArchiveError, match="another process is writing"):
            pack(run)
        assert verify(run).ok
    finally:
        writer.close()
    assert_whole(run)
    assert not list(run.parent.glob("*.lock"))
