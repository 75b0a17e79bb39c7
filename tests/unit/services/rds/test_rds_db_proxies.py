"""DB proxies: the API, the workflow and the spec it comes to, with a twin of the proxy process."""

from __future__ import annotations

from typing import Any

import pytest

from harness.proxies import READS_ALL, ROLE_ARN, TRUSTS_RDS, Proxies
from harness.rds_calls import Rds
from mainstay.engines.mariadb.rules import MariadbRules
from mainstay.engines.registry import Engines
from mainstay.host.certificates import CertificateAuthorities
from mainstay.model.addresses import AddressLease
from mainstay.model.db_proxy import DBProxy, GivenProxySpec
from mainstay.model.ec2 import NetworkInterface
from mainstay.model.node import NodePhase
from mainstay.model.proxy import ClientPasswordAuthType
from mainstay.workflows.db_proxy import deregister_deleted
from mainstay.workflows.proxy_specs import opened, wanted_spec

VALUE, COMBINATION = "InvalidParameterValue", "InvalidParameterCombination"


@pytest.fixture
def proxies(rds: Rds, group: str, authorities: CertificateAuthorities) -> Proxies:
    return Proxies(rds, authorities)


def messages(proxies: Proxies, name: str = "pool") -> list[str]:
    return [event.message for event in proxies.rds.events() if event.source_id == name]


def test_a_proxy_is_created_in_under_three_seconds_with_aws_defaults(proxies: Proxies) -> None:
    secret = proxies.user_secret("app", "s3cret")
    request = proxies.request("Pool", Auth=[{"SecretArn": secret}], Tags=[{"Key": "team", "Value": "blue"}])
    before = proxies.rds.clock.wall()
    created = proxies.rds.call("CreateDBProxy", **request)["DBProxy"]
    assert created["Status"] == "creating" and created["DBProxyName"] == "pool"
    proxies.settle()
    assert proxies.rds.clock.wall() - before < 3.0
    shown = proxies.describe("POOL")
    assert shown["Status"] == "available"
    assert shown["DBProxyArn"].startswith("arn:aws:rds:us-east-1:123456789012:db-proxy:prx-")
    assert (shown["VpcId"], shown["VpcSubnetIds"]) == ("vpc-1", ["subnet-a", "subnet-b"])
    assert shown["VpcSecurityGroupIds"] == ["sg-vpc-1"], "the VPC's default group"
    assert shown["Auth"] == [
        {"AuthScheme": "SECRETS", "SecretArn": secret, "IAMAuth": "DISABLED",
         "ClientPasswordAuthType": "POSTGRES_SCRAM_SHA_256"}
    ]  # fmt: skip
    assert (shown["RequireTLS"], shown["IdleClientTimeout"], shown["DebugLogging"]) == (False, 1800, False)
    assert shown["Endpoint"] == created["Endpoint"]
    (group,) = proxies.rds.call("DescribeDBProxyTargetGroups", DBProxyName="pool")["TargetGroups"]
    assert (group["TargetGroupName"], group["IsDefault"], group["Status"]) == ("default", True, "available")
    assert group["ConnectionPoolConfig"] == {
        "MaxConnectionsPercent": 100, "MaxIdleConnectionsPercent": 50, "ConnectionBorrowTimeout": 120,
        "SessionPinningFilters": [],
    }  # fmt: skip
    tags = proxies.rds.call("ListTagsForResource", ResourceName=shown["DBProxyArn"])["TagList"]
    assert tags == [{"Key": "team", "Value": "blue"}]
    assert messages(proxies) == ["RDS created DB proxy pool."]
    assert proxies.rds.call("DescribeDBProxyTargets", DBProxyName="pool")["Targets"] == []


def test_the_process_is_given_listeners_users_and_keys_in_the_clear_and_the_store_is_not(proxies: Proxies) -> None:
    proxies.create(Auth=[{"SecretArn": proxies.user_secret("app", "s3cret"), "IAMAuth": "REQUIRED",
                          "ClientPasswordAuthType": "POSTGRES_MD5"}])  # fmt: skip
    spec = proxies.spec()
    (listener,) = spec.listeners
    assert (listener.address, listener.port) == (proxies.describe()["Endpoint"], 5432)
    assert listener.endpoint_id == spec.proxy_id and listener.admits == ("127.0.0.0/8",)
    assert listener.name.startswith("pool.proxy-") and listener.name.endswith(".us-east-1.rds.mainstay.internal")
    assert "BEGIN PRIVATE KEY" in listener.certificate.private_key_pem
    (user,) = spec.users
    assert (user.username, user.password, user.iam_required) == ("app", "s3cret", True)
    assert user.client_password_auth_type is ClientPasswordAuthType.POSTGRES_MD5
    stored = repr(proxies.rds.get(GivenProxySpec, spec.proxy_id))
    assert "s3cret" not in stored and "PRIVATE KEY" not in stored


