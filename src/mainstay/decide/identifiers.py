"""The names that users give to RDS resources, and RDS ARNs. Names are stored in lower case.

Every check returns the name as it is stored or raises `ApiError` InvalidParameterValue in AWS's words.
"""

from __future__ import annotations

import re

import msgspec

from mainstay.model.db_subnet_group import DEFAULT_SUBNET_GROUP
from mainstay.model.errors import invalid_value

DB_INSTANCE_IDENTIFIER_LENGTH = 63
GROUP_NAME_LENGTH = 255
SNAPSHOT_IDENTIFIER_LENGTH = 255
DESCRIPTION_LENGTH = 255

_HYPHENATED = re.compile(r"[A-Za-z](?:-?[A-Za-z0-9])*")
_SUBNET_GROUP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 ._-]*")
_PRINTABLE = re.compile(r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*")


class Arn(msgspec.Struct, frozen=True):
    """The parts of an RDS ARN that distinguish resources."""

    region: str
    account_id: str
    resource_type: str
    name: str


def parse_arn(text: str) -> Arn | None:
    """The parts of an RDS ARN, or None if `text` is not one. The name may hold colons ("og:default:postgres-17")."""
    parts = text.split(":", 6)
    if len(parts) != 7 or parts[:3] != ["arn", "aws", "rds"] or not all(parts[3:]):
        return None
    return Arn(*parts[3:])


def check_db_instance_identifier(text: str, member: str = "DBInstanceIdentifier") -> str:
    """1 to 63 letters, digits and hyphens; a letter first, no hyphen last, no two together."""
    return _hyphenated(text, member, DB_INSTANCE_IDENTIFIER_LENGTH)


def check_parameter_group_name(text: str, member: str = "DBParameterGroupName") -> str:
    """1 to 255 letters, digits and hyphens; a letter first, no hyphen last, no two together."""
    return _hyphenated(text, member, GROUP_NAME_LENGTH)


def check_option_group_name(text: str, member: str = "OptionGroupName") -> str:
    """1 to 255 letters, digits and hyphens; a letter first, no hyphen last, no two together."""
    return _hyphenated(text, member, GROUP_NAME_LENGTH)


def check_db_snapshot_identifier(text: str, member: str = "DBSnapshotIdentifier") -> str:
    """1 to 255 letters, digits and hyphens; a letter first, no hyphen last, no two together."""
    return _hyphenated(text, member, SNAPSHOT_IDENTIFIER_LENGTH)


def check_subnet_group_name(text: str, member: str = "DBSubnetGroupName") -> str:
    """1 to 255 letters, digits, spaces, periods, underscores and hyphens; a letter first; not "default"."""
    _check_length(text, member, GROUP_NAME_LENGTH)
    if not _SUBNET_GROUP_NAME.fullmatch(text):
        raise invalid_value(
            f"The parameter {member} is not a valid identifier. Identifiers must begin with a letter and must contain"
            " only ASCII letters, digits, spaces, periods, underscores, and hyphens."
        )
    name = text.lower()
    if name == DEFAULT_SUBNET_GROUP:
        raise invalid_value(f"The parameter {member} must not be '{DEFAULT_SUBNET_GROUP}'.")
    return name


def check_description(text: str, member: str) -> str:
    """1 to 255 characters without control characters. Returned as given."""
    _check_length(text, member, DESCRIPTION_LENGTH)
    if not _PRINTABLE.fullmatch(text):
        raise invalid_value(f"The parameter {member} must not contain control characters.")
    return text


def _hyphenated(text: str, member: str, most: int) -> str:
    _check_length(text, member, most)
    if not _HYPHENATED.fullmatch(text):
        raise invalid_value(
            f"The parameter {member} is not a valid identifier. Identifiers must begin with a letter; must contain"
            " only ASCII letters, digits, and hyphens; and must not end with a hyphen or contain two consecutive"
            " hyphens."
        )
    return text.lower()


def _check_length(text: str, member: str, most: int) -> None:
    if not text:
        raise invalid_value(f"The parameter {member} must be provided and must not be blank.")
    if len(text) > most:
        raise invalid_value(f"The parameter {member} is not valid because it is longer than {most} characters.")
