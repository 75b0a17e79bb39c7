"""The tour's part on RDS Proxy: a thousand clients on ten connections, and a failover under them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from botocore.exceptions import ClientError

from mainstay.host.processes import raise_file_limit
from mainstay.model.errors import Permanent

NAME = "tour-proxy"
SECRET = "tour/shop"  # noqa: S105 - the secret's name
CLIENTS = 1000
CONNECTIONS = 10
AT_ONCE = 50
SETTLE_TIMEOUT_S = 60.0
POLL_S = 0.1

_TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "rds.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
_READ = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}],
}


class TourProxy:
    """A proxy in front of the tour's instance. `client(service)` gives an API client."""

    def __init__(self, client: Callable[[str], Any], instance: str) -> None:
        self._rds, self._iam, self._secrets = client("rds"), client("iam"), client("secretsmanager")
        self._ec2 = client("ec2")
        self._instance = instance

    def create(self, username: str, password: str, max_connections: int) -> str:
        """Secret, role, proxy, pool of at most `CONNECTIONS`, target; returns the proxy's address once it serves."""
        value = json.dumps({"username": username, "password": password})
        secret = self._secrets.create_secret(Name=SECRET, SecretString=value)["ARN"]
        role = self._iam.create_role(RoleName=NAME, AssumeRolePolicyDocument=json.dumps(_TRUST))["Role"]["Arn"]
        self._iam.put_role_policy(RoleName=NAME, PolicyName="read", PolicyDocument=json.dumps(_READ))
        default = [{"Name": "default-for-az", "Values": ["true"]}]
        subnets = [one["SubnetId"] for one in self._ec2.describe_subnets(Filters=default)["Subnets"]]
        self._rds.create_db_proxy(
            DBProxyName=NAME,
            EngineFamily="POSTGRESQL",
            RoleArn=role,
            VpcSubnetIds=subnets,
            Auth=[{"SecretArn": secret}],
        )
        address: str = self._await(lambda: self._available())
        self._rds.modify_db_proxy_target_group(
            DBProxyName=NAME,
            TargetGroupName="default",
            ConnectionPoolConfig={"MaxConnectionsPercent": max(1, CONNECTIONS * 100 // max_connections)},
        )
        self._rds.register_db_proxy_targets(DBProxyName=NAME, DBInstanceIdentifiers=[self._instance])
        self._await(lambda: self._health() == "AVAILABLE")
        return address

    def delete(self) -> None:
        """Removes what an earlier tour left."""
        removals: tuple[Callable[[], Any], ...] = (
            lambda: self._rds.delete_db_proxy(DBProxyName=NAME),
            lambda: self._iam.delete_role_policy(RoleName=NAME, PolicyName="read"),
            lambda: self._iam.delete_role(RoleName=NAME),
            lambda: self._secrets.delete_secret(SecretId=SECRET, ForceDeleteWithoutRecovery=True),
        )
        for remove in removals:
            with suppress(ClientError):
                remove()
        self._await(lambda: not [one for one in self._proxies() if one["DBProxyName"] == NAME])

    def _proxies(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._rds.describe_db_proxies()["DBProxies"]
        return found

    def _available(self) -> str:
        shown = self._rds.describe_db_proxies(DBProxyName=NAME)["DBProxies"][0]
        return str(shown["Endpoint"]) if shown["Status"] == "available" else ""

    def _health(self) -> str:
        (target,) = self._rds.describe_db_proxy_targets(DBProxyName=NAME)["Targets"]
        return str(target["TargetHealth"]["State"])

    def _await(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise Permanent("the proxy is not as it should be in time", hint="See `mainstay logs control`.")
            time.sleep(POLL_S)
        return found


class Crowd:
    """Clients of a proxy, each a connection of its own that stays open."""

    def __init__(self, conninfo: dict[str, Any]) -> None:
        raise_file_limit()
        self._conninfo = conninfo
        self._clients: list[psycopg.AsyncConnection] = []
        self._turn = asyncio.Semaphore(AT_ONCE)
        self.told_unknown = 0
        """How many were told that the outcome of their statement is not known, which is the truth."""

    async def connect(self) -> set[int]:
        """Everybody connects and asks one question; the database sessions that answered."""
        self._clients = list(await asyncio.gather(*(self._one() for _ in range(CLIENTS))))
        return await self.ask()

    async def ask(self) -> set[int]:
        """Every client asks which database session answers it. Raises `psycopg.Error` if one was disconnected."""
        return set(await asyncio.gather(*(self._question(client) for client in self._clients)))

    async def close(self) -> None:
        """Everybody leaves."""
        await asyncio.gather(*(client.close() for client in self._clients), return_exceptions=True)

    async def _one(self) -> psycopg.AsyncConnection:
        async with self._turn:
            return await psycopg.AsyncConnection.connect(**self._conninfo, autocommit=True)

    async def _question(self, client: psycopg.AsyncConnection) -> int:
        async with self._turn:
            try:
                return await _session_of(client)
            except psycopg.errors.TransactionResolutionUnknown:
                self.told_unknown += 1  # it was on its way when the primary died; the connection is as good as before
                return await _session_of(client)


async def _session_of(client: psycopg.AsyncConnection) -> int:
    row = await (await client.execute("SELECT pg_backend_pid()")).fetchone()
    return 0 if row is None else int(row[0])
