"""Auth of proxies: which secrets they read, and how clients prove that they know what is in them.

Source: RDS API reference, UserAuthConfig.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mainstay.model.db_proxy import ENGINE_FAMILIES, IAM_REQUIRED, UserAuth
from mainstay.model.errors import invalid_combination, invalid_value
from mainstay.model.proxy import ClientPasswordAuthType
from mainstay.model.records import Scope
from mainstay.services.rds.quotas import AUTH_PER_DB_PROXY

DESCRIPTION_LENGTH = 1000
_SECRET_ARN = re.compile(r"arn:aws:secretsmanager:([a-z0-9-]+):(\d{12}):secret:[A-Za-z0-9/_+=.@-]{1,512}")
_ROLE_ARN = re.compile(r"arn:aws:iam::(\d{12}):role/[\x21-\x7e]{1,1024}")


def check_default_auth_scheme(scheme: str | None) -> str:
    """NONE: end-to-end IAM authentication needs what this version does not have."""
    if scheme not in (None, "NONE"):
        raise invalid_combination(
            "IAM database authentication: not available in this version of Mainstay. Leave DefaultAuthScheme out of the"
            " request or set it to NONE, and name secrets in Auth."
        )
    return "NONE"


def check_role(scope: Scope, arn: str) -> str:
    """The ARN of a role of this account. Whether it may read the secrets shows in the target's health."""
    found = _ROLE_ARN.fullmatch(arn)
    if found is None or found[1] != scope.account_id:
        raise invalid_value(f"The RoleArn {arn} is not the ARN of an IAM role of this account.")
    return arn


def check_auth(scope: Scope, family: str, given: Sequence[Mapping[str, Any]] | None) -> tuple[UserAuth, ...]:
    """The Auth of a request. Raises `ApiError` InvalidParameterValue in words that say what to change."""
    if not given:
        raise invalid_value("At least one UserAuthConfig is required when DefaultAuthScheme is NONE.")
    if len(given) > AUTH_PER_DB_PROXY:
        raise invalid_value(f"A DB proxy takes at most {AUTH_PER_DB_PROXY} secrets in Auth.")
    checked = tuple(_entry(scope, family, entry) for entry in given)
    arns = [auth.secret_arn for auth in checked]
    if repeated := sorted({arn for arn in arns if arns.count(arn) > 1}):
        raise invalid_value(f"The secret {repeated[0]} is specified more than once in Auth.")
    return checked


def _entry(scope: Scope, family: str, entry: Mapping[str, Any]) -> UserAuth:
    if entry.get("UserName"):
        raise invalid_value("Username must not be provided in UserAuthConfig")
    if entry.get("AuthScheme", "SECRETS") != "SECRETS":
        raise invalid_value(f"Invalid AuthScheme {entry['AuthScheme']}. Valid values: SECRETS")
    iam_auth = entry.get("IAMAuth", "DISABLED")
    if iam_auth not in ("DISABLED", IAM_REQUIRED):
        raise invalid_value(f"IAMAuth {iam_auth} is not valid for {family}. Valid values: DISABLED, {IAM_REQUIRED}")
    description = entry.get("Description") or ""
    if len(description) > DESCRIPTION_LENGTH:
        raise invalid_value(f"Description in UserAuthConfig is longer than {DESCRIPTION_LENGTH} characters.")
    return UserAuth(
        secret_arn=_secret_arn(scope, entry.get("SecretArn")),
        iam_auth=iam_auth,
        client_password_auth_type=_client_type(family, entry.get("ClientPasswordAuthType")),
        description=description,
    )


def _secret_arn(scope: Scope, arn: str | None) -> str:
    if not arn:
        raise invalid_value("SecretArn must be provided in UserAuthConfig when AuthScheme is SECRETS.")
    found = _SECRET_ARN.fullmatch(arn)
    if found is None:
        raise invalid_value(f"SecretArn {arn[:256]} is not the full ARN of a Secrets Manager secret.")
    if found.groups() != (scope.region, scope.account_id):
        raise invalid_value(f"The secret {arn} must be in the proxy's account and region.")
    return arn


def _client_type(family: str, wanted: str | None) -> ClientPasswordAuthType:
    allowed = ENGINE_FAMILIES[family].client_password_auth_types
    if wanted is None:
        return allowed[0]
    if wanted not in list(allowed):
        raise invalid_value(
            f"ClientPasswordAuthType {wanted} is not valid for engine family {family}. Valid values:"
            f" {', '.join(allowed)}"
        )
    return ClientPasswordAuthType(wanted)
