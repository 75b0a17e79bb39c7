"""Security group rules: authorize, revoke, modify, describe. Each takes effect as a whole or not at all.

Every change is announced (`changes.py`), so the endpoints enforce it within the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.model.ec2 import Permission, SecurityGroup, SecurityGroupRule
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.services.ec2.assembly import add_rule
from mainstay.services.ec2.changes import announce
from mainstay.services.ec2.limits import RULES_PER_GROUP
from mainstay.services.ec2.listing import Listing, flag, tag_list, tags_of
from mainstay.services.ec2.permissions import (
    SINGLE_MEMBERS,
    canonical_ipv4,
    canonical_ipv6,
    checked_description,
    named_group,
    peer_text,
    prefix_lists_refused,
    protocol_and_ports,
    requested_permissions,
    same_network,
)
from mainstay.services.ec2.resources import arn_of, chosen, missing, require
from mainstay.services.ec2.table import handles
from mainstay.services.ec2.tags import tags_at_creation
from mainstay.services.operations import Call, Request, Result

GROUP = ("GroupId", SecurityGroup)
NAMING = ("GroupId", "GroupName")


def _show_content(rule: SecurityGroupRule) -> dict[str, Any]:
    permission = rule.permission
    shown: dict[str, Any] = {
        "SecurityGroupRuleId": rule.rule_id,
        "GroupId": rule.group_id,
        "IsEgress": rule.is_egress,
        "IpProtocol": permission.protocol,
        "FromPort": permission.from_port,
        "ToPort": permission.to_port,
    }
    optional = {
        "CidrIpv4": permission.cidr_ipv4,
        "CidrIpv6": permission.cidr_ipv6,
        "Description": permission.description,
    }
    return shown | {member: value for member, value in optional.items() if value}


def _show(rule: SecurityGroupRule) -> dict[str, Any]:
    account_id = rule.scope.account_id
    referenced = rule.permission.group_id
    return {
        **_show_content(rule),
        "GroupOwnerId": account_id,
        "SecurityGroupRuleArn": arn_of(rule),
        "Tags": tag_list(rule.tags),
        **({"ReferencedGroupInfo": {"GroupId": referenced, "UserId": account_id}} if referenced else {}),
    }


def _show_revoked(rule: SecurityGroupRule) -> dict[str, Any]:
    referenced = rule.permission.group_id
    return _show_content(rule) | ({"ReferencedGroupId": referenced} if referenced else {})


_listing = Listing[SecurityGroupRule](
    member="SecurityGroupRules",
    key=SecurityGroupRule.key,
    columns={
        "group-id": lambda rule: (rule.group_id,),
        "security-group-rule-id": lambda rule: (rule.rule_id,),
        "is-egress": lambda rule: flag(rule.is_egress),
    },
    show=_show,
    tags=tags_of,
)


def _rules_of(call: Call, group: SecurityGroup, *, is_egress: bool) -> list[SecurityGroupRule]:
    rules = call.tx.find(SecurityGroupRule, call.scope, "group-id", group.group_id)
    return [rule for rule in rules if rule.is_egress == is_egress]


def _authorize(call: Call, request: Request, *, is_egress: bool) -> Result:
    group = named_group(call, request)
    wanted = requested_permissions(call, request, group)
    tags = tags_at_creation(request, SecurityGroupRule)
    present = [rule.permission for rule in _rules_of(call, group, is_egress=is_egress)]
    for position, permission in enumerate(wanted):
        if any(permission.allows_the_same_as(other) for other in wanted[:position]):
            raise invalid_value("The same permission must not appear multiple times")
        _refuse_duplicate(permission, present)
    if len(present) + len(wanted) > RULES_PER_GROUP:
        raise ApiError(
            "RulesPerSecurityGroupLimitExceeded",
            "The maximum number of rules per security group has been reached.",
        )
    made = [
        add_rule(call.tx, group, permission, call.randomness, is_egress=is_egress, tags=tags) for permission in wanted
    ]
    announce(call)
    return {"Return": True, "SecurityGroupRules": [_show(rule) for rule in made]}


def _refuse_duplicate(permission: Permission, present: list[Permission]) -> None:
    if any(permission.allows_the_same_as(other) for other in present):
        raise ApiError("InvalidPermission.Duplicate", f'the specified rule "{peer_text(permission)}" already exists')


@handles("AuthorizeSecurityGroupIngress", *NAMING, "IpPermissions", *SINGLE_MEMBERS, "TagSpecifications", on=GROUP)
def authorize_security_group_ingress(call: Call, request: Request) -> Result:
    """Adds rules for what may come in."""
    return _authorize(call, request, is_egress=False)


@handles("AuthorizeSecurityGroupEgress", "GroupId", "IpPermissions", *SINGLE_MEMBERS, "TagSpecifications", on=GROUP)
def authorize_security_group_egress(call: Call, request: Request) -> Result:
    """Adds rules for what may go out."""
    return _authorize(call, request, is_egress=True)


def _revoke(call: Call, request: Request, *, is_egress: bool) -> Result:
    group = named_group(call, request)
    present = _rules_of(call, group, is_egress=is_egress)
    rule_ids = request.get("SecurityGroupRuleIds") or ()
    if rule_ids and request.get("IpPermissions"):
        raise invalid_combination("The parameter ipPermissions cannot be used with securityGroupRuleIds.")
    if rule_ids:
        revoked = [_rule_of(call, group, str(rule_id), is_egress=is_egress) for rule_id in dict.fromkeys(rule_ids)]
    else:
        revoked = [_matching(present, one) for one in requested_permissions(call, request, group)]
    for rule in revoked:
        call.tx.delete(rule)
    announce(call)
    return {"Return": True, "RevokedSecurityGroupRules": [_show_revoked(rule) for rule in revoked]}


def _matching(present: list[SecurityGroupRule], permission: Permission) -> SecurityGroupRule:
    for rule in present:
        if rule.permission.allows_the_same_as(permission):
            return rule
    raise ApiError("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")


def _rule_of(call: Call, group: SecurityGroup, rule_id: str, *, is_egress: bool | None = None) -> SecurityGroupRule:
    """The rule of this id, which must be one of the group's (in this direction)."""
    rule = require(call.tx, call.scope, SecurityGroupRule, rule_id)
    if rule.group_id != group.group_id or is_egress not in (None, rule.is_egress):
        raise ApiError("InvalidSecurityGroupRuleId.NotFound", f"The security group rule ID '{rule_id}' does not exist")
    return rule


