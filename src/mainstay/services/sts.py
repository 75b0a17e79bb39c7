"""STS: who am I, temporary credentials, and assuming a role.

One thing differs from AWS on purpose: the root may assume a role whose trust policy admits the account. The root's key
is the first credential anybody has here, and AWS's other way in (a console user) does not exist.
"""

from __future__ import annotations

import re
from typing import Any

from mainstay.decide.policy import PolicyKind, evaluate, parse_policy, policy_size
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.iam import Role, Session
from mainstay.services.iam import identifiers
from mainstay.services.iam.authorization import (
    access_request,
    policies_of,
    request_context_of,
)
from mainstay.services.iam.checks import check_document, check_length, check_tags, validation_error
from mainstay.services.iam.lookup import global_scope, read_policy
from mainstay.services.iam.principals import TRANSITIVE_TAG_KEYS
from mainstay.services.iam.sessions import seal_session
from mainstay.services.operations import Call, Demand, Operations, Request, Result

operations = Operations("sts")

SESSION_POLICY_SIZE = 2048
SESSION_POLICY_ARNS = 10
PACKED_SIZE_BYTES = 4096
"""What session policies and tags of one session may take together; `PackedPolicySize` is a percentage of this."""
DURATION_S = (900, 43200)
DEFAULT_DURATION_S = 3600
CHAINED_DURATION_S = 3600
SESSION_TOKEN_DURATION_S = (900, 129600)
DEFAULT_SESSION_TOKEN_DURATION_S = 43200
ROOT_SESSION_TOKEN_DURATION_S = 3600

_SESSION_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]*")
_EXTERNAL_ID = re.compile(r"[A-Za-z0-9_+=,.@:/-]*")
_KEY_ID = re.compile(r"[A-Za-z0-9_]*")


@operations.handles("GetCallerIdentity", demands=lambda _call, _request: ())
def get_caller_identity(call: Call, _request: Request) -> Result:
    caller = call.caller
    return {"UserId": caller.user_id, "Account": caller.account_id, "Arn": caller.arn}


@operations.handles("GetAccessKeyInfo")
def get_access_key_info(_call: Call, request: Request) -> Result:
    key_id = request["AccessKeyId"]
    check_length("accessKeyId", key_id, 128, least=16)
    account_id = identifiers.account_of_access_key(key_id) if _KEY_ID.fullmatch(key_id) else None
    if account_id is None:
        raise validation_error("Invalid Access Key ID format.")
    return {"Account": account_id}


@operations.handles("GetSessionToken", demands=lambda _call, _request: ())
def get_session_token(call: Call, request: Request) -> Result:
    caller = call.caller
    if caller.kind == "role" or caller.access_key_id.startswith(identifiers.TEMPORARY_KEY):
        raise ApiError("AccessDenied", "Cannot call GetSessionToken with session credentials", status=403)
    _refuse_mfa(request)
    duration_s = _duration_s(request, SESSION_TOKEN_DURATION_S, DEFAULT_SESSION_TOKEN_DURATION_S)
    if caller.kind == "root":
        duration_s = min(duration_s, ROOT_SESSION_TOKEN_DURATION_S)
    session = _new_session(call, duration_s, kind=caller.kind, entity_name=caller.principal, entity_id=caller.user_id)
    return {"Credentials": _credentials(call, session)}