def test_a_deleted_proxy_leaves_nothing(proxies: Proxies) -> None:
    proxies.create()
    proxies.rds.call("CreateDBProxyEndpoint", DBProxyName="pool", DBProxyEndpointName="reports",
                     VpcSubnetIds=["subnet-a", "subnet-b", "subnet-c"])  # fmt: skip
    proxies.settle()
    with proxies.rds.store.read() as view:
        assert len(view.scan(NetworkInterface)) == 2 + 3, "the default endpoint is in two zones, others in all theirs"
        assert len(view.scan(AddressLease)) == 2
    deleted = proxies.rds.call("DeleteDBProxy", DBProxyName="pool")["DBProxy"]
    assert deleted["Status"] == "deleting"
    assert "already being deleted" in proxies.rds.refused("DeleteDBProxy", DBProxyName="pool")
    proxies.settle()
    assert proxies.rds.refused("DescribeDBProxies", DBProxyName="pool") == (
        "DBProxyNotFoundFault: DB proxy pool doesn't exist."
    )
    assert proxies.rds.call("DescribeDBProxyEndpoints")["DBProxyEndpoints"] == []
    assert proxies.process.specs == {}
    with proxies.rds.store.read() as view:
        for kind in (NetworkInterface, AddressLease, GivenProxySpec):
            assert view.scan(kind) == []
    assert messages(proxies)[-1] == "RDS deleted DB proxy pool."


def test_a_proxy_that_the_process_never_heard_of_is_deleted_without_it(proxies: Proxies) -> None:
    proxies.process.away = True
    proxies.rds.call("CreateDBProxy", **proxies.request())
    proxies.rds.call("DeleteDBProxy", DBProxyName="pool")
    proxies.settle()
    assert "doesn't exist" in proxies.rds.refused("DescribeDBProxies", DBProxyName="pool")


def test_a_process_that_is_away_delays_a_proxy_and_loses_nothing(proxies: Proxies) -> None:
    proxies.process.away = True
    proxies.rds.call("CreateDBProxy", **proxies.request())
    proxies.settle(5.0)
    assert proxies.describe()["Status"] == "creating"
    proxies.process.away = False
    proxies.settle()
    assert proxies.describe()["Status"] == "available"


def test_listeners_that_cannot_be_opened_are_told_as_the_status(proxies: Proxies) -> None:
    proxies.process.failure = "address in use"
    proxies.create()
    assert proxies.describe()["Status"] == "incompatible-network"
    assert messages(proxies) == ["address in use"]
    proxies.process.failure = ""
    proxies.rds.call("ModifyDBProxy", DBProxyName="pool", RequireTLS=True)
    proxies.settle()
    assert proxies.describe()["Status"] == "available"


def test_what_is_late_is_told_once(proxies: Proxies) -> None:
    proxies.process.busy = True
    proxies.rds.call("CreateDBProxy", **proxies.request())
    proxies.settle(200.0)
    assert messages(proxies) == ["The change of DB proxy pool is late: the proxy process does not answer"]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"DBProxyName": "1pool"}, VALUE, "The parameter DBProxyName is not a valid identifier"),
    ({"DBProxyName": "p" * 64}, VALUE, "longer than 63"),
    ({"EngineFamily": "SQLSERVER"}, VALUE, "SQLSERVER is not available"),
    ({"EngineFamily": "MYSQL"}, VALUE, "Valid values: POSTGRESQL"),
    ({"VpcSubnetIds": ["subnet-a", "subnet-a2"]}, "InvalidSubnet", "at least two Availability Zones"),
    ({"VpcSubnetIds": ["subnet-a", "subnet-y"]}, "InvalidSubnet", "several VPCs: vpc-1, vpc-2"),
    ({"VpcSubnetIds": ["subnet-a", "subnet-zz"]}, "InvalidSubnet", "[subnet-zz] are invalid"),
    ({"VpcSubnetIds": []}, "InvalidSubnet", "Subnet IDs are required."),
    ({"VpcSecurityGroupIds": ["sg-none"]}, VALUE, "Invalid security group"),
    ({"VpcSecurityGroupIds": ["sg-vpc-2"]}, COMBINATION, "different VPCs"),
    ({"RoleArn": "arn:aws:iam::999999999999:role/x"}, VALUE, "not the ARN of an IAM role of this account"),
    ({"IdleClientTimeout": 0}, VALUE, "between 1 and 28800"),
    ({"IdleClientTimeout": 28_801}, VALUE, "between 1 and 28800"),
    ({"EndpointNetworkType": "DUAL"}, COMBINATION, "EndpointNetworkType"),
    ({"TargetConnectionNetworkType": "IPV6"}, COMBINATION, "TargetConnectionNetworkType"),
    ({"DefaultAuthScheme": "IAM_AUTH"}, COMBINATION, "not available in this version of Mainstay"),
    ({"Auth": []}, VALUE, "At least one UserAuthConfig is required"),
    ({"Auth": None}, VALUE, "At least one UserAuthConfig is required"),
    ({"Tags": [{"Key": "aws:x", "Value": ""}]}, VALUE, "must not begin with aws:"),
]