@handles("RevokeSecurityGroupIngress", *NAMING, "IpPermissions", *SINGLE_MEMBERS, "SecurityGroupRuleIds", on=GROUP)
def revoke_security_group_ingress(call: Call, request: Request) -> Result:
    """Removes rules for what may come in."""
    return _revoke(call, request, is_egress=False)


@handles("RevokeSecurityGroupEgress", "GroupId", "IpPermissions", *SINGLE_MEMBERS, "SecurityGroupRuleIds", on=GROUP)
def revoke_security_group_egress(call: Call, request: Request) -> Result:
    """Removes rules for what may go out."""
    return _revoke(call, request, is_egress=True)


@handles("DescribeSecurityGroupRules", "SecurityGroupRuleIds", "Filters", "MaxResults", "NextToken")
def describe_security_group_rules(call: Call, request: Request) -> Result:
    """Rules by id or by filter."""
    rules = chosen(call.tx, call.scope, SecurityGroupRule, request.get("SecurityGroupRuleIds"))
    return _listing.answer(rules, request)


@handles("ModifySecurityGroupRules", "GroupId", "SecurityGroupRules", on=GROUP)
def modify_security_group_rules(call: Call, request: Request) -> Result:
    """Replaces the content of rules; a rule keeps its id, its direction, its tags and its kind of peer."""
    group = named_group(call, request)
    updates = request.get("SecurityGroupRules") or ()
    if not updates:
        raise missing("securityGroupRules")
    for update in updates:
        rule = _rule_of(call, group, str(update["SecurityGroupRuleId"]))
        permission = _modified(call, group, rule, update.get("SecurityGroupRule") or {})
        others = [
            other.permission
            for other in _rules_of(call, group, is_egress=rule.is_egress)
            if other.rule_id != rule.rule_id
        ]
        _refuse_duplicate(permission, others)
        call.tx.put(msgspec.structs.replace(rule, permission=permission))
    announce(call)
    return {"Return": True}


