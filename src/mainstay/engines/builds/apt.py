"""A private apt for one Debian suite: its own lists, cache and (empty) package status; the host's apt is not touched.

With an empty status apt resolves the whole closure, glibc and all. Release files are verified against the Debian
archive keyring and every package against them, by apt itself. Works for any user.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from mainstay.engines.builds.mirrors import Mirrors
from mainstay.host.processes import SAFE_ENVIRONMENT
from mainstay.model.errors import Permanent, Transient

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SECURITY_UPDATES = frozenset({"bookworm", "trixie"})
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
POLL_S = 0.2
URI = re.compile(r"^'[^']+' (?P<file>\S+) (?P<bytes>\d+)", re.MULTILINE)

Progress = Callable[[str, float], None]
"""Told what is done now and how far it is, 0 to 1."""


class PrivateApt:
    """apt for one suite, its state below `directory`."""

    def __init__(self, directory: Path, suite: str, mirrors: Mirrors) -> None:
        self._directory = directory
        self._suite = suite
        self._mirrors = mirrors
        self._configuration = directory / "apt.conf"

    def download(self, packages: tuple[str, ...], target: Path, progress: Progress) -> list[Path]:
        """Downloads the packages and all they depend on; files that are in `target` already are used again.

        Raises `Transient` when the mirror cannot be reached, `Permanent` when the packages do not exist there.
        """
        self._prepare()
        progress("reading package lists", 0.0)
        self._apt("update", "-qq")
        install = ["-y", "--no-install-recommends", "install", *packages]
        listed = URI.findall(self._apt("-qq", "--print-uris", *install))
        self._check_room(target, sum(int(size) for _, size in listed))
        total = max(1, sum(int(size) for _, size in listed))
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(target, _size(target), total, done, progress), daemon=True)
        watcher.start()
        try:
            self._apt("-qq", "--download-only", "-o", f"Dir::Cache::archives={target}/", *install)
        finally:
            done.set()
            watcher.join()
        shutil.rmtree(target / "partial", ignore_errors=True)
        return self._closure(target, install)

    def _closure(self, target: Path, install: list[str]) -> list[Path]:
        """The files of exactly this closure: the cache may hold older versions too."""
        output = self._apt("-qq", "--print-uris", "-o", "Dir::Cache::archives=/nonexistent/", *install)
        names = [file for file, _ in URI.findall(output)]
        missing = [name for name in names if not (target / name).exists()]
        if missing or not names:
            raise Transient(f"apt did not deliver {', '.join(missing[:3]) or 'any package'}", hint="Try again.")
        return [target / name for name in names]

    def _prepare(self) -> None:
        if not KEYRING.exists():
            raise Permanent(f"{KEYRING} is missing", hint="Install the host's package debian-archive-keyring.")
        if shutil.which("apt-get", path=SAFE_ENVIRONMENT["PATH"]) is None:
            raise Permanent("apt-get is missing", hint="Engine builds come from Debian's packages and need apt.")
        for name in ("state/lists/partial", "cache/archives/partial", "empty", "log"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        (self._directory / "status").touch()
        lines = [f"deb [signed-by={KEYRING}] {self._mirrors.archive} {self._suite} main\n"]
        if self._suite in SECURITY_UPDATES and self._mirrors.security:
            lines.append(f"deb [signed-by={KEYRING}] {self._mirrors.security} {self._suite}-security main\n")
        (self._directory / "sources.list").write_text("".join(lines))
        root = self._directory
        settings = {
            "Dir::State": f"{root}/state",
            "Dir::State::status": f"{root}/status",
            "Dir::Cache": f"{root}/cache",
            "Dir::Log": f"{root}/log",
            "Dir::Etc::sourcelist": f"{root}/sources.list",
            "Dir::Etc::sourceparts": f"{root}/empty",
            "Dir::Etc::preferencesparts": f"{root}/empty",
            "Dir::Etc::preferences": "/dev/null",
            "APT::Install-Recommends": "false",
            "APT::Get::List-Cleanup": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Debug::NoLocking": "true",
            # unstable's Release file has a short validity, and the mirror may be a snapshot of another day.
            "Acquire::Check-Valid-Until": "false" if self._suite == "sid" else "true",
        }
        self._configuration.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))

    def _apt(self, *arguments: str) -> str:
        env = {**SAFE_ENVIRONMENT, "APT_CONFIG": str(self._configuration), "DEBIAN_FRONTEND": "noninteractive"}
        env |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        done = subprocess.run(["apt-get", *arguments], env=env, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout
        said = " ".join(line for line in done.stderr.splitlines() if line.startswith("E:")) or done.stderr[-300:]
        if "No space left" in done.stderr or "enough free space" in done.stderr:
            raise Transient(f"the disk is full: {said}", hint="Free some space and try again.")
        if "Unable to locate package" in done.stderr or "no installation candidate" in done.stderr:
            raise Permanent(f"the mirror does not have the packages: {said}")
        raise Transient(f"apt failed: {said}", hint="Check the network and the host's apt sources, then try again.")

    @staticmethod
    def _check_room(target: Path, size_bytes: int) -> None:
        free = shutil.disk_usage(target).free
        # Packages unpack to about five times their size.
        if free < size_bytes * 6:
            raise Transient(f"{target} has only {free >> 20} MiB free", hint=f"{size_bytes * 6 >> 20} MiB are needed.")


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.deb*"))


def _watch(target: Path, before: int, total: int, done: threading.Event, progress: Progress) -> None:
    while not done.wait(POLL_S):
        try:
            progress("downloading packages", min(1.0, (_size(target) - before) / total))
        except FileNotFoundError:  # apt renames what it has finished
            continue
