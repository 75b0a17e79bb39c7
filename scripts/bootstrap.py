#!/usr/bin/env python3
"""Makes `.venv` with everything Mainstay needs, from nothing but Python 3.11 and apt. Standard library only.

    python3 scripts/bootstrap.py [--dev]

Works as root and as an ordinary user, and does nothing when the lock file was installed already. Debian's Python comes
without pip and ensurepip; then pip's own wheel is taken from Debian's package python3-pip-whl, unpacked, not installed.
The hot paths are compiled at the end if this host can (`compile.py`); if not, that is no failure.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON_MIN = (3, 11)


def main() -> int:
    """Returns 0 when the environment is complete."""
    if sys.version_info < PYTHON_MIN:
        return fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}.")
    lock = ROOT / ("requirements-dev.lock" if "--dev" in sys.argv[1:] else "requirements.lock")
    stamp = VENV / f".{lock.stem}.stamp"
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode() + str(ROOT).encode()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted) and not install(lock, stamp, wanted):
        return 1
    return subprocess.run([str(VENV / "bin" / "python"), str(ROOT / "scripts" / "compile.py")], check=False).returncode


def install(lock: Path, stamp: Path, wanted: str) -> bool:
    """Makes the environment; whether that went well."""
    say(f"Setting up {VENV} from {lock.name} …")
    try:
        pip = make_venv()
        run([*pip, "install", "-qq", "--disable-pip-version-check", "--require-hashes", "-r", str(lock)])
        install_project()
    except (subprocess.CalledProcessError, OSError) as error:
        fail(f"The Python environment could not be set up: {error}")
        return False
    stamp.write_text(wanted)
    say("Python environment: ready.")
    return True


def make_venv() -> list[str]:
    """The command that runs pip inside the virtual environment."""
    python = str(VENV / "bin" / "python")
    if not belongs_to_this_python(python):
        shutil.rmtree(VENV, ignore_errors=True)
        run([sys.executable, "-m", "venv", "--without-pip", str(VENV)])
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
        return [python, "-m", "pip"]
    if subprocess.run([python, "-m", "ensurepip", "--upgrade"], capture_output=True, check=False).returncode == 0:
        return [python, "-m", "pip"]
    return [python, str(pip_wheel() / "pip")]


def belongs_to_this_python(python: str) -> bool:
    """Whether this is the interpreter of an environment that was made by the one that runs now, and works."""
    ours = f"{sys.base_exec_prefix} {sys.version}"
    command = [python, "-c", "import sys; print(sys.base_exec_prefix, sys.version)"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == ours
    except OSError:  # there is none
        return False


def pip_wheel() -> Path:
    """pip's wheel out of Debian's package, which any user may download through apt with directories of its own."""
    target = VENV / "pip-wheel"
    wheels = sorted(target.glob("usr/share/python-wheels/pip-*.whl"))
    if not wheels:
        say("pip is missing; taking it from Debian's package python3-pip-whl …")
        with tempfile.TemporaryDirectory() as scratch:
            for name in ("state/lists/partial", "cache/archives/partial"):
                (Path(scratch) / name).mkdir(parents=True)
            options = [f"-oDir::State={scratch}/state", f"-oDir::Cache={scratch}/cache", "-oDebug::NoLocking=true",
                       "-oDir::State::status=/var/lib/dpkg/status", "-oAPT::Sandbox::User="]  # fmt: skip
            run(["apt-get", *options, "-qq", "update"])
            run(["apt-get", *options, "-qq", "download", "python3-pip-whl"], cwd=scratch)
            for package in Path(scratch).glob("*.deb"):
                run(["dpkg-deb", "-x", str(package), str(target)])
        wheels = sorted(target.glob("usr/share/python-wheels/pip-*.whl"))
    if not wheels:
        raise OSError("no pip wheel in Debian's package python3-pip-whl")
    return wheels[-1]


def install_project() -> None:
    """Puts `src` on the path and the command in `bin`: nothing to build, nothing to download."""
    packages = VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "mainstay.pth").write_text(f"{ROOT / 'src'}\n")
    command = VENV / "bin" / "mainstay"
    command.write_text(
        f"#!{VENV / 'bin' / 'python'}\nimport sys\nfrom mainstay.cli.main import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)


def run(argv: list[str], cwd: str | None = None) -> None:
    """Runs a program, its output shown; raises CalledProcessError if it fails."""
    subprocess.run(argv, check=True, cwd=cwd, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""})


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def fail(text: str) -> int:
    """A line of trouble; the exit status."""
    print(text, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