def test_a_family_that_the_proxy_process_does_not_speak_is_refused_whatever_is_installed(proxies: Proxies) -> None:
    """MariaDB's clients wait for the server to speak first: at a listener of PostgreSQL's they wait forever."""
    before = proxies.rds.collaborators[Engines]
    rules = {"postgres": before.rules("postgres"), "mariadb": MariadbRules(lambda _build: {})}
    proxies.rds.collaborators[Engines] = Engines(before.builds, rules)
    refused = proxies.rds.refused(
        "CreateDBProxy", **proxies.request(EngineFamily="MYSQL", Auth=[{"SecretArn": SECRET}])
    )
    assert refused.endswith("MYSQL is not available in this version of Mainstay. Valid values: POSTGRESQL"), refused


SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:db-AbCdEf"
REFUSED_AUTH: list[tuple[dict[str, Any], str]] = [
    ({"UserName": "app"}, "Username must not be provided in UserAuthConfig"),
    ({"SecretArn": None}, "SecretArn must be provided"),
    ({"SecretArn": "arn:aws:s3:::mine-and-yours-too"}, "not the full ARN"),
    ({"SecretArn": SECRET.replace("us-east-1", "us-west-2")}, "account and region"),
    ({"SecretArn": SECRET.replace("123456789012", "999999999999")}, "account and region"),
    ({"IAMAuth": "ENABLED"}, "IAMAuth ENABLED is not valid for POSTGRESQL"),
    ({"ClientPasswordAuthType": "MYSQL_NATIVE_PASSWORD"}, "Valid values: POSTGRES_SCRAM_SHA_256, POSTGRES_MD5"),
    ({"Description": "d" * 1001}, "longer than 1000"),
]


@pytest.mark.parametrize(("members", "shape", "text"), REFUSED)
def test_create_refuses(proxies: Proxies, members: dict[str, Any], shape: str, text: str) -> None:
    refused = proxies.rds.refused("CreateDBProxy", **proxies.request(**{"Auth": [{"SecretArn": SECRET}], **members}))
    assert refused.startswith(shape + ":") and text in refused, refused
    assert proxies.rds.call("DescribeDBProxies")["DBProxies"] == []


@pytest.mark.parametrize(("members", "text"), REFUSED_AUTH)
def test_create_refuses_auth(proxies: Proxies, members: dict[str, Any], text: str) -> None:
    auth = {name: value for name, value in {"SecretArn": SECRET, **members}.items() if value is not None}
    refused = proxies.rds.refused("CreateDBProxy", **proxies.request(Auth=[auth]))
    assert refused.startswith(VALUE) and text in refused, refused


def test_names_secrets_and_numbers_are_limited(proxies: Proxies) -> None:
    twice = [{"SecretArn": SECRET}, {"SecretArn": SECRET}]
    assert "more than once" in proxies.rds.refused("CreateDBProxy", **proxies.request(Auth=twice))
    many = [{"SecretArn": f"{SECRET}{number}"} for number in range(201)]
    assert "at most 200" in proxies.rds.refused("CreateDBProxy", **proxies.request(Auth=many))
    for number in range(20):
        proxies.rds.call("CreateDBProxy", **proxies.request(f"p{number}", Auth=[{"SecretArn": SECRET}]))
    assert "DBProxyAlreadyExistsFault" in proxies.rds.refused("CreateDBProxy", **proxies.request("P3", Auth=many[:1]))
    assert "DBProxyQuotaExceededFault" in proxies.rds.refused("CreateDBProxy", **proxies.request("p", Auth=many[:1]))
    first = proxies.rds.call("DescribeDBProxies", MaxRecords=20)["DBProxies"]
    assert [one["DBProxyName"] for one in first] == sorted(f"p{number}" for number in range(20))


