"""Records as the answers of IAM show them. Policy documents are URL-encoded (RFC 3986), as IAM sends them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from mainstay.model.iam import AccessKey, Group, ManagedPolicy, PolicyVersion, Role, User


def encode_document(text: str) -> str:
    """The document as it is sent."""
    return quote(text, safe="")


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    """Tags in AWS's list form."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def boundary_shape(arn: str) -> dict[str, Any]:
    """The `PermissionsBoundary` member, where there is one."""
    if not arn:
        return {}
    return {"PermissionsBoundary": {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": arn}}


def user_shape(user: User, *, detailed: bool = True) -> dict[str, Any]:
    """`User`. Lists leave out tags and boundary, as AWS does."""
    shape: dict[str, Any] = {
        "Path": user.path,
        "UserName": user.name,
        "UserId": user.id,
        "Arn": user.arn,
        "CreateDate": user.created_at,
    }
    if detailed:
        shape |= boundary_shape(user.permissions_boundary)
        if user.tags:
            shape["Tags"] = tag_list(user.tags)
    return shape


def group_shape(group: Group) -> dict[str, Any]:
    """`Group`."""
    return {
        "Path": group.path,
        "GroupName": group.name,
        "GroupId": group.id,
        "Arn": group.arn,
        "CreateDate": group.created_at,
    }


def role_shape(role: Role, *, detailed: bool = True) -> dict[str, Any]:
    """`Role`. Lists leave out tags, boundary and last use, as AWS does."""
    shape: dict[str, Any] = {
        "Path": role.path,
        "RoleName": role.name,
        "RoleId": role.id,
        "Arn": role.arn,
        "CreateDate": role.created_at,
        "AssumeRolePolicyDocument": encode_document(role.assume_role_policy),
        "MaxSessionDuration": role.max_session_duration_s,
    }
    if role.description is not None:
        shape["Description"] = role.description
    if detailed:
        shape |= boundary_shape(role.permissions_boundary)
        if role.tags:
            shape["Tags"] = tag_list(role.tags)
        shape["RoleLastUsed"] = (
            {} if role.last_used_at is None else {"LastUsedDate": role.last_used_at, "Region": role.last_used_region}
        )
    return shape


def access_key_shape(key: AccessKey) -> dict[str, Any]:
    """`AccessKeyMetadata`; never the secret."""
    shape = {"AccessKeyId": key.access_key_id, "Status": key.status, "CreateDate": key.created_at}
    return shape | ({"UserName": key.user_name} if key.user_name else {})


def policy_shape(policy: ManagedPolicy, attachments: int, boundaries: int, *, detailed: bool = True) -> dict[str, Any]:
    """`Policy`. Lists leave out description and tags, as AWS does."""
    shape: dict[str, Any] = {
        "PolicyName": policy.name,
        "PolicyId": policy.id,
        "Arn": policy.arn,
        "Path": policy.path,
        "DefaultVersionId": policy.default_version_id,
        "AttachmentCount": attachments,
        "PermissionsBoundaryUsageCount": boundaries,
        "IsAttachable": True,
        "CreateDate": policy.created_at,
        "UpdateDate": policy.updated_at,
    }
    if detailed:
        if policy.description is not None:
            shape["Description"] = policy.description
        shape["Tags"] = tag_list(policy.tags)
    return shape


def version_shape(policy: ManagedPolicy, version: PolicyVersion, *, document: bool = True) -> dict[str, Any]:
    """`PolicyVersion`; lists leave out the document."""
    shape: dict[str, Any] = {
        "VersionId": version.version_id,
        "IsDefaultVersion": version.version_id == policy.default_version_id,
        "CreateDate": version.created_at,
    }
    return shape | ({"Document": encode_document(version.document)} if document else {})
