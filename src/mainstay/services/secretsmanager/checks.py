"""What Secrets Manager accepts in requests, and its words for the rest."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from mainstay.model.errors import ApiError
from mainstay.services.operations import Request
from mainstay.services.secretsmanager import limits

DEFAULT_KEY = "alias/aws/secretsmanager"

_NAME = re.compile(r"[A-Za-z0-9/_+=.@-]+")
_SECRET_ID = re.compile(r"[A-Za-z0-9/_+=.@!:-]+")
_TAG = re.compile(r"[\w\s.:/=+\-@]*")


class Value(msgspec.Struct, frozen=True):
    """A secret value as it is sealed: text, or base64 text of a binary one."""

    text: str
    binary: bool

    def __repr__(self) -> str:
        return "Value(****)"


def invalid_parameter(message: str) -> ApiError:
    """`InvalidParameterException`."""
    return ApiError("InvalidParameterException", message)


def invalid_request(message: str) -> ApiError:
    """`InvalidRequestException`: not in the present state of the secret."""
    return ApiError("InvalidRequestException", message)


def check_name(name: str) -> str:
    """The name of a new secret. Names with `!` are made by services only."""
    if not _NAME.fullmatch(name) or len(name) > limits.NAME_LENGTH:
        raise _invalid_name()
    return name


def check_secret_id(secret_id: str) -> str:
    """A name or ARN."""
    if not _SECRET_ID.fullmatch(secret_id):
        raise _invalid_name()
    return secret_id


def _invalid_name() -> ApiError:
    return ApiError(
        "ValidationException",
        "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!",
    )


def check_token(request: Request) -> str:
    """ClientRequestToken, which names the new version. SDKs always send one."""
    token: str | None = request.get("ClientRequestToken")
    if not token:
        raise invalid_request("You must provide a ClientRequestToken value. We recommend a UUID-type value.")
    return token


def check_value(request: Request) -> Value | None:
    """The value in a request, None without one."""
    text, blob = request.get("SecretString"), request.get("SecretBinary")
    if text is not None and blob is not None:
        raise invalid_parameter(
            "You can't specify both a binary secret value and a string secret value in the same secret."
        )
    if text is None and blob is None:
        return None
    size = len(text.encode("utf-8", "surrogatepass")) if text is not None else len(blob or b"")
    if not 1 <= size <= limits.VALUE_BYTES:
        raise ApiError(
            "ValidationException",
            f"1 validation error detected: Value at 'secret{'String' if text is not None else 'Binary'}' failed to"
            f" satisfy constraint: Member must have length less than or equal to {limits.VALUE_BYTES}",
        )
    if text is not None:
        return Value(_encodable(text), binary=False)
    return Value(base64.b64encode(blob or b"").decode(), binary=True)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid_parameter("SecretString holds characters that UTF-8 cannot carry.") from error
    return text


def refuse_unbuilt(request: Request) -> None:
    """Raises for members whose feature this version does not have."""
    for member, feature in (
        ("AddReplicaRegions", "Replication of secrets to other regions"),
        ("Type", "Managed external secrets"),
        ("ExternalSecretRotationMetadata", "Managed external secrets"),
        ("ExternalSecretRotationRoleArn", "Managed external secrets"),
    ):
        if request.get(member):
            raise invalid_parameter(
                f"{feature}: not available in this version of Mainstay. Leave {member} out of the request."
            )


def with_tags(present: Mapping[str, str], added: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The tags that result. Keys are case-sensitive."""
    new: dict[str, str] = {}
    for tag in added:
        key, value = tag.get("Key", ""), tag.get("Value", "")
        if not key:
            raise invalid_parameter("Tag keys must not be empty.")
        if not _TAG.fullmatch(key) or not _TAG.fullmatch(value):
            raise invalid_parameter("Tag keys and values may hold only letters, digits, spaces and _.:/=+-@")
        if key.lower().startswith("aws:"):
            raise invalid_parameter("Tag keys that begin with aws: are reserved for AWS.")
        if key in new:
            raise invalid_parameter(f"The tag key {key} is given more than once.")
        new[key] = value
    merged = {**present, **new}
    if len(merged) > limits.TAGS_PER_SECRET:
        raise invalid_parameter(f"A secret can have at most {limits.TAGS_PER_SECRET} tags.")
    return merged


def without_tags(present: Mapping[str, str], keys: Iterable[str]) -> dict[str, str]:
    """`present` without `keys`; absent ones are no error."""
    removed = frozenset(keys)
    return {key: value for key, value in present.items() if key not in removed}
