"""What IAM accepts as names, paths, tags and documents, and its words for the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mainstay.decide.policy import PolicyDocument, PolicyKind, parse_policy, policy_size
from mainstay.model.errors import ApiError
from mainstay.services.iam import limits
from mainstay.services.operations import Request

_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]+")
_PATH = re.compile(r"/|/[!-\x7e]+/")
_POLICY_PATH = re.compile(r"((/[A-Za-z0-9.,+@=_-]+)*)/")
_TAG = re.compile(r"[\w\s.:/=+\-@]*")
_DESCRIPTION = re.compile(r"[\t\n\r\x20-\x7e\u00a1-\u00ff]*")
_DOCUMENT = re.compile(r"[\t\n\r\x20-\xff]+")


def validation_error(message: str) -> ApiError:
    """`ValidationError`: a member breaks the constraints of the service model."""
    return ApiError("ValidationError", message)


def check_length(member: str, value: str, most: int, *, least: int = 1) -> None:
    """Raises `ValidationError` unless `least` <= length <= `most`."""
    bound = f"greater than or equal to {least}" if len(value) < least else f"less than or equal to {most}"
    if not least <= len(value) <= most:
        raise validation_error(
            f"1 validation error detected: Value at '{member}' failed to satisfy constraint:"
            f" Member must have length {bound}"
        )


def check_name(member: str, value: str, most: int) -> str:
    """The name of a user, group, role or policy."""
    check_length(member, value, most)
    if not _NAME.fullmatch(value):
        raise validation_error(
            f"The specified value for {member} is invalid. It must contain only alphanumeric characters and/or the"
            " following: +=,.@_-"
        )
    return value


def check_path(request: Request, member: str = "Path", *, policy: bool = False) -> str:
    """The path of a new entity, "/" by default."""
    path = str(request.get(member, "/"))
    name = member[0].lower() + member[1:]
    check_length(name, path, limits.PATH_LENGTH)
    if not (_POLICY_PATH if policy else _PATH).fullmatch(path):
        raise validation_error(
            f"The specified value for {name} is invalid. It must begin and end with / and contain only alphanumeric"
            " characters and/or / characters."
        )
    return path


def check_description(request: Request) -> str | None:
    """The description, or None where there is none."""
    description: str | None = request.get("Description")
    if description is None:
        return None
    check_length("description", description, limits.DESCRIPTION_LENGTH, least=0)
    if not _DESCRIPTION.fullmatch(description):
        raise validation_error("The specified value for description is invalid: it holds characters outside Latin-1.")
    return description


def check_tags(tags: Sequence[Mapping[str, str]], present: Mapping[str, str]) -> dict[str, str]:
    """The tags that result from adding `tags` to those present. Keys are unique without regard to case."""
    result = dict(present)
    names: dict[str, str] = {}
    for tag in tags:
        key, value = tag["Key"], tag["Value"]
        check_length("tags.member.key", key, limits.TAG_KEY_LENGTH)
        check_length("tags.member.value", value, limits.TAG_VALUE_LENGTH, least=0)
        if not _TAG.fullmatch(key) or not _TAG.fullmatch(value):
            raise validation_error("Tag keys and values may hold only letters, digits, spaces and _.:/=+-@")
        if key.lower().startswith("aws:"):
            raise ApiError("InvalidInputException", "Tag keys that begin with aws: are reserved for AWS.")
        if key.lower() in names:
            raise ApiError(
                "InvalidInputException",
                "Duplicate tag keys found. Please note that Tag keys are case insensitive.",
            )
        names[key.lower()] = key
    result = {key: value for key, value in result.items() if key.lower() not in names}
    result |= {tag["Key"]: tag["Value"] for tag in tags}
    if len(result) > limits.TAGS_PER_RESOURCE:
        raise ApiError(
            "LimitExceededException",
            f"The number of tags has reached the maximum limit. {limits.TAGS_PER_RESOURCE}",
            status=409,
        )
    return result


def check_document(member: str, text: str, kind: PolicyKind = PolicyKind.IDENTITY) -> PolicyDocument:
    """A policy document that may be kept."""
    check_length(member, text, limits.POLICY_TEXT_LENGTH)
    if not _DOCUMENT.fullmatch(text):
        raise validation_error(
            f"The specified value for {member} is invalid. It must contain only printable Latin-1 characters."
        )
    return parse_policy(text, kind)


def check_managed_document(text: str) -> None:
    """The document of a managed policy."""
    check_document("policyDocument", text)
    if policy_size(text) > limits.MANAGED_POLICY_SIZE:
        raise limit_exceeded(f"Cannot exceed quota for PolicySize: {limits.MANAGED_POLICY_SIZE}")


def limit_exceeded(message: str) -> ApiError:
    """`LimitExceeded`."""
    return ApiError("LimitExceededException", message, status=409)


def delete_conflict(message: str) -> ApiError:
    """`DeleteConflict`."""
    return ApiError("DeleteConflictException", message, status=409)
