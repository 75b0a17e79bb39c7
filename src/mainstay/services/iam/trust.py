"""Trust policies: who may assume a role. Validated when stored, as IAM does."""

from __future__ import annotations

from mainstay.decide.policy import MalformedPolicy, PolicyKind, policy_size
from mainstay.model.iam import Role, User
from mainstay.services.iam import limits
from mainstay.services.iam.checks import check_document, limit_exceeded
from mainstay.services.iam.lookup import global_scope
from mainstay.services.operations import Call


def check_trust_policy(call: Call, text: str) -> None:
    """Raises unless the text is a trust policy that fits and whose users and roles of this account exist.

    Principals of other accounts cannot be looked up here and are taken as they are.
    """
    document = check_document("assumeRolePolicyDocument", text, PolicyKind.TRUST)
    if policy_size(text) > limits.TRUST_POLICY_SIZE:
        raise limit_exceeded(f"Cannot exceed quota for ACLSizePerRole: {limits.TRUST_POLICY_SIZE}")
    for statement in document.statements:
        for arn in sorted(statement.principals.aws if statement.principals else ()):
            if not principal_exists(call, arn):
                raise MalformedPolicy(f'Invalid principal in policy: "AWS":"{arn}"', statement.id)


def principal_exists(call: Call, arn: str) -> bool:
    """Whether an AWS principal of a policy is there; what cannot be looked up here is taken as it is."""
    scope = global_scope(call)
    kinds: dict[str, type[User] | type[Role]] = {"user": User, "role": Role}
    for noun, kind in kinds.items():
        prefix = scope.arn("iam", f"{noun}/")
        if arn.startswith(prefix):
            entity = call.tx.get(kind, scope, arn.rpartition("/")[2])
            return entity is not None and entity.arn == arn
    return True
