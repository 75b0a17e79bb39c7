"""The operations of IAM as clients see them: results, limits, refusals, permissions."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import botocore.session
import pytest

from harness.accounts import Account, document
from mainstay.model.errors import ApiError
from mainstay.services import iam, sts

ACCOUNT = "123456789012"
ALLOW_ALL = {"Effect": "Allow", "Action": "*", "Resource": "*"}
RDS_FULL = "arn:aws:iam::aws:policy/AmazonRDSFullAccess"
TRUST = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "monitoring.rds.amazonaws.com"}}


def refused(account: Account, operation: str, shape: str, words: str, **request: Any) -> None:
    with pytest.raises(ApiError) as caught:
        account.iam(operation, **request)
    assert caught.value.shape == shape
    assert words in caught.value.message


@pytest.mark.parametrize(("service", "table"), [("iam", iam.operations), ("sts", sts.operations)])
def test_every_operation_is_one_of_aws(service: str, table: Any) -> None:
    model = botocore.session.get_session().get_service_model(service)
    assert set(table.built) <= set(model.operation_names)


def test_life_of_a_user(account: Account) -> None:
    made = account.iam("CreateUser", UserName="Bob", Path="/ops/", Tags=[{"Key": "a", "Value": "1"}])["User"]
    assert made["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/ops/Bob"
    assert made["CreateDate"] == account.clock.wall()
    assert account.iam("GetUser", UserName="Bob")["User"] == made
    refused(account, "CreateUser", "EntityAlreadyExistsException", "User with name bob already exists.", UserName="bob")
    refused(account, "GetUser", "NoSuchEntityException", "The user with name eve cannot be found.", UserName="eve")
    key = account.iam("CreateAccessKey", UserName="Bob")["AccessKey"]
    account.iam("UpdateUser", UserName="Bob", NewUserName="rob", NewPath="/")
    assert account.credentials(key["AccessKeyId"]).caller.arn == f"arn:aws:iam::{ACCOUNT}:user/rob"
    account.iam("PutUserPolicy", UserName="rob", PolicyName="p", PolicyDocument=document(ALLOW_ALL))
    account.iam("AttachUserPolicy", UserName="rob", PolicyArn=RDS_FULL)
    account.iam("CreateGroup", GroupName="g")
    account.iam("AddUserToGroup", GroupName="g", UserName="rob")
    conflict = "DeleteConflictException"
    refused(account, "DeleteUser", conflict, "must delete access keys first", UserName="rob")
    account.iam("DeleteAccessKey", UserName="rob", AccessKeyId=key["AccessKeyId"])
    refused(account, "DeleteUser", conflict, "must detach all policies first", UserName="rob")
    account.iam("DetachUserPolicy", UserName="rob", PolicyArn=RDS_FULL)
    refused(account, "DeleteUser", conflict, "must delete policies first", UserName="rob")
    account.iam("DeleteUserPolicy", UserName="rob", PolicyName="p")
    refused(account, "DeleteUser", conflict, "must remove users from group first", UserName="rob")
    refused(account, "DeleteGroup", conflict, "must remove users from group first", GroupName="g")
    account.iam("UpdateGroup", GroupName="g", NewGroupName="h")
    assert account.iam("ListGroupsForUser", UserName="rob")["Groups"][0]["GroupName"] == "h"
    assert account.iam("GetGroup", GroupName="h")["Users"][0]["UserName"] == "rob"
    account.iam("RemoveUserFromGroup", GroupName="h", UserName="rob")
    account.iam("DeleteUser", UserName="rob")
    account.iam("DeleteGroup", GroupName="h")
    assert account.iam("ListUsers")["Users"] == account.iam("ListGroups")["Groups"] == []


@pytest.mark.parametrize(
    ("name", "good"), [("a" * 64, True), ("a" * 65, False), ("a b", False), ("", False), ("ü", False)]
)
def test_names_of_users(account: Account, name: str, good: bool) -> None:
    if good:
        account.iam("CreateUser", UserName=name)
    else:
        refused(account, "CreateUser", "ValidationError", "userName", UserName=name)


@pytest.mark.parametrize("path", ["ops/", "/ops", "/a b/", "", "/" + "a" * 511 + "/"])
def test_wrong_paths(account: Account, path: str) -> None:
    refused(account, "CreateUser", "ValidationError", "path", UserName="bob", Path=path)


def test_who_am_i(account: Account) -> None:
    assert account.iam("GetUser")["User"]["Arn"] == f"arn:aws:iam::{ACCOUNT}:root"
    bob = account.user("bob", ALLOW_ALL)
    assert account.iam("GetUser", bob)["User"]["UserName"] == "bob"


def test_a_user_has_two_access_keys_at_most_and_may_rotate_its_own(account: Account) -> None:
    own = {"Effect": "Allow", "Action": "iam:*AccessKey*", "Resource": "arn:aws:iam::*:user/${aws:username}"}
    bob = account.user("bob", own)
    account.user("eve")
    second = account.iam("CreateAccessKey", bob)["AccessKey"]
    assert len(second["SecretAccessKey"]) == 40
    refused(account, "CreateAccessKey", "LimitExceededException", "AccessKeysPerUser: 2", UserName="bob")
    assert len(account.iam("ListAccessKeys", bob)["AccessKeyMetadata"]) == 2
    with pytest.raises(ApiError, match="iam:CreateAccessKey on resource: arn:aws:iam::123456789012:user/eve"):
        account.iam("CreateAccessKey", bob, UserName="eve")
    refused(account, "DeleteAccessKey", "NoSuchEntityException", "The Access Key with id", UserName="eve",
            AccessKeyId=second["AccessKeyId"])  # fmt: skip
    account.iam("DeleteAccessKey", bob, AccessKeyId=second["AccessKeyId"])


def test_lists_have_pages(account: Account) -> None:
    for name in "cabed":
        account.iam("CreateUser", UserName=name, Path="/x/" if name == "e" else "/")
    seen: list[str] = []
    answer = account.iam("ListUsers", MaxItems=2)
    while answer["IsTruncated"]:
        seen += [user["UserName"] for user in answer["Users"]]
        account.iam("DeleteUser", UserName=seen[-1])
        answer = account.iam("ListUsers", MaxItems=2, Marker=answer["Marker"])
    assert [*seen, *(user["UserName"] for user in answer["Users"])] == list("abcde")
    assert [user["UserName"] for user in account.iam("ListUsers", PathPrefix="/x/")["Users"]] == ["e"]
    refused(account, "ListUsers", "ValidationError", "Invalid Marker", Marker="%%%")
    refused(account, "ListUsers", "ValidationError", "maxItems", MaxItems=1001)


def test_life_of_a_role(account: Account) -> None:
    text = document(TRUST)
    made = account.iam("CreateRole", RoleName="r", AssumeRolePolicyDocument=text, Description="d")["Role"]
    assert unquote(made["AssumeRolePolicyDocument"]) == text
    assert (made["MaxSessionDuration"], made["RoleId"][:4]) == (3600, "AROA")
    account.iam("TagRole", RoleName="r", Tags=[{"Key": "Env", "Value": "dev"}])
    account.iam("TagRole", RoleName="r", Tags=[{"Key": "env", "Value": "prod"}])
    assert account.iam("ListRoleTags", RoleName="r")["Tags"] == [{"Key": "env", "Value": "prod"}]
    account.iam("UntagRole", RoleName="r", TagKeys=["ENV"])
    boundary = {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": RDS_FULL}
    account.iam("PutRolePermissionsBoundary", RoleName="r", PermissionsBoundary=RDS_FULL)
    assert account.iam("GetRole", RoleName="r")["Role"]["PermissionsBoundary"] == boundary
    account.iam("DeleteRolePermissionsBoundary", RoleName="r")
    account.iam("UpdateRole", RoleName="r", MaxSessionDuration=43200)
    refused(account, "UpdateRole", "ValidationError", "maxSessionDuration", RoleName="r", MaxSessionDuration=43201)
    account.iam("UpdateRoleDescription", RoleName="r", Description="new")
    other = document({**TRUST, "Principal": {"AWS": ACCOUNT}})
    account.iam("UpdateAssumeRolePolicy", RoleName="r", PolicyDocument=other)
    role = account.iam("GetRole", RoleName="r")["Role"]
    assert (role["MaxSessionDuration"], role["Description"]) == (43200, "new")
    assert "Tags" not in role and "PermissionsBoundary" not in role
    account.iam("AttachRolePolicy", RoleName="r", PolicyArn=RDS_FULL)
    assert account.iam("ListAttachedRolePolicies", RoleName="r")["AttachedPolicies"] == [
        {"PolicyName": "AmazonRDSFullAccess", "PolicyArn": RDS_FULL}
    ]
    refused(account, "DeleteRole", "DeleteConflictException", "must detach all policies first", RoleName="r")
    account.iam("DetachRolePolicy", RoleName="r", PolicyArn=RDS_FULL)
    assert account.iam("ListInstanceProfilesForRole", RoleName="r")["InstanceProfiles"] == []
    account.iam("DeleteRole", RoleName="r")
    refused(account, "GetRole", "NoSuchEntityException", "The role with name r cannot be found.", RoleName="r")


def test_trust_policies_are_checked(account: Account) -> None:
    missing = {**TRUST, "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/nobody"}}
    for text, words in (
        ("{", "Syntax errors"),
        (document({**TRUST, "Resource": "*"}), "Has prohibited field Resource"),
        (document(missing), 'Invalid principal in policy: "AWS":"arn:aws:iam::123456789012:user/nobody"'),
    ):
        refused(account, "CreateRole", "MalformedPolicyDocumentException", words, RoleName="r",
                AssumeRolePolicyDocument=text)  # fmt: skip
    long = document({**TRUST, "Condition": {"StringEquals": {"aws:x": "y" * 2048}}})
    refused(account, "CreateRole", "LimitExceededException", "ACLSizePerRole: 2048", RoleName="r",
            AssumeRolePolicyDocument=long)  # fmt: skip


def test_service_linked_role(account: Account) -> None:
    role = account.iam("CreateServiceLinkedRole", AWSServiceName="rds.amazonaws.com")["Role"]
    assert role["Arn"].endswith(":role/aws-service-role/rds.amazonaws.com/AWSServiceRoleForRDS")
    name = role["RoleName"]
    refused(account, "CreateServiceLinkedRole", "InvalidInputException", "has been taken",
            AWSServiceName="rds.amazonaws.com")  # fmt: skip
    refused(account, "CreateServiceLinkedRole", "InvalidInputException", "not supported", AWSServiceName="x.y")
    refused(account, "DeleteRole", "UnmodifiableEntityException", "protected role", RoleName=name)
    refused(account, "AttachRolePolicy", "UnmodifiableEntityException", "protected", RoleName=name, PolicyArn=RDS_FULL)
    task = account.iam("DeleteServiceLinkedRole", RoleName=name)["DeletionTaskId"]
    assert account.iam("GetServiceLinkedRoleDeletionStatus", DeletionTaskId=task) == {"Status": "SUCCEEDED"}
    refused(account, "GetRole", "NoSuchEntityException", "cannot be found", RoleName=name)


def test_life_of_a_policy_and_its_versions(account: Account) -> None:
    text = document(ALLOW_ALL)
    made = account.iam("CreatePolicy", PolicyName="p", Path="/x/", PolicyDocument=text, Description="d")["Policy"]
    arn = made["Arn"]
    assert arn == f"arn:aws:iam::{ACCOUNT}:policy/x/p"
    assert (made["DefaultVersionId"], made["AttachmentCount"], made["Description"]) == ("v1", 0, "d")
    refused(account, "CreatePolicy", "EntityAlreadyExistsException", "A policy called P already exists.",
            PolicyName="P", PolicyDocument=text)  # fmt: skip
    for _ in range(4):
        account.iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=text)
    refused(account, "CreatePolicyVersion", "LimitExceededException", "up to 5 versions", PolicyArn=arn,
            PolicyDocument=text)  # fmt: skip
    account.iam("SetDefaultPolicyVersion", PolicyArn=arn, VersionId="v5")
    versions = account.iam("ListPolicyVersions", PolicyArn=arn)["Versions"]
    assert [(each["VersionId"], each["IsDefaultVersion"]) for each in versions][:2] == [("v5", True), ("v4", False)]
    got = account.iam("GetPolicyVersion", PolicyArn=arn, VersionId="v5")["PolicyVersion"]
    assert json.loads(unquote(got["Document"])) == json.loads(text)
    account.user("bob")
    account.iam("AttachUserPolicy", UserName="bob", PolicyArn=arn)
    entities = account.iam("ListEntitiesForPolicy", PolicyArn=arn)
    assert entities["PolicyUsers"][0]["UserName"] == "bob" and entities["PolicyRoles"] == []
    assert account.iam("GetPolicy", PolicyArn=arn)["Policy"]["AttachmentCount"] == 1
    attached = account.iam("ListPolicies", OnlyAttached=True)["Policies"]
    assert [policy["Arn"] for policy in attached] == [arn]
    conflict = "DeleteConflictException"
    refused(account, "DeletePolicy", conflict, "attached to entities", PolicyArn=arn)
    account.iam("DetachUserPolicy", UserName="bob", PolicyArn=arn)
    refused(account, "DetachUserPolicy", "NoSuchEntityException", "was not found", UserName="bob", PolicyArn=arn)
    refused(account, "DeletePolicy", conflict, "more than one version", PolicyArn=arn)
    refused(account, "DeletePolicyVersion", conflict, "Cannot delete the default", PolicyArn=arn, VersionId="v5")
    for version in ("v1", "v2", "v3", "v4"):
        account.iam("DeletePolicyVersion", PolicyArn=arn, VersionId=version)
    account.iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=text)
    account.iam("DeletePolicyVersion", PolicyArn=arn, VersionId="v6")
    account.iam("DeletePolicy", PolicyArn=arn)
    refused(account, "GetPolicy", "NoSuchEntityException", f"Policy {arn} was not found.", PolicyArn=arn)
    refused(account, "GetPolicy", "InvalidInputException", "is not valid", PolicyArn="arn:aws:iam::1:user/xxxxxxxxx")


@pytest.mark.parametrize(("spare", "good"), [(1, True), (0, True), (-1, False)])
def test_size_of_managed_policies(account: Account, spare: int, good: bool) -> None:
    frame = len("".join(document({**ALLOW_ALL, "Resource": "arn:"}).split()))
    text = document({**ALLOW_ALL, "Resource": "arn:" + "a" * (6144 - frame - spare)})
    if good:
        account.iam("CreatePolicy", PolicyName="p", PolicyDocument=text)
    else:
        refused(account, "CreatePolicy", "LimitExceededException", "PolicySize: 6144", PolicyName="p",
                PolicyDocument=text)  # fmt: skip


def test_inline_policies_share_one_quota(account: Account) -> None:
    account.iam("CreateUser", UserName="bob")
    text = document({**ALLOW_ALL, "Resource": "arn:" + "a" * 900})
    for name in ("one", "two"):
        account.iam("PutUserPolicy", UserName="bob", PolicyName=name, PolicyDocument=text)
    account.iam("PutUserPolicy", UserName="bob", PolicyName="two", PolicyDocument=text)
    refused(account, "PutUserPolicy", "LimitExceededException", "Maximum policy size of 2048 bytes exceeded for user",
            UserName="bob", PolicyName="three", PolicyDocument=text)  # fmt: skip
    assert account.iam("ListUserPolicies", UserName="bob")["PolicyNames"] == ["one", "two"]
    got = account.iam("GetUserPolicy", UserName="bob", PolicyName="one")
    assert unquote(got["PolicyDocument"]) == text
    refused(account, "GetUserPolicy", "NoSuchEntityException", "The user policy with name x cannot be found.",
            UserName="bob", PolicyName="x")  # fmt: skip


def test_ten_policies_may_be_attached(account: Account) -> None:
    account.iam("CreateGroup", GroupName="g")
    for number in range(11):
        arn = account.iam("CreatePolicy", PolicyName=f"p{number}", PolicyDocument=document(ALLOW_ALL))["Policy"]["Arn"]
        if number < 10:
            account.iam("AttachGroupPolicy", GroupName="g", PolicyArn=arn)
            account.iam("AttachGroupPolicy", GroupName="g", PolicyArn=arn)
    refused(account, "AttachGroupPolicy", "LimitExceededException", "PoliciesPerGroup: 10", GroupName="g",
            PolicyArn=arn)  # fmt: skip


def test_aws_managed_policies(account: Account) -> None:
    listed = account.iam("ListPolicies", Scope="AWS")["Policies"]
    arns = {policy["Arn"] for policy in listed}
    assert {RDS_FULL, "arn:aws:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"} <= arns
    for policy in listed:
        request = {"PolicyArn": policy["Arn"], "VersionId": policy["DefaultVersionId"]}
        text = account.iam("GetPolicyVersion", **request)["PolicyVersion"]["Document"]
        account.iam("SimulateCustomPolicy", PolicyInputList=[unquote(text)], ActionNames=["rds:AddRoleToDBCluster"])
    refused(account, "DeletePolicy", "AccessDenied", "provided by AWS", PolicyArn=RDS_FULL)
    account.iam("CreateUser", UserName="bob")
    service = "arn:aws:iam::aws:policy/aws-service-role/AmazonRDSServiceRolePolicy"
    refused(account, "AttachUserPolicy", "PolicyNotAttachableException", "Service Role Policy", UserName="bob",
            PolicyArn=service)  # fmt: skip


def test_tags_are_checked(account: Account) -> None:
    for tags, shape in (
        ([{"Key": "a", "Value": "1"}, {"Key": "A", "Value": "2"}], "InvalidInputException"),
        ([{"Key": "aws:x", "Value": "1"}], "InvalidInputException"),
        ([{"Key": "a" * 129, "Value": "1"}], "ValidationError"),
        ([{"Key": "a", "Value": "x" * 257}], "ValidationError"),
        ([{"Key": "a", "Value": "<>"}], "ValidationError"),
        ([{"Key": f"k{n}", "Value": ""} for n in range(51)], "LimitExceededException"),
    ):
        refused(account, "CreateUser", shape, "", UserName="bob", Tags=tags)
    account.iam("CreateUser", UserName="bob", Tags=[{"Key": f"k{n}", "Value": "ü"} for n in range(50)])


def test_permissions_are_asked_on_the_right_arn_with_condition_keys(account: Account) -> None:
    statements: list[dict[str, Any]] = [
        {"Effect": "Allow", "Action": "iam:AttachUserPolicy", "Resource": "arn:aws:iam::*:user/ops/*",
         "Condition": {"ArnEquals": {"iam:PolicyARN": RDS_FULL}}},
        {"Effect": "Allow", "Action": ["iam:CreateUser"], "Resource": "arn:aws:iam::*:user/ops/*"},
        {"Effect": "Allow", "Action": "iam:ListUsers", "Resource": "arn:aws:iam::*:user/ops/"},
        {"Effect": "Allow", "Action": "iam:DeleteUser", "Resource": "*",
         "Condition": {"StringEquals": {"aws:ResourceTag/temp": "yes"}}},
    ]  # fmt: skip
    boss = account.user("boss", *statements)
    account.iam("CreateUser", boss, UserName="bob", Path="/ops/")
    account.iam("AttachUserPolicy", boss, UserName="bob", PolicyArn=RDS_FULL)
    account.iam("ListUsers", boss, PathPrefix="/ops/")
    account.iam("CreateUser", UserName="temp", Tags=[{"Key": "temp", "Value": "yes"}])
    account.iam("DeleteUser", boss, UserName="temp")
    tags = [{"Key": "a", "Value": "b"}]
    for operation, request in (
        ("CreateUser", {"UserName": "eve"}),
        ("CreateUser", {"UserName": "eve", "Path": "/ops/", "Tags": tags}),
        ("AttachUserPolicy", {"UserName": "bob", "PolicyArn": "arn:aws:iam::aws:policy/AdministratorAccess"}),
        ("AttachUserPolicy", {"UserName": "boss", "PolicyArn": RDS_FULL}),
        ("DeleteUser", {"UserName": "bob"}),
        ("ListUsers", {}),
    ):
        with pytest.raises(ApiError, match="AccessDenied"):
            account.iam(operation, boss, **request)


def test_simulation(account: Account) -> None:
    account.user("bob", {**ALLOW_ALL, "Action": "rds:*", "Condition": {"Bool": {"aws:SecureTransport": "true"}}})
    account.iam("PutUserPolicy", UserName="bob", PolicyName="no",
                PolicyDocument=document({"Effect": "Deny", "Action": "rds:Delete*", "Resource": "*"}))  # fmt: skip
    request: dict[str, Any] = {
        "PolicySourceArn": f"arn:aws:iam::{ACCOUNT}:user/bob",
        "ActionNames": ["rds:DeleteDBInstance", "rds:StartDBInstance", "ec2:RunInstances"],
    }
    key = {"ContextKeyName": "aws:SecureTransport", "ContextKeyValues": ["true"], "ContextKeyType": "boolean"}
    results = account.iam("SimulatePrincipalPolicy", **request, ContextEntries=[key])["EvaluationResults"]
    assert [each["EvalDecision"] for each in results] == ["explicitDeny", "allowed", "implicitDeny"]
    assert results[0]["MatchedStatements"][0]["SourcePolicyId"] == "user_bob_no"
    assert results[1]["MissingContextValues"] == []
    results = account.iam("SimulatePrincipalPolicy", **request)["EvaluationResults"]
    assert results[1]["EvalDecision"] == "implicitDeny"
    assert results[1]["MissingContextValues"] == ["aws:securetransport"]
    text = document(ALLOW_ALL)
    custom = account.iam("SimulateCustomPolicy", PolicyInputList=[text], ActionNames=["rds:X"],
                         PermissionsBoundaryPolicyInputList=[document({**ALLOW_ALL, "Action": "ec2:*"})])  # fmt: skip
    result = custom["EvaluationResults"][0]
    assert result["PermissionsBoundaryDecisionDetail"] == {"AllowedByPermissionsBoundary": False}
    refused(account, "SimulatePrincipalPolicy", "NoSuchEntityException", "cannot be found",
            PolicySourceArn=f"arn:aws:iam::{ACCOUNT}:role/none", ActionNames=["a:b"])  # fmt: skip


def test_account(account: Account) -> None:
    account.user("bob", ALLOW_ALL)
    account.iam("CreateRole", RoleName="r", AssumeRolePolicyDocument=document(TRUST))
    account.iam("AttachRolePolicy", RoleName="r", PolicyArn=RDS_FULL)
    account.iam("CreateGroup", GroupName="g")
    account.iam("CreatePolicy", PolicyName="p", PolicyDocument=document(ALLOW_ALL))
    summary = account.iam("GetAccountSummary")["SummaryMap"]
    assert [summary[name] for name in ("Users", "Roles", "Groups", "Policies")] == [1, 1, 1, 1]
    assert summary["AccountAccessKeysPresent"] == 1
    details = account.iam("GetAccountAuthorizationDetails")
    assert details["UserDetailList"][0]["UserPolicyList"][0]["PolicyName"] == "own"
    assert {policy["PolicyName"] for policy in details["Policies"]} == {"p", "AmazonRDSFullAccess"}
    only = account.iam("GetAccountAuthorizationDetails", Filter=["Group"])
    assert only["UserDetailList"] == [] and only["GroupDetailList"][0]["GroupName"] == "g"
    account.iam("CreateAccountAlias", AccountAlias="team-one")
    account.iam("CreateAccountAlias", AccountAlias="team-two")
    assert account.iam("ListAccountAliases")["AccountAliases"] == ["team-two"]
    refused(account, "CreateAccountAlias", "ValidationError", "accountAlias", AccountAlias="a--b")
    account.iam("DeleteAccountAlias", AccountAlias="team-two")
    assert account.iam("ListAccountAliases")["AccountAliases"] == []


def test_what_is_absent_is_empty(account: Account) -> None:
    account.user("bob")
    assert account.iam("ListMFADevices", UserName="bob") == {"MFADevices": [], "IsTruncated": False}
    assert account.iam("ListInstanceProfiles")["InstanceProfiles"] == []
    refused(account, "GetLoginProfile", "NoSuchEntityException", "Login Profile for User bob", UserName="bob")
    refused(account, "ListSSHPublicKeys", "NoSuchEntityException", "eve cannot be found", UserName="eve")
