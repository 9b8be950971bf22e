"""The writer: what it writes comes back byte for byte, and its files are what was promised."""

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import tracer
from tests.recording import declare, put, put_row, short_columns
from tests.synthetic import write_archive
from tracer import spec
from tracer.verify import verify
from tracer.writer import Writer


def test_readable_from_the_moment_it_exists(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    writer = Writer(path, attributes={"title": "t"})
    with tracer.open(path) as archive:
        assert archive.state == "recording"
        assert archive.snapshots.size == 0
        assert archive.rows["step"].size == 0
    assert xr.open_datatree(path, engine="zarr")["steps"].sizes["step"] == 0
    writer.close()


def test_a_title_is_the_name_with_its_dots(tmp_path: Path) -> None:
    for name, title in (("lr0.1", "lr0.1"), ("lr0.2.zarr", "lr0.2")):
        Writer(tmp_path / name, attributes={}).close()
        assert tracer.open(tmp_path / name).attributes["title"] == title


def test_every_array_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    truth = write_archive(path)
    for consolidated in (True, False):
        group = zarr.open_group(path, mode="r", use_consolidated=consolidated)
        for row, step in enumerate(truth.steps):
            for (owner, name), values in truth.snapshots[step].items():
                stored = group[f"{owner}/{name}"]
                assert isinstance(stored, zarr.Array)
                assert stored.dtype == values.dtype
                assert np.array_equal(np.asarray(stored[row]), values)


def test_arrays_are_copied_before_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    writer = Writer(path, attributes={})
    declare(writer)
    values = np.arange(3, dtype=np.float32)
    writer.append("weights", 0, False, {"float32": values})
    values[:] = -1
    writer.close()
    assert np.asarray(zarr.open_group(path, mode="r")["weights/float32"][0]).tolist() == [0, 1, 2]


def test_strided_and_big_arrays(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    writer = Writer(path, attributes={})
    writer.stream("a", {"x": ("float64", (7, 200_003), ("p", "q"))})
    values = np.random.default_rng(0).random((200_003, 7)).T
    writer.append("a", 0, False, {"x": values})
    writer.close()
    stored = zarr.open_group(path, mode="r")["a/x"]
    assert isinstance(stored, zarr.Array)
    assert stored.shards is not None
    assert np.array_equal(np.asarray(stored[0]), values)


def test_scalars_that_appear_later_and_parameter_groups_that_are_added(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    writer = Writer(path, attributes={})
    put_row(writer, 0, lr=[0.1])
    writer.flush()
    put_row(writer, 1, lr=[0.1, 0.2, 0.3], scalars={"valid/acc": 0.5})
    put_row(writer, 2, lr=[0.1], scalars={})
    writer.close()
    with tracer.open(path) as archive:
        assert np.array_equal(archive.rows["valid/acc"], [np.nan, 0.5, np.nan], equal_nan=True)
        expected = [[0.1, np.nan, np.nan], [0.1, 0.2, 0.3], [0.1, np.nan, np.nan]]
        assert np.array_equal(archive.rows["lr"], expected, equal_nan=True)


def test_columns_longer_than_one_object(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    with short_columns() as full:
        writer = Writer(path, attributes={})
    n, wider = 2 * full + 800, full + 500
    for step in range(n):
        put_row(writer, step, ids=np.array([step, step + 1]), lr=[0.1] * (1 + (step > wider)))
        if step in (wider - 400, full - 1, full, 2 * full - 1):
            writer.flush()
    put_row(writer, n, ids=np.arange(20 * full), scalars={"late": 1.0})
    writer.close()
    with tracer.open(path) as archive:
        assert np.array_equal(archive.rows["step"], np.arange(n + 1))
        assert archive.ids(n - 1).tolist() == [n - 1, n]
        assert np.array_equal(archive.ids(n), np.arange(20 * full))
        assert np.isnan(archive.rows["late"][:n]).all()
        assert np.isnan(archive.rows["lr"][wider, 1])
        assert archive.rows["lr"][wider + 1, 1] == 0.1
    assert {file.name for file in (path / "steps" / "loss").iterdir()} == {"c.0", "c.1", "c.2", "zarr.json"}


def test_epoch_end_is_marked_after_a_commit(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    writer = Writer(path, attributes={})
    declare(writer)
    for step in range(3):
        put(writer, step)
        writer.flush()
        if step == 1:
            writer.mark_epoch_end(1)
    writer.mark_epoch_end(7)  # nothing was recorded at that step
    writer.close()
    with tracer.open(path) as archive:
        assert archive.epoch_ends.tolist() == [1]


def test_attributes_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    writer = Writer(path, attributes={"card": {"model": "M", "loss": {"name": "ce"}}})
    writer.attributes("", {"card": {"notes": ["a"], "loss": {"mean": float("nan")}}})
    writer.close()
    with tracer.open(path) as archive:
        assert archive.card == {"model": "M", "loss": {"name": "ce", "mean": None}, "notes": ["a"]}


def test_small_snapshots_share_a_file_and_large_ones_have_one_without_padding(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    writer = Writer(path, attributes={})
    writer.stream("a", {"x": ("float32", (10_000,), ("x",)), "y": ("float32", (1200, 1000), ("y", "z"))})
    for step in range(3):
        writer.append("a", step, False, {"x": np.full(10_000, step, "f4"), "y": np.ones((1200, 1000), "f4")})
        if step == 1:
            writer.flush()
    writer.close()
    sizes = {
        file.name: file.stat().st_size for file in (path / "a" / "x").iterdir() if file.name != "zarr.json"
    }
    rows, inner = spec.snapshot_rows(40_000)
    assert (rows, inner) == (209, 1)
    assert sizes == {"c.0.0": 3 * 40_004 + 16 * rows + 4}
    big = [file.stat().st_size for file in (path / "a" / "y").iterdir() if file.name != "zarr.json"]
    assert len(big) == 3
    assert max(big) < 4_800_000 * 1.01
    with tracer.open(path) as archive:
        assert [archive.array("a", "x", step)[7] for step in range(3)] == [0, 1, 2]
        assert archive._source._chunks._size < 40_000  # the index alone: no snapshot is kept in memory


def test_files_grow_with_bytes_and_not_with_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec.format, "OBJECT_ROWS", 64)
    writer = Writer(tmp_path / "run.zarr", attributes={})
    writer.stream("a", {"x": ("float32", (30,), ("x",)), "y": ("float64", (), ())})
    for step in range(200):
        writer.append("a", step, False, {"x": np.full(30, step, "f4"), "y": np.array(step / 2)})
        put_row(writer, step, ids=np.arange(2))
        writer.commit()
        if step in (63, 64, 150):
            writer.flush()
            values = xr.open_datatree(writer.path, engine="zarr")["a"]
            assert values["y"].values.tolist() == [k / 2 for k in range(step + 1)]
    writer.close()
    assert {file.name for file in (writer.path / "a" / "x").glob("c.*")} == {f"c.{k}.0" for k in range(4)}
    assert verify(writer.path, full=True).ok
    with tracer.open(writer.path) as archive:
        assert archive._source.read("a/x")[:, 3].tolist() == list(range(200))


@pytest.mark.parametrize("flushed", [False, True])
def test_snapshots_left_out_leave_a_file_that_was_full_open_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushed: bool
) -> None:
    monkeypatch.setattr(spec.format, "OBJECT_ROWS", 8)
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    for step in range(7):
        put(writer, step)
        put_row(writer, step)
        writer.commit()
    if flushed:
        writer.flush()
    for step in range(7, 10):  # the file of the first eight is full, and written
        put(writer, step)
    writer.rewind()
    for step in range(20, 24):
        put(writer, step)
        put_row(writer, step)
        writer.commit()
    writer.close()
    assert verify(writer.path, full=True).ok
    with tracer.open(writer.path) as archive:
        assert archive.steps("weights").tolist() == [*range(7), 20, 21, 22, 23]
        assert archive._source.read("weights/float32")[:, 0].tolist() == [*range(7), 20, 21, 22, 23]


def test_attributes_that_hold_numpy_become_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    writer = Writer(path, attributes={"card": {"n": np.int64(3), "shape": (1, 2), "path": path}})
    writer.close()
    card = json.loads((path / "zarr.json").read_text())["attributes"]["card"]
    assert card == {"n": 3, "shape": [1, 2], "path": str(path)}


def test_relative_paths_stay_where_they_were_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    writer = Writer("run.zarr", attributes={})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    put_row(writer, 0)
    writer.close()
    with tracer.open(tmp_path / "run.zarr") as archive:
        assert archive.rows["step"].tolist() == [0]


def test_of_many_scalars_the_last_objects_are_small(tmp_path: Path) -> None:
    """Each commit writes them anew: 300 scalars of 200,000 updates were half a gigabyte."""
    path = tmp_path / "run.zarr"
    n, names = 20_000, [f"s{k}" for k in range(18)]
    with closing(Writer(path, attributes={})) as writer:
        for step in range(n):
            put_row(writer, step, ids=None, scalars=dict.fromkeys(names, float(step)))
        writer.flush()
        tails = [
            column[0].tail.nbytes for key, column in writer._tree._columns.items() if key[:7] == "steps/s"
        ]
        put_row(writer, n, ids=None, scalars={"late": 1.0})
    assert sorted(tails)[:2] == [1 << 17] * 2
    with tracer.open(path) as archive:
        rows = archive.rows
        assert (rows[names[0]][:-1] == np.arange(n)).all() and (rows[names[-1]][:-1] == np.arange(n)).all()
        assert np.isnan(rows["late"][:-1]).all() and rows["late"][-1] == 1
    assert verify(path, full=True).ok
