"""IAM database authentication of MariaDB and MySQL, with boto3's own tokens: who gets in, and who does not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymysql
import pytest

from harness.database_tokens import TokenPlace, allow
from harness.dialects import DIALECTS, MARIADB, MYSQL, EngineUnderTest, newest_of
from harness.service import PASSWORD, Service, eventually
from mainstay.engines.builds import Builds
from mainstay.model.records import Scope
from mainstay.workflows.node_specs import endpoint_name

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
NEWEST = [*newest_of(MARIADB), *newest_of(MYSQL)]
STRANGE_NAMES = ["o'brien", "we,ird=q +\\<>;#", "dbuser:x/alice", "ünïcode", "a b", "MiXed"]
WITH_PLUGIN = "IDENTIFIED WITH AWSAuthenticationPlugin AS 'RDS'"


class Place(TokenPlace):
    """An instance that also takes connections without TLS."""

    @property
    def dialect(self) -> Any:
        return DIALECTS[self.instance["Engine"]]

    def who(self, user: str, password: str, *, tls: bool = True, **options: Any) -> str:
        """Logs in; the name of the session's user."""
        with (
            self.dialect.connect(
                self.service, self.instance, tls=tls, user=user, password=password, **options
            ) as session,
            session.cursor() as cursor,
        ):
            cursor.execute("SELECT USER()")
            return str(cursor.fetchone()[0]).rpartition("@")[0]

    def refused(self, user: str, password: str, **options: Any) -> None:
        with pytest.raises(pymysql.err.OperationalError) as caught:
            self.who(user, password, **options)
        assert caught.value.args[0] == 1045 and "X-Amz" not in str(caught.value)

    def execute(self, *statements: str) -> None:
        with self.dialect.connect(self.service, self.instance, tls=True) as session, session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def reasons(self) -> str:
        return (self.service.home / "logs" / "control.log").read_text()


@pytest.fixture(scope="module", params=NEWEST, ids=lambda one: one.dialect.engine)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    found: EngineUnderTest = request.param
    return found


@pytest.fixture(scope="module")
def place(service: Service, engine: EngineUnderTest) -> Iterator[Place]:
    made = Place(service, engine.create(service, EnableIAMDatabaseAuthentication=True))
    made.execute(
        f"CREATE USER alice {WITH_PLUGIN}",
        "CREATE USER carol IDENTIFIED BY 'a-password-1'",
    )
    yield made
    service.delete_instance(made.instance["DBInstanceIdentifier"])


def test_a_token_over_tls(place: Place) -> None:
    assert place.instance["IAMDatabaseAuthenticationEnabled"] is True
    with place.caller(allow(place.arn("alice"))) as key:
        token = place.token("alice", key=key)
        assert place.who("alice", token) == "alice"
        assert place.who("alice", token) == "alice", "it may be used again within its time, as on AWS"


def test_never_without_tls(place: Place) -> None:
    before = place.reasons().count("The connection is not over TLS.")
    place.refused("alice", place.token("alice"), tls=False)
    assert place.reasons().count("The connection is not over TLS.") == before + 1


def test_passwords_and_tokens_are_of_different_users(place: Place) -> None:
    assert place.who("carol", "a-password-1") == "carol"
    assert place.who("app", PASSWORD) == "app"
    place.refused("carol", place.token("carol"))
    for password in ("a-password-1", "", "RDS", "x" * 60_000):
        place.refused("alice", password)


def test_a_token_for_something_else_is_refused_and_the_reason_told_to_operators(place: Place) -> None:
    region, account = place.instance["DBInstanceArn"].split(":")[3:5]
    name = endpoint_name(place.service.settings, Scope(account, region), place.instance["DBInstanceIdentifier"])
    accepted = place.token("alice", host=name.upper())
    assert place.who("alice", accepted) == "alice"
    place.refused("alice", other := place.token("alice", port=5433))
    assert f"The token is for {place.address[0]}:5433" in place.reasons()
    others: tuple[dict[str, Any], ...] = ({"host": "db.example.com"}, {"user": "carol"}, {"region": "eu-west-1"})
    for wrong in others:
        place.refused("alice", place.token(**{"user": "alice", **wrong}))
    token = place.token("alice")
    place.refused("alice", token[:-1] + ("0" if token[-1] != "0" else "1"))
    place.refused("alice", token.replace("X-Amz-Expires=900", "X-Amz-Expires=901"))
    place.refused("alice", token[:-40])
    logs = place.logs()
    for one in (accepted, other, token):
        assert one.split("X-Amz-Signature=")[1] not in logs


