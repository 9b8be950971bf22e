"""The headers of a zip file, held against each other and against what this release writes.

A zip file says everything twice: before each member, and in the list of members at its end. Checksums cover the
members alone, so what changes a header is found by comparing.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tracer.errors import ArchiveError

HEADER = 30  # bytes before the name of a member

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64, _LOCATOR64 = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_ENCRYPTED, _LATER, _PATCHED, _UTF8 = 1, 1 << 3, 1 << 5, 1 << 11  # bits of the flags
_WIDE = 0xFFFFFFFF
_SIXTEEN = 0xFFFF
_FEW = (1 << 31) - 1  # bytes beyond which sizes are written wide
_PIECE = 1 << 20

Read = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Header:
    """The header before a member. ValueError from `of` for bytes that are none."""

    flags: int
    method: int
    when: tuple[int, int]
    crc: int
    packed: int
    size: int
    name: bytes
    length: int  # bytes of it, name and extra fields included

    @classmethod
    def of(cls, data: bytes) -> "Header":
        """The header at the start of some bytes."""
        if len(data) < HEADER:
            raise ValueError("it is cut short")
        mark, _, flags, method, time, date, crc, packed, size, n_name, n_extra = _LOCAL.unpack(data[:HEADER])
        if mark != b"PK\x03\x04":
            raise ValueError("there is no header before it")
        name = data[HEADER : HEADER + n_name]
        return cls(flags, method, (time, date), crc, packed, size, name, HEADER + n_name + n_extra)

    def differs(self, info: zipfile.ZipInfo) -> str:
        """What it says otherwise than the list of members, or says that is not read; empty for nothing."""
        if (self.flags | info.flag_bits) & (_ENCRYPTED | _PATCHED):
            return "it is encrypted"
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            return "it is stored, but its sizes differ"
        sizes = (self.crc, self.packed, self.size)
        told = (info.CRC, info.compress_size, info.file_size)
        later = bool(self.flags & _LATER) and sizes[1:] == (0, 0)  # its sizes follow after it
        if not later and any(
            a not in (b, _WIDE if k else b) for k, (a, b) in enumerate(zip(sizes, told, strict=True))
        ):
            return "its header and the list of members give different sizes or checksums"
        if self.name != _encoded(info):
            return "its header and the list of members give different names"
        if self.method != info.compress_type or (self.flags ^ info.flag_bits) & ~_LATER & 0x7FF:
            return "its header and the list of members give different ways of packing"
        return ""


def faults(file: zipfile.ZipFile, read: Read, size: int, full: bool) -> Iterator[tuple[str, str]]:
    """(member, what is wrong) for each header that is not as it should be; full: contents as well."""
    listed = sorted(file.infolist(), key=lambda info: info.header_offset)
    heads: list[tuple[zipfile.ZipInfo, bytes]] = []
    for info in listed:
        guess = HEADER + len(_encoded(info)) + 64
        data = read(info.header_offset, info.header_offset + guess)
        try:
            header = Header.of(data)
            why = header.differs(info) or (_content(read, info, header) if full else "")
        except ValueError as error:
            yield info.filename, str(error)
            continue
        if why:
            yield info.filename, f"in the zip file, {why}"
        heads.append((info, data[: header.length]))
    own = [head == _local(info) for info, head in heads]
    if 2 * sum(own) <= len(listed):
        return  # another program wrote it, in its own way
    yield from (
        (info.filename, _CHANGED) for (info, _), as_written in zip(heads, own, strict=True) if not as_written
    )
    end = 0
    for info, head in heads:
        if info.header_offset != end:
            yield info.filename, "in the zip file, there are bytes before it that belong to nothing"
        end = info.header_offset + len(head) + info.compress_size
    directory = read(end, size)
    wanted = b"".join(_central(info) for info in file.infolist())
    if directory != wanted + _end(len(file.infolist()), len(wanted), end):
        yield "the list of members", _CHANGED


_CHANGED = "in the zip file, its header is not as it was written"


def _content(read: Read, info: zipfile.ZipInfo, header: Header) -> str:
    """Why the content of a stored member is not what its header says; a compressed one is checked when read."""
    if info.compress_type != zipfile.ZIP_STORED:
        return ""
    crc, start = 0, info.header_offset + header.length
    try:
        for at in range(start, start + info.file_size, _PIECE):
            crc = zlib.crc32(read(at, min(at + _PIECE, start + info.file_size)), crc)
    except ArchiveError as error:
        return str(error)
    return "" if crc == info.CRC else "its content is not what the checksum of the zip file says"


def _encoded(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437", errors="replace")


def _name(info: zipfile.ZipInfo) -> tuple[bytes, int]:
    name = info.orig_filename.encode()
    return name, 0 if name.isascii() else _UTF8


def _local(info: zipfile.ZipInfo) -> bytes:
    """The header before a member as this release writes it."""
    (name, flags), size = _name(info), info.file_size
    large = size * 1.05 > _FEW
    extra = struct.pack("<2H2Q", 1, 16, size, size) if large else b""
    told = _WIDE if large else size
    version = 45 if large else 20
    fields = (b"PK\x03\x04", version, flags, 0, 0, 33, info.CRC, told, told, len(name), len(extra))
    return _LOCAL.pack(*fields) + name + extra


def _central(info: zipfile.ZipInfo) -> bytes:
    """An entry of the list of members as this release writes it."""
    (name, flags), size, at = _name(info), info.file_size, info.header_offset
    wide = [*([size, size] if size > _FEW else []), *([at] if at > _FEW else [])]
    version = 45 if wide or size * 1.05 > _FEW else 20
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    told, place = (_WIDE if size > _FEW else size), (_WIDE if at > _FEW else at)
    head = (b"PK\x01\x02", version, 3, version, 0, flags, 0, 0, 33, info.CRC, told, told)
    rest = (len(name), len(extra), 0, 0, 0, 0o644 << 16, place)
    return _CENTRAL.pack(*head, *rest) + name + extra


def _end(n: int, length: int, at: int) -> bytes:
    """What this release writes after the list of members."""
    wide = b""
    if n > _SIXTEEN or at > _FEW or length > _FEW:
        wide = _END64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, length, at)
        wide += _LOCATOR64.pack(b"PK\x06\x07", 0, at + length, 1)
    few, short, place = min(n, _SIXTEEN), min(length, _WIDE), min(at, _WIDE)
    return wide + _END.pack(b"PK\x05\x06", 0, 0, few, few, short, place, 0)
