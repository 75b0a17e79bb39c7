"""Clients of MariaDB and MySQL as users have them: whom they log in as, and that they notice who the server is.

Each reaches the instance's endpoint over TLS that verifies authority and name, with every way to log in that it and the
engine know. Libraries are fetched once; where they cannot be, the skip says why.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.client_libraries import Command, NotInstallable, mariadb_java, mysql_python
from harness.dialects import MARIADB, MYSQL, ClientError, EngineUnderTest, newest_of
from harness.service import PASSWORD, Service
from mainstay.cli.tour_engines import Login, tour_engine
from mainstay.engines.builds import Builds

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

NATIVE, SHA2, ED25519, PARSEC = "mysql_native_password", "caching_sha2_password", "ed25519", "parsec"
EVERY_AUTHORITY_BUT_OURS = "/etc/ssl/certs/ca-certificates.crt"
RUN_TIMEOUT_S = 120
NOT_HERE = 77
WHO = "SELECT CURRENT_USER(); SHOW STATUS LIKE 'Ssl_version'"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """An instance with a user for every way to log in, and an address that its certificate does not name."""

    engine: EngineUnderTest
    host: str
    port: int
    elsewhere: str
    authorities: str
    users: dict[str, tuple[str, str]]

    def users_of(self, methods: frozenset[str]) -> list[tuple[str, str]]:
        """Those that a client which knows these methods can be."""
        found = [user for method, user in self.users.items() if method in methods]
        assert found, f"no user logs in by {', '.join(methods)}"
        return found


@pytest.fixture(scope="module", params=[*newest_of(MARIADB), *newest_of(MYSQL)], ids=lambda one: one.dialect.engine)
def place(service: Service, request: pytest.FixtureRequest) -> Iterator[Place]:
    engine: EngineUnderTest = request.param
    instance = engine.create(service, DBName="shop")
    users = {NATIVE if engine.dialect is MARIADB else SHA2: ("app", PASSWORD)}
    with engine.connect(service, instance, database="shop") as master:
        plugins = "SELECT PLUGIN_NAME FROM information_schema.PLUGINS WHERE PLUGIN_TYPE = 'AUTHENTICATION'"
        known = {row[0] for row in master.rows(plugins)}
        assert engine.dialect is MYSQL or ED25519 in known
        for method in (ED25519, PARSEC):
            if method in known:
                password = f"of-{method}-1"
                master.rows(f"CREATE USER u_{method} IDENTIFIED VIA {method} USING PASSWORD('{password}') REQUIRE SSL")
                master.rows(f"GRANT ALL ON shop.* TO u_{method}")
                users[method] = (f"u_{method}", password)
    yield Place(
        engine=engine,
        host=instance["Endpoint"]["Address"],
        port=instance["Endpoint"]["Port"],
        elsewhere=service.node(instance["DBInstanceIdentifier"])["address"],
        authorities=service.variables["MAINSTAY_CA_BUNDLE"],
        users=users,
    )
    service.delete_instance(instance["DBInstanceIdentifier"])


def run(find: Callable[[], Command], **variables: str) -> None:
    try:
        command, own = find()
    except NotInstallable as reason:
        pytest.skip(str(reason))
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **own, **variables},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode == NOT_HERE:
        pytest.skip("the driver cannot be loaded here")
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-1000:]


@pytest.mark.parametrize(
    ("program", "driver", "methods"),
    [
        pytest.param("mysql_drivers.py", "pymysql", {NATIVE, SHA2, ED25519}, id="pymysql"),
        pytest.param("mysql_drivers.py", "mysql-connector", {NATIVE, SHA2}, id="mysql-connector"),
        pytest.param("mysql_drivers.py", "mysql-connector-pure", {NATIVE, SHA2}, id="mysql-connector-pure"),
        pytest.param("mysql_drivers.py", "asyncmy", {NATIVE, SHA2, ED25519}, id="asyncmy"),
        pytest.param("mysql_sqlalchemy.py", "pymysql", {NATIVE, SHA2}, id="sqlalchemy-pymysql"),
        pytest.param("mysql_sqlalchemy.py", "mysql-connector", {NATIVE, SHA2}, id="sqlalchemy-mysql-connector"),
        pytest.param("mysql_sqlalchemy.py", "asyncmy", {NATIVE, SHA2}, id="sqlalchemy-asyncmy"),
    ],
)
def test_a_python_driver(place: Place, program: str, driver: str, methods: set[str]) -> None:
    reached = {
        "host": place.host, "port": place.port, "database": "shop", "authorities": place.authorities,
        "users": place.users_of(frozenset(methods)), "elsewhere": place.elsewhere, "others": EVERY_AUTHORITY_BUT_OURS,
        # Its default is a collation that MariaDB knows from 11.4 on.
        "connector": {"collation": "utf8mb4_general_ci"} if place.engine.dialect is MARIADB else {},
    }  # fmt: skip
    run(lambda: mysql_python(program, driver), DATABASE=json.dumps(reached))


def test_jdbc(place: Place) -> None:
    users = [word for user in place.users_of(frozenset({NATIVE, SHA2, ED25519})) for word in user]
    run(
        lambda: mariadb_java("MariadbJdbc.java"),
        DB_HOST=place.host, DB_PORT=str(place.port), DB_NAME="shop", DB_CA=place.authorities,
        DB_USERS="\n".join(users), DB_ELSEWHERE=place.elsewhere, DB_OTHERS=EVERY_AUTHORITY_BUT_OURS,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("client", "of", "verify", "methods"),
    [
        pytest.param("mysql", MYSQL, "ssl-mode=VERIFY_IDENTITY", {NATIVE, SHA2}, id="mysql"),
        pytest.param("mariadb", MARIADB, "ssl-verify-server-cert=1", {NATIVE, SHA2, ED25519, PARSEC}, id="mariadb"),
    ],
)
def test_a_command_line_client(
    service: Service, place: Place, tmp_path: Path, client: str, of: Any, verify: str, methods: set[str]
) -> None:
    versions = newest_of(of)
    if not versions:
        pytest.skip(f"{client} is not installed")
    build = Builds(service.settings).resolve(of.engine, versions[0].version)
    # Ways to log in that are not of the client's own engine are files, looked for where the host's packages would be.
    plugins = [*build.prefix.glob("usr/lib/*/libmariadb3/plugin"), build.library_directory][0]

    def said(user: str, password: str, host: str, authorities: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "login.cnf"
        file.write_text(
            f"[client]\nuser={user}\npassword={password}\nport={place.port}\n{verify}\nssl-ca={authorities}\n"
        )
        command = [str(build.bin_directory / client), f"--defaults-file={file}", f"--plugin-dir={plugins}"]
        return subprocess.run(
            [*command, f"--host={host}", "--batch", "-N", "-e", WHO],
            capture_output=True, text=True, check=False, timeout=60, env=os.environ | build.environment,
        )  # fmt: skip

    for user, password in place.users_of(frozenset(methods)):
        done = said(user, password, place.host, place.authorities)
        assert done.stdout.split() == [f"{user}@%", "Ssl_version", "TLSv1.3"], done.stderr
        for host, authorities in (
            (place.elsewhere, place.authorities),
            (place.host, EVERY_AUTHORITY_BUT_OURS),
        ):
            refused = said(user, password, host, authorities)
            assert refused.returncode != 0 and refused.stdout == ""
            assert "certificate" in refused.stderr.lower() or "Hostname verification" in refused.stderr


def test_what_the_tour_tells_to_type_logs_in(service: Service, place: Place, tmp_path: Path) -> None:
    walked = tour_engine(place.engine.dialect.engine)
    login = Login(
        host=place.host, port=place.port, user="app", password=PASSWORD, database="shop", authorities=place.authorities
    )
    name, content = walked.login_file(login)
    (tmp_path / name).write_text(content)
    build = Builds(service.settings).resolve(place.engine.dialect.engine, place.engine.version)
    command = walked.login_command(login, tmp_path / name, build.bin_directory)
    done = subprocess.run(
        [*shlex.split(command), "-N", "-e", f"{WHO}; SELECT DATABASE()"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["app@%", "Ssl_version", "TLSv1.3", "shop"], done.stderr


def test_what_mysql_has_given_up_is_refused_by_it_in_words(service: Service, place: Place) -> None:
    if place.engine.dialect is not MYSQL:
        pytest.skip("MariaDB's default way to log in")
    instance = {"Endpoint": {"Address": place.host, "Port": place.port}, "MasterUsername": "app"}
    with place.engine.connect(service, instance) as master:
        if master.value("SELECT COUNT(*) FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'mysql_native_password'"):
            pytest.skip("this version has it")
        with pytest.raises(ClientError, match="not loaded"):
            master.rows("CREATE USER old IDENTIFIED WITH mysql_native_password BY 'a-password-1'")
