"""IpPermissions, the wire form of security group rules: checked on the way in, assembled on the way out.

One IpPermission names a protocol, a port range and any number of peers; each peer is a rule of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from mainstay.decide.networks import parse_ipv4, parse_ipv6
from mainstay.model.ec2 import ALL_PROTOCOLS, ANY_PORT, Permission, SecurityGroup
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.services.ec2.assembly import default_vpc
from mainstay.services.ec2.resources import missing, require
from mainstay.services.operations import Call, Request

NAMED_PROTOCOLS = {"1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6"}
WITH_PORTS = ("tcp", "udp")
ICMP = ("icmp", "icmpv6")
HIGHEST_PORT = 65535
HIGHEST_ICMP = 255
HIGHEST_PROTOCOL = 255

_DESCRIPTION = re.compile(r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{0,255}")
_LEGACY = ("IpProtocol", "FromPort", "ToPort", "CidrIp")
# Members of a request that describe one permission without the list.
SINGLE_MEMBERS = (*_LEGACY, "SourceSecurityGroupName", "SourceSecurityGroupOwnerId")


def requested_permissions(call: Call, request: Request, group: SecurityGroup) -> list[Permission]:
    """The rules that Authorize, Revoke and UpdateDescriptions requests speak of, in canonical form."""
    listed = list(request.get("IpPermissions") or ())
    single = _single(request)
    if single and listed:
        raise invalid_combination("The parameter ipPermissions cannot be used with the other rule parameters.")
    found = [one for item in ([single] if single else listed) for one in _parse(call, group, item)]
    if not found:
        raise missing("ipPermissions")
    return found


def _single(request: Request) -> dict[str, Any]:
    """The older way to give one rule, as an IpPermission; empty when not used."""
    if not any(request.get(member) is not None for member in SINGLE_MEMBERS):
        return {}
    permission = {member: request[member] for member in ("IpProtocol", "FromPort", "ToPort") if member in request}
    if cidr := request.get("CidrIp"):
        # CidrIp takes either family.
        family, member = ("Ipv6Ranges", "CidrIpv6") if ":" in cidr else ("IpRanges", "CidrIp")
        permission[family] = [{member: cidr}]
    if name := request.get("SourceSecurityGroupName"):
        pair = {"GroupName": name, "UserId": request.get("SourceSecurityGroupOwnerId")}
        permission["UserIdGroupPairs"] = [pair]
        # A source group alone admits every protocol.
        permission.setdefault("IpProtocol", ALL_PROTOCOLS)
    return permission


def _parse(call: Call, group: SecurityGroup, item: Mapping[str, Any]) -> Iterator[Permission]:
    protocol, from_port, to_port = protocol_and_ports(item)
    if item.get("PrefixListIds"):
        raise prefix_lists_refused()
    anyone = Permission(protocol=protocol, from_port=from_port, to_port=to_port)
    if not any(item.get(member) for member in ("IpRanges", "Ipv6Ranges", "UserIdGroupPairs")):
        raise invalid_value("Invalid value '' for ipRanges. Each permission needs a CIDR block or a source group.")
    for one in item.get("IpRanges") or ():
        yield _with_peer(anyone, one, "cidr_ipv4", canonical_ipv4(str(one.get("CidrIp") or "")))
    for one in item.get("Ipv6Ranges") or ():
        yield _with_peer(anyone, one, "cidr_ipv6", canonical_ipv6(str(one.get("CidrIpv6") or "")))
    for one in item.get("UserIdGroupPairs") or ():
        yield _with_peer(anyone, one, "group_id", _source_group(call, group, one))


def _with_peer(anyone: Permission, one: Mapping[str, Any], field: str, peer: str) -> Permission:
    described = checked_description(one.get("Description"))
    return msgspec.structs.replace(anyone, **{field: peer}, description=described)


def protocol_and_ports(item: Mapping[str, Any]) -> tuple[str, int, int]:
    """Protocol and port range of an IpPermission or SecurityGroupRuleRequest, as we store them."""
    text = item.get("IpProtocol")
    if text in (None, ""):
        raise missing("ipProtocol")
    protocol = canonical_protocol(str(text))
    first, last = item.get("FromPort"), item.get("ToPort")
    if protocol in WITH_PORTS:
        return (protocol, *_port_range(first, last))
    if protocol in ICMP:
        kind, code = ANY_PORT if first is None else int(first), ANY_PORT if last is None else int(last)
        for value in (kind, code):
            if not ANY_PORT <= value <= HIGHEST_ICMP:
                raise invalid_value(f"ICMP type or code ({value}) out of range")
        return (protocol, kind, code)
    # EC2 ignores the ports of "all traffic" and of other protocols.
    return (protocol, ANY_PORT, ANY_PORT)


def canonical_protocol(text: str) -> str:
    """The protocol as EC2 shows it: a name for those that have one, else the number."""
    protocol = NAMED_PROTOCOLS.get(text.lower(), text.lower())
    if protocol in (ALL_PROTOCOLS, *NAMED_PROTOCOLS.values()):
        return protocol
    if protocol == "all":
        return ALL_PROTOCOLS
    if protocol.isascii() and protocol.isdigit() and int(protocol) <= HIGHEST_PROTOCOL:
        return str(int(protocol))
    raise ApiError("InvalidPermission.Malformed", f"Invalid value '{text}' for IP protocol. Unknown protocol.")


def _port_range(first: int | None, last: int | None) -> tuple[int, int]:
    if first is None or last is None:
        raise invalid_value("Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.")
    for port in (first, last):
        if not 0 <= port <= HIGHEST_PORT:
            raise invalid_value(f"TCP/UDP port ({port}) out of range")
    if first > last:
        raise invalid_value(f"Invalid TCP/UDP port range ({first}:{last})")
    return first, last


def canonical_ipv4(text: str) -> str:
    """The IPv4 block as EC2 stores it."""
    network = parse_ipv4(text)
    if network is None:
        raise invalid_value(f"CIDR block {text} is malformed")
    return str(network)


def canonical_ipv6(text: str) -> str:
    """The IPv6 block as EC2 stores it."""
    network = parse_ipv6(text)
    if network is None:
        raise invalid_value(f"CIDR block {text} is malformed")
    return str(network)


def checked_description(text: str | None) -> str:
    """A rule's description, or EC2's error for one it does not allow."""
    if text and not _DESCRIPTION.fullmatch(text):
        raise invalid_value(
            "Invalid rule description. Valid descriptions are strings less than 256 characters from the following "
            "set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*"
        )
    return text or ""


def checked_group_description(text: str) -> str:
    """A group's description, or EC2's error for one it does not allow."""
    if not _DESCRIPTION.fullmatch(text):
        raise invalid_value(
            "Invalid security group description. Valid descriptions are strings less than 256 characters from the "
            "following set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*"
        )
    return text


def prefix_lists_refused() -> ApiError:
    """No prefix list exists here, so none can be a peer."""
    return ApiError("UnsupportedOperation", "Prefix lists are not supported in security group rules.")


def _source_group(call: Call, group: SecurityGroup, pair: Mapping[str, Any]) -> str:
    if pair.get("VpcPeeringConnectionId"):
        raise ApiError("UnsupportedOperation", "VPC peering is not supported.")
    owner = pair.get("UserId")
    named = str(pair.get("GroupId") or pair.get("GroupName") or "")
    if not named:
        raise missing("groupId")
    if owner and owner != call.scope.account_id:
        raise ApiError("InvalidGroup.NotFound", f"The security group '{named}' does not exist")
    source = require(call.tx, call.scope, SecurityGroup, named) if pair.get("GroupId") else group_by_name(call, named)
    return same_network(source, group).group_id


def same_network(source: SecurityGroup, group: SecurityGroup) -> SecurityGroup:
    """The source group, which must be of the VPC of the group that refers to it."""
    if source.vpc_id != group.vpc_id:
        raise ApiError("InvalidGroup.NotFound", "You have specified two resources that belong to different networks.")
    return source


def group_by_name(call: Call, name: str) -> SecurityGroup:
    """A group of the default VPC; in other VPCs groups go by id only."""
    vpc = default_vpc(call.tx, call.scope)
    if vpc is None:
        raise ApiError("VPCIdNotSpecified", "No default VPC for this user")
    for group in call.tx.find(SecurityGroup, call.scope, "vpc-id", vpc.vpc_id):
        if group.name == name:
            return group
    raise ApiError("InvalidGroup.NotFound", f"The security group '{name}' does not exist in default VPC '{vpc.vpc_id}'")


def named_group(call: Call, request: Request) -> SecurityGroup:
    """The group a request acts on, by GroupId or (default VPC) GroupName."""
    if group_id := request.get("GroupId"):
        return require(call.tx, call.scope, SecurityGroup, str(group_id))
    if name := request.get("GroupName"):
        return group_by_name(call, str(name))
    raise ApiError("MissingParameter", "The request must contain the parameter groupName or groupId")


def show_permissions(permissions: Iterable[Permission], account_id: str) -> list[dict[str, Any]]:
    """Rules as IpPermissions: one entry per protocol and port range, listing its peers."""
    entries: dict[tuple[str, int, int], dict[str, Any]] = {}
    for permission in permissions:
        identity = (permission.protocol, permission.from_port, permission.to_port)
        entry = entries.setdefault(identity, _empty_entry(permission))
        described = {"Description": permission.description} if permission.description else {}
        if permission.cidr_ipv4:
            entry["IpRanges"].append({"CidrIp": permission.cidr_ipv4, **described})
        elif permission.cidr_ipv6:
            entry["Ipv6Ranges"].append({"CidrIpv6": permission.cidr_ipv6, **described})
        else:
            pair = {"GroupId": permission.group_id, "UserId": account_id, **described}
            entry["UserIdGroupPairs"].append(pair)
    return [entries[identity] for identity in sorted(entries)]


def _empty_entry(permission: Permission) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "IpProtocol": permission.protocol,
        "IpRanges": [],
        "Ipv6Ranges": [],
        "UserIdGroupPairs": [],
        "PrefixListIds": [],
    }
    if permission.protocol in (*WITH_PORTS, *ICMP):
        entry |= {"FromPort": permission.from_port, "ToPort": permission.to_port}
    return entry


def peer_text(permission: Permission) -> str:
    """The rule in the words of EC2's duplicate error."""
    protocol = "ALL" if permission.protocol == ALL_PROTOCOLS else permission.protocol.upper()
    ports = (
        f", from port: {permission.from_port}, to port: {permission.to_port}"
        if permission.protocol in WITH_PORTS
        else ""
    )
    return f"peer: {permission.peer}, {protocol}{ports}, ALLOW"
