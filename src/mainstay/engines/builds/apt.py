"""A private apt for one Debian suite: its own lists, cache and (empty) package status; the host's apt is not touched.

With an empty status apt resolves the whole closure, glibc and all. Guarantees: Release files are verified against the
Debian archive keyring by apt, and every file that is returned, fresh or kept from an earlier time, has the SHA-256 that
they promise. Works for any user, and without a network for what has been downloaded before.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from mainstay.engines.builds.mirrors import Mirrors
from mainstay.host.processes import SAFE_ENVIRONMENT
from mainstay.model.errors import MainstayError, Permanent, Transient

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SECURITY_UPDATES = frozenset({"bookworm", "trixie"})
# Unstable's Release file is valid for a few days only, and the mirror may be a snapshot of another day.
SHORT_LIVED = frozenset({"sid"})
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
POLL_S = 0.2
APT_TIMEOUT_S = 1800.0
# Packages unpack to about five times their size.
ROOM_FACTOR = 6
URI = re.compile(
    r"^'[^']+' (?P<file>(?P<name>[^_\s]+)_(?P<version>[^_\s]+)_[^_\s]+\.deb)"
    r" (?P<bytes>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$",
    re.MULTILINE,
)
# How the host reaches its mirrors. The rest of its apt configuration stays out: it may hold hooks that change the host.
HOST_SETTING = re.compile(
    r'^Acquire::(?:https?::|Retries|ForceIPv[46]|Check-Valid-Until|Check-Date|M(?:in|ax)-ValidTime)[^"\n]*"[^"\n]*";$',
    re.MULTILINE,
)

Progress = Callable[[str, float], None]
"""Told what is done now and how far it is, 0 to 1."""


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One package of a closure, as the verified package lists describe it."""

    name: str
    version: str
    file: str
    size_bytes: int
    sha256: str

    def is_at(self, directory: Path) -> bool:
        """Whether the directory holds exactly this file."""
        path = directory / self.file
        try:
            if path.stat().st_size != self.size_bytes:
                return False
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except FileNotFoundError:
            return False


def parse_closure(printed: str) -> list[Package]:
    """What `apt-get --print-uris` with forced SHA-256 printed."""
    return [
        Package(
            name=found["name"],
            version=found["version"].replace("%3a", ":"),
            file=found["file"],
            size_bytes=int(found["bytes"]),
            sha256=found["sha256"],
        )
        for found in URI.finditer(printed)
    ]


