"""Compiled modules run only if they were made of the very sources that are here, and the sources run without them."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mainstay import compiled

ROOT = Path(__file__).resolve().parent.parent.parent
MODULE = "mainstay.proxy.expected"
WHERE = f"import {MODULE} as one; print(one.__file__)"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A source tree of its own; its environment is `tmp_path / "env"`."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(copy: Path, code: str = WHERE, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code with the modules of the copy, in an environment where builds are below `copy / "env"`."""
    env = {name: value for name, value in os.environ.items() if name != compiled.PURE}
    env |= {"PYTHONPATH": str(copy / "src"), **environment}
    lines = f"import sys; sys.prefix = {str(copy / 'env')!r}\n{code}"
    return subprocess.run([sys.executable, "-c", lines], env=env, capture_output=True, text=True, check=False)


def build_directory(copy: Path) -> Path:
    """Where the copy's build belongs."""
    code = "from mainstay import compiled; print(compiled.directory())"
    return Path(run(copy, code).stdout.strip())


def put_build(copy: Path) -> Path:
    """A build that does not even load, so that whoever takes it is seen."""
    directory = build_directory(copy)
    file = directory / (MODULE.replace(".", "/") + compiled._SUFFIX)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not a library")
    (directory / compiled.COMPLETE).touch()
    return directory


def source_runs(copy: Path, **environment: str) -> bool:
    """Whether the source was run; otherwise the build was tried."""
    done = run(copy, **environment)
    if done.returncode == 0:
        assert done.stdout.strip() == str(copy / "src/mainstay/proxy/expected.py")
        return True
    assert "ImportError" in done.stderr and compiled._SUFFIX in done.stderr
    return False


def test_a_build_of_these_sources_is_used(copy: Path) -> None:
    assert source_runs(copy), "there is none"
    put_build(copy)
    assert not source_runs(copy)


def test_one_word_asks_for_the_sources(copy: Path) -> None:
    put_build(copy)
    assert source_runs(copy, MAINSTAY_PURE="1")


def test_a_build_that_is_being_made_is_asked_for_by_its_place(copy: Path) -> None:
    made = put_build(copy).rename(copy / "made")
    assert source_runs(copy)
    assert not source_runs(copy, MAINSTAY_COMPILED=str(made))


def test_a_build_is_not_laid_out_by_what_was_seen_of_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mypyc")
    script = runpy.run_path(str(ROOT / "scripts/compiled_build.py"))
    monkeypatch.setitem(script["train"].__globals__, "WORK", (("bench.statement_driver", "simple", "5"),))
    with pytest.raises(OSError, match="was not run"):  # there is no build, so the sources do the work
        script["train"](str(tmp_path), str(tmp_path))


SOURCES = [compiled.source(one) for one in compiled.MODULES] + [compiled.source_in_c(one) for one in compiled.IN_C]


@pytest.mark.parametrize("changed", SOURCES, ids=lambda path: path.name)
def test_a_build_of_other_sources_is_not_used(copy: Path, changed: Path) -> None:
    put_build(copy)
    with (copy / changed.relative_to(ROOT)).open("a") as file:
        file.write("\n")
    assert source_runs(copy)


def test_an_incomplete_build_is_not_used(copy: Path) -> None:
    (put_build(copy) / compiled.COMPLETE).unlink()
    assert source_runs(copy)


def test_without_a_compiler_the_sources_run(copy: Path) -> None:
    shutil.copytree(ROOT / "scripts", copy / "scripts")
    with compiled.source(MODULE, copy / "src/mainstay").open("a") as file:
        file.write("# a build that nobody has\n")
    code = f"import runpy; runpy.run_path({str(copy / 'scripts/compile.py')!r}, run_name='__main__')"
    done = run(copy, code, PATH="/nowhere")
    assert done.returncode == 0 and "no C compiler" in done.stdout, done.stderr
    assert source_runs(copy)


@pytest.mark.slow
def test_the_proxys_unit_tests_pass_the_other_way_too() -> None:
    """Compiled if this run is pure, pure if this run is compiled."""
    environment = {**os.environ, compiled.PURE: "" if os.environ.get(compiled.PURE) else "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/proxy", "tests/unit/protocol"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
