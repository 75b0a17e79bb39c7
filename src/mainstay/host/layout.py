"""Our processes: their locks, their logs, the marker of a wanted shutdown, and how one is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from mainstay.host.files import make_private_directory
from mainstay.settings import Settings

# The endpoint first: the agent tells it routes; control last: it observes the agent.
PROCESSES = ("endpoint", "agent", "control")
# These run only while they have specs below a directory of home that is named like them.
ON_DEMAND = ("proxy",)
SUPERVISOR = "supervisor"
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "XDG_DATA_HOME")

# glibc keeps what was once a large block and makes a heap for each thread; a log segment of 16 MiB on its way to the
# archive would cost the agent that memory for good.
MEMORY_GIVEN_BACK = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}

# What carries clients' statements sleeps between them, and finds the processor's caches with others' data each time:
# much of what it then costs is looking up where its pages are. In large ones there are few (transparent huge pages;
# Python's own allocator cannot have them, glibc's can). A login makes and frees some hundred objects: so many of a
# size must find room where glibc keeps those freed last, or it searches. A login costs a tenth less with all this.
LARGE_PAGES = {
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.tcache_count=2000",
}


def lock_path(settings: Settings, name: str) -> Path:
    """The lock that the process of this name holds while it runs."""
    return settings.runtime / f"{name}.lock"


def worker_name(name: str, number: int) -> str:
    """What one of several workers of a process is called, as its lock and its socket are. They count from 1."""
    return f"{name}-worker-{number}"


def worker_names(settings: Settings, name: str) -> list[str]:
    """Of every worker that the process has ever had."""
    return sorted(path.stem for path in settings.runtime.glob(f"{name}-worker-*.lock"))


def log_path(settings: Settings, name: str) -> Path:
    """Where the process's own log lines go."""
    return settings.home / "logs" / f"{name}.log"


def down_marker(settings: Settings) -> Path:
    """Exists while the service is to be down, so that nobody starts anything again."""
    return settings.home / "down"


def has_specs(settings: Settings, name: str) -> bool:
    """Whether an on-demand process has something to do: specs that it was given and has kept."""
    return any((settings.home / name).rglob("*.json"))


def prepare(settings: Settings) -> None:
    """Makes the directories that every process relies on."""
    make_private_directory(settings.home, mode=0o711)
    make_private_directory(settings.home / "logs")
    make_private_directory(settings.runtime, mode=0o711)


def environment(settings: Settings, name: str) -> dict[str, str]:
    """The environment of a process of ours: every setting spelled out, and nothing of the caller's secrets."""
    env = {kept: os.environ[kept] for kept in KEPT_ENVIRONMENT if kept in os.environ} | MEMORY_GIVEN_BACK
    if name in ON_DEMAND:
        env |= LARGE_PAGES
    for setting, value in msgspec.structs.asdict(settings).items():
        if value is not None:
            env[f"MAINSTAY_{setting.upper()}"] = ",".join(value) if isinstance(value, tuple) else str(value)
    return env


def spawn(settings: Settings, name: str) -> subprocess.Popen[bytes]:
    """Starts the process, detached, its output appended to its log."""
    descriptor = os.open(log_path(settings, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", f"mainstay.{name}"],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env=environment(settings, name),
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
