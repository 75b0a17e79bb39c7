"""IAM database authentication on real engines, with boto3's own tokens: who gets in, and who does not."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from harness.database_tokens import TokenPlace, allow, policy
from harness.service import PASSWORD, Service, eventually
from mainstay.model.records import Scope
from mainstay.workflows.node_specs import endpoint_name

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
REFUSED = "LDAP authentication failed for user"
STRANGE_NAMES = ["o'brien", 'we,ird="q" +\\<>;#', "*", "dbuser:x/alice", "alice/bob", "ünïcode", "a b ", "MiXed"]


class Place(TokenPlace):
    """An instance with IAM database authentication, which also takes plain-text connections, and its users."""

    def who(self, user: str, password: str, **options: Any) -> str:
        """Logs in; the name of the session's user."""
        with self.service.connect(self.instance, user=user, password=password, **options) as session:
            found: str = session.execute("SELECT session_user").fetchone()[0]  # type: ignore[index]
            return found

    def refused(self, user: str, password: str, **options: Any) -> str:
        with pytest.raises(psycopg.OperationalError) as caught:
            self.who(user, password, **options)
        said = str(caught.value)
        assert REFUSED in said or "rejects connection" in said, said
        assert "X-Amz" not in said
        return said

    def execute(self, statement: str, *names: str) -> None:
        with self.service.connect(self.instance) as session:
            session.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@pytest.fixture(scope="module")
def place(service: Service) -> Iterator[Place]:
    rds = service.client("rds")
    group = f"plain-{secrets.token_hex(4)}"
    family = f"postgres{service.engine_version.split('.')[0]}"
    rds.create_db_parameter_group(
        DBParameterGroupName=group, DBParameterGroupFamily=family, Description="no TLS needed"
    )
    rds.modify_db_parameter_group(
        DBParameterGroupName=group,
        Parameters=[{"ParameterName": "rds.force_ssl", "ParameterValue": "0", "ApplyMethod": "immediate"}],
    )
    instance = service.create_instance(
        EnableIAMDatabaseAuthentication=True, DBParameterGroupName=group, BackupRetentionPeriod=1
    )
    made = Place(service, instance)
    made.execute("CREATE ROLE {} LOGIN PASSWORD 'a-password-1'", "alice")
    made.execute("CREATE ROLE {} LOGIN PASSWORD 'a-password-1'", "carol")
    made.execute("GRANT rds_iam TO {}", "alice")
    yield made
    service.delete_instance(instance["DBInstanceIdentifier"])
    rds.delete_db_parameter_group(DBParameterGroupName=group)


def test_a_token_over_tls(place: Place) -> None:
    assert place.instance["IAMDatabaseAuthenticationEnabled"] is True
    with place.caller(allow(place.arn("alice"))) as key:
        token = place.token("alice", key=key)
        assert place.who("alice", token) == "alice"
        assert place.who("alice", token) == "alice", "it may be used again within its time, as on AWS"


def test_a_token_for_the_rds_style_name(place: Place) -> None:
    region, account = place.instance["DBInstanceArn"].split(":")[3:5]
    name = endpoint_name(place.service.settings, Scope(account, region), place.instance["DBInstanceIdentifier"])
    for host in (name, name.upper()):
        assert place.who("alice", place.token("alice", host=host), host=name, hostaddr=place.address[0]) == "alice"


def test_never_without_tls(place: Place) -> None:
    plain = {"sslmode": "disable", "sslrootcert": None}
    assert place.who("carol", "a-password-1", **plain) == "carol", "plain text is allowed here, to others"
    assert "rejects connection" in place.refused("alice", place.token("alice"), **plain)
    assert "rejects connection" in place.refused("alice", "a-password-1", **plain)


def test_passwords_of_members_are_refused_and_those_of_others_are_not(place: Place) -> None:
    assert place.who("carol", "a-password-1") == "carol"
    assert place.who("app", PASSWORD) == "app"
    place.refused("alice", "a-password-1")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        place.who("carol", place.token("carol"))


def test_membership_counts_from_the_next_login_on(place: Place) -> None:
    place.execute("CREATE ROLE {} LOGIN PASSWORD 'a-password-1'", "dave")
    place.execute("CREATE ROLE {}", "team")
    place.execute("GRANT {} TO {}", "team", "dave")
    assert place.who("dave", "a-password-1") == "dave"
    place.execute("GRANT rds_iam TO {}", "team")
    place.refused("dave", "a-password-1")
    assert place.who("dave", place.token("dave")) == "dave"
    place.execute("REVOKE rds_iam FROM {}", "team")
    assert place.who("dave", "a-password-1") == "dave"