def test_modify_changes_in_place_and_a_new_name_moves_the_dns_name(proxies: Proxies) -> None:
    before = proxies.create()
    other = proxies.user_secret("other", "pass2")
    changed = proxies.rds.call(
        "ModifyDBProxy", DBProxyName="pool", NewDBProxyName="Pond", RequireTLS=True, IdleClientTimeout=60,
        DebugLogging=True, Auth=[{"SecretArn": other}], SecurityGroups=["sg-app"],
    )["DBProxy"]  # fmt: skip
    assert (changed["DBProxyName"], changed["Status"]) == ("pond", "modifying")
    proxies.settle()
    after = proxies.describe("pond")
    assert after["DBProxyArn"] == before["DBProxyArn"] and after["Endpoint"] == before["Endpoint"]
    assert (after["RequireTLS"], after["IdleClientTimeout"], after["DebugLogging"]) == (True, 60, True)
    assert after["VpcSecurityGroupIds"] == ["sg-app"] and after["UpdatedDate"] > after["CreatedDate"]
    spec = proxies.spec("pond")
    assert spec.require_tls and spec.debug_logging and spec.idle_client_timeout_s == 60.0
    assert [user.username for user in spec.users] == ["other"]
    assert spec.listeners[0].name.startswith("pond.proxy-") and spec.listeners[0].admits == ("10.1.0.0/16",)
    with proxies.rds.store.read() as view:
        assert {one.group_ids for one in view.scan(NetworkInterface)} == {("sg-app",)}
    assert messages(proxies, "pond") == ["RDS modified DB proxy pond."]
    proxies.create("pool")
    assert "DBProxyAlreadyExistsFault" in proxies.rds.refused(
        "ModifyDBProxy", DBProxyName="pond", NewDBProxyName="pool"
    )
    assert "InvalidDBProxyStateFault" in refused_while_creating(proxies)


def refused_while_creating(proxies: Proxies) -> str:
    proxies.rds.call("CreateDBProxy", **proxies.request("young", Auth=[{"SecretArn": SECRET}]))
    for operation, members in (
        ("ModifyDBProxyTargetGroup", {"TargetGroupName": "default"}),
        ("RegisterDBProxyTargets", {"DBInstanceIdentifiers": ["db1"]}),
        ("CreateDBProxyEndpoint", {"DBProxyEndpointName": "e", "VpcSubnetIds": ["subnet-a", "subnet-b"]}),
    ):
        assert "InvalidDBProxyStateFault" in proxies.rds.refused(operation, DBProxyName="young", **members)
    return str(proxies.rds.refused("ModifyDBProxy", DBProxyName="young"))


def test_the_pool_is_configured_with_aws_rules(proxies: Proxies) -> None:
    proxies.create()

    def modify(**config: Any) -> dict[str, Any]:
        request = {"DBProxyName": "pool", "TargetGroupName": "default", "ConnectionPoolConfig": config}
        group = proxies.rds.call("ModifyDBProxyTargetGroup", **request)["DBProxyTargetGroup"]
        assert group["Status"] == "modifying"
        proxies.settle()
        shown: dict[str, Any] = group["ConnectionPoolConfig"]
        return shown

    shown = modify(MaxConnectionsPercent=80, ConnectionBorrowTimeout=3600, InitQuery="SET a = 1")
    assert shown["MaxIdleConnectionsPercent"] == 40, "half, unless it is given"
    pool = proxies.spec().pool
    assert (pool.max_connections_percent, pool.max_idle_connections_percent) == (80, 40)
    assert (pool.connection_borrow_timeout_s, pool.init_query) == (3600.0, "SET a = 1")
    assert modify(ConnectionBorrowTimeout=0)["MaxConnectionsPercent"] == 80, "what is not given stays"
    assert proxies.describe()["Status"] == "available"
    for config, text in (
        ({"MaxConnectionsPercent": 0}, "between 1 and 100"),
        ({"MaxConnectionsPercent": 101}, "between 1 and 100"),
        ({"MaxIdleConnectionsPercent": 10}, "together with MaxIdleConnectionsPercent"),
        ({"MaxConnectionsPercent": 10, "MaxIdleConnectionsPercent": 11}, "between 0 and 10"),
        ({"ConnectionBorrowTimeout": 3601}, "between 0 and 3600"),
        ({"SessionPinningFilters": ["EXCLUDE_VARIABLE_SETS"]}, "Valid values: none"),
        ({"InitQuery": "x" * 16_385}, "at most 16384"),
    ):
        refused = proxies.rds.refused("ModifyDBProxyTargetGroup", DBProxyName="pool", TargetGroupName="default",
                                      ConnectionPoolConfig=config)  # fmt: skip
        assert text in refused, refused
    assert "can't be renamed" in proxies.rds.refused(
        "ModifyDBProxyTargetGroup", DBProxyName="pool", TargetGroupName="default", NewName="x"
    )
    assert "DBProxyTargetGroupNotFoundFault" in proxies.rds.refused(
        "ModifyDBProxyTargetGroup", DBProxyName="pool", TargetGroupName="other"
    )


