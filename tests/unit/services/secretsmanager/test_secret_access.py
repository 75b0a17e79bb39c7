"""Who may do what: identity and resource policies together, condition keys, and no answer to the curious."""

from __future__ import annotations

from typing import Any

import pytest

from harness.accounts import document
from harness.secrets_account import Secrets, allowing
from mainstay.services.secretsmanager import interfaces

PREFIX = "arn:aws:secretsmanager:us-east-1:123456789012:secret:"


def resource_policy(user: str, *actions: str, effect: str = "Allow", **more: Any) -> str:
    text: str = document(
        {
            "Effect": effect,
            "Principal": {"AWS": f"arn:aws:iam::123456789012:user/{user}"},
            "Action": [f"secretsmanager:{action}" for action in actions],
            "Resource": "*",
            **more,
        }
    )
    return text


def test_nobody_reads_without_a_permission_and_the_refusal_names_what_is_missing(secrets: Secrets) -> None:
    made = secrets.create()
    nobody = secrets.user("nobody")
    assert secrets.refused("GetSecretValue", nobody, SecretId="app") == (
        "AccessDenied: User: arn:aws:iam::123456789012:user/nobody is not authorized to perform:"
        f" secretsmanager:GetSecretValue on resource: {made['ARN']} because no identity-based policy allows the"
        " secretsmanager:GetSecretValue action"
    )


def test_the_curious_cannot_tell_absent_secrets_from_forbidden_ones(secrets: Secrets) -> None:
    secrets.create("secret")
    reader = secrets.user("reader", allowing("*", resource=PREFIX + "mine-??????"))
    for name in ("secret", "absent"):
        assert secrets.refused("GetSecretValue", reader, SecretId=name).startswith("AccessDenied"), name
    everything = secrets.user("everything", allowing("*"))
    assert secrets.refused("GetSecretValue", everything, SecretId="absent").startswith("ResourceNotFoundException")


def test_an_arn_pattern_with_six_characters_lets_create_and_use_one_name(secrets: Secrets) -> None:
    owner = secrets.user("owner", allowing("*", resource=PREFIX + "mine-??????"))
    secrets.call("CreateSecret", owner, Name="mine", SecretString="x")
    assert secrets.value("mine", owner) == "x"
    assert secrets.refused("CreateSecret", owner, Name="mine2", SecretString="x").startswith("AccessDenied")


def test_tags_at_creation_need_tag_resource(secrets: Secrets) -> None:
    creator = secrets.user("creator", allowing("CreateSecret"))
    refusal = secrets.refused("CreateSecret", creator, Name="a", SecretString="x", Tags=[{"Key": "k", "Value": "v"}])
    assert "secretsmanager:TagResource" in refusal
    secrets.call("CreateSecret", creator, Name="a", SecretString="x")


@pytest.mark.parametrize(
    ("operation", "request_members", "condition", "holds"),
    [
        ("GetSecretValue", {}, {"secretsmanager:VersionStage": "AWSCURRENT"}, True),
        ("GetSecretValue", {"VersionStage": "AWSPREVIOUS"}, {"secretsmanager:VersionStage": "AWSCURRENT"}, False),
        ("GetSecretValue", {}, {"secretsmanager:ResourceTag/team": "blue"}, True),
        ("GetSecretValue", {}, {"aws:ResourceTag/team": "red"}, False),
        ("TagResource", {"Tags": [{"Key": "cost", "Value": "1"}]}, {"aws:RequestTag/cost": "1"}, True),
        ("TagResource", {"Tags": [{"Key": "cost", "Value": "2"}]}, {"aws:RequestTag/cost": "1"}, False),
        (
            "DeleteSecret",
            {"ForceDeleteWithoutRecovery": True},
            {"secretsmanager:ForceDeleteWithoutRecovery": "true"},
            True,
        ),
        ("DeleteSecret", {"RecoveryWindowInDays": 7}, {"secretsmanager:RecoveryWindowInDays": "30"}, False),
        ("DescribeSecret", {}, {"secretsmanager:SecretId": "app"}, True),
        ("UpdateSecret", {"Description": "d"}, {"secretsmanager:Description": "d"}, True),
        ("DescribeSecret", {}, {"secretsmanager:SecretPrimaryRegion": "us-east-1"}, True),
    ],
)
def test_condition_keys(secrets: Secrets, operation: str, request_members: dict[str, Any],
                        condition: dict[str, str], holds: bool) -> None:  # fmt: skip
    secrets.create(Tags=[{"Key": "team", "Value": "blue"}])
    secrets.call("PutSecretValue", SecretId="app", SecretString="two")
    user = secrets.user("user", allowing(operation, Condition={"StringEquals": condition}))
    if holds:
        secrets.call(operation, user, SecretId="app", **request_members)
    else:
        assert secrets.refused(operation, user, SecretId="app", **request_members).startswith("AccessDenied")


