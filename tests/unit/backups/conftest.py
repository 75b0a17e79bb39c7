"""What the tests of the repository share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mainstay.backups.directory_objects import DirectoryObjects
from mainstay.backups.repository import Repository
from mainstay.host.randomness import SystemRandomness

KEY = bytes(range(32))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository in a directory of its own."""
    return Repository(DirectoryObjects(tmp_path / "objects"), "db-ONE/", KEY, SystemRandomness())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory of files as an engine might have them."""
    root = tmp_path / "data"
    (root / "base" / "1").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o750)
    (root / "base" / "1" / "large").write_bytes(os.urandom(1 << 20) + bytes(1 << 20) + b"row " * 200_000)
    (root / "base" / "1" / "small").write_bytes(b"x")
    (root / "base" / "1" / "nothing").write_bytes(b"")
    (root / "version").write_text("15\n")
    (root / "version").chmod(0o640)
    return root
