"""Decides one request against all policies that speak about it.

The order is AWS's ("Policy evaluation logic", IAM User Guide), for one account:
1. an explicit deny in any policy denies;
2. a resource policy that names the user, session or service itself allows;
3. the permissions boundary, then the session policies, must allow (where there are any);
4. a resource policy that names the role allows; otherwise an identity policy must allow;
5. with `resource_policy_required` (role trust, KMS keys) the resource policy must at least name the account.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from mainstay.decide.policy.document import Grant, PolicyDocument, Principal, Statement
from mainstay.decide.policy.patterns import Context, arn_like


class Reason(Enum):
    """Why a decision is as it is, in the words of the simulator."""

    ALLOWED = "allowed"
    EXPLICIT_DENY = "explicitDeny"
    IMPLICIT_DENY = "implicitDeny"


class PolicySource(Enum):
    """Which kind of policy decided, as AWS names it in its messages."""

    IDENTITY = "identity-based policy"
    BOUNDARY = "permissions boundary"
    SESSION = "session policy"
    RESOURCE = "resource-based policy"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome. `source` and `statement_id` name what decided; an implicit deny has no statement."""

    reason: Reason
    source: PolicySource
    statement_id: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the request may proceed."""
        return self.reason is Reason.ALLOWED


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """One action on one resource. Make it with `of`: action and context keys are kept in lower case."""

    action: str
    resource: str
    context: Context
    principal: Principal | None = None

    @classmethod
    def of(
        cls,
        action: str,
        resource: str,
        context: Mapping[str, str | Sequence[str]],
        principal: Principal | None = None,
    ) -> AccessRequest:
        """A request in any spelling of case."""
        return cls(action.lower(), resource, {key.lower(): value for key, value in context.items()}, principal)


@dataclass(frozen=True, slots=True)
class PolicySet:
    """The policies of a principal. None means "there is no such limit"; an empty tuple limits everything."""

    identity: tuple[PolicyDocument, ...] = ()
    boundary: tuple[PolicyDocument, ...] | None = None
    session: tuple[PolicyDocument, ...] | None = None


def evaluate(
    request: AccessRequest,
    policies: PolicySet,
    resource_policy: PolicyDocument | None = None,
    *,
    resource_policy_required: bool = False,
) -> Decision:
    """Whether the principal may do it, and which policy says so."""
    verdicts = {PolicySource.IDENTITY: _verdict(policies.identity, request)}
    if policies.boundary is not None:
        verdicts[PolicySource.BOUNDARY] = _verdict(policies.boundary, request)
    if policies.session is not None:
        verdicts[PolicySource.SESSION] = _verdict(policies.session, request)
    resource_verdict, grant = _resource_verdict(resource_policy, request)
    for source, verdict in [*verdicts.items(), (PolicySource.RESOURCE, resource_verdict)]:
        if verdict is not None and not verdict.allow:
            return Decision(reason=Reason.EXPLICIT_DENY, source=source, statement_id=verdict.id)

    if grant is Grant.DIRECT and resource_verdict is not None:
        return _allowed(PolicySource.RESOURCE, resource_verdict)
    if resource_policy_required and grant is Grant.NONE:
        return Decision(reason=Reason.IMPLICIT_DENY, source=PolicySource.RESOURCE)
    for source in (PolicySource.BOUNDARY, PolicySource.SESSION):
        if source in verdicts and verdicts[source] is None:
            return Decision(reason=Reason.IMPLICIT_DENY, source=source)
    if grant is Grant.ROLE and resource_verdict is not None:
        return _allowed(PolicySource.RESOURCE, resource_verdict)
    identity = verdicts[PolicySource.IDENTITY]
    if identity is None:
        return Decision(reason=Reason.IMPLICIT_DENY, source=PolicySource.IDENTITY)
    return _allowed(PolicySource.IDENTITY, identity)


def evaluate_resource_policy(request: AccessRequest, policy: PolicyDocument) -> Decision:
    """What a resource or trust policy alone says of a principal; used for services, which have no identity policies."""
    verdict, grant = _resource_verdict(policy, request)
    if verdict is None or (verdict.allow and grant < Grant.ROLE):
        return Decision(reason=Reason.IMPLICIT_DENY, source=PolicySource.RESOURCE)
    if not verdict.allow:
        return Decision(reason=Reason.EXPLICIT_DENY, source=PolicySource.RESOURCE, statement_id=verdict.id)
    return _allowed(PolicySource.RESOURCE, verdict)


def matching_statements(document: PolicyDocument, request: AccessRequest) -> Iterator[Statement]:
    """Statements that apply to the request, whatever their effect."""
    for statement in document.statements:
        if _applies(statement, request):
            yield statement


def _allowed(source: PolicySource, statement: Statement) -> Decision:
    return Decision(reason=Reason.ALLOWED, source=source, statement_id=statement.id)


def _verdict(documents: Iterable[PolicyDocument], request: AccessRequest) -> Statement | None:
    """The statement that decides: the first that denies, else the first that allows."""
    allowing: Statement | None = None
    for document in documents:
        for statement in document.statements:
            if (allowing is None or not statement.allow) and _applies(statement, request):
                if not statement.allow:
                    return statement
                allowing = statement
    return allowing


def _resource_verdict(policy: PolicyDocument | None, request: AccessRequest) -> tuple[Statement | None, Grant]:
    """The deciding statement of a resource policy and how strongly it names the principal."""
    best: Statement | None = None
    strongest = Grant.NONE
    for statement in policy.statements if policy else ():
        grant = _grant(statement, request.principal)
        if grant is Grant.NONE or not _applies(statement, request):
            continue
        if not statement.allow:
            return statement, grant
        if grant > strongest:
            best, strongest = statement, grant
    return best, strongest


def _grant(statement: Statement, principal: Principal | None) -> Grant:
    if statement.principals is None or principal is None:
        return Grant.NONE
    grant = statement.principals.grant(principal)
    if not statement.not_principal:
        return grant
    # Naming only the account does not except its users and roles: AWS wants the principal itself to be listed too.
    return Grant.NONE if grant >= Grant.ROLE else Grant.DIRECT


def _applies(statement: Statement, request: AccessRequest) -> bool:
    if statement.actions.match(request.action) is statement.not_action:
        return False
    if statement.resources is not None and _names_resource(statement, request) is statement.not_resource:
        return False
    return all(condition.holds(request.context) for condition in statement.conditions)


def _names_resource(statement: Statement, request: AccessRequest) -> bool:
    for resource in statement.resources or ():
        pieces = resource.resolve(request.context)
        if pieces is not None and arn_like(pieces, request.resource):
            return True
    return False
