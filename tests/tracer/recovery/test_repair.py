"""repair goes back to the last step before the damage, keeps what it cuts, and changes nothing it cannot mend."""

from pathlib import Path

import numpy as np
import pytest

import tracer
from tests.damage import copied, files_of, go_on, weights, write_small
from tests.recording import declare, put, put_row, short_columns
from tracer.errors import ArchiveError
from tracer.recovery.repair import repair
from tracer.recovery.resume import resume
from tracer.share import pack
from tracer.verify import verify
from tracer.writer import Writer


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repair") / "run.zarr"
    write_small(path)
    return path


@pytest.fixture
def path(small: Path, tmp_path: Path) -> Path:
    return copied(small, tmp_path / "run.zarr")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(data)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


@pytest.mark.parametrize("damage", [flip, cut_short, Path.unlink])
def test_a_damaged_snapshot_is_cut_with_everything_after_it(path: Path, damage: object) -> None:
    damage(path / "weights" / "float32" / "c.1.0")  # type: ignore[operator]
    done = repair(path)
    assert done.step == 1
    assert "now ends at step 1 instead of 5 (weights/float32/c.1.0: " in str(done)
    assert "\n" not in done.text
    assert verify(path, full=True).ok
    with tracer.open(path) as archive:
        assert archive.state == "interrupted"
        assert archive.rows["step"].tolist() == [0, 1]
        assert archive.steps("weights").tolist() == archive.steps("outputs").tolist() == [0]
        assert np.array_equal(archive._source.read("weights/float32", 0), weights(0))
        resumes = archive.attributes["tracer"]["resumes"]
        assert [(entry["step"], entry["dropped"]) for entry in resumes] == [(1, 5)]
    assert done.cut == path.with_name("run.zarr.cut-1")
    kept = files_of(done.cut)
    assert {"zarr.json", "steps/loss/c.0", "weights/float32/c.2.0"} <= set(kept)
    assert ("weights/float32/c.1.0" in kept) == (damage is not Path.unlink)


def test_what_was_cut_makes_the_old_archive_again(small: Path, path: Path) -> None:
    flip(path / "weights" / "float32" / "c.2.0")
    before = {name: (path / name).read_bytes() for name in files_of(path)}
    cut = repair(path).cut
    assert cut is not None
    for name in files_of(cut):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes((cut / name).read_bytes())
    after = {name: (path / name).read_bytes() for name in files_of(path)}
    same = {name for name in before if before[name] == after[name]}
    assert set(before) - same <= {name for name in before if name.endswith("/zarr.json")}


@pytest.mark.parametrize(
    "name", ["weights/float32/zarr.json", "steps/zarr.json", "manifest/objects/c.0.0", "stray.txt"]
)
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_what_can_be_told_from_the_rest_is_written_anew(path: Path, name: str, damage: object) -> None:
    if name == "stray.txt":
        (path / name).write_text("mine")
    else:
        damage(path / name)  # type: ignore[operator]
    done = repair(path)
    assert done.step == 5
    assert "keeps every step; mended: " in done.text
    assert verify(path, full=True).ok
    with tracer.open(path) as archive:
        assert archive.rows["step"].tolist() == list(range(6))
        assert np.array_equal(archive._source.read("weights/float32", 2), weights(4))
        assert archive.attributes["tracer"]["resumes"] == []
    if name == "stray.txt":
        assert done.cut is not None
        assert (done.cut / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["steps/loss/c.0", "probes/p/outputs/loss/c.0.0"])
def test_a_torn_end_of_a_column_costs_nothing(path: Path, name: str) -> None:
    cut_short(path / name)
    assert repair(path).step == 5
    assert verify(path, full=True).ok