def test_whoever_creates_a_member_stays_on_passwords(place: Place) -> None:
    """Since PostgreSQL 16 the creator of a role is its member, as pg_hba.conf sees it, to administer it."""
    place.execute("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'a-password-1'", "manager")
    with place.service.connect(place.instance, user="manager", password="a-password-1") as session:
        session.execute("CREATE ROLE managed LOGIN")
    place.execute("GRANT rds_iam TO {}", "managed")
    assert place.who("app", PASSWORD) == "app", "the master user never stops to be let in"
    assert place.who("managed", place.token("managed")) == "managed"
    eventually(lambda: _logs_in(place, "manager", "a-password-1"), timeout_s=30)
    with place.service.connect(place.instance, user="manager", password="a-password-1") as session:
        session.execute("GRANT managed TO manager")
    eventually(lambda: _logs_in(place, "manager", place.token("manager")), timeout_s=30)
    place.refused("manager", "a-password-1")


@pytest.mark.slow
def test_a_read_replica_has_an_endpoint_and_an_id_of_its_own(place: Place) -> None:
    rds = place.service.client("rds")
    name = f"replica-{secrets.token_hex(4)}"
    rds.create_db_instance_read_replica(
        DBInstanceIdentifier=name,
        SourceDBInstanceIdentifier=place.instance["DBInstanceIdentifier"],
        EnableIAMDatabaseAuthentication=True,
    )
    replica = Place(place.service, place.service.await_status(name, "available"))
    assert replica.instance["IAMDatabaseAuthenticationEnabled"] is True
    try:
        with place.caller(allow(replica.arn("alice"))) as key:
            eventually(lambda: _logs_in(replica, "alice", replica.token("alice", key=key)), timeout_s=30)
            replica.refused("alice", place.token("alice", key=key))
            place.refused("alice", place.token("alice", key=key))
        with place.caller(allow(place.arn("alice"))) as key:
            replica.refused("alice", replica.token("alice", key=key))
        replica.refused("alice", "a-password-1")
        assert replica.who("app", PASSWORD) == "app"
    finally:
        place.service.delete_instance(name)


def test_the_sqlstate(place: Place) -> None:
    """28000, invalid_authorization_specification: libpq tells it to nobody, so read the message itself."""
    import socket
    import ssl
    import struct

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", len(body) + 4) + body

    with socket.create_connection(place.address, timeout=10) as raw:
        raw.sendall(struct.pack("!II", 8, 80877103))
        assert raw.recv(1) == b"S"
        context = ssl.create_default_context(cafile=place.service.variables["MAINSTAY_CA_BUNDLE"])
        with context.wrap_socket(raw, server_hostname=place.address[0]) as tls:
            tls.sendall(message(b"", struct.pack("!I", 196608) + b"user\0alice\0database\0postgres\0\0"))
            assert tls.recv(100)[:9] == b"R" + struct.pack("!II", 8, 3), "it asks for a clear-text password"
            tls.sendall(message(b"p", b"no token\0"))
            answer = tls.recv(1000)
    assert answer[:1] == b"E" and b"\0C28000\0" in answer and f'{REFUSED} "alice"'.encode() in answer


@pytest.mark.parametrize(
    "wrong",
    [{"host": "127.0.0.1"}, {"host": "db.example.com"}, {"port": 5433}, {"user": "carol"}, {"region": "eu-west-1"}],
)
def test_a_token_for_something_else(place: Place, wrong: dict[str, Any]) -> None:
    place.refused("alice", place.token(**{"user": "alice", **wrong}))


def test_a_token_that_was_changed(place: Place) -> None:
    token = place.token("alice")
    place.refused("alice", token[:-1] + ("0" if token[-1] != "0" else "1"))
    place.refused("alice", token.replace("X-Amz-Expires=900", "X-Amz-Expires=901"))
    place.refused("alice", token[:-40])
    place.refused("alice", token + "x" * 60_000)


@pytest.mark.parametrize("user", STRANGE_NAMES)
def test_strange_names_are_taken_letter_by_letter(place: Place, user: str) -> None:
    place.execute("CREATE ROLE {} LOGIN", user)
    place.execute("GRANT rds_iam TO {}", user)
    try:
        assert place.who(user, place.token(user)) == user
        place.refused(user, place.token("alice"))
        place.refused("alice", place.token(user))
    finally:
        place.execute("DROP ROLE {}", user)


def test_policies_decide(place: Place) -> None:
    for statements in place.refusing_policies:
        with place.caller(*statements) as key:
            place.refused("alice", place.token("alice", key=key))
    with place.caller(allow(place.arn("alice", "*"))) as key:
        assert place.who("alice", place.token("alice", key=key)) == "alice"


def test_a_key_that_was_deactivated(place: Place) -> None:
    iam = place.service.client("iam")
    with place.caller(allow("*")) as key:
        token = place.token("alice", key=key)
        assert place.who("alice", token) == "alice"
        user = iam.get_access_key_last_used(AccessKeyId=key[0])["UserName"]
        iam.update_access_key(UserName=user, AccessKeyId=key[0], Status="Inactive")
        place.refused("alice", token)