def _modified(call: Call, group: SecurityGroup, rule: SecurityGroupRule, wanted: Mapping[str, Any]) -> Permission:
    peers = [member for member in ("CidrIpv4", "CidrIpv6", "ReferencedGroupId", "PrefixListId") if wanted.get(member)]
    if len(peers) != 1:
        raise invalid_combination("Specify exactly one of cidrIpv4, cidrIpv6, prefixListId and referencedGroupId.")
    protocol, from_port, to_port = protocol_and_ports(wanted)
    peer = str(wanted[peers[0]])
    cidr_ipv4 = cidr_ipv6 = group_id = ""
    if peers[0] == "CidrIpv4":
        cidr_ipv4 = canonical_ipv4(peer)
    elif peers[0] == "CidrIpv6":
        cidr_ipv6 = canonical_ipv6(peer)
    elif peers[0] == "ReferencedGroupId":
        group_id = same_network(require(call.tx, call.scope, SecurityGroup, peer), group).group_id
    else:
        raise prefix_lists_refused()
    permission = Permission(
        protocol=protocol,
        from_port=from_port,
        to_port=to_port,
        cidr_ipv4=cidr_ipv4,
        cidr_ipv6=cidr_ipv6,
        group_id=group_id,
        description=checked_description(wanted.get("Description")),
    )
    if _peer_kind(permission) != _peer_kind(rule.permission):
        raise invalid_value(f"The rule type of '{rule.rule_id}' cannot be changed.")
    return permission


def _peer_kind(permission: Permission) -> tuple[bool, bool, bool]:
    return bool(permission.cidr_ipv4), bool(permission.cidr_ipv6), bool(permission.group_id)


def _update_descriptions(call: Call, request: Request, *, is_egress: bool) -> Result:
    group = named_group(call, request)
    by_id = request.get("SecurityGroupRuleDescriptions") or ()
    if by_id and request.get("IpPermissions"):
        raise invalid_combination("The parameter ipPermissions cannot be used with securityGroupRuleDescriptions.")
    changes: list[tuple[SecurityGroupRule, str]] = []
    if by_id:
        for one in by_id:
            rule = _rule_of(call, group, str(one.get("SecurityGroupRuleId") or ""), is_egress=is_egress)
            changes.append((rule, checked_description(one.get("Description"))))
    else:
        present = _rules_of(call, group, is_egress=is_egress)
        for permission in requested_permissions(call, request, group):
            changes.append((_matching(present, permission), permission.description))
    for rule, text in changes:
        described = msgspec.structs.replace(rule.permission, description=text)
        call.tx.put(msgspec.structs.replace(rule, permission=described))
    return {"Return": True}


@handles(
    "UpdateSecurityGroupRuleDescriptionsIngress",
    *NAMING,
    "IpPermissions",
    "SecurityGroupRuleDescriptions",
    on=GROUP,
)
def update_security_group_rule_descriptions_ingress(call: Call, request: Request) -> Result:
    """Replaces the descriptions of ingress rules; an absent description removes it."""
    return _update_descriptions(call, request, is_egress=False)


@handles(
    "UpdateSecurityGroupRuleDescriptionsEgress",
    *NAMING,
    "IpPermissions",
    "SecurityGroupRuleDescriptions",
    on=GROUP,
)
def update_security_group_rule_descriptions_egress(call: Call, request: Request) -> Result:
    """Replaces the descriptions of egress rules; an absent description removes it."""
    return _update_descriptions(call, request, is_egress=True)