def test_a_column_is_cut_where_its_rows_are_damaged(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    for step in range(3000):
        put_row(writer, step, ids=np.arange(3))
        if step % 300 == 0:
            put(writer, step)
    writer.close()
    ids = writer.path / "steps" / "loss" / "c.0"
    data = bytearray(ids.read_bytes())
    data[8 * 2400] ^= 1  # in the third inner chunk, rows 2,048 to 3,071
    ids.write_bytes(data)
    assert repair(writer.path).step == 2047
    assert verify(writer.path, full=True).ok
    with tracer.open(writer.path) as archive:
        assert archive.rows["step"].tolist() == list(range(2048))
        assert archive.steps("weights").tolist() == list(range(0, 2048, 300))
        assert archive.ids(2047).tolist() == [0, 1, 2]


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_rates_of_groups_that_were_added_are_cut_like_others(tmp_path: Path, damage: object) -> None:
    """They are objects beside those of the first groups."""
    with short_columns() as rows:
        writer = Writer(tmp_path / "run.zarr", attributes={})
        for step in range(rows + 10):
            put_row(writer, step, ids=None, lr=[0.1] if step < 5 else [0.1, 0.2])
            if step == 4:
                writer.flush()
        writer.close()
        assert verify(writer.path, full=True).ok
        damage(writer.path / "steps" / "lr" / "c.1.1")  # type: ignore[operator]
        assert repair(writer.path).step == rows - 1
        assert verify(writer.path, full=True).ok
        damage(writer.path / "steps" / "lr" / "c.0.1")  # type: ignore[operator]
        step = rows // 3 // 64 * 64 - 1  # before the inner chunk that is damaged
        if damage is flip:
            assert repair(writer.path).step == step
            assert verify(writer.path, full=True).ok
        else:
            with pytest.raises(ArchiveError, match="no step would be left"):
                repair(writer.path)


def test_a_repair_that_is_refused_late_leaves_nothing_beside(path: Path) -> None:
    pack(path)
    (path / "stray.txt").write_text("mine")
    with pytest.raises(ArchiveError, match=r"cannot be continued, since .* unpack it first"):
        repair(path)
    assert [item.name for item in path.parent.iterdir()] == ["run.zarr"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("zarr.json", "its digest does not match"),
        ("probes/p/id/c.0", "no step would be left"),
        ("weights/float32/c.0.0", "no step would be left"),
    ],
)
def test_what_cannot_be_mended_is_refused_and_left_as_it_is(path: Path, name: str, why: str) -> None:
    if name == "zarr.json":
        text = (path / name).read_text()
        (path / name).write_text(text.replace('"title":"run"', '"title":"ran"'))
    else:
        flip(path / name)
    before = {file: (path / file).read_bytes() for file in files_of(path)}
    with pytest.raises(ArchiveError, match=why) as caught:
        repair(path)
    assert "restore it from a copy" in str(caught.value)
    assert {file: (path / file).read_bytes() for file in files_of(path)} == before
    assert not path.with_name("run.zarr.cut-1").exists()


def test_a_sound_archive_is_left_alone(path: Path) -> None:
    before = (path / "zarr.json").read_bytes()
    assert "is sound; nothing was done" in repair(path).text
    assert (path / "zarr.json").read_bytes() == before
    assert repair(path).cut is None


def test_repair_twice_uses_another_side_folder(path: Path) -> None:
    flip(path / "weights" / "float32" / "c.2.0")
    first = repair(path)
    flip(path / "weights" / "float32" / "c.1.0")
    second = repair(path)
    assert (first.step, second.step) == (3, 1)
    assert second.cut == path.with_name("run.zarr.cut-2")
    assert verify(path, full=True).ok


def test_an_archive_being_written_is_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    with pytest.raises(ArchiveError, match="another process is writing"):
        repair(writer.path)
    writer.close()
    with pytest.raises(ArchiveError, match="there is no archive at"):
        repair(tmp_path / "run.zip")
    (tmp_path / "run.zip").touch()
    with pytest.raises(ArchiveError, match="is a file, and only directories are repaired"):
        repair(tmp_path / "run.zip")


def test_a_repaired_archive_can_be_recorded_on(path: Path) -> None:
    flip(path / "weights" / "float32" / "c.1.0")
    writer = resume(path, step=repair(path).step)
    go_on(writer, 2, 6)
    writer.close()
    assert verify(path, full=True).ok
    with tracer.open(path) as archive:
        assert archive.rows["loss"].tolist() == [0, 1, 2, 3, 4, 5]
        assert np.array_equal(archive._source.read("weights/float32", 2), weights(4))
