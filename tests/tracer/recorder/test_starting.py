"""Beginning and ending a recording: with `with` or without, where something is already, and in Fabric."""

import subprocess
import sys
import textwrap

import pytest
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tracer
from tests.loops import blobs
from tracer.errors import ArchiveError, RecordError


def recording(path, **options):
    return tracer.record(path, nn.Linear(6, 3), None, probes={}, **options)


def test_a_recording_is_started_and_closed_without_with(tmp_path):
    run = recording(tmp_path / "a.zarr")
    assert repr(run) == "<Recorder: not started; use `with`, or start()>"
    with pytest.raises(RecordError, match=r"between run\.start\(\) and run\.close\(\)"):
        run.step()
    assert run.start() is run
    run.step()
    assert repr(run).endswith("a.zarr': update 1, epoch 1>")
    run.close()
    run.close()
    assert repr(run).endswith("a.zarr': closed>")
    assert tracer.open(tmp_path / "a.zarr").state == "complete"


@pytest.mark.slow  # in test_faults.py one script ends so and another is told to, by default
def test_a_script_that_ends_without_close_leaves_an_interrupted_run(tmp_path):
    script = f"""
        import tracer
        from torch import nn
        run = tracer.record({str(tmp_path / "a")!r}, nn.Linear(2, 1), None, probes={{}}).start()
        run.step()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    archive = tracer.open(tmp_path / "a")
    assert archive.state == "interrupted" and archive.rows["step"].tolist() == [0, 1]


def test_batches_have_a_length_and_begin_again(tmp_path):
    loader = DataLoader(TensorDataset(*blobs(12)), 4)
    with recording(tmp_path / "a") as run:
        batches = run.batches(loader)
        assert len(batches) == 3
        for _ in range(2):
            for _ in batches:
                run.step()
    archive = tracer.open(tmp_path / "a")
    assert archive.rows["epoch"].tolist() == [0, 1, 1, 1, 2, 2, 2] and archive.ids(6).tolist() == [
        8,
        9,
        10,
        11,
    ]


def test_a_path_that_exists_is_refused_numbered_or_overwritten(tmp_path):
    path = tmp_path / "a.zarr"
    with recording(path, title="first") as run:
        run.step()
    with pytest.raises(ArchiveError, match="exists='overwrite' or exists='number'"):
        recording(path)
    for number in (2, 3):
        with recording(path, exists="number") as run:
            run.step()
        assert (tmp_path / f"a-{number}.zarr").is_dir()
    replacing = recording(path, exists="overwrite", title="second")
    assert tracer.open(path).attributes["title"] == "first"  # until it begins
    with replacing as run:
        with pytest.raises(ArchiveError):
            recording(path, exists="overwrite").start()
        run.step()
    assert tracer.open(path).attributes["title"] == "second"


def test_a_dot_in_a_name_is_part_of_it(tmp_path):
    for name, options in (("lr0.1", {}), ("lr0.2", {}), ("lr0.1", {"exists": "number"})):
        with recording(tmp_path / name, **options) as run:
            run.step()
    titles = {path.name: tracer.open(path).attributes["title"] for path in tmp_path.iterdir()}
    assert titles == {"lr0.1": "lr0.1", "lr0.2": "lr0.2", "lr0.1-2": "lr0.1-2"}


def test_nothing_but_an_archive_is_overwritten(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    for name in ("thesis", "link", "thesis/text"):
        with pytest.raises(ArchiveError, match="is no archive in a directory, so it is not overwritten"):
            recording(tmp_path / name, exists="overwrite")
    assert (tmp_path / "thesis" / "text").read_text() == "years of work"
    with pytest.raises(RecordError, match="exists='overwrite' does not go with resume="):
        recording(tmp_path / "b", exists="overwrite", resume=True)
    with pytest.raises(RecordError, match="exists='replace'"):
        recording(tmp_path / "b", exists="replace")