def test_rotation_rules_are_a_condition_key_of_their_own(secrets: Secrets) -> None:
    secrets.create()
    only_now = allowing("RotateSecret", Condition={"Bool": {"secretsmanager:ModifyRotationRules": "false"}})
    user = secrets.user("user", only_now)
    assert secrets.refused(
        "RotateSecret", user, SecretId="app", RotationRules={"AutomaticallyAfterDays": 1}
    ).startswith("AccessDenied")
    assert "cannot be rotated" in secrets.refused("RotateSecret", user, SecretId="app")


class TestResourcePolicies:
    def test_one_that_names_a_user_lets_it_in_without_any_identity_policy(self, secrets: Secrets) -> None:
        secrets.create()
        guest, other = secrets.user("guest"), secrets.user("other")
        secrets.call("PutResourcePolicy", SecretId="app",
                     ResourcePolicy=resource_policy("guest", "GetSecretValue"))  # fmt: skip
        assert secrets.value(by=guest) == "one"
        assert secrets.refused("GetSecretValue", other, SecretId="app").startswith("AccessDenied")
        assert secrets.refused("DeleteSecret", guest, SecretId="app").startswith("AccessDenied")
        secrets.call("DeleteResourcePolicy", SecretId="app")
        assert secrets.refused("GetSecretValue", guest, SecretId="app").startswith("AccessDenied")
        assert "ResourcePolicy" not in secrets.call("GetResourcePolicy", SecretId="app")

    def test_its_deny_beats_every_allow(self, secrets: Secrets) -> None:
        secrets.create()
        user = secrets.user("user", allowing("*"))
        assert secrets.value(by=user) == "one"
        text = resource_policy("user", "GetSecretValue", effect="Deny")
        secrets.call("PutResourcePolicy", SecretId="app", ResourcePolicy=text)
        refusal = secrets.refused("GetSecretValue", user, SecretId="app")
        assert refusal.endswith("with an explicit deny in a resource-based policy")
        assert secrets.call("GetResourcePolicy", SecretId="app")["ResourcePolicy"] == text

    def test_its_conditions_see_the_secret_and_the_request(self, secrets: Secrets) -> None:
        secrets.create(Tags=[{"Key": "open", "Value": "yes"}])
        guest = secrets.user("guest")
        condition = {"StringEquals": {"aws:ResourceTag/open": "yes", "secretsmanager:VersionStage": "AWSCURRENT"}}
        text = resource_policy("guest", "GetSecretValue", Condition=condition)
        secrets.call("PutResourcePolicy", SecretId="app", ResourcePolicy=text)
        assert secrets.value(by=guest) == "one"
        secrets.call("UntagResource", SecretId="app", TagKeys=["open"])
        assert secrets.refused("GetSecretValue", guest, SecretId="app").startswith("AccessDenied")

    @pytest.mark.parametrize(
        "text", ["{", "[]", '{"Statement": {"Effect": "Allow", "Action": "x:y", "Resource": "*"}}']
    )
    def test_a_malformed_one_is_refused(self, secrets: Secrets, text: str) -> None:
        secrets.create()
        for operation in ("PutResourcePolicy", "ValidateResourcePolicy"):
            refusal = secrets.refused(operation, SecretId="app", ResourcePolicy=text)
            assert refusal.startswith("MalformedPolicyDocumentException: This resource policy contains a syntax error.")

    def test_a_public_one_is_refused_if_asked_and_told_by_validation(self, secrets: Secrets) -> None:
        secrets.create()
        everybody = {"Effect": "Allow", "Principal": "*", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}
        narrowed = {**everybody, "Condition": {"StringEquals": {"aws:PrincipalAccount": "123456789012"}}}
        refusal = secrets.refused("PutResourcePolicy", SecretId="app", ResourcePolicy=document(everybody),
                                  BlockPublicPolicy=True)  # fmt: skip
        assert refusal.startswith("PublicPolicyException")
        assert "ResourcePolicy" not in secrets.call("GetResourcePolicy", SecretId="app")
        secrets.call("PutResourcePolicy", SecretId="app", ResourcePolicy=document(narrowed), BlockPublicPolicy=True)
        found = secrets.call("ValidateResourcePolicy", SecretId="app", ResourcePolicy=document(everybody))
        assert not found["PolicyValidationPassed"] and found["ValidationErrors"][0]["CheckName"] == "PUBLIC_ACCESS"
        found = secrets.call("ValidateResourcePolicy", ResourcePolicy=document(narrowed))
        assert found == {"PolicyValidationPassed": True, "ValidationErrors": []}

    def test_nobody_locks_himself_out(self, secrets: Secrets) -> None:
        secrets.create()
        user = secrets.user("user", allowing("*"))
        text = resource_policy("user", "PutResourcePolicy", effect="Deny")
        refusal = secrets.refused("PutResourcePolicy", user, SecretId="app", ResourcePolicy=text)
        assert refusal.endswith("This resource policy will not allow you to manage this secret in the future.")
        found = secrets.call("ValidateResourcePolicy", user, SecretId="app", ResourcePolicy=text)
        assert [one["CheckName"] for one in found["ValidationErrors"]] == ["LOCKOUT"]
        secrets.call("PutResourcePolicy", SecretId="app", ResourcePolicy=text)


