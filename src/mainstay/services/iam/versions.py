"""Versions of managed policies: at most five, one of them in force."""

from __future__ import annotations

import msgspec

from mainstay.model.iam import PolicyVersion
from mainstay.services.iam import limits
from mainstay.services.iam.checks import check_managed_document, delete_conflict, limit_exceeded
from mainstay.services.iam.lookup import find_own_policy, find_policy, find_version
from mainstay.services.iam.pages import page
from mainstay.services.iam.shapes import version_shape
from mainstay.services.iam.table import on_policy
from mainstay.services.operations import Call, Request, Result


@on_policy("CreatePolicyVersion")
def create_policy_version(call: Call, request: Request) -> Result:
    policy = find_own_policy(call, request["PolicyArn"])
    check_managed_document(request["PolicyDocument"])
    if len(policy.versions) >= limits.VERSIONS_PER_POLICY:
        raise limit_exceeded(
            f"A managed policy can have up to {limits.VERSIONS_PER_POLICY} versions. Before you create a new version,"
            " you must delete an existing version."
        )
    now = call.clock.wall()
    version = PolicyVersion(version_id=f"v{policy.next_version}", document=request["PolicyDocument"], created_at=now)
    default = version.version_id if request.get("SetAsDefault") else policy.default_version_id
    policy = msgspec.structs.replace(
        policy,
        versions=(*policy.versions, version),
        next_version=policy.next_version + 1,
        default_version_id=default,
        updated_at=now,
    )
    call.tx.put(policy)
    return {"PolicyVersion": version_shape(policy, version, document=False)}


@on_policy("GetPolicyVersion")
def get_policy_version(call: Call, request: Request) -> Result:
    policy = find_policy(call, request["PolicyArn"])
    return {"PolicyVersion": version_shape(policy, find_version(policy, request["VersionId"]))}


@on_policy("ListPolicyVersions")
def list_policy_versions(call: Call, request: Request) -> Result:
    policy = find_policy(call, request["PolicyArn"])
    # Newest first, as AWS shows them; the key counts down so that "v10" does not come before "v9".
    shown, more = page(request, policy.versions, lambda version: f"{10**9 - int(version.version_id[1:]):010d}")
    return {"Versions": [version_shape(policy, version, document=False) for version in shown], **more}


@on_policy("DeletePolicyVersion")
def delete_policy_version(call: Call, request: Request) -> Result:
    policy = find_own_policy(call, request["PolicyArn"])
    version = find_version(policy, request["VersionId"])
    if version.version_id == policy.default_version_id:
        raise delete_conflict("Cannot delete the default version of a policy.")
    rest = tuple(each for each in policy.versions if each != version)
    call.tx.put(msgspec.structs.replace(policy, versions=rest))
    return None


@on_policy("SetDefaultPolicyVersion")
def set_default_policy_version(call: Call, request: Request) -> Result:
    policy = find_own_policy(call, request["PolicyArn"])
    version = find_version(policy, request["VersionId"])
    changed = msgspec.structs.replace(policy, default_version_id=version.version_id, updated_at=call.clock.wall())
    call.tx.put(changed)
    return None
