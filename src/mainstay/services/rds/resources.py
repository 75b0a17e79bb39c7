"""The kinds of RDS resources that have an ARN: how to find one by name or ARN, and what AWS says when there is none."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import msgspec

from mainstay.decide.identifiers import Arn, parse_arn
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_parameter_group import DBParameterGroup
from mainstay.model.db_proxy import DBProxy, DBProxyEndpoint, DBProxyTargetGroup
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup, DBSnapshot
from mainstay.model.db_subnet_group import DBSubnetGroup
from mainstay.model.errors import ApiError, invalid_value
from mainstay.model.option_group import OptionGroup
from mainstay.model.records import Scope
from mainstay.store import Reader

Tagged: TypeAlias = (
    DBInstance
    | DBSubnetGroup
    | DBParameterGroup
    | OptionGroup
    | DBProxy
    | DBProxyTargetGroup
    | DBProxyEndpoint
    | DBSnapshot
    | DBInstanceAutomatedBackup
)
R = TypeVar("R", DBInstance, DBSubnetGroup, DBParameterGroup, OptionGroup, DBSnapshot)


class ResourceType(msgspec.Struct, frozen=True, kw_only=True):
    """One kind. `name` is its word in ARNs; `not_found_text` has one place for the name.

    `index_name` is the lookup by which the name in its ARN is found, "" where that is its key.
    """

    name: str
    kind: type[Tagged]
    not_found_shape: str
    not_found_text: str
    index_name: str = ""

    def find(self, reader: Reader, scope: Scope, name: str) -> Tagged | None:
        """The resource of this name, None if there is none."""
        if not self.index_name:
            return reader.get(self.kind, scope, name)
        found = reader.find(self.kind, scope, self.index_name, name)
        return found[0] if found else None

    def not_found(self, name: str) -> ApiError:
        """AWS's error for a name that is none of this kind."""
        return ApiError(self.not_found_shape, self.not_found_text.format(name))


TYPES = (
    ResourceType(
        name="db",
        kind=DBInstance,
        not_found_shape="DBInstanceNotFoundFault",
        not_found_text="DBInstance {} not found.",
    ),
    ResourceType(
        name="subgrp",
        kind=DBSubnetGroup,
        not_found_shape="DBSubnetGroupNotFoundFault",
        not_found_text="DB subnet group '{}' does not exist.",
    ),
    ResourceType(
        name="pg",
        kind=DBParameterGroup,
        not_found_shape="DBParameterGroupNotFoundFault",
        not_found_text="DBParameterGroup not found: {}",
    ),
    ResourceType(
        name="og",
        kind=OptionGroup,
        not_found_shape="OptionGroupNotFoundFault",
        not_found_text="Specified OptionGroupName: {} not found.",
    ),
    ResourceType(
        name="db-proxy",
        kind=DBProxy,
        not_found_shape="DBProxyNotFoundFault",
        not_found_text="DB proxy {} doesn't exist.",
    ),
    ResourceType(
        name="target-group",
        kind=DBProxyTargetGroup,
        not_found_shape="DBProxyTargetGroupNotFoundFault",
        not_found_text="Target group {} doesn't exist.",
    ),
    ResourceType(
        name="db-proxy-endpoint",
        kind=DBProxyEndpoint,
        not_found_shape="DBProxyEndpointNotFoundFault",
        not_found_text="DB proxy endpoint {} doesn't exist.",
    ),
    ResourceType(
        name="snapshot",
        kind=DBSnapshot,
        not_found_shape="DBSnapshotNotFoundFault",
        not_found_text="DBSnapshot not found: {}",
    ),
    ResourceType(
        name="auto-backup",
        kind=DBInstanceAutomatedBackup,
        not_found_shape="DBInstanceAutomatedBackupNotFoundFault",
        not_found_text="DBInstanceAutomatedBackup {} not found.",
        index_name="automated-backup-id",
    ),
)
BY_NAME = {one.name: one for one in TYPES}
BY_KIND = {one.kind: one for one in TYPES}


def stored_name(scope: Scope, resource_type: str, text: str) -> str:
    """The key that `text` means, which is a name or an ARN.

    Raises `ApiError` InvalidParameterValue for an ARN of something else, or of another account or region.
    """
    if not text.startswith("arn:"):
        return text.lower()
    arn = own_arn(scope, text)
    if arn.resource_type != resource_type:
        raise invalid_value(f"The ARN {text} does not name a resource of type {resource_type}.")
    return arn.name


def own_arn(scope: Scope, text: str) -> Arn:
    """The parts of an ARN of this account and region. Raises `ApiError` InvalidParameterValue for anything else."""
    arn = parse_arn(text)
    if arn is None:
        raise invalid_value(f"Invalid resource name: {text}")
    if (arn.account_id, arn.region) != (scope.account_id, scope.region):
        raise invalid_value(f"The specified resource name does not match an RDS resource in this region: {text}")
    return msgspec.structs.replace(arn, name=arn.name.lower())


def require(reader: Reader, scope: Scope, kind: type[R], text: str) -> R:
    """The resource of this name or ARN. Raises the NotFound error of its kind if there is none."""
    resource_type = BY_KIND[kind]
    name = stored_name(scope, resource_type.name, text)
    record = reader.get(kind, scope, name)
    if record is None:
        raise resource_type.not_found(name)
    return record
