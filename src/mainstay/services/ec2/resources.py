"""The kinds of EC2 resources: their id prefixes, ARNs and the error codes for ids that name nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from mainstay.host.randomness import HEX, Randomness
from mainstay.model.ec2 import (
    InternetGateway,
    NetworkAcl,
    NetworkInterface,
    Resource,
    RouteTable,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
    Vpc,
)
from mainstay.model.errors import ApiError
from mainstay.model.records import Scope
from mainstay.store import Reader

R = TypeVar("R", bound=Resource)

_ID_BODY = re.compile(r"[0-9a-z]{1,64}")


class ResourceType(msgspec.Struct, frozen=True, kw_only=True):
    """What EC2 calls one kind of record.

    `name` is its word in ARNs and tag specifications. `malformed_code` is empty for kinds whose badly formed ids EC2
    reports as not found.
    """

    kind: type[Resource]
    name: str
    prefix: str
    noun: str
    not_found_code: str
    malformed_code: str = ""


TYPES: tuple[ResourceType, ...] = (
    ResourceType(kind=Vpc, name="vpc", prefix="vpc", noun="vpc ID", not_found_code="InvalidVpcID.NotFound"),
    ResourceType(
        kind=Subnet, name="subnet", prefix="subnet", noun="subnet ID", not_found_code="InvalidSubnetID.NotFound"
    ),
    ResourceType(
        kind=SecurityGroup,
        name="security-group",
        prefix="sg",
        noun="security group",
        not_found_code="InvalidGroup.NotFound",
        malformed_code="InvalidGroupId.Malformed",
    ),
    ResourceType(
        kind=SecurityGroupRule,
        name="security-group-rule",
        prefix="sgr",
        noun="security group rule ID",
        not_found_code="InvalidSecurityGroupRuleId.NotFound",
        malformed_code="InvalidSecurityGroupRuleId.Malformed",
    ),
    ResourceType(
        kind=InternetGateway,
        name="internet-gateway",
        prefix="igw",
        noun="internetGateway ID",
        not_found_code="InvalidInternetGatewayID.NotFound",
    ),
    ResourceType(
        kind=RouteTable,
        name="route-table",
        prefix="rtb",
        noun="routeTable ID",
        not_found_code="InvalidRouteTableID.NotFound",
    ),
    ResourceType(
        kind=NetworkAcl,
        name="network-acl",
        prefix="acl",
        noun="networkAcl ID",
        not_found_code="InvalidNetworkAclID.NotFound",
    ),
    ResourceType(
        kind=NetworkInterface,
        name="network-interface",
        prefix="eni",
        noun="networkInterface ID",
        not_found_code="InvalidNetworkInterfaceID.NotFound",
        malformed_code="InvalidNetworkInterfaceId.Malformed",
    ),
)

_BY_KIND = {one.kind: one for one in TYPES}
_BY_PREFIX = {one.prefix: one for one in TYPES}


def type_of(kind: type[Resource]) -> ResourceType:
    """What EC2 calls this kind of record."""
    return _BY_KIND[kind]


def type_of_id(resource_id: str) -> ResourceType | None:
    """The kind that an id's prefix names, or None."""
    return _BY_PREFIX.get(resource_id.rpartition("-")[0])


def new_id(prefix: str, randomness: Randomness) -> str:
    """A fresh identifier in EC2's long form: the prefix and 17 hexadecimal digits."""
    return f"{prefix}-0{randomness.text(16, HEX)}"


def arn_of(resource: Resource) -> str:
    """The ARN of any tagged EC2 resource."""
    return resource.scope.arn("ec2", f"{type_of(type(resource)).name}/{resource.key()}")


def require(reader: Reader, scope: Scope, kind: type[R], resource_id: str) -> R:
    """The resource, or the error that EC2 answers for an id of this kind that is malformed or names nothing."""
    record = reader.get(kind, scope, resource_id)
    if record is not None:
        return record
    one = type_of(kind)
    prefix, _, body = resource_id.partition("-")
    if one.malformed_code and (prefix != one.prefix or not _ID_BODY.fullmatch(body)):
        raise ApiError(one.malformed_code, f'Invalid id: "{resource_id}" (expecting "{one.prefix}-...")')
    raise ApiError(one.not_found_code, f"The {one.noun} '{resource_id}' does not exist")


def chosen(reader: Reader, scope: Scope, kind: type[R], ids: Iterable[str] | None) -> list[R]:
    """The resources of these ids, each of which must exist; all of the scope when no id is given."""
    wanted = sorted(set(ids or ()))
    if wanted:
        return [require(reader, scope, kind, resource_id) for resource_id in wanted]
    return reader.scan(kind, scope)


def missing(name: str) -> ApiError:
    """EC2's wording for an absent parameter."""
    return ApiError("MissingParameter", f"The request must contain the parameter {name}")


def depends(noun: str, resource_id: str) -> ApiError:
    """EC2's wording for a deletion that other resources prevent."""
    return ApiError("DependencyViolation", f"The {noun} '{resource_id}' has dependencies and cannot be deleted.")
