"""Client libraries of other languages, fetched by their own package managers into a cache directory of their own.

Each function gives the command that runs a program of `tests/clients/programs`, with the variables it needs; it raises
`NotInstallable` where the library can be had neither from the cache nor from its package manager.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HOME = Path(os.environ.get("MAINSTAY_CLIENT_LIBRARIES", f"/var/tmp/mainstay-client-libraries-{os.geteuid()}"))
PROGRAMS = Path(__file__).resolve().parent.parent / "clients" / "programs"
TIMEOUT_S = 300
_COMPLETE = ".complete"

PYTHON_PACKAGES = ("sqlalchemy", "django", "psycopg[binary]", "asyncpg", "greenlet")
MYSQL_PYTHON_PACKAGES = ("sqlalchemy", "greenlet", "pymysql[rsa,ed25519]", "mysql-connector-python", "asyncmy")
NODE_PACKAGES = ("pg", "pg-cursor", "pg-copy-streams")
GO_PACKAGES = (
    "golang-1.19-go", "golang-1.19-src", "golang-golang-x-crypto-dev", "golang-golang-x-text-dev",
    "golang-github-pkg-errors-dev",
    *(
        f"golang-github-jackc-{name}-dev"
        for name in (
            "pgx-v4", "pgconn", "pgtype", "pgproto3-v2", "pgio", "pgpassfile", "pgservicefile", "chunkreader-v2",
            "puddle",
        )
    ),
)  # fmt: skip

Command = tuple[list[str], dict[str, str]]


class NotInstallable(Exception):
    """The library is not here and cannot be fetched; its text is the reason to skip."""


def python(program: str, *arguments: str) -> Command:
    """A program of SQLAlchemy or Django, in a virtual environment beside ours."""
    return _python("python", PYTHON_PACKAGES, program, arguments)


def mysql_python(program: str, *arguments: str) -> Command:
    """A program of the Python drivers of MariaDB and MySQL, in a virtual environment beside ours."""
    return _python("mysql-python", MYSQL_PYTHON_PACKAGES, program, arguments)


def _python(name: str, packages: tuple[str, ...], program: str, arguments: tuple[str, ...]) -> Command:
    def install(directory: Path) -> None:
        _run(sys.executable, "-m", "venv", str(directory))
        _run(str(directory / "bin" / "python"), "-m", "pip", "install", "-q", *packages)

    home = _cached(name, "\n".join(packages), install)
    return [str(home / "bin" / "python"), str(PROGRAMS / program), *arguments], {}


def node(program: str) -> Command:
    """A program of node-postgres."""

    def install(directory: Path) -> None:
        _run(_tool("npm"), "install", "--no-audit", "--no-fund", "--prefix", str(directory), *NODE_PACKAGES)

    home = _cached("node", "\n".join(NODE_PACKAGES), install)
    return [_tool("node"), str(PROGRAMS / program)], {"NODE_PATH": str(home / "node_modules")}


def java(program: str) -> Command:
    """A program of PostgreSQL's JDBC driver, compiled."""
    return _java(program, _debian("jdbc", ("libpostgresql-jdbc-java",)) / "usr/share/java/postgresql.jar")


def mariadb_java(program: str) -> Command:
    """A program of MariaDB's JDBC driver, compiled."""
    return _java(program, _debian("mariadb-jdbc", ("libmariadb-java",)) / "usr/share/java/mariadb-java-client.jar")


def _java(program: str, driver: Path) -> Command:
    source = PROGRAMS / program

    def install(directory: Path) -> None:
        _run(_tool("javac"), "-cp", str(driver), "-d", str(directory), str(source))

    classes = _cached("jdbc-program", source.read_text(), install)
    return [_tool("java"), "-XX:TieredStopAtLevel=1", "-cp", f"{driver}:{classes}", source.stem], {}


def go(program: str) -> Command:
    """A program of pgx, built: that takes a dozen seconds once."""
    source = PROGRAMS / program

    def install(directory: Path) -> None:
        root = _debian("go", GO_PACKAGES) / "usr"
        environment = {
            "PATH": os.environ["PATH"], "GOROOT": str(root / "lib" / "go-1.19"),
            "GOPATH": str(root / "share" / "gocode"), "GOCACHE": str(directory / "cache"), "GO111MODULE": "off",
            "CGO_ENABLED": "0", "HOME": str(directory),
        }  # fmt: skip
        compiler = str(root / "lib" / "go-1.19" / "bin" / "go")
        _run(compiler, "build", "-o", str(directory / "program"), str(source), environment=environment)
        shutil.rmtree(directory / "cache", ignore_errors=True)

    built = _cached("go-program", source.read_text(), install)
    return [str(built / "program")], {}


def go_is_here() -> bool:
    """Whether pgx and a compiler are in the cache."""
    return (_directory("go", "\n".join(GO_PACKAGES)) / _COMPLETE).exists()


def _debian(name: str, packages: tuple[str, ...]) -> Path:
    """Packages of Debian, unpacked and not installed."""

    def install(directory: Path) -> None:
        apt, dpkg = _tool("apt-get"), _tool("dpkg-deb")
        _run(apt, "download", "-q", *packages, directory=directory)
        for package in directory.glob("*.deb"):
            _run(dpkg, "-x", str(package), str(directory))
            package.unlink()

    return _cached(name, "\n".join(packages), install)


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise NotInstallable(f"there is no {name} on the PATH")
    return path


def _cached(name: str, version: str, install: Callable[[Path], None]) -> Path:
    """The directory that `install` has filled for this version; a failed one leaves nothing."""
    directory = _directory(name, version)
    with _alone(name):
        done = directory / _COMPLETE
        if not done.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            try:
                install(directory)
            except BaseException:
                shutil.rmtree(directory, ignore_errors=True)
                raise
            done.touch()
    return directory


def _directory(name: str, version: str) -> Path:
    return HOME / f"{name}-{hashlib.sha256(version.encode()).hexdigest()[:12]}"


@contextmanager
def _alone(name: str) -> Iterator[None]:
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str, directory: Path | None = None, environment: dict[str, str] | None = None) -> None:
    try:
        subprocess.run(
            command, cwd=directory, env=environment, check=True, timeout=TIMEOUT_S, capture_output=True, text=True
        )
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines()
        why = f"{Path(command[0]).name} {command[1]} failed: {said[-1] if said else error.returncode}"
        raise NotInstallable(why) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstallable(f"{Path(command[0]).name} {command[1]}: {error}") from error
