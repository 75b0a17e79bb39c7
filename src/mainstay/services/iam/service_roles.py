"""Roles that a service of ours acts in: may the service assume the role?"""

from __future__ import annotations

from datetime import UTC, datetime

from mainstay.decide.policy import AccessRequest, PolicyKind, Principal, evaluate_resource_policy, parse_policy
from mainstay.model.iam import Role
from mainstay.model.records import GLOBAL_REGION, Scope
from mainstay.store.base import Reader


def trust_obstacle(reader: Reader, scope: Scope, role_arn: str, service: str, *, source_arn: str, now: float) -> str:
    """Why the service ("rds.amazonaws.com") cannot act in the role, as a sentence; "" if it can.

    `scope` is where the service acts, `source_arn` the resource it acts for, `now` the wall clock (epoch seconds).
    """
    role = reader.get(Role, Scope(scope.account_id, GLOBAL_REGION), role_arn.rpartition("/")[2])
    if role is None or role.arn != role_arn:
        return f'The IAM role "{role_arn}" does not exist.'
    context = {
        **time_keys(now),
        "aws:RequestedRegion": scope.region,
        "aws:SourceAccount": scope.account_id,
        "aws:SourceArn": source_arn,
    }
    asked = AccessRequest.of("sts:AssumeRole", role_arn, context, Principal(kind="service", arn=service))
    if evaluate_resource_policy(asked, parse_policy(role.assume_role_policy, PolicyKind.TRUST)).allowed:
        return ""
    return f'The trust policy of the IAM role "{role_arn}" does not allow {service} to assume it.'


def time_keys(now: float) -> dict[str, str]:
    """The condition keys of a moment (epoch seconds)."""
    return {"aws:CurrentTime": datetime.fromtimestamp(now, UTC).isoformat(), "aws:EpochTime": str(int(now))}
