"""`archive`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.debian_archive import Archive


@pytest.fixture
def archive() -> Iterator[Archive]:
    missing = [tool for tool in ("apt-get", "dpkg-deb", "gpg") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    # Short, for the key agent's socket, and readable for the user that apt reads files as.
    root = Path("/tmp") / f"msa-{os.getpid()}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(mode=0o755)
    made = Archive(root)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(root, ignore_errors=True)
