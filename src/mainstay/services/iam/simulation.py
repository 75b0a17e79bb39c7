"""The policy simulator: what would be allowed, by which statement, and which condition keys were missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mainstay.decide.policy import (
    AccessRequest,
    Decision,
    PolicyDocument,
    PolicyKind,
    PolicySet,
    Principal,
    evaluate,
    matching_statements,
    parse_policy,
)
from mainstay.model.errors import ApiError
from mainstay.model.iam import Entity, Group, Role, User
from mainstay.services.iam.authorization import boundary_of, named_policies
from mainstay.services.iam.checks import check_document, validation_error
from mainstay.services.iam.lookup import global_scope, no_such_entity
from mainstay.services.iam.pages import page
from mainstay.services.iam.table import operations
from mainstay.services.operations import Call, Demand, Request, Result

ACTIONS_MAX = 100
RESOURCES_MAX = 100
PROVIDED_BY_SERVICE = ("aws:currenttime", "aws:epochtime")

NamedPolicies = Sequence[tuple[str, PolicyDocument]]


@operations.handles("SimulateCustomPolicy")
def simulate_custom_policy(call: Call, request: Request) -> Result:
    return _simulate(request, _input_policies(request), _input_boundary(request), _caller(request.get("CallerArn", "")))


def _on_source(call: Call, request: Request) -> Sequence[Demand]:
    return (Demand(action="iam:SimulatePrincipalPolicy", resource=request["PolicySourceArn"]),)


@operations.handles("SimulatePrincipalPolicy", demands=_on_source)
def simulate_principal_policy(call: Call, request: Request) -> Result:
    entity = _source(call, request["PolicySourceArn"])
    attached = [(_policy_id(entity, name), parse_policy(text)) for name, text in named_policies(call.tx, entity)]
    boundary = _input_boundary(request)
    if boundary is None:
        boundary = boundary_of(call.tx, entity)
    principal = None if isinstance(entity, Group) else _caller(request.get("CallerArn") or entity.arn)
    return _simulate(request, [*attached, *_input_policies(request)], boundary, principal)


@operations.handles("GetContextKeysForCustomPolicy")
def get_context_keys_for_custom_policy(_call: Call, request: Request) -> Result:
    return {"ContextKeyNames": _context_keys(document for _, document in _input_policies(request))}


def _keys_source(call: Call, request: Request) -> Sequence[Demand]:
    return (Demand(action="iam:GetContextKeysForPrincipalPolicy", resource=request["PolicySourceArn"]),)


@operations.handles("GetContextKeysForPrincipalPolicy", demands=_keys_source)
def get_context_keys_for_principal_policy(call: Call, request: Request) -> Result:
    entity = _source(call, request["PolicySourceArn"])
    documents = [parse_policy(text) for _, text in named_policies(call.tx, entity)]
    return {"ContextKeyNames": _context_keys([*documents, *(each for _, each in _input_policies(request))])}


def _context_keys(documents: Any) -> list[str]:
    return sorted({key for document in documents for key in document.context_keys()})


def _simulate(
    request: Request,
    named: NamedPolicies,
    boundary: tuple[PolicyDocument, ...] | None,
    principal: Principal | None,
) -> Result:
    policies = PolicySet(tuple(document for _, document in named), boundary)
    resource_policy = None
    if text := request.get("ResourcePolicy"):
        resource_policy = check_document("resourcePolicy", text, PolicyKind.RESOURCE)
        named = [*named, ("ResourcePolicy", resource_policy)]
    context = _context(request)
    actions, resources = request["ActionNames"], request.get("ResourceArns") or ["*"]
    if len(actions) > ACTIONS_MAX or len(resources) > RESOURCES_MAX:
        raise validation_error(f"A simulation takes at most {ACTIONS_MAX} actions and {RESOURCES_MAX} resources.")
    questions = [AccessRequest.of(action, resource, context, principal) for action in actions for resource in resources]
    names = [action for action in actions for _ in resources]
    keys = {key for _, document in named for key in document.context_keys()}
    missing = sorted(keys - {key.lower() for key in context} - set(PROVIDED_BY_SERVICE))
    shown, more = page(request, range(len(questions)), lambda index: f"{index:06d}")
    results = []
    for index in shown:
        question = questions[index]
        decision = evaluate(question, policies, resource_policy)
        results.append(
            {
                "EvalActionName": names[index],
                "EvalResourceName": question.resource,
                "EvalDecision": decision.reason.value,
                "MatchedStatements": _matched(named, question, decision),
                "MissingContextValues": missing,
                **_boundary_detail(boundary, question),
            }
        )
    return {"EvaluationResults": results, **more}


def _matched(named: NamedPolicies, question: AccessRequest, decision: Decision) -> list[dict[str, Any]]:
    """The statements behind the decision: of an allowed request those that allow, of a denied one those that deny."""
    return [
        {"SourcePolicyId": name, "SourcePolicyType": "IAM Policy"}
        for name, document in named
        for statement in matching_statements(document, question)
        if statement.allow is decision.allowed
    ]


def _boundary_detail(boundary: tuple[PolicyDocument, ...] | None, question: AccessRequest) -> dict[str, Any]:
    if boundary is None:
        return {}
    allowed = evaluate(question, PolicySet(boundary)).allowed
    return {"PermissionsBoundaryDecisionDetail": {"AllowedByPermissionsBoundary": allowed}}


def _context(request: Request) -> Mapping[str, str | Sequence[str]]:
    context: dict[str, str | Sequence[str]] = {}
    for entry in request.get("ContextEntries", ()):
        values = entry.get("ContextKeyValues", [])
        several = entry.get("ContextKeyType", "").endswith("List") or len(values) != 1
        context[entry.get("ContextKeyName", "")] = values if several else values[0]
    return context


def _input_policies(request: Request) -> list[tuple[str, PolicyDocument]]:
    texts = request.get("PolicyInputList") or ()
    return [
        (f"PolicyInputList.{index}", check_document("policyInputList", text)) for index, text in enumerate(texts, 1)
    ]


def _input_boundary(request: Request) -> tuple[PolicyDocument, ...] | None:
    texts = request.get("PermissionsBoundaryPolicyInputList")
    if not texts:
        return None
    return tuple(check_document("permissionsBoundaryPolicyInputList", text) for text in texts)


def _caller(arn: str) -> Principal | None:
    if not arn:
        return None
    parts = arn.split(":", 5)
    if len(parts) != 6 or parts[:3] != ["arn", "aws", "iam"]:
        raise ApiError("InvalidInputException", f"Invalid CallerArn: {arn}")
    kind = parts[5].partition("/")[0]
    return Principal(kind=kind, arn=arn, account_id=parts[4], role_arn=arn if kind == "role" else "")


def _source(call: Call, arn: str) -> Entity:
    scope = global_scope(call)
    kinds: tuple[type[User] | type[Group] | type[Role], ...] = (User, Group, Role)
    for kind in kinds:
        if arn.startswith(scope.arn("iam", f"{kind.NOUN}/")):
            entity = call.tx.get(kind, scope, arn.rpartition("/")[2])
            if entity is None or entity.arn != arn:
                raise no_such_entity(f"The {kind.NOUN} with name {arn.rpartition('/')[2]} cannot be found.")
            return entity
    raise ApiError("InvalidInputException", f"Invalid Entity Arn: {arn} does not clearly define entity type and name.")


def _policy_id(entity: Entity, name: str) -> str:
    return name.rpartition("/")[2] if name.startswith("arn:") else f"{entity.NOUN}_{entity.name}_{name}"
