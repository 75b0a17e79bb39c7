"""The ELF reader, against the interpreter that runs these tests and against rubbish."""

from __future__ import annotations

import shutil
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mainstay.engines.builds.elf import read_elf

PROGRAM = Path(shutil.which("true") or "/bin/true").resolve()


def test_a_program_names_its_loader_and_libraries() -> None:
    elf = read_elf(PROGRAM)
    assert elf is not None
    assert Path(elf.interpreter).name.startswith("ld-")
    assert "libc.so.6" in elf.needed


def test_a_library_has_no_loader() -> None:
    library = next(Path("/").glob("usr/lib/*-linux-gnu/libpthread.so.0"), None) or next(
        Path("/").glob("usr/lib/*-linux-gnu/libz.so.1")
    )
    elf = read_elf(library)
    assert elf is not None
    assert elf.interpreter == ""


def test_other_files_are_none(tmp_path: Path) -> None:
    for content in (b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100), b"\x7fELF\x02\x01" + bytes(100)):
        (tmp_path / "file").write_bytes(content)
        assert read_elf(tmp_path / "file") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@example(at=437, value=1, length=820)  # a dynamic section of 2 to the 40 bytes
@given(at=st.integers(0, 1200), value=st.integers(0, 255), length=st.integers(0, 20_000))
def test_damage_never_raises(tmp_path: Path, at: int, value: int, length: int) -> None:
    content = bytearray(PROGRAM.read_bytes())
    content[at] = value
    (tmp_path / "file").write_bytes(content[: max(length, at + 1)])
    read_elf(tmp_path / "file")
