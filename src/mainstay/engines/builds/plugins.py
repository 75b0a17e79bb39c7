"""Compiling plugins of our own for a build, with Debian's tcc in a tree of its own that is thrown away afterwards.

The compiler runs by its tree's own loader, so neither a compiler nor headers of the host are needed, whatever the host
is. The plugins use no header and no library; what they call is found in the engine when it loads them.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mainstay.engines.builds.elf import read_elf
from mainstay.engines.builds.tree import library_directories, patchelf
from mainstay.host.processes import SAFE_ENVIRONMENT
from mainstay.model.engine import CompiledPlugin
from mainstay.model.errors import Permanent

PACKAGES = ("tcc",)
COMPILER = "usr/bin/tcc"
OPTIONS = ("-nostdinc", "-nostdlib", "-shared")
FINISH = ("--clear-execstack",)
"""tcc does not say that its code needs no executable stack; glibc 2.41 and later load no library that seems to."""

TIMEOUT_S = 60.0


def digests(plugins: Sequence[CompiledPlugin]) -> dict[str, str]:
    """Library -> what it is made of and how, which tells whether a build has the present one."""
    return {
        plugin.library: hashlib.sha256(
            plugin.source.read_bytes() + repr((sorted(plugin.defined.items()), OPTIONS, FINISH)).encode()
        ).hexdigest()
        for plugin in plugins
    }


def compile_plugins(plugins: Sequence[CompiledPlugin], toolchain: Path, directory: Path) -> None:
    """Makes the libraries in `directory`, each whole or not at all. `toolchain`: the unpacked `PACKAGES`.

    Raises `Permanent` with what the compiler says.
    """
    compiler = toolchain / COMPILER
    elf = read_elf(compiler) if compiler.is_file() else None
    if elf is None:
        raise Permanent(f"there is no {COMPILER} in Debian's {', '.join(PACKAGES)}")
    libraries = ":".join(map(str, library_directories(toolchain)))
    running = [f"{toolchain}{elf.interpreter}", "--library-path", libraries, str(compiler)]
    for plugin in plugins:
        made = directory / f".{plugin.library}.partial"
        defined = [f"-D{name}={value}" for name, value in plugin.defined.items()]
        try:
            _run([*running, *OPTIONS, *defined, "-o", str(made), str(plugin.source)], plugin)
            _run([patchelf(), *FINISH, str(made)], plugin)
            made.chmod(0o644)
            made.rename(directory / plugin.library)
        finally:
            made.unlink(missing_ok=True)


def _run(command: list[str], plugin: CompiledPlugin) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=SAFE_ENVIRONMENT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Permanent(f"{plugin.source.name} cannot be compiled: {error}") from error
    if done.returncode != 0:
        raise Permanent(f"{plugin.source.name} cannot be compiled: {(done.stderr or done.stdout).strip()[-300:]}")
