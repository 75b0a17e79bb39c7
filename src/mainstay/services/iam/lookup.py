"""Finds what a request names, or answers `NoSuchEntity` in IAM's words."""

from __future__ import annotations

from typing import TypeVar

from mainstay.model.errors import ApiError
from mainstay.model.iam import Entity, Group, ManagedPolicy, PolicyVersion, Role, User
from mainstay.model.records import GLOBAL_REGION, Record, Scope
from mainstay.services.iam.aws_managed import aws_managed_policies
from mainstay.services.iam.checks import delete_conflict
from mainstay.services.operations import Call
from mainstay.store.base import Reader

E = TypeVar("E", bound=Entity)
N = TypeVar("N", User, Group, Role, ManagedPolicy)
ENTITY_KINDS: tuple[type[Entity], ...] = (User, Group, Role)


def global_scope(call: Call) -> Scope:
    """IAM has no regions: everything of an account is in one scope."""
    return Scope(call.scope.account_id, GLOBAL_REGION)


def no_such_entity(message: str) -> ApiError:
    """`NoSuchEntity`."""
    return ApiError("NoSuchEntityException", message, status=404)


def find_entity(call: Call, kind: type[E], name: str) -> E:
    """The user, group or role of this name."""
    entity = call.tx.get(kind, global_scope(call), name)
    if entity is None:
        raise no_such_entity(f"The {kind.NOUN} with name {name} cannot be found.")
    return entity


def read_policy(tx: Reader, scope: Scope, arn: str) -> ManagedPolicy | None:
    """A managed policy, AWS's or the account's own, or None."""
    return aws_managed_policies().get(arn) or tx.get(ManagedPolicy, scope, arn)


def find_policy(call: Call, arn: str) -> ManagedPolicy:
    """The managed policy of this ARN."""
    check_policy_arn(arn)
    policy = read_policy(call.tx, global_scope(call), arn)
    if policy is None:
        raise no_such_entity(f"Policy {arn} was not found.")
    return policy


def find_own_policy(call: Call, arn: str) -> ManagedPolicy:
    """As `find_policy`, for operations that change it: AWS's own policies refuse them."""
    policy = find_policy(call, arn)
    if policy.owner:
        raise ApiError("AccessDenied", f"The policy {arn} is provided by AWS and cannot be changed.", status=403)
    return policy


def find_attachable_policy(call: Call, arn: str) -> ManagedPolicy:
    """As `find_policy`, in the words of the Attach and PermissionsBoundary operations."""
    check_policy_arn(arn)
    policy = read_policy(call.tx, global_scope(call), arn)
    if policy is None:
        raise no_such_entity(f"Policy {arn} does not exist or is not attachable.")
    return policy


def find_version(policy: ManagedPolicy, version_id: str) -> PolicyVersion:
    """One version of a managed policy."""
    try:
        return policy.version(version_id)
    except KeyError:
        raise no_such_entity(f"Policy {policy.arn} version {version_id} does not exist or is not attachable.") from None


def check_policy_arn(arn: str) -> None:
    """Raises `InvalidInput` for text that is no policy ARN."""
    parts = arn.split(":", 5)
    if len(parts) != 6 or parts[:4] != ["arn", "aws", "iam", ""] or not parts[5].startswith("policy/"):
        raise ApiError("InvalidInputException", f"ARN {arn} is not valid.")


def refuse_duplicate(call: Call, kind: type[Record], name: str, message: str) -> None:
    """Raises `EntityAlreadyExists` if the name is taken, in whatever case."""
    if call.tx.find(kind, global_scope(call), "name", name.lower()):
        raise ApiError("EntityAlreadyExistsException", message, status=409)


def refuse_over_quota(count: int, quota: int, name: str) -> None:
    """Raises `LimitExceeded` if one more would exceed the quota."""
    if count >= quota:
        raise ApiError("LimitExceededException", f"Cannot exceed quota for {name}: {quota}", status=409)


def refuse_to_orphan_policies(entity: Entity) -> None:
    """Raises `DeleteConflict` for a user, group or role that has policies still."""
    if entity.attached_policies:
        raise delete_conflict("Cannot delete entity, must detach all policies first.")
    if entity.inline_policies:
        raise delete_conflict("Cannot delete entity, must delete policies first.")
