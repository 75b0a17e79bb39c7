"""The database users of a proxy, read from its secrets as its IAM role would read them.

Guarantees: a password leaves Secrets Manager only for a role that `rds.amazonaws.com` may assume and that may read the
secret; what cannot be read is told in a sentence that names what is missing, never with anything of the secret's value.
Source: RDS user guide, "Setting up database credentials for RDS Proxy".
"""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.model.db_proxy import IAM_REQUIRED, DBProxy, UserAuth
from mainstay.model.errors import MainstayError
from mainstay.model.proxy import ProxyUser
from mainstay.services.iam.service_roles import time_keys, trust_obstacle
from mainstay.services.secretsmanager.interfaces import current_value, find_secret, may_decrypt, may_read
from mainstay.store import Reader
from mainstay.workflows.engine import Tools

SERVICE = "rds.amazonaws.com"
READ_SECRET = "secretsmanager:GetSecretValue"  # noqa: S105 - an action, no secret
DECRYPT = "kms:Decrypt"
USERNAME_LENGTH_MAX = 128


class Credentials(msgspec.Struct, frozen=True):
    """What the secrets hold, in the order of Auth, and what stands in the way of the others."""

    users: tuple[ProxyUser, ...] = ()
    problems: tuple[str, ...] = ()


class Unusable(Exception):
    """A secret gives no user; the text says why and has nothing of its value."""


def read_credentials(reader: Reader, tools: Tools, proxy: DBProxy) -> Credentials:
    """Every user of the proxy's secrets as they are at this moment of the store."""
    users: dict[str, ProxyUser] = {}
    problems: list[str] = []
    for auth in proxy.auth:
        try:
            user = _user(auth, _secret_value(reader, tools, proxy, auth))
            if user.username in users:
                raise Unusable(f"The secret {auth.secret_arn} holds the user {user.username}, as another one does.")
        except Unusable as error:
            problems.append(str(error))
        else:
            users[user.username] = user
    return Credentials(tuple(users.values()), tuple(problems))


def _secret_value(reader: Reader, tools: Tools, proxy: DBProxy, auth: UserAuth) -> str:
    now, arn = tools.clock.wall(), auth.secret_arn
    obstacle = trust_obstacle(reader, proxy.scope, proxy.role_arn, SERVICE, source_arn=proxy.arn, now=now)
    if not obstacle and find_secret(reader, proxy.scope, arn) is None:
        raise Unusable(f"Credentials couldn't be retrieved. There is no AWS Secrets Manager secret with the ARN {arn}.")
    if not obstacle and not may_read(reader, proxy.scope, proxy.role_arn, arn, time_keys(now)):
        obstacle = f"Neither its policies nor that of the secret allow {READ_SECRET}, or one of them denies it."
    if not obstacle and not may_decrypt(reader, proxy.scope, proxy.role_arn, arn):
        obstacle = f"Neither its policies nor that of the secret's KMS key allow {DECRYPT}, or one of them denies it."
    if obstacle:
        raise Unusable(
            f'Credentials couldn\'t be retrieved. The IAM role "{proxy.role_arn}" is not authorized to read the AWS'
            f" Secrets Manager secret with the ARN {arn}. {obstacle}"
        )
    try:
        return current_value(reader, tools.vault, proxy.scope, auth.secret_arn)
    except MainstayError as error:
        raise Unusable(
            f"Credentials couldn't be retrieved from the AWS Secrets Manager secret with the ARN {auth.secret_arn}."
            f" {error.message}"
        ) from error


def _user(auth: UserAuth, text: str) -> ProxyUser:
    try:
        value: Any = msgspec.json.decode(text)
    except msgspec.DecodeError:
        value = None
    if not isinstance(value, dict):
        raise Unusable(
            f"The secret {auth.secret_arn} is not a JSON object. It must be one with the keys username and password."
        )
    for name in ("username", "password"):
        if not isinstance(value.get(name), str) or not value[name]:
            raise Unusable(f"The secret {auth.secret_arn} has no {name}: its JSON object must have this key.")
    if len(value["username"]) > USERNAME_LENGTH_MAX or "\0" in value["username"] + value["password"]:
        raise Unusable(f"The username or password in the secret {auth.secret_arn} is none that a database can have.")
    return ProxyUser(
        username=value["username"],
        password=value["password"],
        iam_required=auth.iam_auth == IAM_REQUIRED,
        client_password_auth_type=auth.client_password_auth_type,
    )