def test_an_instance_is_registered_shown_with_its_health_and_deregistered(proxies: Proxies) -> None:
    proxies.create()
    instance = proxies.instance()
    named = {"DBProxyName": "pool", "DBInstanceIdentifiers": ["DB1"]}
    (target,) = proxies.rds.call("RegisterDBProxyTargets", **named)["DBProxyTargets"]
    assert target == {
        "TargetArn": instance.arn, "RdsResourceId": "db1", "Port": 5432,
        "Type": "RDS_INSTANCE", "Role": "READ_WRITE", "TargetHealth": {"State": "REGISTERING"},
    }  # fmt: skip
    proxies.settle()
    assert proxies.spec().target == instance.dbi_resource_id
    assert proxies.target()["TargetHealth"] == {"State": "AVAILABLE"}
    assert "DBProxyTargetAlreadyRegisteredFault" in proxies.rds.refused("RegisterDBProxyTargets", **named)
    other = {"DBProxyName": "pool", "DBInstanceIdentifiers": ["db2"]}
    assert "DBProxyTargetNotFoundFault" in proxies.rds.refused("DeregisterDBProxyTargets", **other)
    proxies.rds.call("DeregisterDBProxyTargets", **named | {"DBInstanceIdentifiers": ["db1"]})
    proxies.settle()
    assert proxies.spec().target == ""
    assert proxies.rds.call("DescribeDBProxyTargets", DBProxyName="pool")["Targets"] == []


def test_what_cannot_be_a_target_is_refused(proxies: Proxies) -> None:
    proxies.create()

    def refused(identifier: str, **fields: Any) -> str:
        if fields:
            proxies.instance(identifier, **fields)
        return str(
            proxies.rds.refused("RegisterDBProxyTargets", DBProxyName="pool", DBInstanceIdentifiers=[identifier])
        )

    assert refused("none") == "DBInstanceNotFoundFault: DBInstance none not found."
    assert refused("young", change="creating") == (
        "InvalidDBInstanceStateFault: DB instance young is in an unsupported state - CREATING, needs to be in"
        " [AVAILABLE, MODIFYING, BACKING_UP]"
    )
    assert "read replica" in refused("copy", source_dbi_resource_id="db-X")
    assert "engine family POSTGRESQL" in refused("maria", engine="mariadb")
    assert "different VPCs" in refused("far", vpc_id="vpc-2")
    proxies.fleet.phase = NodePhase.STOPPED
    assert "unsupported state - STOPPED" in refused("still", port=5433)
    assert COMBINATION in proxies.rds.refused("RegisterDBProxyTargets", DBProxyName="pool")
    assert "DBClusterNotFoundFault" in proxies.rds.refused(
        "RegisterDBProxyTargets", DBProxyName="pool", DBClusterIdentifiers=["c"]
    )


def test_a_deleted_instance_is_deregistered_with_an_event(proxies: Proxies) -> None:
    proxies.create()
    instance = proxies.instance()
    proxies.rds.call("RegisterDBProxyTargets", DBProxyName="pool", DBInstanceIdentifiers=["db1"])
    proxies.settle()
    with proxies.rds.store.transaction() as tx:
        tx.delete(instance)
        deregister_deleted(tx, proxies.rds.clock, instance)
    proxies.settle()
    assert proxies.spec().target == ""
    assert proxies.rds.call("DescribeDBProxyTargets", DBProxyName="pool")["Targets"] == []
    assert messages(proxies)[-1] == (
        "RDS detected deletion of DB instance db1 and automatically removed it from target group default"
        " of DB proxy pool."
    )


