"""What `make test` forgives: a few tests on real engines that fail among the others and pass alone, nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ONCE = """
from pathlib import Path
def test_first():
    seen = Path(__file__).with_suffix(".seen")
    before = seen.exists()
    seen.touch()
    assert before
"""
NEVER = "def test_second():\n    assert False\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project with the script, and a test of each sort that passes."""
    folders = ("engine", "faults", "unit")
    for name in ("scripts", *(f"tests/{folder}" for folder in folders)):
        (tmp_path / name).mkdir(parents=True)
    for name in folders:
        (tmp_path / f"tests/{name}/test_passing.py").write_text(f"def test_{name}():\n    pass\n")
    (tmp_path / "scripts/run_tests.py").write_bytes((ROOT / "scripts/run_tests.py").read_bytes())
    return tmp_path


def run(tree: Path) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, str(tree / "scripts/run_tests.py")]
    quick = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "-p pytest_randomly --import-mode=importlib",
    }
    return subprocess.run(arguments, cwd=tree, env=quick, capture_output=True, text=True, timeout=100, check=False)


def test_one_that_passes_alone_is_named_and_forgiven(tree: Path) -> None:
    (tree / "tests/engine/test_it.py").write_text(ONCE)
    done = run(tree)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "UNSTABLE: tests/engine/test_it.py::test_first" in done.stdout


@pytest.mark.parametrize(
    ("path", "text"),
    [
        pytest.param("tests/unit/test_it.py", ONCE, id="not on engines"),
        pytest.param("tests/engine/test_it.py", NEVER, id="fails again"),
        pytest.param("tests/faults/test_it.py", NEVER, id="fails again in the other run"),
        pytest.param("tests/engine/test_it.py", ONCE + NEVER, id="another fails again"),
        pytest.param("tests/engine/test_it.py", "import no_such_module", id="not importable"),
    ],
)
def test_nothing_else_is(tree: Path, path: str, text: str) -> None:
    (tree / path).write_text(text)
    assert run(tree).returncode != 0


def test_many_are_not(tree: Path) -> None:
    for number in range(4):
        (tree / f"tests/{'engine' if number % 2 else 'faults'}/test_it{number}.py").write_text(ONCE)
    done = run(tree)
    assert done.returncode == 1 and "UNSTABLE" not in done.stdout
    for name in ("engine", "clients"):
        assert len(json.loads((tree / f".pytest_cache/{name}/v/cache/lastfailed").read_text())) == 2


def test_one_of_each_run_is_forgiven(tree: Path) -> None:
    for folder in ("engine", "faults"):
        (tree / f"tests/{folder}/test_it.py").write_text(ONCE)
    done = run(tree)
    assert done.returncode == 0, done.stdout + done.stderr
    for folder in ("engine", "faults"):
        assert f"UNSTABLE: tests/{folder}/test_it.py::test_first" in done.stdout


def test_a_run_without_failures_tells_of_all_sorts(tree: Path) -> None:
    done = run(tree)
    assert done.returncode == 0 and "UNSTABLE" not in done.stdout
    assert done.stdout.count("1 passed") == 3
