"""The JSON of a database secret, and the DB instance that it belongs to.

Source: Secrets Manager user guide, "JSON structure of AWS Secrets Manager secrets"; AWS writes them in this form.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError
from mainstay.model.node import Node
from mainstay.model.records import Scope
from mainstay.model.secret import Secret
from mainstay.model.secrets_manager import StoredSecret
from mainstay.services.secretsmanager.checks import Value, invalid_request
from mainstay.services.secretsmanager.lookup import find_secret
from mainstay.services.secretsmanager.values import current_version, read_value
from mainstay.store import Reader

HOW = (
    "Mainstay rotates secrets whose SecretString is a JSON object with engine, host (or dbInstanceIdentifier), username"
    " and password of a DB instance of this service."
)


class DatabaseSecret(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials of one user of one DB instance. `document` is the whole JSON object, with clear values."""

    engine: str
    host: str
    instance_identifier: str
    database: str
    username: str
    password: Secret
    master_arn: str
    document: dict[str, Any]

    def __repr__(self) -> str:
        return f"DatabaseSecret({self.username} of {self.instance_identifier or self.host})"

    def with_password(self, password: str) -> Value:
        """The secret's next value: as it is, with another password."""
        return Value(json.dumps({**self.document, "password": password}), binary=False)


def read_database_secret(value: Value) -> DatabaseSecret:
    """The credentials in a value. Raises `ApiError` InvalidRequestException if it is none such."""
    try:
        document = None if value.binary else json.loads(value.text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise invalid_request(f"The secret cannot be rotated. {HOW}")
    texts = {name: document.get(name, "") for name in ("engine", "host", "dbInstanceIdentifier", "dbname", "username",
                                                       "password", "masterarn")}  # fmt: skip
    for name, text in texts.items():
        if not isinstance(text, str) or "\0" in text or (name in ("engine", "username", "password") and not text):
            raise invalid_request(f"The secret cannot be rotated: its {name} is missing or no string. {HOW}")
    return DatabaseSecret(
        engine=texts["engine"],
        host=texts["host"].lower(),
        instance_identifier=texts["dbInstanceIdentifier"].lower(),
        database=texts["dbname"],
        username=texts["username"],
        password=Secret(texts["password"]),
        master_arn=texts["masterarn"],
        document=document,
    )


def instance_for(reader: Reader, scope: Scope, credentials: DatabaseSecret) -> DBInstance:
    """The DB instance of this region that the credentials are for. Raises `ApiError` InvalidRequestException."""
    instance = _by_identifier(reader, scope, credentials) or _by_host(reader, scope, credentials.host)
    if instance is None:
        raise invalid_request(
            f"The secret cannot be rotated: there is no DB instance"
            f" {credentials.instance_identifier or credentials.host or '(no host given)'} in this region. {HOW}"
        )
    if instance.engine != credentials.engine:
        raise invalid_request(
            f"The secret cannot be rotated: its engine is {credentials.engine}, but DB instance"
            f" {instance.db_instance_identifier} is {instance.engine}."
        )
    if instance.source_dbi_resource_id:
        raise invalid_request(
            f"The secret cannot be rotated: DB instance {instance.db_instance_identifier} is a read replica. Name its"
            " source in the secret."
        )
    return instance


def _by_identifier(reader: Reader, scope: Scope, credentials: DatabaseSecret) -> DBInstance | None:
    return reader.get(DBInstance, scope, credentials.instance_identifier) if credentials.instance_identifier else None


def _by_host(reader: Reader, scope: Scope, host: str) -> DBInstance | None:
    for instance in reader.scan(DBInstance, scope) if host else ():
        node = reader.get(Node, scope, instance.node_id)
        if node is not None and host in (node.spec.endpoint.name, node.spec.endpoint.address):
            return instance
    return None


def require_rotatable(reader: Reader, vault: Vault, secret: StoredSecret) -> DatabaseSecret:
    """The credentials in the secret's current value. Raises `ApiError` if Mainstay could not rotate them."""
    try:
        version = current_version(secret)
    except ApiError as error:
        raise invalid_request("The secret cannot be rotated: it has no value yet.") from error
    credentials = read_database_secret(read_value(reader, vault, secret, version.version_id))
    instance = instance_for(reader, secret.scope, credentials)
    managed = reader.find(StoredSecret, secret.scope, "owner", f"db:{instance.dbi_resource_id}")
    if credentials.username == instance.master_username and managed:
        raise invalid_request(
            f"The secret cannot be rotated: the master password of {instance.db_instance_identifier} is managed by RDS"
            f" in the secret {managed[0].name}. Rotate that one."
        )
    if credentials.master_arn and find_secret(reader, secret.scope, credentials.master_arn) is None:
        raise invalid_request("The secret cannot be rotated: the secret in its masterarn does not exist.")
    return credentials