def test_the_security_groups_of_an_instance_hold_for_a_proxy_too(proxies: Proxies) -> None:
    proxies.create(VpcSecurityGroupIds=["sg-app"])
    instance = proxies.instance(vpc_security_group_ids=("sg-app",))
    proxies.rds.call("RegisterDBProxyTargets", DBProxyName="pool", DBInstanceIdentifiers=["db1"])
    proxies.settle()
    health = proxies.target()["TargetHealth"]
    assert (health["State"], health["Reason"]) == ("UNAVAILABLE", "UNREACHABLE")
    assert "(sg-app) do not admit the proxy to port 5432" in health["Description"]
    assert proxies.spec().target == "", "the process must not reach it either"
    proxies.group("sg-in", "in", "vpc-1", "10.0.0.0/24")
    proxies.rds.change_instance(instance, vpc_security_group_ids=("sg-in",))
    proxies.rds.call("ModifyDBProxy", DBProxyName="pool")
    proxies.settle()
    assert proxies.target()["TargetHealth"] == {"State": "AVAILABLE"}, "its interfaces are in 10.0.0.0/24"


DENIED = {"Effect": "Deny", "Action": "secretsmanager:*", "Resource": "*"}
OTHER_SERVICE = {**TRUSTS_RDS, "Principal": {"Service": "ec2.amazonaws.com"}}
FOR_ANOTHER = {**TRUSTS_RDS, "Condition": {"StringEquals": {"aws:SourceAccount": "999999999999"}}}
ELSEWHERE = {**READS_ALL, "Resource": "arn:aws:secretsmanager:us-east-1:123456789012:secret:other-*"}


@pytest.mark.parametrize(
    ("trust", "statements", "text"),
    [
        (OTHER_SERVICE, [READS_ALL], "does not allow rds.amazonaws.com to assume it"),
        (FOR_ANOTHER, [READS_ALL], "does not allow rds.amazonaws.com to assume it"),
        (TRUSTS_RDS, [], "allow secretsmanager:GetSecretValue"),
        (TRUSTS_RDS, [ELSEWHERE], "allow secretsmanager:GetSecretValue"),
        (TRUSTS_RDS, [READS_ALL, DENIED], "allow secretsmanager:GetSecretValue"),
    ],
)
def test_a_role_that_may_not_read_the_secret_is_named(
    proxies: Proxies, trust: dict[str, Any], statements: list[dict[str, Any]], text: str
) -> None:
    proxies.role(trust, *statements)
    secret = proxies.user_secret()
    proxies.create(Auth=[{"SecretArn": secret}])
    proxies.instance()
    proxies.rds.call("RegisterDBProxyTargets", DBProxyName="pool", DBInstanceIdentifiers=["db1"])
    proxies.settle()
    assert proxies.spec().users == ()
    health = proxies.target()["TargetHealth"]
    assert (health["State"], health["Reason"]) == ("UNAVAILABLE", "AUTH_FAILURE")
    for part in ("Proxy does not have any registered credentials.", ROLE_ARN, secret, text):
        assert part in health["Description"], health
    told = [message for message in messages(proxies) if "Credentials couldn't be retrieved" in message]
    assert len(told) == 1 and text in told[0], "told once, however often the spec is made"

    proxies.role(TRUSTS_RDS, READS_ALL)
    proxies.rds.call("ModifyDBProxy", DBProxyName="pool")
    proxies.settle()
    assert proxies.target()["TargetHealth"] == {"State": "AVAILABLE"}


