"""verify finds one flipped bit anywhere, and anything lost, cut short, swapped, doubled or too many."""

import json
import os
import random
import shutil
import threading
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr

from tests.damage import copied, files_of, flipped, write_small
from tests.recording import declare, put, put_row
from tests.synthetic import write_archive
from tracer.errors import ArchiveError
from tracer.share.packs import pack
from tracer.store.documents import document_digest
from tracer.verify import verify
from tracer.verify.consistency import is_older
from tracer.verify.report import Report
from tracer.writer import Writer


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "run.zarr"
    write_small(path)
    return path


@pytest.fixture
def path(small: Path, tmp_path: Path) -> Path:
    return copied(small, tmp_path / "run.zarr")


def kinds(path: Path, full: bool = False) -> set[str]:
    report = verify(path, full=full)
    assert report.exit_code == int(not report.ok)
    return {finding.kind for finding in report.findings}


def test_sound_archives_have_no_findings(path: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "synthetic.zarr")
    for sound in (path, tmp_path / "synthetic.zarr"):
        report = verify(sound, full=True)
        assert report.ok, str(report)
        assert report.exit_code == 0
        assert report.counts["objects"] == sum(
            "/c." in file or file.endswith("/c") for file in files_of(sound)
        )
    assert "sound" in str(report)


def test_an_archive_still_recording_is_sound_at_every_commit(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    assert verify(writer.path, full=True).ok
    declare(writer)
    writer.stream("activations", {"large": ("float32", (1_200_000,), ("large_element",))})
    large = {"large": np.zeros(1_200_000, np.float32)}  # written before its commit
    for step in range(3):
        put(writer, step)
        writer.append("activations", step, False, large)
        put_row(writer, step)
        writer.flush()
        report = verify(writer.path, full=True)
        assert report.ok, str(report)
        assert report.state == "recording"
    put(writer, 3)
    writer.append("activations", 3, False, large)  # beyond the commit
    writer._worker.send(lambda: None, (done := threading.Event()).set)
    done.wait()
    report = verify(writer.path)
    assert report.ok
    assert "mean nothing" in report.notes[0]
    put_row(writer, 3)
    writer.close()
    assert verify(writer.path, full=True).ok


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed > 0)) for seed in range(4)]
)
def test_one_flipped_bit_is_found_in_every_file(path: Path, seed: int) -> None:
    for number, name in enumerate(files_of(path)):
        if number % 4 != seed:
            continue
        data = (path / name).read_bytes()
        for changed in flipped(data, seed, 2):
            (path / name).write_bytes(changed)
            assert not verify(path, full=True).ok, name
        (path / name).write_bytes(data)
    assert verify(path, full=True).ok


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_one_flipped_bit_is_found_in_every_object_of_a_packed_archive(tmp_path: Path, every: int) -> None:
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2), probes={"train": 8})
    path = pack(tmp_path / "run.zarr")
    names = [name for name in files_of(path) if not name.endswith("zarr.json")]
    assert len(names) > 20
    for number, name in enumerate(names[::every]):
        data = (path / name).read_bytes()
        flip = next(iter(flipped(data, number, 0)))
        for change in (flip, data[:-1], None) if number % 4 == 0 else (flip,):
            (path / name).unlink() if change is None else (path / name).write_bytes(change)
            assert not verify(path, full=change is not None).ok, name
        (path / name).write_bytes(data)
    contents = {name: (path / name).read_bytes() for name in names}
    one, other = next(
        (a, b)
        for a in names
        for b in names
        if contents[a] != contents[b] and len(contents[a]) == len(contents[b])
    )
    (path / one).write_bytes(contents[other])
    (path / other).write_bytes(contents[one])
    assert not verify(path, full=True).ok


