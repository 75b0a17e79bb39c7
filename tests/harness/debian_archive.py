"""A small Debian archive of the tests' own, signed with a key of its own."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

SUITE = "trixie"


class Archive:
    """Packages under one suite; `publish` makes what was added visible to apt."""

    def __init__(self, root: Path) -> None:
        self.root = root / "archive"
        self.keyring = root / "keyring.gpg"
        self._gnupg = root / "g"
        self._gnupg.mkdir(mode=0o700)
        (self.root / "pool").mkdir(parents=True)
        self._stanzas: dict[str, str] = {}
        self._gpg("--quick-generate-key", "archive@example.org", "ed25519", "sign", "never")
        self._gpg("--export", "--output", str(self.keyring))

    @property
    def uri(self) -> str:
        """For a sources.list."""
        return f"file:{self.root}"

    def add(self, name: str, version: str, *, files: dict[str, bytes] | None = None, depends: str = "") -> Path:
        """Builds a package."""
        tree = self.root / "build" / name
        (tree / "DEBIAN").mkdir(parents=True)
        for path, content in (files or {f"usr/share/{name}": name.encode()}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@example.org>\n"
        control += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN" / "control").write_text(control + "Description: a package\n")
        deb = self.root / "pool" / f"{name}_{version.replace(':', '%3a')}_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(tree), str(deb)], check=True, capture_output=True)
        shutil.rmtree(tree)
        content = deb.read_bytes()
        self._stanzas[name] = (
            f"{control}Description: a package\nFilename: pool/{deb.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
        return deb

    def publish(self) -> None:
        """Writes and signs the package lists."""
        suite = self.root / "dists" / SUITE
        lists = suite / "main" / "binary-all"
        arch = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout
        release = f"Suite: {SUITE}\nCodename: {SUITE}\nComponents: main\nArchitectures: {arch.strip()} all\n"
        release += f"Date: {format_datetime(datetime.now(UTC), usegmt=True)}\nSHA256:\n"
        packages = "\n".join(self._stanzas.values()).encode()
        for lists in (suite / "main" / f"binary-{arch.strip()}", suite / "main" / "binary-all"):
            lists.mkdir(parents=True, exist_ok=True)
            for name, content in (("Packages", packages), ("Packages.gz", gzip.compress(packages))):
                (lists / name).write_bytes(content)
                where = (lists / name).relative_to(suite)
                release += f" {hashlib.sha256(content).hexdigest()} {len(content)} {where}\n"
        (suite / "Release").write_text(release)
        self._gpg("--clearsign", "--output", str(suite / "InRelease"), str(suite / "Release"))

    def _gpg(self, *arguments: str) -> None:
        command = ["gpg", "--homedir", str(self._gnupg), "--batch", "--yes", "--passphrase", "", *arguments]
        subprocess.run(command, check=True, capture_output=True)

    def close(self) -> None:
        """Ends the key agent that gpg started for this archive."""
        subprocess.run(
            ["gpgconf", "--homedir", str(self._gnupg), "--kill", "gpg-agent"], check=False, capture_output=True
        )