def test_a_secret_under_a_key_of_ones_own_needs_the_key_enabled_and_the_role_allowed_to_decrypt(
    proxies: Proxies,
) -> None:
    key_id = proxies.kms("CreateKey")["KeyMetadata"]["KeyId"]
    value = {"username": "app", "password": "correct horse"}
    proxies.create(Auth=[{"SecretArn": proxies.secret("own", value, KmsKeyId=key_id)}])
    proxies.instance()
    proxies.rds.call("RegisterDBProxyTargets", DBProxyName="pool", DBInstanceIdentifiers=["db1"])
    proxies.settle()

    def look_again() -> tuple[int, str]:
        proxies.rds.call("ModifyDBProxy", DBProxyName="pool")
        proxies.settle()
        return len(proxies.spec().users), proxies.target()["TargetHealth"].get("Description", "")

    users, told = look_again()
    assert users == 0 and "allow kms:Decrypt" in told
    proxies.role(TRUSTS_RDS, READS_ALL, {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"})
    assert look_again() == (1, "")
    proxies.kms("DisableKey", KeyId=key_id)
    users, told = look_again()
    assert users == 0 and "is disabled" in told


def test_a_role_may_trust_rds_for_proxies_of_one_account_only(proxies: Proxies) -> None:
    arns = "arn:aws:rds:us-east-1:123456789012:db-proxy:*"
    condition = {"StringEquals": {"aws:SourceAccount": "123456789012"}, "ArnLike": {"aws:SourceArn": arns}}
    proxies.role({**TRUSTS_RDS, "Condition": condition}, READS_ALL)
    proxies.create()
    assert len(proxies.spec().users) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("not json", "is not a JSON object"),
        ("[1]", "is not a JSON object"),
        ({"username": "app"}, "has no password"),
        ({"password": "x"}, "has no username"),
        ({"username": "app", "password": 5}, "has no password"),
        ({"username": "a" * 129, "password": "x"}, "none that a database can have"),
    ],
)
def test_a_secret_of_the_wrong_form_is_named_and_its_value_is_not(proxies: Proxies, value: Any, text: str) -> None:
    secret = proxies.secret("odd", value)
    proxies.create(Auth=[{"SecretArn": secret}, {"SecretArn": proxies.user_secret("fine")}])
    assert [user.username for user in proxies.spec().users] == ["fine"], "the others are let in"
    (problem,) = [message for message in messages(proxies) if secret in message]
    assert text in problem and "not json" not in problem.replace("is not a JSON", "")


def test_a_missing_secret_and_a_user_of_two_secrets_are_named(proxies: Proxies) -> None:
    first = proxies.secret("one", {"username": "app", "password": "1"})
    second = proxies.secret("two", {"username": "app", "password": "2"})
    proxies.create(Auth=[{"SecretArn": one} for one in (SECRET, first, second)])
    assert [user.password for user in proxies.spec().users] == ["1"]
    told = " ".join(messages(proxies))
    assert f"There is no AWS Secrets Manager secret with the ARN {SECRET}." in told
    assert f"The secret {second} holds the user app, as another one does." in told


def test_endpoints_come_change_and_go_beside_the_default_one(proxies: Proxies) -> None:
    proxies.create()
    created = proxies.rds.call(
        "CreateDBProxyEndpoint", DBProxyName="pool", DBProxyEndpointName="Reports", TargetRole="READ_ONLY",
        VpcSubnetIds=["subnet-x", "subnet-y"], Tags=[{"Key": "k", "Value": "v"}],
    )["DBProxyEndpoint"]  # fmt: skip
    assert (created["Status"], created["VpcId"], created["IsDefault"]) == ("creating", "vpc-2", False)
    assert created["VpcSecurityGroupIds"] == ["sg-vpc-2"]
    proxies.settle()
    default, reports = proxies.rds.call("DescribeDBProxyEndpoints", DBProxyName="pool")["DBProxyEndpoints"]
    assert (default["DBProxyEndpointName"], default["IsDefault"]) == ("default", True)
    assert default["Endpoint"] == proxies.describe()["Endpoint"] != reports["Endpoint"]
    assert (reports["DBProxyEndpointName"], reports["Status"], reports["TargetRole"]) == (
        "reports", "available", "READ_ONLY",
    )  # fmt: skip
    tags = proxies.rds.call("ListTagsForResource", ResourceName=reports["DBProxyEndpointArn"])["TagList"]
    assert tags == [{"Key": "k", "Value": "v"}]
    first, second = proxies.spec().listeners
    assert second.name.startswith("reports.endpoint.proxy-") and second.read_only and not first.read_only
    proxies.rds.call("ModifyDBProxyEndpoint", DBProxyEndpointName="reports", NewDBProxyEndpointName="bi")
    proxies.settle()
    after, changed = proxies.spec().listeners
    assert changed.name.startswith("bi.endpoint.") and changed.endpoint_id == second.endpoint_id
    assert after.certificate == first.certificate, "nobody else's certificate changes"
    proxies.rds.call("DeleteDBProxyEndpoint", DBProxyEndpointName="BI")
    proxies.settle()
    assert len(proxies.spec().listeners) == 1
    assert "DBProxyEndpointNotFoundFault" in proxies.rds.refused("DescribeDBProxyEndpoints", DBProxyEndpointName="bi")
    assert [one for one in messages(proxies) if "endpoint" in one] == [
        "RDS created endpoint reports for DB proxy pool.",
        "RDS modified endpoint bi of DB proxy pool.",
        "RDS deleted endpoint bi for DB proxy pool.",
    ]


