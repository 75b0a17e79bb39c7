"""Whose environment `scripts/bootstrap.py` goes on using."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bootstrap.py"


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    found = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_an_environment_of_this_python_is_kept(bootstrap: ModuleType) -> None:
    assert bootstrap.belongs_to_this_python(sys.executable)


def test_an_environment_of_another_python_or_a_broken_one_is_made_anew(bootstrap: ModuleType, tmp_path: Path) -> None:
    other = tmp_path / "python"
    assert not bootstrap.belongs_to_this_python(str(other))  # there is none
    for says in (f"echo '{sys.base_exec_prefix} 3.10.1'", "exit 127", f"echo '/elsewhere {sys.version}'"):
        other.write_text(f"#!/bin/sh\n{says}\n")
        other.chmod(0o755)
        assert not bootstrap.belongs_to_this_python(str(other))
