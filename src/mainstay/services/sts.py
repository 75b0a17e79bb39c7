"""STS: who am I, temporary credentials, and assuming a role.

One thing differs from AWS on purpose: the root may assume a role whose trust policy admits the account. The root's key
is the first credential anybody has here, and AWS's other way in (a console user) does not exist.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from mainstay.decide.policy import AccessRequest, PolicyKind, PolicySet, evaluate, evaluate_resource_policy, parse_policy
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.iam import Role, Session, User
from mainstay.services.iam import identifiers
from mainstay.services.iam.authorization import (
    access_request,
    policies_of,
    principal_of,
    refuse_limited_session,
    request_context_of,
)
from mainstay.services.iam.checks import check_document, check_length, check_tags, validation_error
from mainstay.services.iam.lookup import global_scope, read_policy
from mainstay.services.iam.sessions import open_session, seal_session
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
    duration_s = _duration(request, SESSION_TOKEN_DURATION_S, DEFAULT_SESSION_TOKEN_DURATION_S)
    if caller.kind == "root":
        duration_s = min(duration_s, ROOT_SESSION_TOKEN_DURATION_S)
    session = _new_session(call, duration_s, kind=caller.kind, entity_name=caller.principal, entity_id=caller.user_id)
    return {"Credentials": _credentials(call, session)}


# The permission is decided in the handler, because the role's trust policy has a say in it.
@operations.handles("AssumeRole", demands=lambda _call, _request: ())
def assume_role(call: Call, request: Request) -> Result:
    session_name = request["RoleSessionName"]
    check_length("roleSessionName", session_name, 64, least=2)
    if not _SESSION_NAME.fullmatch(session_name):
        raise _pattern_error("roleSessionName", session_name, r"[\w+=,.@-]*")
    _refuse_mfa(request)
    role = _assumable_role(call, request)
    duration_s = _role_duration(call, request, role)
    policies = _session_policies(call, request)
    tags = check_tags(request.get("Tags", ()), {})
    inherited = _inherited_tags(call, tags)
    packed = _packed_size(policies["policy"], policies["policy_arns"], tags)
    session = _new_session(
        call,
        duration_s,
        kind="role",
        entity_name=role.name,
        entity_id=role.id,
        session_name=session_name,
        tags={**inherited, **tags},
        transitive_tag_keys=(*inherited, *_transitive(request, tags)),
        source_identity=request.get("SourceIdentity") or call.caller.context.get("aws:SourceIdentity", ""),
        **policies,
    )
    result: dict[str, Any] = {
        "Credentials": _credentials(call, session),
        "AssumedRoleUser": {
            "AssumedRoleId": f"{role.id}:{session_name}",
            "Arn": role.scope.arn("sts", f"assumed-role/{role.name}/{session_name}"),
        },
    }
    if packed:
        result["PackedPolicySize"] = packed
    if session.source_identity:
        result["SourceIdentity"] = session.source_identity
    return result
