"""Network interfaces as users see them. Those of services (RDS) are shown, and guarded against changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.model.ec2 import NetworkInterface, SecurityGroup, Vpc
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.services.ec2.changes import notify
from mainstay.services.ec2.interfaces import (
    InterfaceWish,
    create_interface,
    delete_service_interface,
    private_dns_name,
    set_interface_groups,
)
from mainstay.services.ec2.listing import Listing, flag, never, tag_list
from mainstay.services.ec2.regions import zones
from mainstay.services.ec2.resources import chosen, require
from mainstay.services.ec2.table import handles
from mainstay.services.ec2.tags import tags_at_creation
from mainstay.services.operations import Call, Request, Result

DESCRIPTION_LENGTH = 255
CLIENT_TOKEN_LENGTH = 64
ON_INTERFACE = ("NetworkInterfaceId", NetworkInterface)


class InterfaceView(msgspec.Struct, frozen=True, kw_only=True):
    """An interface with the names of what it refers to."""

    interface: NetworkInterface
    group_names: dict[str, str]
    zone_id: str
    has_dns_name: bool

    @property
    def status(self) -> str:
        """Interfaces of services are in use for as long as they exist."""
        return "in-use" if self.interface.attachment_id else "available"


def _views(call: Call, interfaces: list[NetworkInterface]) -> list[InterfaceView]:
    names = {group.group_id: group.name for group in call.tx.scan(SecurityGroup, call.scope)}
    named_vpcs = {vpc.vpc_id for vpc in call.tx.scan(Vpc, call.scope) if vpc.enable_dns_hostnames}
    zone_ids = {zone.name: zone.zone_id for zone in zones(call)}
    return [
        InterfaceView(
            interface=interface,
            group_names={group_id: names.get(group_id, "") for group_id in interface.group_ids},
            zone_id=zone_ids.get(interface.availability_zone, ""),
            has_dns_name=interface.vpc_id in named_vpcs,
        )
        for interface in interfaces
    ]


def _show_attachment(interface: NetworkInterface) -> dict[str, Any]:
    if not interface.attachment_id:
        return {}
    attachment = {
        "AttachmentId": interface.attachment_id,
        "InstanceOwnerId": interface.requester,
        "DeviceIndex": 1,
        "Status": "attached",
        "DeleteOnTermination": False,
    }
    return {"Attachment": attachment, "RequesterId": interface.requester}


def _show(view: InterfaceView) -> dict[str, Any]:
    interface = view.interface
    name = {"PrivateDnsName": private_dns_name(interface)} if view.has_dns_name else {}
    return {
        "NetworkInterfaceId": interface.interface_id,
        "SubnetId": interface.subnet_id,
        "VpcId": interface.vpc_id,
        "AvailabilityZone": interface.availability_zone,
        "AvailabilityZoneId": view.zone_id,
        "OwnerId": interface.scope.account_id,
        "Description": interface.description,
        "InterfaceType": "interface",
        "Status": view.status,
        "MacAddress": interface.mac_address,
        "PrivateIpAddress": interface.private_address,
        "PrivateIpAddresses": [{"Primary": True, "PrivateIpAddress": interface.private_address, **name}],
        "Ipv6Addresses": [],
        "Groups": [{"GroupId": group_id, "GroupName": name} for group_id, name in view.group_names.items()],
        "RequesterManaged": bool(interface.requester),
        "SourceDestCheck": interface.source_dest_check,
        "TagSet": tag_list(interface.tags),
        **name,
        **_show_attachment(interface),
    }


_listing = Listing[InterfaceView](
    member="NetworkInterfaces",
    key=lambda view: view.interface.interface_id,
    columns={
        "network-interface-id": lambda view: (view.interface.interface_id,),
        "subnet-id": lambda view: (view.interface.subnet_id,),
        "vpc-id": lambda view: (view.interface.vpc_id,),
        "owner-id": lambda view: (view.interface.scope.account_id,),
        "availability-zone": lambda view: (view.interface.availability_zone,),
        "availability-zone-id": lambda view: (view.zone_id,),
        "description": lambda view: (view.interface.description,),
        "group-id": lambda view: view.interface.group_ids,
        "group-name": lambda view: view.group_names.values(),
        "interface-type": lambda _view: ("interface",),
        "mac-address": lambda view: (view.interface.mac_address,),
        "private-ip-address": lambda view: (view.interface.private_address,),
        "addresses.private-ip-address": lambda view: (view.interface.private_address,),
        "addresses.primary": lambda _view: flag(True),
        "private-dns-name": lambda view: (private_dns_name(view.interface),) if view.has_dns_name else (),
        "requester-id": lambda view: (view.interface.requester,) if view.interface.requester else (),
        "requester-managed": lambda view: flag(bool(view.interface.requester)),
        "source-dest-check": lambda view: flag(view.interface.source_dest_check),
        "status": lambda view: (view.status,),
        "attachment.attachment-id": lambda view: (
            (view.interface.attachment_id,) if view.interface.attachment_id else ()
        ),
        "attachment.instance-owner-id": lambda view: (
            (view.interface.requester,) if view.interface.attachment_id else ()
        ),
        "attachment.status": lambda view: ("attached",) if view.interface.attachment_id else (),
        "attachment.device-index": lambda view: ("1",) if view.interface.attachment_id else (),
        "attachment.delete-on-termination": lambda view: flag(False) if view.interface.attachment_id else (),
        "attachment.instance-id": never,
        "association.public-ip": never,
        "association.public-dns-name": never,
        "association.allocation-id": never,
        "association.association-id": never,
        "association.ip-owner-id": never,
        "addresses.association.public-ip": never,
        "addresses.association.owner-id": never,
        "ipv6-addresses.ipv6-address": never,
    },
    show=_show,
    tags=lambda view: view.interface.tags,
)


@handles(
    "CreateNetworkInterface",
    "SubnetId",
    "Description",
    "PrivateIpAddress",
    "PrivateIpAddresses",
    "Groups",
    "InterfaceType",
    "TagSpecifications",
    "ClientToken",
    creates=NetworkInterface,
)
def create_network_interface(call: Call, request: Request) -> Result:
    """Makes an interface of the user's. Repeating the call with its ClientToken answers with the same interface."""
    token = str(request.get("ClientToken") or "")
    if len(token) > CLIENT_TOKEN_LENGTH:
        raise invalid_value(f"ClientToken is longer than {CLIENT_TOKEN_LENGTH} characters.")
    wish = InterfaceWish(
        subnet_id=str(request["SubnetId"]),
        group_ids=tuple(request.get("Groups") or ()),
        private_address=_wanted_address(request),
        description=_description(request.get("Description")),
        client_token=token,
        tags=tags_at_creation(request, NetworkInterface),
    )
    if request.get("InterfaceType") not in (None, "", "interface"):
        raise ApiError("UnsupportedOperation", f"Interfaces of type {request['InterfaceType']} are not supported.")
    made = call.tx.find(NetworkInterface, call.scope, "client-token", token) if token else []
    if made:
        interface = made[0]
        if interface.subnet_id != wish.subnet_id or wish.private_address not in ("", interface.private_address):
            raise ApiError("IdempotentParameterMismatch", "The client token was used before with different parameters.")
    else:
        interface = create_interface(call.tx, call.scope, wish, call.randomness)
        notify(call)
    answer: dict[str, Any] = {"NetworkInterface": _show(_views(call, [interface])[0])}
    return answer | ({"ClientToken": token} if token else {})


