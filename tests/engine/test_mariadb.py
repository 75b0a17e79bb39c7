"""What only MariaDB has: accounts of ours that its users can touch, and what comes of it."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.dialects import MARIADB, Client, ClientError, EngineUnderTest, newest_of
from harness.service import PASSWORD, Service
from mainstay.engines.builds import Builds
from mainstay.engines.mysql_family.hashes import native_password
from mainstay.shim.__main__ import LANDLOCK_LEAST, landlock_version

pytestmark = pytest.mark.engine

OURS = "SELECT User FROM mysql.user WHERE Host = 'localhost' AND User <> 'mariadb.sys' ORDER BY User"


@pytest.fixture(scope="module", params=newest_of(MARIADB), ids=lambda one: one.version)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    found: EngineUnderTest = request.param
    return found


def test_what_a_user_did_to_our_accounts_is_mended_at_the_next_start(service: Service, engine: EngineUnderTest) -> None:
    instance = engine.create(service)
    name = instance["DBInstanceIdentifier"]
    try:
        with engine.connect(service, instance) as master:
            before = master.rows(OURS)
            assert ("rdsadmin",) in before and len(before) >= 2
            with pytest.raises(ClientError, match="not a read replica"):
                master.rows("CALL mysql.rds_skip_repl_error()")
            master.rows("DROP USER rdsadmin@localhost")
        service.client("rds").reboot_db_instance(DBInstanceIdentifier=name)
        service.await_status(name, "available")
        with engine.connect(service, instance) as client:
            assert client.rows(OURS) == before
    finally:
        service.delete_instance(name)


@pytest.mark.skipif(landlock_version(ctypes.CDLL(None)) < LANDLOCK_LEAST, reason="the kernel has no Landlock")
def test_who_makes_himself_super_writes_nothing_outside_the_instance(
    service: Service, engine: EngineUnderTest, shop: dict[str, Any], master: Client
) -> None:
    """docs/mariadb.md, "Who administers the engine": that he can is known; the kernel keeps his engine in."""
    foreign = service.home / "foreign"
    foreign.mkdir()
    foreign.chmod(0o777)
    verifier = native_password("evil-pass-1")
    access = {"access": 2**64 - 1, "plugin": "mysql_native_password", "authentication_string": verifier}
    master.rows(f"INSERT INTO mysql.global_priv VALUES ('%', 'evil', '{json.dumps(access)}')")
    rebooted(service, shop)  # he may not FLUSH PRIVILEGES
    with engine.connect(service, shop, user="evil", password="evil-pass-1") as evil:
        with pytest.raises(ClientError):
            evil.rows("SELECT 1 INTO OUTFILE '" + str(foreign / "rows") + "'")
        with suppress(ClientError):
            evil.rows(f"SET GLOBAL general_log_file = '{foreign}/evil.log'")
            evil.rows("SET GLOBAL log_output = 'FILE'")
            evil.rows("SET GLOBAL general_log = ON")
            evil.rows("SELECT 'written'")
        evil.rows("SET GLOBAL general_log = OFF")
        evil.rows("DROP USER evil@'%'")
    assert list(foreign.iterdir()) == []
    rebooted(service, shop)


def rebooted(service: Service, instance: dict[str, Any]) -> None:
    service.client("rds").reboot_db_instance(DBInstanceIdentifier=instance["DBInstanceIdentifier"])
    service.await_status(instance["DBInstanceIdentifier"], "available")


def test_a_dump_of_a_running_database_needs_no_reload(
    service: Service, shop: dict[str, Any], master: Client, tmp_path: Path
) -> None:
    build = Builds(service.settings).resolve("mariadb", shop["EngineVersion"])
    master.rows("CREATE TABLE IF NOT EXISTS dumped (a int)")
    file = tmp_path / "login.cnf"
    file.write_text(f"[client]\nuser=app\npassword={PASSWORD}\nssl-ca={service.variables['MAINSTAY_CA_BUNDLE']}\n")
    command = [str(build.bin_directory / "mariadb-dump"), f"--defaults-file={file}", "--single-transaction"]
    command += [f"--host={shop['Endpoint']['Address']}", f"--port={shop['Endpoint']['Port']}"]
    done = subprocess.run(
        [*command, "--routines", "--triggers", "--events", "shop"],
        capture_output=True, text=True, check=False, timeout=60, env=os.environ | build.environment,
    )  # fmt: skip
    assert done.returncode == 0 and "CREATE TABLE `dumped`" in done.stdout, done.stderr
