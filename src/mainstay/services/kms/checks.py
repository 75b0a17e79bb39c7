"""What KMS accepts in requests, and its words for the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mainstay.decide.policy import MalformedPolicy, PolicyDocument, PolicyKind, parse_policy
from mainstay.model.errors import ApiError
from mainstay.model.kms import KEY_SPEC, KEY_USAGE, ORIGIN
from mainstay.services.iam.trust import principal_exists
from mainstay.services.kms import limits
from mainstay.services.kms.lookup import ALIAS
from mainstay.services.operations import Call, Request

RESERVED = "alias/aws/"
_ALIAS = re.compile(r"alias/[A-Za-z0-9/_-]+")
_TAG = re.compile(r"[\w\s.:/=+\-@]*")


def validation(message: str) -> ApiError:
    """`ValidationException`."""
    return ApiError("ValidationException", message)


def unsupported(message: str) -> ApiError:
    """`UnsupportedOperationException`."""
    return ApiError("UnsupportedOperationException", message)


def check_key_kind(request: Request) -> None:
    """Raises for every kind of key but symmetric encryption keys made here."""
    spec, older = request.get("KeySpec"), request.get("CustomerMasterKeySpec")
    if spec and older:
        raise validation(
            "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is"
            " deprecated."
        )
    spec = spec or older or KEY_SPEC
    usage = request.get("KeyUsage", KEY_USAGE)
    if spec == KEY_SPEC and usage != KEY_USAGE:
        raise validation(f"KeyUsage {usage} is not compatible with KeySpec {KEY_SPEC}")
    for member, given, built in (
        ("KeySpec", spec, KEY_SPEC),
        ("KeyUsage", usage, KEY_USAGE),
        ("Origin", request.get("Origin", ORIGIN), ORIGIN),
    ):
        if given != built:
            raise unsupported(f"{member} {given} is not available in this version of Mainstay: use {built}.")
    for member, feature in (
        ("MultiRegion", "Multi-Region keys are"),
        ("CustomKeyStoreId", "Custom key stores are"),
        ("XksKeyId", "External key stores are"),
    ):
        if request.get(member):
            raise unsupported(f"{feature} not available in this version of Mainstay. Leave {member} out.")


def check_alias(name: str) -> str:
    """The name of an alias that users may make, change or delete."""
    if not name.startswith(ALIAS):
        raise validation(
            'Alias must start with the prefix "alias/". Please see'
            " https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
        )
    if name.startswith(RESERVED):
        raise ApiError("NotAuthorizedException", f"Aliases that begin with {RESERVED} are reserved for AWS services.")
    if name == ALIAS:
        raise ApiError("InvalidAliasNameException", "The alias has no name after alias/.")
    if not _ALIAS.fullmatch(name):
        raise validation(f"{name} contains invalid characters for an alias")
    return name


def check_policy(call: Call, text: str) -> PolicyDocument:
    """A key policy that parses, fits, and names users and roles that exist."""
    if len(text.encode("utf-8", "surrogatepass")) > limits.POLICY_BYTES:
        raise ApiError("LimitExceededException", f"A key policy can have at most {limits.POLICY_BYTES} bytes.")
    try:
        document = parse_policy(text, PolicyKind.RESOURCE)
    except MalformedPolicy as error:
        raise ApiError("MalformedPolicyDocumentException", error.message) from error
    for statement in document.statements:
        for arn in sorted(statement.principals.aws if statement.principals else ()):
            if not principal_exists(call, arn):
                raise ApiError(
                    "MalformedPolicyDocumentException",
                    f"Policy contains a statement with one or more invalid principals: {arn} does not exist.",
                )
    return document


def check_context(context: Mapping[str, str] | None) -> dict[str, str]:
    """The encryption context of a request; none is an empty one."""
    pairs = dict(context or {})
    try:
        size = sum(len(f"{key}{value}".encode()) for key, value in pairs.items())
    except UnicodeEncodeError as error:
        raise validation("The encryption context holds characters that UTF-8 cannot carry.") from error
    if size > limits.CONTEXT_CHARACTERS:
        raise validation(f"An encryption context can have at most {limits.CONTEXT_CHARACTERS} characters.")
    return pairs


def check_algorithm(*algorithms: str | None) -> None:
    """Raises `InvalidKeyUsageException` for an algorithm that symmetric keys do not have."""
    for one in algorithms:
        if one is not None and one != KEY_SPEC:
            raise ApiError("InvalidKeyUsageException", f"Algorithm {one} is incompatible with key spec {KEY_SPEC}.")


def refuse_recipient(request: Request) -> None:
    """Raises for requests of Nitro enclaves."""
    if request.get("Recipient"):
        raise validation("Recipient (Nitro enclaves) is not available in this version of Mainstay. Leave it out.")


def finish_dry_run(request: Request) -> None:
    """Raises `DryRunOperationException` at the point where a dry run has shown that the call would succeed."""
    if request.get("DryRun"):
        raise ApiError("DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")


def with_tags(present: Mapping[str, str], added: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The tags that result. Keys are case-sensitive."""
    new: dict[str, str] = {}
    for tag in added:
        key, value = tag["TagKey"], tag["TagValue"]
        if not _TAG.fullmatch(key) or not _TAG.fullmatch(value):
            raise _bad_tag("Tag keys and values may hold only letters, digits, spaces and _.:/=+-@")
        if key.lower().startswith("aws:"):
            raise _bad_tag("Tags beginning with aws: are reserved for AWS.")
        if key in new:
            raise _bad_tag(f"The tag key {key} is given more than once.")
        new[key] = value
    merged = {**present, **new}
    if len(merged) > limits.TAGS_PER_KEY:
        raise ApiError("LimitExceededException", f"A key can have at most {limits.TAGS_PER_KEY} tags.")
    return merged


def without_tags(present: Mapping[str, str], keys: Iterable[str]) -> dict[str, str]:
    """`present` without `keys`; absent ones are no error."""
    removed = frozenset(keys)
    return {key: value for key, value in present.items() if key not in removed}


def _bad_tag(message: str) -> ApiError:
    return ApiError("TagException", message)
