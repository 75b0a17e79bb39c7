"""Makes a script of what pg_dump has written, whatever its format: plain, compressed, custom, tar or directory.

Archives are taken apart by pg_restore, which writes SQL and connects to nothing: a program that a crafted archive
might take over (CVE-2026-116314) has no password, no network and no files (`host/confined.py`).
"""

from __future__ import annotations

import gzip
import os
import select
import shutil
import stat
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import zstandard

from mainstay.engines.builds.elf import read_elf
from mainstay.engines.dumps import LoadOrder
from mainstay.engines.postgresql.dump_text import shown
from mainstay.host.confined import Confinement, owner_of_confined, start_confined
from mainstay.host.file_identity import files_as
from mainstay.host.processes import OUTPUT_BYTES_SHOWN
from mainstay.model.engine import ORIGIN_INSTALLED, EngineBuild
from mainstay.model.errors import Permanent

FIXED_MINORS = {14: 25, 15: 20, 16: 16, 17: 12, 18: 7}
"""From which release of a major version on pg_restore bears any archive; later ones always did. Source: the record of
CVE-2026-116314. The releases also have the fixes of CVE-2025-8714, CVE-2025-8715 and CVE-2026-18408."""

MEMORY_BYTES_MAX = 1 << 30
DIRECTORY_FILES_MAX = 1_000_000
TABLE_OF_CONTENTS = "toc.dat"
HEAD_BYTES = 512
TAR_MAGIC_OFFSET = 257
SYSTEM_LIBRARIES = ("/usr/lib", "/lib", "/lib64", "/etc/ld.so.cache")
READ_FROM_PIPE_BYTES = 1 << 18
ZSTD_WINDOW_BYTES_MAX = 1 << 27

Note = Callable[[int, int], None]
Program = subprocess.Popen[bytes]


class Script(Protocol):
    """A dump as SQL and data."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most so many; b"" at the end. Raises `Permanent` for what cannot be read, in words."""

    def finish(self) -> None:
        """Called at the end: raises `Permanent` unless all of the dump was read."""


def refusal(build: EngineBuild) -> str:
    """Why archives are not given to the pg_restore of this build, or ""."""
    major, minor = (int(part) for part in build.version.split(".")[:2])
    fixed = FIXED_MINORS.get(major, 0 if major > max(FIXED_MINORS) else minor + 1)
    if minor >= fixed:
        return ""
    where = f"{major}.{fixed}" if major in FIXED_MINORS else f"{min(FIXED_MINORS)}.{FIXED_MINORS[min(FIXED_MINORS)]}"
    return (
        f"the pg_restore of PostgreSQL {build.version} may run code that is in a crafted archive (CVE-2026-116314; see"
        f" also CVE-2026-18408, CVE-2025-8714 and CVE-2025-8715), which is fixed in {where}"
    )


@contextmanager
def open_script(dump: Path, order: LoadOrder, note: Note) -> Iterator[Script]:
    """The script of the dump. Raises `Permanent` for what is none."""
    if dump.is_dir():
        if not (dump / TABLE_OF_CONTENTS).is_file():
            raise Permanent(f"there is no {TABLE_OF_CONTENTS} in {dump}: it is no directory of `pg_dump -Fd`")
        with _directory(dump, order) as script:
            yield script
        return
    with _opened(dump) as file:
        head = file.read(HEAD_BYTES)
        kind = _kind(head, dump)
        file.seek(0)
        if kind in ("custom", "tar"):
            with _archive(file, kind, order, note) as script:
                yield script
            return
        if kind == "plain":
            _require_text(head, dump)
        if order.without_owners or order.without_privileges:
            raise Permanent(
                "owners and privileges can be left out of archives only, and this dump is a script",
                hint="Take it with `pg_dump --no-owner --no-privileges`, or in the custom format (-Fc).",
            )
        yield _Text(_decompressed(file, kind), file, _Bounded(order.script_bytes_max), note)


def _opened(dump: Path) -> IO[bytes]:
    try:
        if not stat.S_ISREG(dump.stat().st_mode):
            raise Permanent(f"{dump} is no file", hint="Write the dump into a file first: `pg_dump -Fc --file=…`.")
        return dump.open("rb", buffering=0)  # pg_restore goes on where we are in it
    except OSError as error:
        raise Permanent(f"{dump} cannot be read: {error.strerror}") from error


def _decompressed(raw: IO[bytes], kind: str) -> Any:
    if kind == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if kind == "zstd":
        return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX).stream_reader(
            raw, read_across_frames=True, closefd=False
        )
    return raw


def _kind(head: bytes, dump: Path) -> str:
    if head.startswith(b"PGDMP"):
        return "custom"
    if head[TAR_MAGIC_OFFSET : TAR_MAGIC_OFFSET + 5] == b"ustar":
        return "tar"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    if head.startswith((b"\x04\x22\x4d\x18", b"BZh", b"\xfd7zXZ", b"PK")):
        raise Permanent(
            f"{dump} is compressed in a way that is not read here", hint="Decompress it, or use gzip, zstd."
        )
    return "plain"


def _require_text(head: bytes, dump: Path) -> None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Permanent(
            f"{dump} is UTF-16, as PowerShell writes it: data in it may be damaged", hint="Use `pg_dump --file=…`."
        )
    if b"\0" in head:
        raise Permanent(f"{dump} is no dump of PostgreSQL: neither SQL nor a format of pg_dump")


