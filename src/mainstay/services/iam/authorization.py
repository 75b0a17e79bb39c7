"""May this caller do this? Gathers the policies that speak about a caller and asks `decide.policy`.

The root may do everything. A document is parsed once and remembered by its text, so a change of policy counts from
the next call on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from mainstay.decide.policy import (
    AccessRequest,
    Decision,
    PolicyDocument,
    PolicyKind,
    PolicySet,
    PolicySource,
    Principal,
    Reason,
    evaluate,
    parse_policy,
)
from mainstay.model.errors import ApiError
from mainstay.model.iam import Entity, Group, Role, User
from mainstay.model.records import GLOBAL_REGION, Scope
from mainstay.services.iam.identifiers import TEMPORARY_KEY
from mainstay.services.iam.lookup import read_policy
from mainstay.services.iam.sessions import invalid_token
from mainstay.services.operations import Call, Caller, Demand
from mainstay.store.base import Reader

RequestContext = Mapping[str, str | Sequence[str]]


def authorize(tx: Reader, caller: Caller, demands: Sequence[Demand], request_context: RequestContext) -> None:
    """Returns if every demand is allowed; raises `AccessDenied` naming the first that is not and why."""
    if not demands:
        return
    refuse_limited_session(caller, demands)
    if caller.kind == "root":
        return
    policies = policies_of(tx, caller)
    for demand in demands:
        decision = evaluate(access_request(caller, demand, request_context), policies)
        if not decision.allowed:
            raise denied(caller, demand, decision)


def require(
    call: Call,
    demand: Demand,
    resource_policy: str | PolicyDocument = "",
    *,
    resource_policy_required: bool = False,
    request_context: RequestContext | None = None,
) -> None:
    """As `authorize`, for a resource with a policy of its own (a secret, a key).

    The root needs none of them, unless `resource_policy_required`: then it too may do only what that policy says.
    """
    if call.caller.kind == "root" and not resource_policy_required:
        return
    context = request_context or request_context_of(call)
    document = resource_policy or None
    if isinstance(document, str):
        document = parse_policy(document, PolicyKind.RESOURCE)
    decision = evaluate(
        access_request(call.caller, demand, context),
        policies_of(call.tx, call.caller),
        document,
        resource_policy_required=resource_policy_required,
    )
    if not decision.allowed:
        raise denied(call.caller, demand, decision)


def policies_of(tx: Reader, caller: Caller) -> PolicySet:
    """All identity policies, the boundary and the session policies of a user or role; none if it is gone."""
    scope = Scope(caller.account_id, GLOBAL_REGION)
    entity = tx.get(Role if caller.kind == "role" else User, scope, caller.principal)
    if entity is None:
        return PolicySet()
    policies = policies_of_entity(tx, entity)
    if not caller.session_policies:
        return policies
    return PolicySet(policies.identity, policies.boundary, _parse(caller.session_policies))


def policies_of_entity(tx: Reader, entity: Entity) -> PolicySet:
    """What a user (with its groups), group or role may do by itself."""
    return PolicySet(_parse(text for _, text in named_policies(tx, entity)), boundary_of(tx, entity))


def named_policies(tx: Reader, entity: Entity) -> list[tuple[str, str]]:
    """Name or ARN, and text, of every identity policy of a user (with its groups), group or role."""
    entities = [entity]
    if isinstance(entity, User):
        groups = [tx.get(Group, entity.scope, name) for name in entity.groups]
        entities += [group for group in groups if group is not None]
    policies: list[tuple[str, str]] = []
    for each in entities:
        policies += each.inline_policies.items()
        for arn in each.attached_policies:
            policy = read_policy(tx, each.scope, arn)
            if policy is not None:
                policies.append((arn, policy.document))
    return policies


def boundary_of(tx: Reader, entity: Entity) -> tuple[PolicyDocument, ...] | None:
    """The permissions boundary, None without one. One that cannot be found limits everything."""
    arn = getattr(entity, "permissions_boundary", "")
    if not arn:
        return None
    policy = read_policy(tx, entity.scope, arn)
    return _parse([policy.document]) if policy else ()


def access_request(caller: Caller, demand: Demand, request_context: RequestContext) -> AccessRequest:
    """The question for `decide.policy`. What is known of the caller cannot be overridden by the request."""
    context = {**request_context, **demand.context, **caller.context}
    return AccessRequest.of(demand.action, demand.resource, context, principal_of(caller))


def principal_of(caller: Caller) -> Principal:
    """The caller as resource and trust policies see it."""
    return Principal(
        kind=caller.kind,
        arn=caller.arn,
        account_id=caller.account_id,
        role_arn=caller.context.get("aws:PrincipalArn", "") if caller.kind == "role" else "",
    )


def request_context_of(call: Call) -> dict[str, str | Sequence[str]]:
    """The condition keys that every request has ("AWS global condition context keys").

    Those of the caller (aws:PrincipalArn, aws:username …) are in its own context, those of resources in the demands.
    """
    now = call.clock.wall()
    context: dict[str, str | Sequence[str]] = {
        "aws:CurrentTime": datetime.fromtimestamp(now, UTC).isoformat(),
        "aws:EpochTime": str(int(now)),
        "aws:RequestedRegion": call.requested_region or call.scope.region,
        "aws:SecureTransport": "true" if call.secure_transport else "false",
        "aws:PrincipalIsAWSService": "false",
        "aws:ViaAWSService": "false",
    }
    if call.referer:
        context["aws:Referer"] = call.referer
    if call.user_agent:
        context["aws:UserAgent"] = call.user_agent
    if call.source_ip:
        context["aws:SourceIp"] = call.source_ip
    return context


def denied(caller: Caller, demand: Demand, decision: Decision) -> ApiError:
    """`AccessDenied` in AWS's words. The front maps the code for services that call it otherwise."""
    message = f"User: {caller.arn} is not authorized to perform: {demand.action} on resource: {demand.resource}"
    if decision.reason is Reason.EXPLICIT_DENY:
        article = "an" if decision.source is PolicySource.IDENTITY else "a"
        message += f" with an explicit deny in {article} {decision.source.value}"
    else:
        message += f" because no {decision.source.value} allows the {demand.action} action"
    return ApiError("AccessDenied", message)  # its status is the protocol's: 403, in JSON 400


def refuse_limited_session(caller: Caller, demands: Sequence[Demand]) -> None:
    """Credentials of GetSessionToken (without MFA) may call neither IAM nor, but for AssumeRole, STS, as in AWS."""
    if caller.kind == "role" or not caller.access_key_id.startswith(TEMPORARY_KEY):
        return
    for demand in demands:
        service, _, name = demand.action.partition(":")
        if service == "iam":
            raise invalid_token()
        if service == "sts" and name != "AssumeRole":
            raise ApiError("AccessDenied", f"Cannot call {name} with session credentials", status=403)


def _parse(texts: Iterable[str]) -> tuple[PolicyDocument, ...]:
    return tuple(parse_policy(text) for text in texts)