def test_the_session_of_a_role(place: Place) -> None:
    iam, sts = place.service.client("iam"), place.service.client("sts")
    account = sts.get_caller_identity()["Account"]
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": account}}
    name = f"r-{secrets.token_hex(4)}"
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(trust))["Role"]["Arn"]
    iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=policy(allow(place.arn())))
    with place.caller({"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": arn}) as key:
        assuming = place.service.client("sts", key=key)

        def token(**more: Any) -> str:
            got = assuming.assume_role(RoleArn=arn, RoleSessionName="session", **more)["Credentials"]
            return place.token("alice", key=(got["AccessKeyId"], got["SecretAccessKey"]), token=got["SessionToken"])

        assert place.who("alice", token()) == "alice"
        place.refused("alice", token(Policy=policy(allow(place.arn("carol")))))
    iam.delete_role_policy(RoleName=name, PolicyName="own")
    iam.delete_role(RoleName=name)


def test_reasons_are_told_to_operators_and_tokens_to_nobody(place: Place) -> None:
    home = place.service.home
    token = place.token("alice", port=5433)
    place.refused("alice", token)
    place.who("alice", accepted := place.token("alice"))
    control = (home / "logs" / "control.log").read_text()
    assert f"The token is for {place.address[0]}:5433" in control and '"database_login.allowed"' in control
    told = f"LDAP diagnostics: The token is for {place.address[0]}:5433"
    eventually(lambda: told in place.logs())  # the instance's own log tells it too, which another process writes
    logs = place.logs()
    for one in (token, accepted):
        assert one.split("X-Amz-Signature=")[1] not in logs


def test_a_frozen_control_refuses_soon_and_passwords_go_on(own_service: Service) -> None:
    if own_service.engine_version.startswith("15."):
        pytest.skip("its libldap waits for a handshake as long as the client and authentication_timeout do")
    place = Place(own_service, own_service.create_instance(EnableIAMDatabaseAuthentication=True))
    place.execute("CREATE ROLE {} LOGIN", "alice")
    place.execute("GRANT rds_iam TO {}", "alice")
    token = place.token("alice")
    assert place.who("alice", token) == "alice"
    with own_service.stopped("control"):
        started = time.monotonic()
        place.refused("alice", token)
        assert time.monotonic() - started < 15
        assert place.who("app", PASSWORD) == "app"
    own_service.kill("control")
    eventually(lambda: _logs_in(place, "alice", token), timeout_s=20)
    assert place.who("app", PASSWORD) == "app"


def _logs_in(place: Place, user: str, password: str) -> bool:
    try:
        return place.who(user, password) == user
    except psycopg.OperationalError as error:
        assert "authentication failed" in str(error)
        return False


@pytest.mark.slow
def test_enabling_disabling_and_the_master_user(service: Service) -> None:
    place = Place(service, service.create_instance())
    name = place.instance["DBInstanceIdentifier"]
    rds = service.client("rds")
    place.execute("CREATE ROLE {} LOGIN PASSWORD 'a-password-1'", "alice")
    place.execute("GRANT rds_iam TO {}", "alice")
    assert place.instance["IAMDatabaseAuthenticationEnabled"] is False
    assert place.who("alice", "a-password-1") == "alice"

    pid = service.node(name)["pid"]
    shown = rds.modify_db_instance(DBInstanceIdentifier=name, EnableIAMDatabaseAuthentication=True)["DBInstance"]
    assert shown["PendingModifiedValues"] == {"IAMDatabaseAuthenticationEnabled": True}
    assert shown["IAMDatabaseAuthenticationEnabled"] is False
    rds.modify_db_instance(DBInstanceIdentifier=name, ApplyImmediately=True)
    place.instance = service.await_status(name, "available")
    assert place.instance["IAMDatabaseAuthenticationEnabled"] is True
    assert place.instance["PendingModifiedValues"] == {}
    assert place.who("alice", place.token("alice")) == "alice"
    place.refused("alice", "a-password-1")
    assert service.node(name)["pid"] == pid, "no restart"

    # The master user may grant rds_iam, which does not make it a member in this sense; granted, it is one.
    assert place.who("app", PASSWORD) == "app"
    place.execute("GRANT rds_iam TO {}", "app")
    eventually(lambda: _logs_in(place, "app", place.token("app")) if _password_fails(place) else False, timeout_s=30)
    with service.connect(place.instance, password=place.token("app")) as session:
        session.execute("REVOKE rds_iam FROM app")
    eventually(lambda: not _password_fails(place), timeout_s=30)

    rds.modify_db_instance(DBInstanceIdentifier=name, EnableIAMDatabaseAuthentication=False, ApplyImmediately=True)
    place.instance = service.await_status(name, "available")
    assert place.instance["IAMDatabaseAuthenticationEnabled"] is False
    assert place.who("alice", "a-password-1") == "alice"
    service.delete_instance(name)


def _password_fails(place: Place) -> bool:
    try:
        place.who("app", PASSWORD)
    except psycopg.OperationalError as error:
        assert REFUSED in str(error)
        return True
    return False
