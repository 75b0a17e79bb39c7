"""DB proxies without processes: the real API and workflows, and a twin of the proxy process that only remembers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from harness.rds_calls import Rds
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.ec2 import ALL_PROTOCOLS, Permission, SecurityGroup, SecurityGroupRule
from mainstay.model.errors import Transient
from mainstay.model.iam import Role
from mainstay.model.node import NodePhase, NodeRole, NodeStatus
from mainstay.model.proxy import ProxySpec, ProxyStatus, TargetState
from mainstay.model.records import GLOBAL_REGION, Scope
from mainstay.services.kms.api import operations as kms
from mainstay.services.secretsmanager.api import operations as secretsmanager
from mainstay.workflows.engine import Tools, Worker
from mainstay.workflows.fleet import Fleet
from mainstay.workflows.programs import PROGRAMS
from mainstay.workflows.proxy_fleet import ProxyFleet

ACCOUNT = "123456789012"
ROLE_ARN = f"arn:aws:iam::{ACCOUNT}:role/proxy"
TRUSTS_RDS = {"Effect": "Allow", "Principal": {"Service": "rds.amazonaws.com"}, "Action": "sts:AssumeRole"}
READS_ALL = {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}


def policy(*statements: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


class ProcessTwin:
    """`ProxyFleet` as the process behaves: newer specs replace older ones, absent ones leave nothing."""

    def __init__(self) -> None:
        self.specs: dict[str, ProxySpec] = {}
        self.statuses: dict[str, ProxyStatus] = {}
        self.puts = 0
        self.away = False
        self.failure = ""
        self.busy = False
        """A process that takes specs and puts none into effect."""

    async def put_proxy(self, spec: ProxySpec) -> None:
        if self.away:
            raise Transient("the proxy process is not connected", retry_after_s=0.0)
        self.puts += 1
        spec = msgspec.convert(msgspec.to_builtins(spec), ProxySpec)
        known = self.specs.get(spec.proxy_id)
        if known is not None and known.generation >= spec.generation:
            return
        if spec.absent:
            self.specs.pop(spec.proxy_id, None)
            self.statuses.pop(spec.proxy_id, None)
            return
        self.specs[spec.proxy_id] = spec
        state = TargetState.AVAILABLE if spec.target else TargetState.REGISTERING
        done = 0 if self.failure or self.busy else spec.generation
        self.statuses[spec.proxy_id] = ProxyStatus(
            proxy_id=spec.proxy_id, generation=done, target_state=state, failure=self.failure
        )

    def observe(self, proxy_id: str) -> ProxyStatus | None:
        if self.away:
            raise Transient("the proxy process is not connected", retry_after_s=0.0)
        return self.statuses.get(proxy_id)

    def last_seen(self, proxy_id: str) -> ProxyStatus | None:
        return self.statuses.get(proxy_id)


class RunningInstances:
    """`Fleet`, as far as showing instances needs it: all of them run."""

    phase = NodePhase.RUNNING

    def last_seen(self, node_id: str) -> NodeStatus:
        return NodeStatus(
            node_id=node_id, dbi_resource_id="", db_instance_identifier="", role=NodeRole.PRIMARY,
            availability_zone="us-east-1a", phase=self.phase, generation=1, settled_generation=1,
        )  # fmt: skip


class Proxies:
    """The `rds` fixture with what proxies need: groups, a role, secrets, an instance, a worker and the twin."""

    def __init__(self, rds: Rds, authorities: CertificateAuthorities) -> None:
        self.rds = rds
        self.process = ProcessTwin()
        self.fleet = RunningInstances()
        self.vault = Vault(bytes(32), rds.randomness)
        rds.collaborators |= {Fleet: self.fleet, ProxyFleet: self.process, Vault: self.vault}
        self.tools = Tools(
            store=rds.store, fleet=cast(Fleet, self.fleet), proxies=self.process, clock=rds.clock,
            randomness=rds.randomness, settings=rds.settings, engines=next(iter(rds.collaborators.values())),
            certificates=authorities, vault=self.vault,
        )  # fmt: skip
        self.worker = Worker(PROGRAMS, self.tools)
        for vpc_id in ("vpc-1", "vpc-2"):
            self.group(f"sg-{vpc_id}", "default", vpc_id, "127.0.0.0/8")
        self.group("sg-app", "app", "vpc-1", "10.1.0.0/16")
        self.role(TRUSTS_RDS, READS_ALL)

    def group(self, group_id: str, name: str, vpc_id: str, admits: str) -> None:
        scope = self.rds.scope
        self.rds.insert(
            SecurityGroup(scope=scope, group_id=group_id, name=name, description="d", vpc_id=vpc_id),
            SecurityGroupRule(scope=scope, rule_id=f"sgr-{group_id}", group_id=group_id, is_egress=False,
                              permission=Permission(protocol=ALL_PROTOCOLS, cidr_ipv4=admits)),
        )  # fmt: skip

    def role(self, trust: Mapping[str, Any], *statements: Mapping[str, Any]) -> None:
        """The proxies' role with these policies, replaced if it is there."""
        scope = Scope(ACCOUNT, GLOBAL_REGION)
        inline = {"own": policy(*statements)} if statements else {}
        role = Role(scope=scope, name="proxy", id="AROA", created_at=0.0, assume_role_policy=policy(trust),
                    inline_policies=inline)  # fmt: skip
        with self.rds.store.transaction() as tx:
            if tx.get(Role, scope, "proxy") is None:
                tx.insert(role)
            else:
                tx.put(role)

    def secret(self, name: str, value: Any, **members: Any) -> str:
        """A secret with this value, JSON unless it is text already; its ARN."""
        text = value if isinstance(value, str) else json.dumps(value)
        request = {"Name": name, "SecretString": text, "ClientRequestToken": "t" * 32, **members}
        arn: str = self._secret_call("CreateSecret", **request)["ARN"]
        return arn

    def rotate(self, arn: str, value: Any) -> None:
        self._secret_call("PutSecretValue", SecretId=arn, SecretString=json.dumps(value), ClientRequestToken="u" * 32)

    def _secret_call(self, operation: str, **request: Any) -> Any:
        return self.rds.run(lambda call: secretsmanager.built[operation].handler(call, request))

    def kms(self, operation: str, **request: Any) -> Any:
        return self.rds.run(lambda call: kms.built[operation].handler(call, request))

    def user_secret(self, username: str = "app", password: str = "correct horse") -> str:  # noqa: S107 - of a test
        return self.secret(f"db/{username}", {"username": username, "password": password, "engine": "postgres"})

    def request(self, name: str = "pool", **members: Any) -> dict[str, Any]:
        """A CreateDBProxy request that succeeds unless a member makes it wrong; a member that is None is left out."""
        wanted = {
            "DBProxyName": name,
            "EngineFamily": "POSTGRESQL",
            "RoleArn": ROLE_ARN,
            "VpcSubnetIds": ["subnet-a", "subnet-b"],
            **members,
        }
        if "Auth" not in wanted:
            wanted["Auth"] = [{"SecretArn": self.user_secret(f"user-{name}")}]
        return {member: value for member, value in wanted.items() if value is not None}

    def create(self, name: str = "pool", **members: Any) -> dict[str, Any]:
        """An available proxy as DescribeDBProxies shows it."""
        self.rds.call("CreateDBProxy", **self.request(name, **members))
        self.settle()
        return self.describe(name)

    def describe(self, name: str = "pool") -> dict[str, Any]:
        shown: dict[str, Any] = self.rds.call("DescribeDBProxies", DBProxyName=name)["DBProxies"][0]
        return shown

    def target(self, name: str = "pool") -> dict[str, Any]:
        """The proxy's only target."""
        (shown,) = self.rds.call("DescribeDBProxyTargets", DBProxyName=name)["Targets"]
        return dict(shown)

    def spec(self, name: str = "pool") -> ProxySpec:
        """What the process was given last."""
        return next(spec for spec in self.process.specs.values() if spec.name == name)

    def instance(self, identifier: str = "db1", **fields: Any) -> DBInstance:
        """An available instance of vpc-1 whose default group admits this machine."""
        wanted = {"vpc_security_group_ids": ("sg-vpc-1",), "instance_create_time": 1.0}
        instance: DBInstance = self.rds.instance(identifier, **(wanted | fields))
        return instance

    def settle(self, seconds: float = 20.0) -> None:
        """Lets the workflows run for so long, or until there are none."""

        async def run() -> None:
            for _ in range(int(seconds / 0.25)):
                await self.worker.drain()
                if not self.rds.jobs():
                    return
                self.rds.clock.advance(0.25)

        asyncio.run(run())