class PrivateApt:
    """apt for one suite, its state below `directory`."""

    def __init__(self, directory: Path, suite: str, mirrors: Mirrors, keyring: Path = KEYRING) -> None:
        self._directory = directory
        self._keyring = keyring
        self._suite = suite
        self._mirrors = mirrors
        self._configuration = directory / "apt.conf"

    def download(
        self, packages: tuple[str, ...], unneeded: tuple[str, ...], target: Path, progress: Progress
    ) -> list[Package]:
        """Makes `target` hold the packages and all they depend on, except names that match a pattern of `unneeded`.

        Files that `target` has already are used again. Raises `Transient` when the mirror cannot be reached and
        something is missing, `Permanent` when the packages do not exist there.
        """
        self._prepare()
        progress("reading package lists", 0.0)
        unreachable = self._update()
        try:
            closure = self._closure(packages)
        except MainstayError as error:
            raise (unreachable or error) from error
        wanted = [one for one in closure if not any(fnmatch.fnmatch(one.name, pattern) for pattern in unneeded)]
        progress("verifying packages", 0.0)
        missing = [one for one in wanted if not one.is_at(target)]
        if missing and unreachable:
            raise unreachable
        if missing:
            self._check_room(target, sum(one.size_bytes for one in wanted))
            self._fetch(missing, target, progress)
        return wanted

    def _update(self) -> Transient | None:
        """Reads the mirror's package lists; the error if it cannot be reached, when older lists may still do."""
        try:
            self._run("update", "-qq", "-o", "APT::Update::Error-Mode=any")
        except Transient as error:
            return error
        return None

    def _closure(self, packages: tuple[str, ...]) -> list[Package]:
        options = ["-qq", "-y", "--print-uris", "-o", "Acquire::ForceHash=SHA256", "-o", "Dir::Cache::archives=/none/"]
        closure = parse_closure(self._run(*options, "--no-install-recommends", "install", *packages))
        if not closure:
            raise Permanent(f"apt has nothing to install for {', '.join(packages)}")
        return closure

    def _fetch(self, missing: list[Package], target: Path, progress: Progress) -> None:
        for package in missing:
            (target / package.file).unlink(missing_ok=True)
        total = sum(package.size_bytes for package in missing)
        done = threading.Event()
        watched = (target, missing, total, done, progress)
        watcher = threading.Thread(target=_watch, args=watched, daemon=True)
        watcher.start()
        try:
            self._run("-qq", "download", *(f"{package.name}={package.version}" for package in missing), cwd=target)
        finally:
            done.set()
            watcher.join()
        for package in missing:
            if not package.is_at(target):
                (target / package.file).unlink(missing_ok=True)
                raise Transient(
                    f"{package.file} does not have the checksum that the archive signed",
                    hint="The mirror, or a proxy before it, is damaged or just being updated; try again later.",
                )

    def _prepare(self) -> None:
        if not self._keyring.exists():
            raise Permanent(f"{self._keyring} is missing", hint="Install the host's package debian-archive-keyring.")
        if shutil.which("apt-get", path=SAFE_ENVIRONMENT["PATH"]) is None:
            raise Permanent("apt-get is missing", hint="Engine builds come from Debian's packages and need apt.")
        for name in ("state/lists/partial", "cache/archives/partial", "empty", "log"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        (self._directory / "status").touch()
        lines = [f"deb [signed-by={self._keyring}] {self._mirrors.archive} {self._suite} main\n"]
        if self._suite in SECURITY_UPDATES and self._mirrors.security:
            lines.append(f"deb [signed-by={self._keyring}] {self._mirrors.security} {self._suite}-security main\n")
        (self._directory / "sources.list").write_text("".join(lines))
        root = self._directory
        settings = {
            "Dir::State": f"{root}/state",
            "Dir::State::status": f"{root}/status",
            "Dir::Cache": f"{root}/cache",
            "Dir::Log": f"{root}/log",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": f"{root}/empty",
            "Dir::Etc::sourcelist": f"{root}/sources.list",
            "Dir::Etc::sourceparts": f"{root}/empty",
            "Dir::Etc::preferencesparts": f"{root}/empty",
            "Dir::Etc::preferences": "/dev/null",
            "APT::Install-Recommends": "false",
            "APT::Get::List-Cleanup": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            # A suite's lists take 20 MB on the disk instead of 140.
            "Acquire::GzipIndexes": "true",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "Debug::NoLocking": "true",
        }
        if self._suite in SHORT_LIVED:
            settings["Acquire::Check-Valid-Until"] = "false"
        lines = [f'{name} "{value}";' for name, value in settings.items()]
        own = "\n".join(['Acquire::Retries "3";', *self._host_settings(), *lines])
        self._configuration.write_text(own + "\n")

    @staticmethod
    def _host_settings() -> list[str]:
        dumped = subprocess.run(
            ["apt-config", "dump"], env=SAFE_ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60
        )
        return HOST_SETTING.findall(dumped.stdout)

    def _run(self, *arguments: str, cwd: Path | None = None) -> str:
        env = {**SAFE_ENVIRONMENT, "APT_CONFIG": str(self._configuration), "DEBIAN_FRONTEND": "noninteractive"}
        env |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            done = subprocess.run(
                ["apt-get", *arguments], env=env, cwd=cwd or self._directory, capture_output=True, text=True,
                check=False, timeout=APT_TIMEOUT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Transient(
                f"apt took longer than {APT_TIMEOUT_S:.0f} s", hint="Is the mirror very slow? Try again later."
            ) from error
        if done.returncode == 0:
            return done.stdout
        raise _failure(done.stderr)

    @staticmethod
    def _check_room(target: Path, size_bytes: int) -> None:
        free = shutil.disk_usage(target).free
        if free < size_bytes * ROOM_FACTOR:
            raise Transient(
                f"{target} has only {free >> 20} MiB free", hint=f"{size_bytes * ROOM_FACTOR >> 20} MiB are needed."
            )


def _failure(said: str) -> MainstayError:
    """What apt's standard error means to a person."""
    reason = " ".join(line for line in said.splitlines() if line.startswith("E:")) or said[-300:].strip()
    if "No space left" in said or "enough free space" in said:
        return Transient(f"the disk is full: {reason}", hint="Free some space and try again.")
    if "Unable to locate package" in said or "no installation candidate" in said:
        return Permanent(f"the mirror does not have the packages: {reason}", hint="Does the mirror carry this suite?")
    return Transient(f"apt failed: {reason}", hint="Check the network and the host's apt sources, then try again.")


def _watch(target: Path, missing: list[Package], total: int, done: threading.Event, progress: Progress) -> None:
    while not done.wait(POLL_S):
        here = 0
        for package in missing:
            try:
                here += (target / package.file).stat().st_size
            except FileNotFoundError:  # not begun yet
                continue
        progress("downloading packages", min(1.0, here / total))