def test_one_flipped_bit_anywhere_in_a_zip_file_is_found_or_harmless(small: Path, tmp_path: Path) -> None:
    """Bits of headers that a reader of zip files passes over (dates, rights) change nothing that is read."""
    file = pack(small, tmp_path / "run.zip", zip=True)
    data = file.read_bytes()
    places = random.Random(0).sample(range(len(data)), 25)
    with zipfile.ZipFile(file) as made:
        spans = [(m.header_offset + 30 + len(m.filename), m.file_size) for m in made.infolist()]
    inside = [place for place in places if any(a <= place < a + n for a, n in spans)]
    assert len(inside) > 20
    for place in inside:
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        assert not verify(file, full=True).ok, place
    for cut in (1, 30, len(data) // 2):
        file.write_bytes(data[:-cut])
        with pytest.raises(ArchiveError):
            assert not verify(file, full=True).ok
            raise ArchiveError("found")


@pytest.mark.slow
def test_every_bit_of_every_small_file_matters(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    put(writer, 0)
    put_row(writer, 0)
    writer.close()
    for name in files_of(writer.path):
        data = (writer.path / name).read_bytes()
        for bit in range(0, 8 * len(data), 7):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            (writer.path / name).write_bytes(changed)
            assert not verify(writer.path, full=True).ok, (name, bit)
        (writer.path / name).write_bytes(data)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
def test_any_lost_or_shortened_or_lengthened_file_is_found_at_once(path: Path, every: bool) -> None:
    """Each is lost once, and changed in one of three ways or in all."""
    for number, name in enumerate(files_of(path)):
        data = (path / name).read_bytes()
        changes = (data[:-1], data + b"\0", b"")
        for change in changes if every else [changes[number % 3]]:
            (path / name).write_bytes(change)
            assert not verify(path).ok, name
        (path / name).unlink()
        if name == "zarr.json":
            with pytest.raises(ArchiveError, match="not an archive"):
                verify(path)
        else:
            assert not verify(path).ok, name
        (path / name).write_bytes(data)


def test_swapped_objects_of_one_size_are_found(path: Path) -> None:
    first, second = (path / "weights" / "float32" / f"c.{row}.0" for row in (0, 1))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert "damaged" in kinds(path, full=True)


def test_a_doubled_object_and_any_other_file_are_found(path: Path) -> None:
    shutil.copy(path / "weights" / "float32" / "c.0.0", path / "weights" / "float32" / "c.9.0")
    assert kinds(path) == {"extra"}
    (path / "weights" / "float32" / "c.9.0").unlink()
    (path / "notes.txt").write_text("mine")
    assert kinds(path) == {"extra"}


def test_links_are_found_and_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.0").write_bytes(b"secret")
    (path / "linked").symlink_to(tmp_path / "elsewhere")
    assert kinds(path) == {"extra"}
    (path / "linked").unlink()
    target = path / "steps" / "loss" / "c.0"
    target.rename(tmp_path / "moved")
    target.symlink_to(tmp_path / "moved")
    assert {"extra", "missing"} <= kinds(path)


def test_documents_of_single_arrays_must_say_what_the_root_says(path: Path) -> None:
    file = path / "weights" / "float32" / "zarr.json"
    document = json.loads(file.read_text())
    document["shape"][0] -= 1
    file.write_text(json.dumps(document))
    assert kinds(path) == {"document"}


def test_documents_of_a_recording_may_be_older_but_not_different(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    writer.flush()
    writer._worker.send(writer._tree.write_nodes)
    put(writer, 0)
    put_row(writer, 0)
    writer.flush()
    file = writer.path / "weights" / "float32" / "zarr.json"
    assert json.loads(file.read_text())["shape"] == [0, 3]
    assert verify(writer.path).ok
    file.write_text(file.read_text().replace("float32_element", "float32_elements"))
    assert kinds(writer.path) == {"document"}
    writer.close()
    assert is_older({"attributes": {"versions": [1]}}, {"attributes": {"versions": [1, 2], "x": 0}})
    assert not is_older({"attributes": {"versions": [2]}}, {"attributes": {"versions": [1, 2]}})


def resealed(path: Path, old: str, new: str) -> None:
    """Change the root and give it a right digest again, as somebody might who wants to deceive."""
    text = (path / "zarr.json").read_text()
    assert old in text
    digest = json.loads(text)["attributes"]["tracer"]["digest"]
    changed = text.replace(old, new, 1)
    fresh = document_digest(changed.encode(), digest)
    (path / "zarr.json").write_text(changed.replace(f'"digest":"{digest}"', f'"digest":"{fresh}"'))


def test_a_root_that_was_changed_with_its_digest_must_still_fit_everything_else(path: Path) -> None:
    text = (path / "zarr.json").read_text()
    record = json.loads(text)["attributes"]["tracer"]
    tails = "steps/loss/c.0", record["tails"]["steps/loss/c.0"]
    changes = [
        (f'"manifest_digest":"{record["manifest_digest"]}"', f'"manifest_digest":"{"0" * 64}"', "manifest"),
        (f'"{tails[0]}":{tails[1]}', f'"{tails[0]}":{tails[1] ^ 1}', "damaged"),
        (f'"{tails[0]}":{tails[1]},', "", "manifest"),
        ('"committed_step":5', '"committed_step":4', "rows"),
    ]
    for old, new, kind in changes:
        resealed(path, old, new)
        assert kind in kinds(path), new
        (path / "zarr.json").write_text(text)


def test_rows_that_do_not_fit_each_other_are_found(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    for step in (0, 1, 2):
        put_row(writer, step)
    writer._worker.send(lambda: writer._tree._columns["steps/n_ids"][0].extend(np.array([], np.int32)))
    writer.flush()
    sizes, steps = (writer._tree._columns[f"steps/{name}"][0] for name in ("n_ids", "step"))
    for column in (sizes, steps):
        column.amend_last(column.last)  # its values are looked at again
    sizes.tail[0] += 1
    steps.tail[1] = 2
    writer._tree.changed = True
    writer.close()
    assert {finding.where for finding in verify(tmp_path / "run.zarr").findings} == {
        "steps/step",
        "steps/ids",
    }


def test_gradients_of_another_shape_than_their_tensor_are_found(tmp_path: Path) -> None:
    write_archive(tmp_path / "run.zarr")
    assert "blocks" not in kinds(tmp_path / "run.zarr")
    text = (tmp_path / "run.zarr" / "zarr.json").read_text()
    blocks = json.loads(text)["consolidated_metadata"]["metadata"]["probes/train/gradients"]["attributes"][
        "blocks"
    ]
    n, outputs, inputs = next(b for b in blocks if b["form"] == "full")["parts"][0]["shape"]
    resealed(tmp_path / "run.zarr", f"[{n},{outputs},{inputs}]", f"[{n},{inputs},{outputs}]")
    (finding,) = (f for f in verify(tmp_path / "run.zarr").findings if f.kind == "blocks")
    assert finding.where == "probes/train/gradients/values" and f"[{inputs}, {outputs}]" in finding.text


def test_zip_files_and_urls_are_verified_alike(path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "run.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for name in files_of(path):
            file.write(path / name, f"run.zarr/{name}")
    assert verify(packed, full=True).ok
    memory = fsspec.filesystem("memory")
    memory.put(str(path), "/verify/run.zarr", recursive=True)
    assert verify("memory://verify/run.zarr", full=True).ok
    memory.rm("/verify/run.zarr/steps/loss/c.0")
    assert not verify("memory://verify/run.zarr").ok
    with zipfile.ZipFile(packed, "a") as file:
        file.writestr("run.zarr/../../escape", b"")
        file.writestr("beside.txt", b"")
    assert {finding.where for finding in verify(packed).findings} == {"run.zarr/../../escape", "beside.txt"}


def test_what_is_no_archive_is_refused_and_not_reported_on(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no archive at"):
        verify(tmp_path / "none")
    zarr.create_group(tmp_path / "foreign")
    assert not verify(tmp_path / "foreign").ok


def test_findings_are_listed_up_to_a_limit(path: Path) -> None:
    folder = path / "steps" / "loss"
    for number in range(1, 1101):
        os.link(folder / "c.0", folder / f"c.{number}")
    report = verify(path)
    assert len(report.findings) == 1000
    assert report.counts["unlisted"] == 100


def test_entering_a_finding_takes_the_same_however_many_there_are() -> None:
    class Kind(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Kind.compared += 1
            return super().__eq__(other)

        __hash__ = str.__hash__

    report = Report("run.zarr", "full")
    for number in range(500):
        report.add(Kind("extra"), str(number), "is no part of the archive")
    assert len(report.findings) == 500 and Kind.compared < 5 * 500
