"""What a node's role means for its settings: who waits for whom, and what must be on the disk when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from mainstay.engines.mariadb import audit
from mainstay.engines.mariadb import configuration as mariadb
from mainstay.engines.mariadb.driver import MariadbDriver
from mainstay.engines.mariadb.rules import MariadbRules
from mainstay.engines.mysql import configuration as mysql
from mainstay.engines.mysql.driver import MysqlDriver
from mainstay.engines.mysql_family.driver import FamilyDriver
from mainstay.engines.mysql_family.layout import OPTION_FILE
from mainstay.engines.mysql_family.option_file import parse
from mainstay.engines.mysql_family.variables import Variable, statements
from mainstay.engines.node_files import NodeFiles
from mainstay.model.assignment import Assignment
from mainstay.model.engine import EngineBuild
from mainstay.model.node import (
    MasterUser,
    NodeEndpoint,
    NodeLimits,
    NodeRole,
    NodeSpec,
    NodeTarget,
    Peer,
    ServerCertificate,
)
from mainstay.model.records import Scope

SPEC = NodeSpec(
    node_id="node-1",
    scope=Scope("123456789012", "us-west-2"),
    dbi_resource_id="db-ONE",
    db_instance_identifier="one",
    availability_zone="us-west-2a",
    target=NodeTarget.RUNNING,
    engine="mariadb",
    engine_version="11.8.9",
    listen_address="127.96.0.1",
    port=3306,
    endpoint=NodeEndpoint(endpoint_id="db-ONE", address="127.64.0.1", port=3306, name="one", admits=()),
    parameters={"sync_binlog": "0", "innodb_flush_log_at_trx_commit": "0", "port": "1", "time_zone": "+01:00"},
    require_tls=False,
    master=MasterUser("app", "*0"),
    database="",
    certificate=ServerCertificate("certificate", "key", "ca"),
    limits=NodeLimits(memory_bytes=1 << 30, vcpus=2),
)
IN_PAIR = msgspec.structs.replace(SPEC, peer=Peer("node-2", "us-west-2b"))
LEADS = Assignment(synchronous_standby="node-2")


class Engine(NamedTuple):
    """What the tests need of an engine, and what it calls the two nodes."""

    driver: FamilyDriver
    replication_options: Callable[[NodeSpec, Assignment], dict[str, str]]
    source: str
    follower: str

    def options(self, tmp_path: Path, spec: NodeSpec, assignment: Assignment) -> dict[str, str]:
        name = self.driver.name
        (tmp_path / "share" / name / "charsets").mkdir(parents=True, exist_ok=True)
        build = EngineBuild(
            engine=name, version="1.2.3", major="1.2", family="x", prefix=tmp_path,
            bin_directory=tmp_path, library_directory=tmp_path, share_directory=tmp_path / "share", origin="installed",
        )  # fmt: skip
        own = self.driver.own_options(spec, assignment, NodeFiles(tmp_path, tmp_path), build)
        return parse(self.driver.render(spec, own, "", "")[OPTION_FILE])


ENGINES = (
    Engine(MariadbDriver(), mariadb.replication_options, "master", "slave"),
    Engine(MysqlDriver(), mysql.replication_options, "source", "replica"),
)


@pytest.fixture(params=ENGINES, ids=lambda one: one.driver.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.param
    return found


def test_no_parameter_overrides_what_is_ours(tmp_path: Path, engine: Engine) -> None:
    found = engine.options(tmp_path, SPEC, Assignment())
    assert found["port"] == "3306" and found["default_time_zone"] == "+01:00"


def test_an_instance_with_one_node_is_as_durable_as_its_group_says(tmp_path: Path, engine: Engine) -> None:
    assert engine.options(tmp_path, SPEC, Assignment())["sync_binlog"] == "0"


def test_a_primary_of_a_pair_is_durable_whatever_its_group_says(tmp_path: Path, engine: Engine) -> None:
    found, source = engine.options(tmp_path, IN_PAIR, LEADS), f"rpl_semi_sync_{engine.source}"
    assert (found["sync_binlog"], found["innodb_flush_log_at_trx_commit"]) == ("1", "1")
    assert found[f"{source}_enabled"] == "1" and found[f"{source}_wait_point"] == "AFTER_SYNC"
    assert found[f"{source}_wait_no_{engine.follower}"] == "1"
    assert int(found[f"{source}_timeout"]) > 7 * 24 * 3600 * 1000


@pytest.mark.parametrize(("role", "acknowledges"), [("primary", "0"), ("standby", "1"), ("replica", "0")])
def test_only_the_standby_acknowledges(engine: Engine, role: str, acknowledges: str) -> None:
    found = engine.replication_options(IN_PAIR, Assignment(role=NodeRole(role)))
    assert found[f"rpl_semi_sync_{engine.follower}_enabled"] == acknowledges


def test_what_a_standby_acknowledges_is_on_its_disk(engine: Engine) -> None:
    assert engine.replication_options(IN_PAIR, Assignment(role=NodeRole.STANDBY))["sync_relay_log"] == "1"


def test_a_standby_for_which_nobody_waits_is_not_held_up_by_its_disk(engine: Engine) -> None:
    of_replica = Assignment(role=NodeRole.STANDBY, acknowledges=False)
    assert "sync_relay_log" not in engine.replication_options(IN_PAIR, of_replica)


def test_a_follower_logs_what_it_applies_in_a_form_that_is_always_possible(engine: Engine) -> None:
    """InnoDB takes no statement that is to be logged as one while the isolation level is READ COMMITTED."""
    worded = msgspec.structs.replace(IN_PAIR, parameters={"binlog_format": "STATEMENT"})
    for role in (NodeRole.STANDBY, NodeRole.REPLICA):
        assert engine.replication_options(worded, Assignment(role=role))["binlog_format"] == "MIXED"
        assert "binlog_format" not in engine.replication_options(IN_PAIR, Assignment(role=role))
    assert "binlog_format" not in engine.replication_options(worded, LEADS)


def test_nobody_waits_who_was_not_told_to(engine: Engine) -> None:
    found = engine.replication_options(IN_PAIR, Assignment())
    assert found[f"rpl_semi_sync_{engine.source}_enabled"] == "0"


def test_a_limit_of_binary_logs_that_a_group_has_from_before_it_was_ours_does_not_count(tmp_path: Path) -> None:
    mariadb_engine = ENGINES[0]
    limits = {"max_binlog_total_size": "4194304", "binlog_space_limit": "4194304"}
    spec = msgspec.structs.replace(SPEC, parameters=limits)
    options = list(mariadb_engine.options(tmp_path, spec, Assignment()).items())
    ours = options.index(("loose_max_binlog_total_size", "0"))
    assert all(options.index(one) < ours for one in limits.items()), "the last one counts, and all three are one"
    variables = {name: Variable(name, "BIGINT UNSIGNED", "NO", "4194304", "CONFIG") for name in limits}
    wanted = mariadb_engine.driver.wanted_of(dict(options))
    assert statements(variables, wanted, mariadb_engine.driver.ours) == ["SET GLOBAL `max_binlog_total_size` = 0"]


def test_no_user_of_mysql_can_do_what_a_partial_revoke_forbids(tmp_path: Path) -> None:
    found = ENGINES[1].options(tmp_path, SPEC, Assignment())
    assert (found["partial_revokes"], found["persisted_globals_load"]) == ("1", "0")


def test_the_plugin_of_iam_logins_is_loaded_where_the_build_has_it(tmp_path: Path, engine: Engine) -> None:
    without = engine.options(tmp_path, SPEC, Assignment())
    assert "AWSAuthenticationPlugin" not in without.get("plugin_load", "") + without.get("plugin_load_add", "")
    (tmp_path / "aws_authentication.so").touch()
    found = engine.options(tmp_path, SPEC, Assignment())
    loaded = found.get("plugin_load_add") or found["plugin_load"]
    assert "AWSAuthenticationPlugin=aws_authentication.so" in loaded.split(";")
    assert loaded.startswith(without.get("plugin_load", ""))


@pytest.mark.parametrize(("role", "runs"), [("primary", True), ("standby", False), ("replica", False)])
def test_events_run_where_the_writes_are(tmp_path: Path, engine: Engine, role: str, runs: bool) -> None:
    wanted = msgspec.structs.replace(IN_PAIR, parameters={"event_scheduler": "ON"})
    found = engine.options(tmp_path, wanted, Assignment(role=NodeRole(role)))
    assert found["event_scheduler"] == ("ON" if runs else "OFF")


def test_what_logs_users_in_is_loaded_by_every_node(tmp_path: Path) -> None:
    for library in ("auth_ed25519.so", "aws_authentication.so"):
        (tmp_path / library).touch()
    found = ENGINES[0].options(tmp_path, SPEC, Assignment())
    assert found["plugin_load_add"] == "auth_ed25519.so;AWSAuthenticationPlugin=aws_authentication.so"


def test_the_audit_option_logs_where_logs_are_and_not_our_own_sessions(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    settings = MariadbRules(lambda _build: {}).option_settings({audit.NAME: {"SERVER_AUDIT_EXCL_USERS": "batch"}})
    audited = msgspec.structs.replace(SPEC, parameters=settings)
    found = ENGINES[0].options(tmp_path, audited, Assignment())
    assert found["server_audit_logging"] == "ON" and found["server_audit_events"] == "CONNECT,QUERY"
    assert found["server_audit_excl_users"].startswith("batch,rdsadmin,")
    assert found["server_audit_file_path"] == str(tmp_path / "log" / "audit" / "server_audit.log")
    assert found["plugin_load_add"] == "server_audit.so"
    without = ENGINES[0].options(tmp_path, SPEC, Assignment())
    assert "plugin_load_add" not in without and not any(name.startswith("server_audit") for name in without)