# The permission is decided in the handler, because the role's trust policy has a say in it.
@operations.handles("AssumeRole", demands=lambda _call, _request: ())
def assume_role(call: Call, request: Request) -> Result:
    _check_assume_role(request)
    tags = check_tags(request.get("Tags", ()), {})
    transitive = _transitive_keys(request, tags)
    role = _assumable_role(call, request)
    policy = request.get("Policy", "")
    policy_arns = _session_policy_arns(call, request)
    if policy:
        check_document("policy", policy)
    inherited = _inherited_tags(call, tags)
    session = _new_session(
        call,
        _role_duration_s(call, request, role),
        kind="role",
        entity_name=role.name,
        entity_id=role.id,
        session_name=request["RoleSessionName"],
        policy=policy,
        policy_arns=policy_arns,
        tags={**inherited, **tags},
        transitive_tag_keys=(*inherited, *transitive),
        source_identity=request.get("SourceIdentity") or call.caller.context.get("aws:SourceIdentity", ""),
    )
    result: dict[str, Any] = {
        "Credentials": _credentials(call, session),
        "AssumedRoleUser": {
            "AssumedRoleId": f"{role.id}:{session.session_name}",
            "Arn": role.scope.arn("sts", f"assumed-role/{role.name}/{session.session_name}"),
        },
    }
    if packed := _packed_size(session):
        result["PackedPolicySize"] = packed
    if session.source_identity:
        result["SourceIdentity"] = session.source_identity
    return result


def _check_assume_role(request: Request) -> None:
    """The members that need no record to be checked."""
    _check_pattern("roleSessionName", request["RoleSessionName"], _SESSION_NAME, (2, 64))
    if "ExternalId" in request:
        _check_pattern("externalId", request["ExternalId"], _EXTERNAL_ID, (2, 1224))
    if "SourceIdentity" in request:
        _check_pattern("sourceIdentity", request["SourceIdentity"], _SESSION_NAME, (2, 64))
    check_length("roleArn", request["RoleArn"], 2048, least=20)
    if "Policy" in request:
        check_length("policy", request["Policy"], SESSION_POLICY_SIZE)
    _refuse_mfa(request)


def _assumable_role(call: Call, request: Request) -> Role:
    """The role, if its trust policy and the caller's own policies admit the caller; `AccessDenied` otherwise.

    A role that does not exist gets the same answer, so that nobody learns which roles there are.
    """
    arn = request["RoleArn"]
    role = call.tx.get(Role, global_scope(call), arn.rpartition("/")[2])
    demands = [Demand(action="sts:AssumeRole", resource=arn)]
    if request.get("Tags"):
        demands.append(Demand(action="sts:TagSession", resource=arn))
    if request.get("SourceIdentity"):
        demands.append(Demand(action="sts:SetSourceIdentity", resource=arn))
    for demand in demands:
        if role is None or role.arn != arn or not _admits(call, request, role, demand):
            raise ApiError(
                "AccessDenied",
                f"User: {call.caller.arn} is not authorized to perform: {demand.action} on resource: {arn}",
                status=403,
            )
    if role is None:
        raise AssertionError("a role that does not exist was admitted")
    return role


def _admits(call: Call, request: Request, role: Role, demand: Demand) -> bool:
    trust = parse_policy(role.assume_role_policy, PolicyKind.TRUST)
    context = {**request_context_of(call), **_trust_keys(request, role)}
    question = access_request(call.caller, demand, context)
    return evaluate(question, policies_of(call.tx, call.caller), trust, resource_policy_required=True).allowed


def _trust_keys(request: Request, role: Role) -> dict[str, str | list[str]]:
    """Condition keys of an AssumeRole request ("Keys for AWS STS condition context")."""
    context: dict[str, str | list[str]] = {"sts:RoleSessionName": request["RoleSessionName"]}
    for member, key in (("ExternalId", "sts:ExternalId"), ("SourceIdentity", "sts:SourceIdentity")):
        if member in request:
            context[key] = request[member]
    tags = request.get("Tags", ())
    context |= {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in tags}
    if tags:
        context["aws:TagKeys"] = [tag["Key"] for tag in tags]
    if request.get("TransitiveTagKeys"):
        context["sts:TransitiveTagKeys"] = list(request["TransitiveTagKeys"])
    for key, value in role.tags.items():
        context |= {f"aws:ResourceTag/{key}": value, f"iam:ResourceTag/{key}": value}
    return context