class _Bounded:
    """How much of a script there may be: a small file may be a very long one."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def spend(self, count: int) -> None:
        """Raises `Permanent` when there were more bytes than there may be."""
        self._left -= count
        if self._left < 0:
            raise Permanent(
                f"the dump comes to more than {self._most / (1 << 30):.1f} GiB, more than the DB instance has room for",
                hint="Increase AllocatedStorage.",
            )


class _Text:
    """A script in a file, perhaps compressed; `raw` is the file itself."""

    def __init__(self, stream: IO[bytes], raw: IO[bytes], bound: _Bounded, note: Note) -> None:
        self._stream, self._raw, self._bound, self._note = stream, raw, bound, note
        self._size = os.fstat(raw.fileno()).st_size

    def read(self, size: int, /) -> bytes:
        """See `Script`."""
        try:
            found = self._stream.read(size)
            self._note(self._raw.tell(), self._size)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise Permanent(f"the dump cannot be read: {error}", hint="Copy it, or take it, again.") from error
        self._bound.spend(len(found))
        return found

    def finish(self) -> None:
        """See `Script`."""


class _Restored:
    """What pg_restore writes."""

    def __init__(self, program: Program, said: IO[bytes], order: LoadOrder, note: Callable[[], None]) -> None:
        self._program, self._said, self._note = program, said, note
        self._bound = _Bounded(order.script_bytes_max)
        self._deadline = time.monotonic() + order.timeout_s
        self._poll = select.poll()
        self._output = -1 if program.stdout is None else program.stdout.fileno()
        self._poll.register(self._output, select.POLLIN)

    def read(self, size: int, /) -> bytes:
        """See `Script`."""
        while not self._poll.poll(1000):
            if time.monotonic() > self._deadline:
                raise Permanent("pg_restore takes too long with the archive")
        found = os.read(self._output, min(size, READ_FROM_PIPE_BYTES))
        if not found:
            self.finish()  # why it ended says more than that its script is cut off
        self._bound.spend(len(found))
        self._note()
        return found

    def finish(self) -> None:
        """See `Script`."""
        status = self._program.wait()
        if status == 0:
            return
        self._said.seek(0)
        words = shown(self._said.read()[-OUTPUT_BYTES_SHOWN:], OUTPUT_BYTES_SHOWN)
        raise Permanent(
            f"the archive cannot be read: {words or f'pg_restore ended with status {status}'}",
            hint="Is it whole, and of a pg_dump that is not newer than the DB instance?",
        )


@contextmanager
def _archive(file: IO[bytes], kind: str, order: LoadOrder, note: Note) -> Iterator[Script]:
    size = os.fstat(file.fileno()).st_size

    def tell() -> None:
        """pg_restore reads from the same open file, so its place in it is ours."""
        note(os.lseek(file.fileno(), 0, os.SEEK_CUR), size)

    with _pg_restore([f"--format={kind}"], (), Path("/"), file, order, tell) as script:
        yield script


@contextmanager
def _directory(dump: Path, order: LoadOrder) -> Iterator[Script]:
    owner = owner_of_confined()
    with tempfile.TemporaryDirectory(prefix="load-", dir=order.scratch) as made:
        readable = dump.absolute()
        if owner is not None:  # whoever takes it apart need not be one who can read it there
            readable = Path(made) / "dump"
            Path(made).chmod(0o711)
            _copy(dump, readable, owner)
        with _pg_restore(
            ["--format=directory", "."], (readable,), readable, subprocess.DEVNULL, order, lambda: None
        ) as script:
            yield script


def _copy(source: Path, target: Path, owner: tuple[int, int]) -> None:
    """Regular files only, opened without following links."""
    target.mkdir(mode=0o700)
    os.chown(target, *owner)
    directory = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = os.listdir(directory)
        if len(names) > DIRECTORY_FILES_MAX:
            raise Permanent(f"there are more than {DIRECTORY_FILES_MAX} files in {source}")
        for name in names:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise Permanent(f"{source / name} is no file: pg_dump does not write such")
                with files_as(owner), (target / name).open("xb") as copy:
                    shutil.copyfileobj(file, copy, READ_FROM_PIPE_BYTES)
    except OSError as error:
        raise Permanent(f"{source} cannot be read: {error}") from error
    finally:
        os.close(directory)


@contextmanager
def _pg_restore(
    arguments: list[str],
    readable: tuple[Path, ...],
    cwd: Path,
    stdin: IO[bytes] | int,
    order: LoadOrder,
    note: Callable[[], None],
) -> Iterator[Script]:
    """Runs it; when this is left it has ended."""
    reason = refusal(order.build)
    if reason:
        hint = (
            f"Get it with `mainstay engines install postgres {order.build.major}`, or load a plain dump (pg_dump -Fp)."
        )
        raise Permanent(reason, hint=hint)
    program = order.build.bin_directory / "pg_restore"
    argv = [str(program), "--file=-", "--no-tablespaces"]
    argv += ["--no-owner"] if order.without_owners else []
    argv += ["--no-privileges"] if order.without_privileges else []
    libraries, loader = _needs(order.build, program)
    confinement = Confinement(
        readable=(*readable, *libraries),
        executable=(program, loader),
        memory_bytes=MEMORY_BYTES_MAX,
        cpu_s=int(order.timeout_s),
    )
    with tempfile.TemporaryFile() as said, start_confined(
        [*argv, *arguments], confinement, cwd=cwd, stdin=stdin, said=said, env=order.build.environment
    ) as running:  # fmt: skip
        try:
            yield _Restored(running, said, order, note)
        finally:
            running.kill()


def _needs(build: EngineBuild, program: Path) -> tuple[tuple[Path, ...], Path]:
    """Where its libraries are, and what loads them."""
    elf = read_elf(program)
    if elf is None or not elf.interpreter:
        raise Permanent(f"{program} is no program of this machine")
    if build.origin == ORIGIN_INSTALLED:
        return (build.prefix,), Path(elf.interpreter)
    return tuple(path for name in SYSTEM_LIBRARIES if (path := Path(name)).exists()), Path(elf.interpreter)