def test_a_token_that_is_too_old_and_one_whose_time_ends_in_a_session(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_at(moment: datetime) -> str:
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: moment.replace(tzinfo=None))
        return place.token("alice")

    now = datetime.now(UTC)
    old, young = made_at(now - timedelta(minutes=15, seconds=1)), made_at(now - timedelta(minutes=10))
    assert "X-Amz-Date=" + (now - timedelta(minutes=10)).strftime("%Y%m%dT%H%M") in young
    assert place.who("alice", young) == "alice"
    place.refused("alice", old)


def test_policies_decide(place: Place) -> None:
    for statements in place.refusing_policies:
        with place.caller(*statements) as key:
            place.refused("alice", place.token("alice", key=key))
    with place.caller(allow(place.arn("alice", "*"))) as key:
        token = place.token("alice", key=key)
        assert place.who("alice", token) == "alice"
        iam = place.service.client("iam")
        user = iam.get_access_key_last_used(AccessKeyId=key[0])["UserName"]
        iam.update_access_key(UserName=user, AccessKeyId=key[0], Status="Inactive")
        place.refused("alice", token)


@pytest.mark.parametrize("user", STRANGE_NAMES)
def test_strange_names_are_taken_letter_by_letter(place: Place, user: str) -> None:
    quoted = "`{}`@'%'".format(user.replace("`", "``"))
    place.execute(f"CREATE USER {quoted} {WITH_PLUGIN}")
    try:
        assert place.who(user, place.token(user)) == user
        place.refused(user, place.token("alice"))
        place.refused("alice", place.token(user))
    finally:
        place.execute(f"DROP USER {quoted}")


@pytest.mark.parametrize("client", [MARIADB, MYSQL], ids=lambda one: one.engine)
def test_command_line_clients(place: Place, client: Any, tmp_path: Path) -> None:
    versions = newest_of(client)
    if not versions:
        pytest.skip(f"{client.engine} is not installed")
    build = Builds(place.service.settings).resolve(client.engine, versions[0].version)
    program = {"mysql": "mysql", "mariadb": "mariadb"}[client.engine]
    verify = {"mysql": "--ssl-mode=VERIFY_IDENTITY", "mariadb": "--ssl-verify-server-cert"}[program]
    plugins = [f"--plugin-dir={found}" for found in build.prefix.glob("usr/lib/*/libmariadb3/plugin")]
    file = tmp_path / "login.cnf"  # as AWS's documentation has it, but for the token on the command line
    file.write_text(f'[client]\npassword="{place.token("alice")}"\n')
    done = subprocess.run(
        [
            str(build.bin_directory / program), f"--defaults-file={file}", *plugins, verify, "--user=alice",
            f"--host={place.address[0]}", f"--port={place.address[1]}", "--enable-cleartext-plugin",
            f"--ssl-ca={place.service.variables['MAINSTAY_CA_BUNDLE']}", "-N", "-B", "-e", "SELECT CURRENT_USER()",
        ],
        capture_output=True, text=True, check=False, timeout=60, env=os.environ | build.environment,
    )  # fmt: skip
    # MariaDB's says that it needs no --enable-cleartext-plugin.
    assert (done.stdout.splitlines()[-1:], done.returncode) == (["alice@%"], 0), done.stderr


def test_users_of_the_plugin_have_no_password_that_could_be_set(place: Place) -> None:
    for statement in (
        "CREATE USER never IDENTIFIED WITH AWSAuthenticationPlugin BY 'a-password-1'",
        "SET PASSWORD FOR alice = PASSWORD('a-password-1')",
    ):
        with pytest.raises(pymysql.err.MySQLError):
            place.execute(statement)


def test_while_control_is_frozen_tokens_are_refused_and_passwords_go_on(place: Place) -> None:
    token = place.token("alice")
    with place.service.stopped("control"):
        place.refused("alice", token)
        assert place.who("carol", "a-password-1") == "carol"
    assert eventually(lambda: _logs_in(place, "alice", token))


def _logs_in(place: Place, user: str, password: str) -> bool:
    try:
        return place.who(user, password) == user
    except pymysql.err.OperationalError as error:
        assert error.args[0] == 1045
        return False


def test_enabling_and_disabling_restart_nothing(service: Service, place: Place) -> None:
    name = place.instance["DBInstanceIdentifier"]
    pid = service.node(name)["pid"]

    def switch(enabled: bool) -> None:
        service.client("rds").modify_db_instance(
            DBInstanceIdentifier=name, EnableIAMDatabaseAuthentication=enabled, ApplyImmediately=True
        )
        assert service.await_status(name, "available")["IAMDatabaseAuthenticationEnabled"] is enabled

    switch(False)
    try:
        place.refused("alice", place.token("alice"))
        assert f"not enabled for {place.instance['DbiResourceId']}" in place.reasons()
    finally:
        switch(True)
    assert place.who("alice", place.token("alice")) == "alice"
    assert service.node(name)["pid"] == pid
