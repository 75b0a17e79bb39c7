"""Just enough of the ELF format (System V gABI, chapters 4 and 5) to know what must be patched and what a file needs.

Guarantees: reads only; a file that is not a dynamically linked 64-bit little-endian ELF file is None, not an error.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import msgspec

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
DYNAMIC_ENTRY = struct.Struct("<qQ")
MAGIC_64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
TYPE_EXECUTABLE, TYPE_SHARED = 2, 3
SEGMENT_LOAD, SEGMENT_DYNAMIC, SEGMENT_INTERPRETER = 1, 2, 3
TAG_NEEDED, TAG_STRING_TABLE, TAG_RPATH, TAG_RUNPATH = 1, 5, 15, 29
DYNAMIC_BYTES_MAX = 1 << 20
NAME_BYTES_MAX = 4096


class Elf(msgspec.Struct, frozen=True):
    """A dynamically linked file. `interpreter` is empty for a library; `search_path` is its RPATH or RUNPATH."""

    interpreter: str
    needed: tuple[str, ...]
    search_path: tuple[str, ...]


class _Segment(msgspec.Struct, frozen=True):
    kind: int
    offset: int
    address: int
    size: int


def read_elf(path: Path) -> Elf | None:
    """What the file says about its dynamic linking."""
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size or not head.startswith(MAGIC_64_LITTLE_ENDIAN):
            return None
        fields = HEADER.unpack(head)
        if fields[1] not in (TYPE_EXECUTABLE, TYPE_SHARED):
            return None
        try:
            return _dynamic_linking(file, _segments(file, offset=fields[5], size=fields[9], count=fields[10]))
        except (struct.error, ValueError, OverflowError, OSError):  # OSError: an offset that no file can have
            return None


def _segments(file: BinaryIO, *, offset: int, size: int, count: int) -> list[_Segment]:
    segments = []
    for number in range(count):
        file.seek(offset + number * size)
        kind, _flags, at, address, _physical, length, _memory, _align = PROGRAM_HEADER.unpack(
            file.read(PROGRAM_HEADER.size)
        )
        segments.append(_Segment(kind, at, address, length))
    return segments


def _dynamic_linking(file: BinaryIO, segments: list[_Segment]) -> Elf | None:
    dynamic = next((segment for segment in segments if segment.kind == SEGMENT_DYNAMIC), None)
    if dynamic is None:
        return None
    interpreter = ""
    for segment in segments:
        if segment.kind == SEGMENT_INTERPRETER:
            interpreter = _text(file, segment.offset)
    file.seek(dynamic.offset)
    content = file.read(min(dynamic.size, DYNAMIC_BYTES_MAX))  # read() makes room for all that it is asked for
    entries = [entry for entry in DYNAMIC_ENTRY.iter_unpack(content[: len(content) // 16 * 16]) if entry[0]]
    strings = _file_offset(segments, next((value for tag, value in entries if tag == TAG_STRING_TABLE), 0))
    search = [_text(file, strings + value) for tag, value in entries if tag in (TAG_RPATH, TAG_RUNPATH)]
    return Elf(
        interpreter=interpreter,
        needed=tuple(_text(file, strings + value) for tag, value in entries if tag == TAG_NEEDED),
        search_path=tuple(entry for text in search for entry in text.split(":") if entry),
    )


def _file_offset(segments: list[_Segment], address: int) -> int:
    """Where in the file the byte is that will be mapped at this address."""
    for segment in segments:
        if segment.kind == SEGMENT_LOAD and segment.address <= address < segment.address + segment.size:
            return address - segment.address + segment.offset
    raise ValueError("no segment holds the string table")


def _text(file: BinaryIO, offset: int) -> str:
    file.seek(offset)
    content, end, _rest = file.read(NAME_BYTES_MAX).partition(b"\0")
    if not end:
        raise ValueError("a name does not end")
    return content.decode("utf-8", "surrogateescape")
