#!/usr/bin/env python3
"""Compiles the hot paths, those of `mainstay.compiled`, with mypyc and a C compiler if this host can. Run by
`bootstrap.py`.

    .venv/bin/python scripts/compile.py

Returns 0 also when nothing could be compiled: the sources run as they are then, only slower. It says why in one line.
What cannot be compiled is not tried again until the sources, Python or the reason change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
os.environ["MAINSTAY_PURE"] = "1"

from mainstay import compiled  # noqa: E402 - not importable before

TOOLS = Path(sys.prefix) / "compile-tools"
LOCK = ROOT / "requirements-compile.lock"
BUILD = ROOT / "scripts" / "compiled_build.py"
TIMEOUT_S = 900
KEPT_BUILDS = 3
"""Other branches, and processes that are running, have builds of their own."""


def main() -> int:
    """0, whatever becomes of it."""
    target = compiled.directory()
    if (target / compiled.COMPLETE).exists():
        return 0
    reason = missing()
    failure = target.with_suffix(".failed")
    if reason is None and failure.exists():
        reason = failure.read_text()
    if reason is None:
        print("Compiling the hot paths, twice: two minutes on one core …", flush=True)
        try:
            reason = build(target, tools())
            if reason is not None:
                failure.write_text(reason)
        except (subprocess.SubprocessError, OSError) as error:  # that may be otherwise next time
            reason = f"the compilation could not be run: {error}"
    if reason is not None:
        print(f"Not compiled, Mainstay runs as plain Python: {reason}", flush=True)
    return 0


def missing() -> str | None:
    """What this host lacks, in words for a person."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler}); on Debian, install the package gcc."
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "there is no Python.h; on Debian, install the package python3-dev."
    return None


def build(target: Path, path: str) -> str | None:
    """Makes the build, complete or not at all; what the compiler said if it failed. Raises `OSError` or
    `SubprocessError`. `path` leads to mypyc.
    """
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src"), "PYTHONPATH": f"{ROOT / 'src'}:{path}"}
    files = [str(compiled.source(module).relative_to(ROOT)) for module in compiled.MODULES]
    files += [f"{module}={compiled.source_in_c(module).relative_to(ROOT)}" for module in compiled.IN_C]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
        out = Path(scratch) / "out"
        command = [sys.executable, str(BUILD), str(out), scratch, compiled.OPTIMISATION, *files]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            return f"the compilation failed: {(done.stdout + done.stderr).strip()[-2000:]}"
        if (plain := out / compiled.PLAIN).exists():
            print(f"Compiled once only, without profiles: {plain.read_text()}", flush=True)
        (out / compiled.COMPLETE).touch()
        shutil.rmtree(target, ignore_errors=True)
        out.rename(target)
    others = [path for path in target.parent.iterdir() if path.is_dir() and path != target]
    for other in sorted(others, key=lambda one: one.stat().st_mtime, reverse=True)[KEPT_BUILDS - 1 :]:
        shutil.rmtree(other, ignore_errors=True)
    return None


def tools() -> str:
    """The directory of mypyc, "" if the environment has it. Raises `SubprocessError`."""
    if find_spec("mypyc") and find_spec("setuptools"):
        return ""
    stamp = TOOLS / "lock"
    if not stamp.exists() or stamp.read_bytes() != LOCK.read_bytes():
        shutil.rmtree(TOOLS, ignore_errors=True)
        command = [*pip(), "install", "-qq", "--disable-pip-version-check", "--require-hashes"]
        subprocess.run([*command, "--target", str(TOOLS), "-r", str(LOCK)], check=True, timeout=TIMEOUT_S)
        stamp.write_bytes(LOCK.read_bytes())
    return str(TOOLS)


def pip() -> list[str]:
    """The command that runs pip here: its module, or the wheel that the bootstrap has unpacked."""
    wheels = sorted(Path(sys.prefix).glob("pip-wheel/usr/share/python-wheels/pip-*.whl"))
    return [sys.executable, str(wheels[-1] / "pip")] if wheels else [sys.executable, "-m", "pip"]


if __name__ == "__main__":
    sys.exit(main())
