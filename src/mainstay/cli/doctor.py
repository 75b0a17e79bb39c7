"""`mainstay doctor`: what this host can do, what is missing, and what to do about it."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import socket
from collections.abc import Iterator

import msgspec
import psutil
from rich.console import Console
from rich.markup import escape

from mainstay.backups.objects import probe_object_storage
from mainstay.cli.service import healthy
from mainstay.engines.builds import Builds
from mainstay.host.cgroups import ControlGroups
from mainstay.host.volumes import examine_drivers
from mainstay.model.errors import MainstayError, Transient
from mainstay.settings import Settings
from mainstay.shim.__main__ import LANDLOCK_LEAST, landlock_version

GIB = 1 << 30
FREE_DISK_BYTES_MIN = 2 * GIB
OPEN_FILES_MIN = 4096


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at. `level` is "ok", "note" (something optional is missing) or "bad" (it cannot run)."""

    level: str
    text: str
    remedy: str = ""


def examine(settings: Settings) -> int:
    """Prints every finding; 1 if one of them is bad."""
    console = Console()
    marks = {"ok": "[green]✓[/green]", "note": "[yellow]·[/yellow]", "bad": "[red]✗[/red]"}
    findings = list(_findings(settings))
    for finding in findings:
        console.print(f"{marks[finding.level]} {escape(finding.text)}", highlight=False)
        if finding.remedy:
            console.print(f"    {escape(finding.remedy)}", highlight=False)
    return int(any(finding.level == "bad" for finding in findings))


def _findings(settings: Settings) -> Iterator[Finding]:
    memory = psutil.virtual_memory().total
    yield Finding("ok", f"{os.cpu_count()} CPUs, {memory / GIB:.1f} GiB of memory")
    yield from _home(settings)
    yield from _user(settings)
    yield _loopback()
    yield _port(settings)
    yield _open_files()
    yield from _builds(settings)
    yield _kernel_path(settings)
    yield _cgroups()
    yield _confinement()
    yield from _volumes(settings)
    yield _object_storage(settings)


def _home(settings: Settings) -> Iterator[Finding]:
    existing = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    level = "ok" if free >= FREE_DISK_BYTES_MIN else "bad"
    yield Finding(
        level, f"{settings.home}: {free / GIB:.1f} GiB free", "" if level == "ok" else "Free some disk space."
    )
    if not os.access(existing, os.W_OK):
        yield Finding("bad", f"{existing} cannot be written", "Set MAINSTAY_HOME to a directory of yours.")
    if os.geteuid() == 0:
        for path in (existing, *existing.parents):
            if not path.stat().st_mode & 0o001:
                yield Finding(
                    "bad",
                    f"{path} is closed to the engines' user",
                    "Choose another MAINSTAY_HOME.",
                )


def _user(settings: Settings) -> Iterator[Finding]:
    if os.geteuid() != 0:
        yield Finding("ok", f"running as {pwd.getpwuid(os.geteuid()).pw_name}: engines run as the same user")
        return
    try:
        pwd.getpwnam(settings.engine_user)
        yield Finding("ok", f"running as root: engines run as {settings.engine_user}")
    except KeyError:
        yield Finding("note", f"the system user {settings.engine_user} does not exist yet", "`mainstay up` makes it.")


def _loopback() -> Finding:
    try:
        with socket.socket() as probe:
            probe.bind(("127.64.0.1", 0))
    except OSError as error:
        return Finding("bad", f"addresses of 127.0.0.0/8 cannot be used: {error}", "Bring lo up as 127.0.0.1/8.")
    return Finding("ok", "loopback addresses for endpoints: 127.64.0.0/10")


def _port(settings: Settings) -> Finding:
    if healthy(settings) is not None:
        return Finding("ok", f"the service answers on port {settings.port}")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.listen, settings.port))
    except OSError as error:
        return Finding("bad", f"{settings.listen}:{settings.port} cannot be used: {error}", "Set MAINSTAY_PORT.")
    return Finding("ok", f"{settings.listen}:{settings.port} is free for the API")


def _open_files() -> Finding:
    limit = psutil.Process().rlimit(psutil.RLIMIT_NOFILE)[0]
    if limit < OPEN_FILES_MIN:
        return Finding("note", f"only {limit} open files are allowed", f"Raise it: ulimit -n {OPEN_FILES_MIN}.")
    return Finding("ok", f"{limit} open files are allowed")


def _builds(settings: Settings) -> Iterator[Finding]:
    builds = Builds(settings).installed()
    for build in builds:
        yield Finding("ok", f"engine {build.engine} {build.version} ({build.origin}) in {build.prefix}")
    if not builds:
        yield Finding("bad", "no engine is installed", "mainstay engines install postgres 17")


def _object_storage(settings: Settings) -> Finding:
    name = f"object storage: {settings.object_storage or 'a directory of the service'}"
    try:
        probe_object_storage(settings)
    except MainstayError as error:
        level = "note" if isinstance(error, Transient) else "bad"
        return Finding(level, f"{name}: {error.message}", error.hint)
    return Finding("ok", name)


def _kernel_path(settings: Settings) -> Finding:
    if settings.endpoint_path == "relay":
        return Finding("ok", "endpoint path: relay, as set")
    if os.geteuid() != 0:
        return Finding("note", "endpoint path: relay (the kernel path needs root)")
    if shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None:
        return Finding("note", "endpoint path: relay (nftables is missing)", "apt-get install nftables")
    return Finding("ok", "endpoint path: nftables is there for the kernel path")


def _cgroups() -> Finding:
    groups = ControlGroups("mainstay-doctor")  # finds out by making some
    groups.remove_parent()
    version = groups.version
    if version:
        return Finding("ok", f"control groups v{version}: the kernel enforces memory and CPU of a class")
    return Finding("note", "control groups cannot be written: memory and CPU of a class are not enforced by the kernel")


def _confinement() -> Finding:
    version = landlock_version(ctypes.CDLL(None, use_errno=True))
    if version >= LANDLOCK_LEAST:
        return Finding(
            "ok", f"Landlock {version}: an engine writes in its own directories only, whatever its users become"
        )
    return Finding(
        "note", "the kernel has no Landlock (Linux 5.19): engines are kept apart by their own permissions alone"
    )


def _volumes(settings: Settings) -> Iterator[Finding]:
    """Every kind of volume, tried in the place where it would be."""
    place = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    drivers = examine_drivers(place)
    for one in drivers:
        name = f"volumes: {one.driver}{', encrypted' if one.encrypted else ''}"
        if one.usable:
            yield Finding("ok", f"{name}{f' ({one.reason})' if one.reason else ''}")
        else:
            wanted = settings.volumes == one.driver and not one.encrypted
            yield Finding("bad" if wanted else "note", f"{name}: not usable: {one.reason}")
    for one in drivers:
        if one.driver == "image" and one.usable and not one.encrypted:
            if one.clones:
                yield Finding("ok", f"DB snapshots of image volumes are clones of them below {place}: there at once")
            else:
                remedy = "Have MAINSTAY_HOME on XFS or btrfs: docs/volumes.md, Snapshots in a moment."
                yield Finding("note", f"DB snapshots of image volumes are copied: {one.clones_reason}", remedy)
    if not any(one.usable and one.encrypted for one in drivers):
        remedy = "Run as root on a host with loop devices, or install gocryptfs and fuse3."
        yield Finding("note", "volumes: StorageEncrypted is refused on this host", remedy)
