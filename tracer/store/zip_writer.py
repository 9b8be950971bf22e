"""One zip file of an archive: members stored, root first, each once, the same bytes for the same archive."""

import os
import shutil
import zipfile
from pathlib import Path

_PIECE = 1 << 20
_LARGE = 1 << 31


def write_zip(folder: Path, target: Path) -> None:
    """Write the files of an archive's directory into a new zip file, uncompressed, and wait for the disk."""
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    names.sort(key=lambda name: (name != "zarr.json", name))
    with target.open("xb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as made:
            for name in names:
                info = zipfile.ZipInfo(name)  # dated 1980: equal archives make equal files
                info.external_attr = 0o644 << 16
                info.file_size = (folder / name).stat().st_size
                large = info.file_size >= _LARGE
                with (folder / name).open("rb") as member, made.open(info, "w", force_zip64=large) as copy:
                    shutil.copyfileobj(member, copy, _PIECE)
        file.flush()
        os.fsync(file.fileno())
