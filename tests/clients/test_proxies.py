"""DB proxies with boto3 and psycopg, unmodified, on a whole service: their life, and what changes around them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness.files import files_below, holding
from harness.service import PASSWORD, Service, eventually
from mainstay.host.layout import lock_path
from mainstay.host.locks import holder

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "rds.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
READ = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}],
}


class Pooled:
    """An instance behind a proxy."""

    def __init__(self, service: Service, name: str) -> None:
        self.service, self.name = service, name
        self.rds, self.ec2 = service.client("rds"), service.client("ec2")
        self.iam, self.secrets = service.client("iam"), service.client("secretsmanager")
        self.instance = service.create_instance(name)
        value = json.dumps({"username": "app", "password": PASSWORD})
        self.secret = self.secrets.create_secret(Name=f"{name}/app", SecretString=value)["ARN"]
        made = self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))
        self.iam.put_role_policy(RoleName=name, PolicyName="read", PolicyDocument=json.dumps(READ))
        default = [{"Name": "default-for-az", "Values": ["true"]}]
        self.subnets = [one["SubnetId"] for one in self.ec2.describe_subnets(Filters=default)["Subnets"]]
        self.role = made["Role"]["Arn"]
        self.endpoint = ""

    def create_proxy(self, **members: Any) -> dict[str, Any]:
        self.rds.create_db_proxy(
            DBProxyName=self.name, EngineFamily="POSTGRESQL", RoleArn=self.role, VpcSubnetIds=self.subnets,
            Auth=[{"SecretArn": self.secret}], **members,
        )  # fmt: skip
        shown = self.available()
        self.endpoint = shown["Endpoint"]
        return shown

    def describe(self) -> dict[str, Any]:
        shown: dict[str, Any] = self.rds.describe_db_proxies(DBProxyName=self.name)["DBProxies"][0]
        return shown

    def available(self) -> dict[str, Any]:
        shown: dict[str, Any] = eventually(
            lambda: (one := self.describe())["Status"] == "available" and one, interval_s=0.05
        )
        return shown

    def register(self) -> None:
        self.rds.register_db_proxy_targets(DBProxyName=self.name, DBInstanceIdentifiers=[self.name])
        eventually(lambda: self.health()["State"] == "AVAILABLE")

    def borrow_timeout(self, seconds: int) -> None:
        self.rds.modify_db_proxy_target_group(
            DBProxyName=self.name,
            TargetGroupName="default",
            ConnectionPoolConfig={"ConnectionBorrowTimeout": seconds},
        )

    def health(self) -> dict[str, str]:
        (target,) = self.rds.describe_db_proxy_targets(DBProxyName=self.name)["Targets"]
        found: dict[str, str] = target["TargetHealth"]
        return found

    def healthy(self) -> bool:
        """Whether the target is available; False while control is on its way back, too."""
        try:
            return self.health()["State"] == "AVAILABLE"
        except (BotoCoreError, ClientError):
            return False

    def who(self, password: str = PASSWORD) -> str:
        """Logs in through the proxy over verified TLS; who one is in the database."""
        with psycopg.connect(
            host=self.endpoint, port=5432, user="app", password=password, dbname="postgres",
            connect_timeout=10, sslmode="verify-full", sslrootcert=self.service.variables["MAINSTAY_CA_BUNDLE"],
        ) as connection:  # fmt: skip
            row = connection.execute("SELECT current_user").fetchone()
            assert row is not None
            return str(row[0])

    def logs_in(self, password: str = PASSWORD) -> bool:
        try:
            return self.who(password) == "app"
        except psycopg.OperationalError:
            return False

    def delete(self) -> None:
        for proxy in self.rds.describe_db_proxies()["DBProxies"]:
            self.rds.delete_db_proxy(DBProxyName=proxy["DBProxyName"])
        eventually(lambda: self.rds.describe_db_proxies()["DBProxies"] == [])
        self.secrets.delete_secret(SecretId=self.secret, ForceDeleteWithoutRecovery=True)
        for policy in self.iam.list_role_policies(RoleName=self.name)["PolicyNames"]:
            self.iam.delete_role_policy(RoleName=self.name, PolicyName=policy)
        self.iam.delete_role(RoleName=self.name)
        if self.name in [one["DBInstanceIdentifier"] for one in self.rds.describe_db_instances()["DBInstances"]]:
            self.service.delete_instance(self.name)


@pytest.fixture(scope="module")
def pooled(service: Service) -> Iterator[Pooled]:
    """An instance behind an available proxy, shared by the tests of this module, which leave it so."""
    made = Pooled(service, "pooled")
    made.create_proxy()
    made.register()
    yield made
    made.delete()


def process(service: Service) -> int | None:
    """Pid of the proxy process, None while it does not run."""
    return holder(lock_path(service.settings, "proxy"))


def test_a_client_logs_in_through_the_proxy_and_the_tool_shows_it(service: Service, pooled: Pooled) -> None:
    assert pooled.who() == "app" and not pooled.logs_in("wrong")
    (shown,) = json.loads(service.cli("proxy", "list", "--json").stdout)
    assert (shown["proxy"], shown["health"]) == ("pooled", "AVAILABLE")
    assert shown["listens"] == [f"{pooled.describe()['Endpoint']}:5432"]
    with psycopg.connect(
        host=pooled.describe()["Endpoint"], user="app", password=PASSWORD, dbname="postgres", sslmode="require"
    ) as connection:
        connection.execute("SELECT 1")
        (session,) = json.loads(service.cli("proxy", "sessions", "POOLED", "--json").stdout)
        assert (session["user"], session["database"]) == ("app", "postgres")
    stats = json.loads(service.cli("proxy", "stats", shown["id"], "--json").stdout)
    assert stats["ClientConnectionsReceived"] >= 2
    for command in ("list", "sessions pooled", "stats pooled"):
        assert service.cli("proxy", *command.split()).stdout.strip()
    refused = service.cli("proxy", "stats", "absent", check=False)
    assert refused.returncode == 1 and "There are: pooled." in refused.stderr
    assert "proxy" in service.cli("status").stdout
    assert "proxy.ready" in service.cli("logs", "proxy").stdout


def test_the_password_is_in_no_file_but_the_process_own(service: Service, pooled: Pooled) -> None:
    pooled.who()
    found = holding(service.home, PASSWORD.encode())
    assert [path.parent.name for path in found] == ["proxy"] and found[0].suffix == ".json"
    assert found[0].stat().st_mode & 0o077 == 0 and found[0].parent.stat().st_mode & 0o077 == 0


def test_who_makes_a_proxy_must_be_allowed_to_pass_its_role(service: Service, pooled: Pooled) -> None:
    arn = pooled.describe()["DBProxyArn"]
    statement = {"Effect": "Allow", "Action": ["rds:CreateDBProxy", "rds:DescribeDBProxies"], "Resource": [arn, "*"]}
    pooled.iam.create_user(UserName="maker")
    key = pooled.iam.create_access_key(UserName="maker")["AccessKey"]
    rds = service.client("rds", key=(key["AccessKeyId"], key["SecretAccessKey"]))
    wanted = {"DBProxyName": "mine", "EngineFamily": "POSTGRESQL", "RoleArn": pooled.role,
              "VpcSubnetIds": pooled.subnets, "Auth": [{"SecretArn": pooled.secret}]}  # fmt: skip
    try:
        pooled.iam.put_user_policy(
            UserName="maker", PolicyName="p",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
        )  # fmt: skip
        with pytest.raises(ClientError, match="not authorized to perform: iam:PassRole on resource: " + pooled.role):
            rds.create_db_proxy(**wanted)
        assert rds.describe_db_proxies(DBProxyName=pooled.name)["DBProxies"]
        with pytest.raises(ClientError, match=f"rds:DeleteDBProxy on resource: {arn}"):
            rds.delete_db_proxy(DBProxyName=pooled.name)
    finally:
        pooled.iam.delete_user_policy(UserName="maker", PolicyName="p")
        pooled.iam.delete_access_key(UserName="maker", AccessKeyId=key["AccessKeyId"])
        pooled.iam.delete_user(UserName="maker")


def test_a_rotated_secret_is_taken_up_at_once(pooled: Pooled, service: Service) -> None:
    changed = PASSWORD + "-2"
    try:
        service.client("rds").modify_db_instance(
            DBInstanceIdentifier=pooled.name, MasterUserPassword=changed, ApplyImmediately=True
        )
        service.await_status(pooled.name, "available")
        value = json.dumps({"username": "app", "password": changed})
        pooled.secrets.put_secret_value(SecretId=pooled.secret, SecretString=value)
        eventually(lambda: pooled.logs_in(changed), timeout_s=10)
        assert not pooled.logs_in(PASSWORD)
    finally:
        service.client("rds").modify_db_instance(
            DBInstanceIdentifier=pooled.name, MasterUserPassword=PASSWORD, ApplyImmediately=True
        )
        service.await_status(pooled.name, "available")
        value = json.dumps({"username": "app", "password": PASSWORD})
        pooled.secrets.put_secret_value(SecretId=pooled.secret, SecretString=value)
    eventually(lambda: pooled.logs_in(), timeout_s=10)


def test_a_role_that_may_not_read_any_more_shows_as_auth_failure(pooled: Pooled) -> None:
    pooled.iam.delete_role_policy(RoleName=pooled.name, PolicyName="read")
    try:
        eventually(lambda: pooled.health()["State"] == "UNAVAILABLE")
        health = pooled.health()
        assert health["Reason"] == "AUTH_FAILURE"
        assert pooled.role in health["Description"] and pooled.secret in health["Description"]
        assert not pooled.logs_in()
        events = pooled.rds.describe_events(SourceType="db-proxy", SourceIdentifier=pooled.name)["Events"]
        assert any(pooled.secret in event["Message"] for event in events)
    finally:
        pooled.iam.put_role_policy(RoleName=pooled.name, PolicyName="read", PolicyDocument=json.dumps(READ))
    eventually(lambda: pooled.health()["State"] == "AVAILABLE")
    eventually(lambda: pooled.logs_in())


def test_security_groups_guard_the_proxy_and_the_way_to_its_database(pooled: Pooled) -> None:
    default = pooled.describe()["VpcSecurityGroupIds"]
    vpc = pooled.describe()["VpcId"]
    closed = pooled.ec2.create_security_group(GroupName="closed", Description="d", VpcId=vpc)["GroupId"]
    pooled.borrow_timeout(5)  # who is not let through to the database need not wait for two minutes
    try:
        pooled.rds.modify_db_proxy(DBProxyName=pooled.name, SecurityGroups=[closed])
        eventually(lambda: not pooled.logs_in())
        rule = [{"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "IpRanges": [{"CidrIp": "127.0.0.0/8"}]}]
        pooled.ec2.authorize_security_group_ingress(GroupId=closed, IpPermissions=rule)
        eventually(lambda: pooled.logs_in())
        pooled.rds.modify_db_instance(DBInstanceIdentifier=pooled.name, VpcSecurityGroupIds=[closed])
        pooled.ec2.revoke_security_group_ingress(GroupId=closed, IpPermissions=rule)
        pooled.rds.modify_db_proxy(DBProxyName=pooled.name, SecurityGroups=default)
        eventually(lambda: pooled.health().get("Reason") == "UNREACHABLE")
        assert closed in pooled.health()["Description"]
        assert not pooled.logs_in(), "the proxy is no way around the instance's security groups"
    finally:
        pooled.rds.modify_db_proxy(DBProxyName=pooled.name, SecurityGroups=default)
        pooled.rds.modify_db_instance(DBInstanceIdentifier=pooled.name, VpcSecurityGroupIds=default)
        eventually(lambda: pooled.health()["State"] == "AVAILABLE")
        pooled.ec2.delete_security_group(GroupId=closed)
        pooled.borrow_timeout(120)
    eventually(lambda: pooled.logs_in())


def test_paginators_endpoints_and_a_name_that_is_taken(pooled: Pooled) -> None:
    names = [f"many-{number:02}" for number in range(19)]
    try:
        for name in names:
            pooled.rds.create_db_proxy(
                DBProxyName=name, EngineFamily="POSTGRESQL", RoleArn=pooled.role, VpcSubnetIds=pooled.subnets,
                Auth=[{"SecretArn": pooled.secret}],
            )  # fmt: skip
        with pytest.raises(ClientError, match="DBProxyQuotaExceededFault"):
            pooled.rds.create_db_proxy(
                DBProxyName="one-more", EngineFamily="POSTGRESQL", RoleArn=pooled.role, VpcSubnetIds=pooled.subnets,
                Auth=[{"SecretArn": pooled.secret}],
            )  # fmt: skip
        pages = pooled.rds.get_paginator("describe_db_proxies").paginate(PaginationConfig={"PageSize": 20})
        assert sorted(pages.search("DBProxies[].DBProxyName")) == sorted([*names, pooled.name])
        pooled.rds.create_db_proxy_endpoint(
            DBProxyName=pooled.name, DBProxyEndpointName="second", VpcSubnetIds=pooled.subnets
        )

        def statuses() -> set[str]:
            found = pooled.rds.get_paginator("describe_db_proxy_endpoints").paginate()
            return {one["Status"] for page in found for one in page["DBProxyEndpoints"]}

        eventually(lambda: statuses() == {"available"})
    finally:
        for proxy in pooled.rds.describe_db_proxies()["DBProxies"]:
            if proxy["DBProxyName"] != pooled.name:
                pooled.rds.delete_db_proxy(DBProxyName=proxy["DBProxyName"])
        pooled.rds.delete_db_proxy_endpoint(DBProxyEndpointName="second")
    eventually(lambda: len(pooled.rds.describe_db_proxies()["DBProxies"]) == 1)
    eventually(lambda: len(pooled.rds.describe_db_proxy_endpoints()["DBProxyEndpoints"]) == 1)
    assert pooled.logs_in(), "its neighbours' lives do not concern it"


def test_the_process_runs_while_there_is_a_proxy_through_kills_and_restarts(own_service: Service) -> None:
    assert process(own_service) is None
    pooled = Pooled(own_service, "alone")
    assert process(own_service) is None, "an instance alone needs no proxy process"
    started = time.monotonic()
    pooled.create_proxy()
    assert time.monotonic() - started < 3.0
    pooled.register()
    assert pooled.logs_in()

    own_service.kill("proxy")
    eventually(lambda: pooled.logs_in(), timeout_s=10)
    for name in ("control", "supervisor"):
        own_service.kill(name)
    eventually(lambda: pooled.healthy())
    with own_service.stopped("control"):
        own_service.kill("proxy")
        eventually(lambda: pooled.logs_in(), timeout_s=10)

    own_service.cli("down")
    assert process(own_service) is None
    own_service.cli("up", "--detach")
    eventually(lambda: pooled.healthy(), timeout_s=30)
    assert pooled.logs_in()

    pooled.rds.create_db_proxy_endpoint(
        DBProxyName="alone", DBProxyEndpointName="more", VpcSubnetIds=pooled.subnets[:2]
    )
    more = {"DBProxyEndpointName": "more"}
    eventually(lambda: pooled.rds.describe_db_proxy_endpoints(**more)["DBProxyEndpoints"][0]["Status"] == "available")
    own_service.delete_instance("alone")
    assert pooled.rds.describe_db_proxy_targets(DBProxyName="alone")["Targets"] == []
    events = pooled.rds.describe_events(SourceType="db-proxy", SourceIdentifier="alone")["Events"]
    assert "automatically removed it from target group default" in events[-1]["Message"]
    pooled.delete()
    eventually(lambda: process(own_service) is None)
    assert files_below(own_service.home / "proxy") == []
    assert pooled.ec2.describe_network_interfaces()["NetworkInterfaces"] == []
    time.sleep(2.0)
    assert process(own_service) is None, "nobody starts it again"
    assert (own_service.home / "proxy").stat().st_mode & 0o777 == 0o700 or os.geteuid() != 0