def test_endpoint_refusals(proxies: Proxies) -> None:
    proxies.create()
    subnets = {"VpcSubnetIds": ["subnet-a", "subnet-b"]}
    new = {"DBProxyName": "pool", **subnets}
    for number in range(20):
        proxies.rds.call("CreateDBProxyEndpoint", DBProxyEndpointName=f"e{number}", **new)
    for name, shape in (
        ("e20", "DBProxyEndpointQuotaExceededFault"),
        ("E1", "DBProxyEndpointAlreadyExistsFault"),
        ("default", VALUE),
    ):
        assert proxies.rds.refused("CreateDBProxyEndpoint", DBProxyEndpointName=name, **new).startswith(shape)
    assert "DBProxyNotFoundFault" in proxies.rds.refused(
        "CreateDBProxyEndpoint", DBProxyName="none", DBProxyEndpointName="x", **subnets
    )
    for operation in ("DeleteDBProxyEndpoint", "ModifyDBProxyEndpoint"):
        assert "InvalidDBProxyEndpointStateFault" in proxies.rds.refused(operation, DBProxyEndpointName="default")
        assert "DBProxyEndpointNotFoundFault" in proxies.rds.refused(operation, DBProxyEndpointName="none")
    proxies.settle()
    assert all(one["Status"] == "available" for one in proxies.rds.call("DescribeDBProxyEndpoints")["DBProxyEndpoints"])
    assert len(proxies.spec().listeners) == 21


def test_a_rotated_secret_makes_a_new_spec_and_nothing_else_does(proxies: Proxies) -> None:
    secret = proxies.user_secret("app", "old")
    proxies.create(Auth=[{"SecretArn": secret}])
    given = proxies.rds.get(GivenProxySpec, proxies.spec().proxy_id)

    def wanted() -> GivenProxySpec:
        with proxies.rds.store.read() as view:
            proxy = view.scan(DBProxy)[0]
            return wanted_spec(view, proxies.tools, proxy, given)

    assert wanted() == given, "nothing has changed, though sealing is never the same twice"
    proxies.rotate(secret, {"username": "app", "password": "new"})
    assert wanted() != given
    assert opened(wanted(), proxies.tools).users[0].password == "new"
    proxies.rds.clock.advance(340 * 24 * 3600.0)
    assert wanted().spec.listeners[0].certificate != given.spec.listeners[0].certificate, "renewed before it ends"


def test_demands_name_ids_and_passing_the_role(proxies: Proxies) -> None:
    arn = proxies.create()["DBProxyArn"]
    demands = proxies.rds.demands("ModifyDBProxy", DBProxyName="POOL", RoleArn=ROLE_ARN)
    assert [(one.action, one.resource) for one in demands] == [
        ("rds:ModifyDBProxy", arn),
        ("iam:PassRole", ROLE_ARN),
    ]
    assert demands[1].context == {"iam:PassedToService": "rds.amazonaws.com"}
    register = {"DBProxyName": "pool", "DBInstanceIdentifiers": ["DB1"]}
    group, instance = proxies.rds.demands("RegisterDBProxyTargets", **register)
    assert group.resource.startswith("arn:aws:rds:us-east-1:123456789012:target-group:prx-tg-")
    assert instance.resource == "arn:aws:rds:us-east-1:123456789012:db:db1"
    proxies.rds.call("AddTagsToResource", ResourceName=arn, Tags=[{"Key": "team", "Value": "blue"}])
    (demand,) = proxies.rds.demands("DeleteDBProxy", DBProxyName="pool")
    assert demand.context["aws:ResourceTag/team"] == "blue"
    assert proxies.rds.demands("DescribeDBProxies")[0].resource.endswith(":db-proxy:*")
    creation = proxies.request("x", Tags=[{"Key": "a"}])
    assert [one.action for one in proxies.rds.demands("CreateDBProxy", **creation)] == [
        "rds:CreateDBProxy", "rds:AddTagsToResource", "iam:PassRole",
    ]  # fmt: skip