def test_nobody_tags_away_his_own_permission(secrets: Secrets) -> None:
    secrets.create(Tags=[{"Key": "team", "Value": "blue"}])
    condition = {"StringEquals": {"aws:ResourceTag/team": "blue"}}
    user = secrets.user("user", allowing("*", Condition=condition))
    assert secrets.refused("UntagResource", user, SecretId="app", TagKeys=["team"]).startswith("AccessDenied")
    change = [{"Key": "team", "Value": "red"}]
    assert secrets.refused("TagResource", user, SecretId="app", Tags=change).startswith("AccessDenied")
    assert secrets.value(by=user) == "one"


class TestInterfaces:
    def test_the_current_value_for_other_services(self, secrets: Secrets) -> None:
        arn = secrets.create(value="now")["ARN"]
        with secrets.store.read() as view:
            assert interfaces.current_value(view, secrets.vault, secrets.scope, arn) == "now"
            before = interfaces.current_version_id(view, secrets.scope, arn)
        secrets.call("PutSecretValue", SecretId="app", SecretString="then")
        with secrets.store.read() as view:
            assert interfaces.current_value(view, secrets.vault, secrets.scope, arn) == "then"
            assert interfaces.current_version_id(view, secrets.scope, arn) != before
        secrets.call("DeleteSecret", SecretId="app")
        with secrets.store.read() as view, pytest.raises(Exception, match="ResourceNotFoundException"):
            interfaces.current_value(view, secrets.vault, secrets.scope, arn)

    def test_a_role_may_read_by_its_own_or_by_the_secrets_policy(self, secrets: Secrets) -> None:
        arn = secrets.create()["ARN"]
        trust = document({"Effect": "Allow", "Principal": {"Service": "rds.amazonaws.com"}, "Action": "sts:AssumeRole"})
        role = secrets.iam("CreateRole", RoleName="proxy", AssumeRolePolicyDocument=trust)["Role"]["Arn"]

        def may_read() -> bool:
            with secrets.store.read() as view:
                return interfaces.may_read(view, secrets.scope, role, arn)

        assert not may_read()
        secrets.iam("PutRolePolicy", RoleName="proxy", PolicyName="p",
                     PolicyDocument=document(allowing("GetSecretValue", resource=arn)))  # fmt: skip
        assert may_read()
        text = document({"Effect": "Deny", "Principal": {"AWS": role}, "Action": "secretsmanager:*", "Resource": "*"})
        secrets.call("PutResourcePolicy", SecretId="app", ResourcePolicy=text)
        assert not may_read()
        with secrets.store.read() as view:
            assert not interfaces.may_read(view, secrets.scope, role + "x", arn)
            assert not interfaces.may_read(view, secrets.scope, role, arn + "x")