def _session_policy_arns(call: Call, request: Request) -> tuple[str, ...]:
    arns = tuple(item.get("arn", "") for item in request.get("PolicyArns", ()))
    if len(arns) > SESSION_POLICY_ARNS:
        raise validation_error(f"A session takes at most {SESSION_POLICY_ARNS} policy ARNs.")
    for arn in arns:
        if read_policy(call.tx, global_scope(call), arn) is None:
            raise validation_error(f"Policy {arn} does not exist or is not attachable.")
    return arns


def _role_duration_s(call: Call, request: Request, role: Role) -> int:
    duration_s = _duration_s(request, DURATION_S, DEFAULT_DURATION_S)
    if call.caller.kind == "role" and duration_s > CHAINED_DURATION_S:
        raise validation_error(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
        )
    if duration_s > role.max_session_duration_s:
        raise validation_error("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
    return duration_s


def _transitive_keys(request: Request, tags: dict[str, str]) -> tuple[str, ...]:
    keys = tuple(request.get("TransitiveTagKeys", ()))
    if unknown := [key for key in keys if key not in tags]:
        raise validation_error(f"The specified transitive tag key {unknown[0]!r} must be included in the session tags.")
    return keys


def _inherited_tags(call: Call, tags: dict[str, str]) -> dict[str, str]:
    """Transitive tags of the calling session; the new session may not give them other values."""
    context = call.caller.context
    keys = [key for key in context.get(TRANSITIVE_TAG_KEYS, "").split(",") if key]
    if overridden := {key.lower() for key in keys} & {key.lower() for key in tags}:
        raise ApiError(
            "AccessDenied", f"The transitive tag {sorted(overridden)[0]!r} cannot be overridden.", status=403
        )
    return {key: context[f"aws:PrincipalTag/{key}"] for key in keys}


def _packed_size(session: Session) -> int:
    """How much of a session's room its policies and own tags take, in per cent; raises when it is not enough."""
    tags = "".join(key + value for key, value in session.tags.items())
    size_bytes = len((tags + "".join(session.policy_arns)).encode()) + policy_size(session.policy)
    percent = -(-100 * size_bytes // PACKED_SIZE_BYTES)
    if percent > 100:
        raise ApiError(
            "PackedPolicyTooLargeException",
            f"Packed size of session policies and tags consumes {percent}% of allotted space.",
        )
    return percent


def _new_session(call: Call, duration_s: int, **fields: Any) -> Session:
    now = call.clock.wall()
    account_id = call.scope.account_id
    return Session(
        access_key_id=identifiers.access_key_id(call.randomness, identifiers.TEMPORARY_KEY, account_id),
        secret_access_key=identifiers.secret_access_key(call.randomness),
        account_id=account_id,
        issued_at=now,
        expires_at=now + duration_s,
        **fields,
    )


def _credentials(call: Call, session: Session) -> dict[str, Any]:
    return {
        "AccessKeyId": session.access_key_id,
        "SecretAccessKey": session.secret_access_key,
        "SessionToken": seal_session(call.use(Vault), session),
        "Expiration": session.expires_at,
    }


def _duration_s(request: Request, bounds: tuple[int, int], otherwise: int) -> int:
    duration_s: int = request.get("DurationSeconds", otherwise)
    least, most = bounds
    if not least <= duration_s <= most:
        raise validation_error(
            f"1 validation error detected: Value '{duration_s}' at 'durationSeconds' failed to satisfy constraint:"
            f" Member must have value between {least} and {most}"
        )
    return duration_s


def _refuse_mfa(request: Request) -> None:
    """No user has an MFA device here, so a code cannot be right."""
    if request.get("SerialNumber") or request.get("TokenCode"):
        raise ApiError(
            "AccessDenied", "MultiFactorAuthentication failed with invalid MFA one time pass code.", status=403
        )


def _check_pattern(member: str, value: str, pattern: re.Pattern[str], bounds: tuple[int, int]) -> None:
    check_length(member, value, bounds[1], least=bounds[0])
    if not pattern.fullmatch(value):
        raise validation_error(
            f"1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must satisfy"
            f" regular expression pattern: {pattern.pattern}"
        )
