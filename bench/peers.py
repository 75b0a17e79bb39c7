"""Programs to compare with, in private prefixes: Debian's newest packages, made to run on this host as engines are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from mainstay.engines.builds.apt import PrivateApt
from mainstay.engines.builds.mirrors import find_mirrors
from mainstay.engines.builds.tree import NEVER_RUN, patch, unpack
from mainstay.engines.postgresql.packages import POSTGRESQL
from mainstay.model.errors import MainstayError

SUITE = "sid"
PGBOUNCER_WANTED = (1, 25)
"""The first version with cached SCRAM keys; Debian 12 has 1.18, which takes no prepared statements in transactions."""


def pgbouncer(builds: Path, say: Callable[[str], None]) -> Path | None:
    """PgBouncer, new enough: installed here, from an earlier run, or from Debian; an old one, or None, if need be."""
    present = _installed("pgbouncer")
    if present is not None and version(present) >= PGBOUNCER_WANTED:
        return present
    return _from_debian("pgbouncer", builds, say) or present


def haproxy(builds: Path, say: Callable[[str], None]) -> Path | None:
    """HAProxy: installed here, from an earlier run, or from Debian; None if it cannot be had."""
    return _installed("haproxy") or _from_debian("haproxy", builds, say)


def sysbench(builds: Path, say: Callable[[str], None]) -> Path | None:
    """sysbench, with its scripts beside it: from an earlier run, or from Debian; None if it cannot be had."""
    return _from_debian("sysbench", builds, say, "usr/bin")


def version(program: Path) -> tuple[int, ...]:
    """What a program calls itself."""
    told = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", told)
    return tuple(int(part) for part in found.groups()) if found else (0, 0)


def _installed(name: str) -> Path | None:
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    return None if found is None else Path(found)


def _from_debian(package: str, builds: Path, say: Callable[[str], None], directory: str = "usr/sbin") -> Path | None:
    prefix = builds / ".peers" / package
    program = prefix / directory / package
    try:
        if not program.exists():
            say(f"installing {package} from Debian {SUITE} below {prefix}")
            _install(package, builds, prefix)
        return program
    except (MainstayError, OSError) as error:
        say(f"no {package} from Debian: {error}")
        return None


def _install(package: str, builds: Path, prefix: Path) -> None:
    cache, tree = builds / ".cache" / SUITE, prefix.with_name(f".{prefix.name}.partial")
    cache.mkdir(parents=True, exist_ok=True)
    prefix.parent.mkdir(exist_ok=True)
    shutil.rmtree(tree, ignore_errors=True)
    apt = PrivateApt(builds / ".apt" / SUITE, SUITE, find_mirrors(Path("/etc/apt")))
    packages = apt.download((package,), NEVER_RUN, cache, lambda _step, _share: None)
    kept = msgspec.structs.replace(POSTGRESQL, unneeded_paths=())
    tree.mkdir()
    unpack([cache / one.file for one in packages], tree, kept, lambda _step, _share: None)
    patch(tree, prefix, lambda _step, _share: None)
    tree.rename(prefix)
