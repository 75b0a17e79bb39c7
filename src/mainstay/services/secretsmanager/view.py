"""A secret as DescribeSecret and ListSecrets show it. Members without a value are left out, as on AWS."""

from __future__ import annotations

from typing import Any

from mainstay.model.secrets_manager import RotationRules, StoredSecret
from mainstay.services.secretsmanager.lookup import tag_list, tags_of
from mainstay.store import Reader


def show_secret(reader: Reader, secret: StoredSecret) -> dict[str, Any]:
    """The members that both answers have."""
    tags = tags_of(reader, secret)
    rules = show_rules(secret.rotation_rules)
    shown: dict[str, Any] = {
        "ARN": secret.arn,
        "Name": secret.name,
        "Description": secret.description or None,
        "KmsKeyId": secret.kms_key_id or None,
        "RotationEnabled": secret.rotation_enabled,
        "RotationRules": rules or None,
        "LastRotatedDate": secret.rotated_at,
        "LastChangedDate": secret.changed_at,
        "LastAccessedDate": secret.accessed_on,
        "DeletedDate": secret.deleted_at,
        "NextRotationDate": secret.next_rotation_at if secret.rotation_enabled else None,
        "Tags": tag_list(tags) or None,
        "OwningService": secret.owning_service or None,
        "CreatedDate": secret.created_at,
    }
    return {name: value for name, value in shown.items() if value is not None}


def stages_of(secret: StoredSecret) -> dict[str, list[str]]:
    """Version id -> its labels, for every version that has some."""
    return {one.version_id: list(one.stages) for one in secret.versions if one.stages}


def show_rules(rules: RotationRules) -> dict[str, Any]:
    """RotationRules."""
    shown = {
        "AutomaticallyAfterDays": rules.automatically_after_days,
        "Duration": rules.duration or None,
        "ScheduleExpression": rules.schedule_expression or None,
    }
    return {name: value for name, value in shown.items() if value is not None}


def named(secret: StoredSecret) -> dict[str, Any]:
    """ARN and Name, with which most answers begin."""
    return {"ARN": secret.arn, "Name": secret.name}
