"""Which modules are also compiled, and how a process gets the compiled ones instead of their sources.

The hot paths are ordinary typed Python that mypyc turns into C where there is a compiler (`scripts/compile.py`, run by
the bootstrap), but for one module that is system calls and nothing else, which has a twin in C. The result lies outside
the source tree, in a directory of the environment named by a digest of the very sources, so that a changed source is
never run from an old build: without a build of just these sources, the sources run. MAINSTAY_PURE=1 in the environment
asks for that. Either all modules of a build are used or none.

Standard library only: every process of ours passes here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

MODULES = (
    "mainstay.endpoint.pump",
    "mainstay.protocol.postgres.scram",
    "mainstay.protocol.postgres.startup",
    "mainstay.protocol.postgres.suspicion",
    "mainstay.protocol.postgres.wire",
    "mainstay.proxy.accepting",
    "mainstay.proxy.authentication",
    "mainstay.proxy.budget",
    "mainstay.proxy.cancel_keys",
    "mainstay.proxy.drawn",
    "mainstay.proxy.expected",
    "mainstay.proxy.idle",
    "mainstay.proxy.listener",
    "mainstay.proxy.login",
    "mainstay.proxy.metrics",
    "mainstay.proxy.opening",
    "mainstay.proxy.pool",
    "mainstay.proxy.prepared",
    "mainstay.proxy.requests",
    "mainstay.proxy.server",
    "mainstay.proxy.server_link",
    "mainstay.proxy.session",
    "mainstay.proxy.state",
    "mainstay.proxy.statements",
    "mainstay.proxy.streams",
    "mainstay.proxy.target",
    "mainstay.proxy.tls",
    "mainstay.proxy.transport",
    "mainstay.proxy.welcome",
)
"""What is compiled, as one unit. To add one: it must pass mypy strict, its classes get no attributes that they do not
declare, and nothing refers to its objects weakly (mypyc documentation, "Native classes"). Two things mean something
else in mypyc, and the fuzz tests find such: a slice of bytes that ends before it begins is an error, not b""; and two
`except` clauses of one function must not give different kinds of exception one name."""

IN_C = ("mainstay.host.socket_calls",)
"""Beside the source of each there is one in C of the same name, with the same functions."""

OPTIMISATION = "2"
PROFILES = "with profiles"  # changed when the way in which builds are made changes: older builds are made anew
PURE = "MAINSTAY_PURE"
BUILD = "MAINSTAY_COMPILED"
"""In the environment: a directory whose build is taken, of whatever sources it is. For the build that is being made."""

COMPLETE = "complete"
"""Name of the empty file that is written last."""

PLAIN = "plain"
"""Name of the file that says why a build was made without profiles."""

_SHARED = "__mypyc"
_SUFFIX = EXTENSION_SUFFIXES[0]
_SOURCES = Path(__file__).resolve().parent


def source(module: str, sources: Path = _SOURCES) -> Path:
    """The file of a module. `sources` is the directory of the package `mainstay`."""
    return sources.joinpath(*module.split(".")[1:]).with_suffix(".py")


def source_in_c(module: str, sources: Path = _SOURCES) -> Path:
    """The file of the twin of one of `IN_C`."""
    return source(module, sources).with_suffix(".c")


def directory(sources: Path = _SOURCES) -> Path:
    """Where a build of the present sources is, or would be."""
    import hashlib  # not at the top: most processes import nothing that is compiled

    digest = hashlib.sha256(f"{_SUFFIX} {OPTIMISATION} {PROFILES} {sys.version}".encode())
    for file in (*(source(one, sources) for one in MODULES), *(source_in_c(one, sources) for one in IN_C)):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)} ".encode() + content)
    return Path(sys.prefix) / "compiled" / digest.hexdigest()[:32]


class _Finder(MetaPathFinder):
    """Finds compiled modules, and the library that they share."""

    def __init__(self) -> None:
        self._directory: Path | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As `MetaPathFinder.find_spec`."""
        if fullname in MODULES or fullname in IN_C:
            file = self._build() / (fullname.replace(".", "/") + _SUFFIX)
        elif self._directory is not None and fullname.endswith(_SHARED):
            file = self._directory / (fullname + _SUFFIX)
        else:
            return None
        if not (self._build() / COMPLETE).exists() or not file.exists():
            return None
        return spec_from_file_location(fullname, file, loader=ExtensionFileLoader(fullname, str(file)))

    def _build(self) -> Path:
        if self._directory is None:
            given = os.environ.get(BUILD)
            self._directory = directory() if given is None else Path(given)
        return self._directory


def use() -> None:
    """From now on imports find what is compiled."""
    if not os.environ.get(PURE):
        sys.meta_path.insert(0, _Finder())
