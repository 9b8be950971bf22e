"""Every single bit of a root document, flipped: refused when opened, and so is the same in a zip file."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.archive.source import read_root
from tracer.errors import ArchiveError
from tracer.store.stores import connect
from tracer.store.zip_writer import write_zip
from tracer.verify import verify
from tracer.writer import Writer


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bits") / "run.zarr"
    Writer(path, attributes={"card": {"model": "small"}}).close()
    return path


def bits(data: bytes, every: bool, all_of: tuple[int, int] = (0, 0), step: int = 1) -> Iterator[bytes]:
    """Data with one bit flipped: each in turn, or one of every so many bytes and all those of a range."""
    for at in range(len(data)):
        if not (every or all_of[0] <= at < all_of[1] or at % step == 0):
            continue
        for bit in range(8) if every or all_of[0] <= at < all_of[1] else [(5 * at + at // 8) % 8]:
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def opened(root: bytes) -> object:
    """What opening makes of a root document, or None where it refuses."""
    try:
        return read_root(root, "run.zarr")
    except ArchiveError as error:
        assert "\n" not in str(error)
        return None


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_the_root_is_refused(path: Path, every: bool) -> None:
    root = (path / "zarr.json").read_bytes()
    assert opened(root) is not None
    record = root.index(b'"tracer"'), root.index(b'"manifest_digest"')
    assert [changed for changed in bits(root, every, record, 5) if opened(changed) is not None] == []


def test_opening_checks_it(path: Path, tmp_path: Path) -> None:
    import tracer

    root = (path / "zarr.json").read_bytes()
    at = root.index(b'"model":"small"') + len(b'"model":"')
    for target in (tmp_path / "run.zarr", tmp_path / "run.zip"):
        copy = tmp_path / "copy"
        copy.mkdir(exist_ok=True)
        for file in path.rglob("*"):
            if file.is_file():
                place = copy / file.relative_to(path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.read_bytes())
        (copy / "zarr.json").write_bytes(root[:at] + b"S" + root[at + 1 :])
        if target.suffix == ".zip":
            write_zip(copy, target)
        else:
            copy.rename(target)
        with pytest.raises(ArchiveError, match="its digest does not match"):
            tracer.open(target)
        assert not verify(target).ok


# ---- headers of a zip file ----


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_a_header_of_a_zip_file_is_found(
    path: Path, tmp_path: Path, every: bool
) -> None:
    target = tmp_path / "run.zip"
    write_zip(path, target)
    data = target.read_bytes()
    assert faultless(target)
    with zipfile.ZipFile(target) as file:
        ends = [file.infolist()[0], file.infolist()[-1]]
        entries = file.start_dir
    spans = [(info.header_offset, info.header_offset + 30 + len(info.filename)) for info in ends]
    spans += [(entries, data.index(b"PK\x01\x02", entries + 4)), (data.rindex(b"PK\x05\x06"), len(data))]
    for start, stop in spans if not every else [*spans[:2], (entries, len(data))]:
        for changed in bits(data[start:stop], every):
            target.write_bytes(data[:start] + changed + data[stop:])
            assert not faultless(target), (start, changed)


def faultless(target: Path) -> bool:
    """Whether the container itself passes: what `verify` asks of it before it looks at arrays."""
    try:
        store = connect(target)
    except ArchiveError as error:
        assert "\n" not in str(error)
        return False
    try:
        names = store.files()
        assert names is not None
        return store.root != b"" and not names.odd and not list(store.faults(full=False))
    finally:
        store.close()
