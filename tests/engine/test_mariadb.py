"""What only MariaDB has: accounts of ours that its users can touch, and what comes of it; its audit log."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.dialects import MARIADB, Client, ClientError, EngineUnderTest, newest_of
from harness.mysql_family_pairs import as_operator
from harness.service import PASSWORD, TIMEOUT_S, Service, eventually
from mainstay.engines.builds import Builds
from mainstay.engines.mariadb.driver import MariadbDriver
from mainstay.engines.mysql_family.hashes import native_password
from mainstay.host.processes import engine_user
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


def test_new_data_is_made_without_a_look_at_what_others_have_in_the_directory_of_temporary_files(
    service: Service, engine: EngineUnderTest
) -> None:
    """A server removes the tables of others there at its start: of two instances made at once, one failed."""
    build = Builds(service.settings).resolve(engine.dialect.engine, engine.version)
    user = engine_user(service.settings.engine_user)
    data, of_another = service.home / "new-data", Path("/tmp/#sql-temptable-of-another-1.MAI")
    data.mkdir()
    of_another.touch()
    try:
        for path in (data, of_another):
            user.give(path)
        asyncio.run(MariadbDriver().make_data(build, data, user))
        assert of_another.exists()
        assert (data / "mysql" / "global_priv.frm").exists()
        assert not [path.name for path in data.iterdir() if path.name.startswith("#sql")]
    finally:
        of_another.unlink(missing_ok=True)
        shutil.rmtree(data)


@pytest.mark.skipif(landlock_version(ctypes.CDLL(None)) < LANDLOCK_LEAST, reason="the kernel has no Landlock")
def test_who_makes_himself_super_writes_nothing_outside_the_instance(
    service: Service, engine: EngineUnderTest, shop: dict[str, Any], master: Client
) -> None:
    """docs/mariadb.md, "Who administers the engine": that he can is known, and he is cut back; the kernel keeps his
    engine in.
    """
    foreign = service.home / "foreign"
    foreign.mkdir()
    foreign.chmod(0o777)
    verifier = native_password("evil-pass-1")
    access = {"access": 2**64 - 1, "plugin": "mysql_native_password", "authentication_string": verifier}
    master.rows(f"INSERT INTO mysql.global_priv VALUES ('%', 'evil', '{json.dumps(access)}')")
    rebooted(service, shop)  # he may not FLUSH PRIVILEGES
    eventually(lambda: is_cut_back(engine, service, shop))
    with engine.connect(service, shop) as after:
        after.rows("DROP USER evil@'%'")
    node_id = service.node(shop["DBInstanceIdentifier"])["node"]  # and those from whom nothing is taken
    with pytest.raises(ClientError):
        as_operator(service, node_id, f"SELECT 1 INTO OUTFILE '{foreign}/rows'")
    logging = (f"SET GLOBAL general_log_file = '{foreign}/evil.log'", "SET GLOBAL log_output = 'FILE'")
    with suppress(*ClientError):
        as_operator(service, node_id, *logging, "SET GLOBAL general_log = ON", "SELECT 'written'")
    as_operator(service, node_id, "SET GLOBAL general_log = OFF")
    assert list(foreign.iterdir()) == []
    rebooted(service, shop)


def is_cut_back(engine: EngineUnderTest, service: Service, shop: dict[str, Any]) -> bool:
    """Whether he has no more than users have."""
    try:
        with engine.connect(service, shop, user="evil", password="evil-pass-1") as evil:
            evil.rows("SET GLOBAL general_log = OFF")
    except ClientError as error:
        return "you need (at least one of) the SUPER privilege" in str(error)
    return False


def test_a_query_is_ended_by_its_id(
    service: Service, engine: EngineUnderTest, shop: dict[str, Any], master: Client
) -> None:
    running = "SELECT QUERY_ID FROM information_schema.PROCESSLIST WHERE INFO = 'SELECT SLEEP(300)'"
    with engine.connect(service, shop) as other, ThreadPoolExecutor(1) as thread:
        asleep = thread.submit(other.value, "SELECT SLEEP(300)")
        number = eventually(lambda: master.rows(running))[0][0]
        with pytest.raises(ClientError, match="no such thread"):
            master.rows("CALL mysql.rds_kill_query_id(999999999)")
        master.rows(f"CALL mysql.rds_kill_query_id({number})")
        with suppress(*ClientError):  # it is told so, or that it slept to its end
            assert asleep.result(timeout=TIMEOUT_S) == 1
        assert other.value("SELECT 1") == 1
    assert master.rows("CALL mysql.rds_replica_status()") == []


def rebooted(service: Service, instance: dict[str, Any]) -> None:
    service.client("rds").reboot_db_instance(DBInstanceIdentifier=instance["DBInstanceIdentifier"])
    service.await_status(instance["DBInstanceIdentifier"], "available")


AUDIT = "MARIADB_AUDIT_PLUGIN"


def test_the_audit_option_comes_and_goes_without_a_restart(
    service: Service, engine: EngineUnderTest, shop: dict[str, Any], master: Client
) -> None:
    rds, name = service.client("rds"), shop["DBInstanceIdentifier"]
    versions = rds.describe_db_engine_versions(Engine="mariadb", EngineVersion=engine.version)["DBEngineVersions"]
    major, pid = versions[0]["MajorEngineVersion"], service.node(name)["pid"]
    rds.create_option_group(
        OptionGroupName="audited", EngineName="mariadb", MajorEngineVersion=major, OptionGroupDescription="d"
    )
    events = [{"Name": "SERVER_AUDIT_EVENTS", "Value": "CONNECT,QUERY_DDL"}]
    rds.modify_option_group(
        OptionGroupName="audited",
        OptionsToInclude=[{"OptionName": AUDIT, "OptionSettings": events}],
        ApplyImmediately=True,
    )

    def use(group: str) -> None:
        rds.modify_db_instance(DBInstanceIdentifier=name, OptionGroupName=group, ApplyImmediately=True)

    def logging() -> list[Any]:
        return master.rows("SHOW GLOBAL VARIABLES LIKE 'server_audit_logging'")

    def text() -> str:
        log = "audit/server_audit.log"
        return str(rds.download_db_log_file_portion(DBInstanceIdentifier=name, LogFileName=log)["LogFileData"])

    before = shop["OptionGroupMemberships"][0]["OptionGroupName"]
    try:
        use("audited")
        eventually(lambda: logging() == [("server_audit_logging", "ON")])
        master.rows("CREATE TABLE audited (a int)")
        with engine.connect(service, shop, database="shop") as client:
            client.rows("SELECT 'read'")
        eventually(lambda: "CREATE TABLE audited" in text() and ",app,127." in text())
        lines = [line.split(",") for line in text().splitlines() if line.count(",") >= 8]
        # The plugin logs whoever connects, and what we asked until it knew us.
        asked = [line for line in lines if line[6] == "QUERY" and "server_audit" not in line[8]]
        assert {line[2] for line in asked} == {"app"} and not [line for line in asked if "'read'" in line[8]]
        rds.modify_option_group(OptionGroupName="audited", OptionsToRemove=[AUDIT], ApplyImmediately=True)
        eventually(lambda: logging() == [("server_audit_logging", "OFF")])
        master.rows("DROP TABLE audited")
        assert "DROP TABLE audited" not in text() and service.node(name)["pid"] == pid
    finally:
        use(before)
        eventually(lambda: service.describe(name)["OptionGroupMemberships"][0]["OptionGroupName"] == before)
        rds.delete_option_group(OptionGroupName="audited")


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


def test_collations_have_the_names_by_which_the_engine_starts(service: Service, engine: EngineUnderTest) -> None:
    """Those of UCA 14.0.0 have a name for all character sets as well: by that one the engine does not start."""
    rds, group = service.client("rds"), "collated"
    versions = rds.describe_db_engine_versions(Engine="mariadb", EngineVersion=engine.version)["DBEngineVersions"]
    family = versions[0]["DBParameterGroupFamily"]
    rds.create_db_parameter_group(DBParameterGroupName=group, DBParameterGroupFamily=family, Description="d")

    def collate(collation: str) -> None:
        names = {"character_set_server": "utf8mb4", "collation_server": collation}
        parameters = [
            {"ParameterName": name, "ParameterValue": value, "ApplyMethod": "pending-reboot"}
            for name, value in names.items()
        ]
        rds.modify_db_parameter_group(DBParameterGroupName=group, Parameters=parameters)

    with pytest.raises(rds.exceptions.ClientError, match="Invalid parameter value"):
        collate("uca1400_swedish_ai_ci")
    collate("utf8mb4_uca1400_swedish_ai_ci")
    instance = engine.create(service, DBParameterGroupName=group)
    with engine.connect(service, instance) as client:
        assert client.value("SELECT @@GLOBAL.collation_server") == "utf8mb4_uca1400_swedish_ai_ci"
    service.delete_instance(instance["DBInstanceIdentifier"])
    rds.delete_db_parameter_group(DBParameterGroupName=group)
