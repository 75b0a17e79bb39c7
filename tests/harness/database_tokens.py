"""An instance with IAM database authentication: tokens for it as boto3 makes them, and callers with policies."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.service import Service


@dataclass
class TokenPlace:
    """One instance of a service."""

    service: Service
    instance: dict[str, Any]

    @property
    def address(self) -> tuple[str, int]:
        return self.instance["Endpoint"]["Address"], self.instance["Endpoint"]["Port"]

    def arn(self, user: str = "*", resource: str = "") -> str:
        region, account = self.instance["DBInstanceArn"].split(":")[3:5]
        return f"arn:aws:rds-db:{region}:{account}:dbuser:{resource or self.instance['DbiResourceId']}/{user}"

    def token(self, user: str, *, host: str = "", port: int = 0, **key: Any) -> str:
        made: str = self.service.client("rds", **key).generate_db_auth_token(
            host or self.address[0], port or self.address[1], user
        )
        return made

    @contextmanager
    def caller(self, *statements: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """The access key of a new IAM user with these permissions."""
        iam = self.service.client("iam")
        name = f"u-{secrets.token_hex(4)}"
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=policy(*statements))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        try:
            yield key["AccessKeyId"], key["SecretAccessKey"]
        finally:
            iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
            iam.delete_user_policy(UserName=name, PolicyName="own")
            iam.delete_user(UserName=name)

    @property
    def refusing_policies(self) -> list[list[dict[str, Any]]]:
        """Permissions under which nobody logs in as alice."""
        account = self.instance["DBInstanceArn"].split(":")[4]
        return [
            [allow(self.arn("carol"))],
            [allow(self.arn("alice", "db-AAAAAAAAAAAAAAAAAAAAAAAAAA"))],
            [allow(self.arn("alice").replace(account, "999999999999"))],
            [allow("*"), allow(self.arn("alice"), "Deny")],
            [{"Effect": "Allow", "Action": "rds:*", "Resource": "*"}],
        ]

    def logs(self) -> str:
        """Everything that the service and its engines have logged."""
        home = self.service.home
        return "".join(
            path.read_text(errors="replace")
            for top in ("logs", "agent")
            for path in (home / top).rglob("*.log*")
            if path.is_file()
        )


def policy(*statements: dict[str, Any]) -> str:
    """A policy document."""
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def allow(resource: str, effect: str = "Allow") -> dict[str, Any]:
    """A statement about logins."""
    return {"Effect": effect, "Action": "rds-db:connect", "Resource": resource}