def _wanted_address(request: Request) -> str:
    listed = request.get("PrivateIpAddresses") or ()
    if len(listed) > 1:
        raise ApiError("UnsupportedOperation", "Secondary private addresses are not supported.")
    named = str(listed[0].get("PrivateIpAddress") or "") if listed else ""
    single = str(request.get("PrivateIpAddress") or "")
    if named and single:
        raise invalid_combination("Specify either privateIpAddress or privateIpAddresses, not both.")
    return named or single


def _description(text: str | None) -> str:
    if text and len(text) > DESCRIPTION_LENGTH:
        raise invalid_value(f"The description is longer than {DESCRIPTION_LENGTH} characters.")
    return text or ""


@handles("DeleteNetworkInterface", "NetworkInterfaceId", on=ON_INTERFACE)
def delete_network_interface(call: Call, request: Request) -> Result:
    """Removes an interface of the user's."""
    interface = _own(call, request)
    delete_service_interface(call.tx, call.scope, interface.interface_id)
    notify(call)
    return None


@handles(
    "ModifyNetworkInterfaceAttribute",
    "NetworkInterfaceId",
    "Description",
    "SourceDestCheck",
    "Groups",
    on=ON_INTERFACE,
)
def modify_network_interface_attribute(call: Call, request: Request) -> Result:
    """Sets one attribute of an interface of the user's; EC2 takes one per request."""
    interface = _own(call, request)
    given = [member for member in ("Description", "SourceDestCheck", "Groups") if request.get(member)]
    if len(given) != 1:
        raise invalid_combination(f"Specify exactly one attribute to modify, not {len(given)}.")
    if given == ["Groups"]:
        set_interface_groups(call.tx, call.scope, interface.interface_id, request["Groups"])
        notify(call)
        return None
    value = _value(request[given[0]])
    changed = (
        msgspec.structs.replace(interface, description=_description(value))
        if given == ["Description"]
        else msgspec.structs.replace(interface, source_dest_check=bool(value))
    )
    call.tx.put(changed)
    return None


def _value(attribute: Mapping[str, Any]) -> Any:
    return attribute.get("Value")


def _own(call: Call, request: Request) -> NetworkInterface:
    """The interface named, unless it belongs to a service."""
    interface = require(call.tx, call.scope, NetworkInterface, str(request["NetworkInterfaceId"]))
    if interface.requester:
        raise ApiError(
            "OperationNotPermitted",
            f"The network interface '{interface.interface_id}' is managed by {interface.requester}: "
            "you do not have permission to change it.",
        )
    return interface


@handles(
    "DescribeNetworkInterfaces", "NetworkInterfaceIds", "Filters", "MaxResults", "NextToken", "IncludeManagedResources"
)
def describe_network_interfaces(call: Call, request: Request) -> Result:
    """Interfaces by id or by filter."""
    found = chosen(call.tx, call.scope, NetworkInterface, request.get("NetworkInterfaceIds"))
    return _listing.answer(_views(call, found), request)


@handles("DescribeNetworkInterfaceAttribute", "NetworkInterfaceId", "Attribute", on=ON_INTERFACE)
def describe_network_interface_attribute(call: Call, request: Request) -> Result:
    """One attribute of an interface."""
    interface = require(call.tx, call.scope, NetworkInterface, str(request["NetworkInterfaceId"]))
    shown = _show(_views(call, [interface])[0])
    attributes = {
        "description": {"Description": {"Value": interface.description}},
        "groupSet": {"Groups": shown["Groups"]},
        "sourceDestCheck": {"SourceDestCheck": {"Value": interface.source_dest_check}},
        "attachment": {"Attachment": shown["Attachment"]} if "Attachment" in shown else {},
    }
    attribute = str(request.get("Attribute") or "")
    if attribute not in attributes:
        raise invalid_value(
            f"Value ({attribute}) for parameter attribute is invalid. Unknown network interface attribute"
        )
    return {"NetworkInterfaceId": interface.interface_id, **attributes[attribute]}
