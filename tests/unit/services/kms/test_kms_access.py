"""Who may use a key: key policies, identity policies and grants together, and condition keys."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.accounts import document
from harness.kms_account import Kms, allowing
from mainstay.model.iam import Role
from mainstay.model.kms import KmsGrant
from mainstay.model.records import GLOBAL_REGION, Scope
from mainstay.services.kms.use import Use, find_named_key, require_use, role_may_use

ROOT = "arn:aws:iam::123456789012:root"
ABSENT = "12345678-1234-4321-8888-123456789012"
NOBODYS = {"CiphertextBlob": b"x"}


def user_arn(name: str) -> str:
    return f"arn:aws:iam::123456789012:user/{name}"


def statement(principal: str, *actions: str, effect: str = "Allow", **more: Any) -> dict[str, Any]:
    return {
        "Effect": effect, "Principal": {"AWS": principal}, "Action": [f"kms:{action}" for action in actions],
        "Resource": "*", **more,
    }  # fmt: skip


ROOT_ALL = statement(ROOT, "*")


class TestKeyPolicies:
    def test_the_default_policy_lets_identity_policies_decide(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        policy = kms_account.call("GetKeyPolicy", KeyId=key_id)
        assert policy["PolicyName"] == "default"
        assert json.loads(policy["Policy"]) == {
            "Version": "2012-10-17", "Id": "key-default-1",
            "Statement": [
                {"Sid": "Enable IAM User Permissions", "Effect": "Allow", "Principal": {"AWS": ROOT},
                 "Action": "kms:*", "Resource": "*"}
            ],
        }  # fmt: skip
        nobody, one = kms_account.user("nobody"), kms_account.user("one", allowing("Encrypt"))
        assert kms_account.refused("Encrypt", nobody, KeyId=key_id, Plaintext=b"x") == (
            f"AccessDenied: User: {user_arn('nobody')} is not authorized to perform: kms:Encrypt on resource:"
            f" {kms_account.arn(key_id)} because no identity-based policy allows the kms:Encrypt action"
        )
        blob = kms_account.encrypt(key_id, by=one)
        assert kms_account.refused("Decrypt", one, CiphertextBlob=blob).startswith("AccessDenied")

    def test_without_the_account_in_it_only_those_whom_it_names_may_use_the_key(self, kms_account: Kms) -> None:
        named, everything = kms_account.user("named"), kms_account.user("everything", allowing("*"))
        policy = document(statement(ROOT, "PutKeyPolicy", "GetKeyPolicy"), statement(user_arn("named"), "Encrypt"))
        key_id = kms_account.create(Policy=policy)
        assert kms_account.call("GetKeyPolicy", KeyId=key_id)["Policy"] == policy
        kms_account.encrypt(key_id, by=named)
        for other in (everything, kms_account.root):
            refusal = kms_account.refused("Encrypt", other, KeyId=key_id, Plaintext=b"x")
            assert "because no resource-based policy allows the kms:Encrypt action" in refusal

    def test_a_new_policy_counts_from_the_next_call_on(self, kms_account: Kms) -> None:
        key_id, one = kms_account.create(), kms_account.user("one", allowing("*"))
        kms_account.encrypt(key_id, by=one)
        kms_account.call(
            "PutKeyPolicy", KeyId=key_id, PolicyName="default",
            Policy=document(ROOT_ALL, statement(user_arn("one"), "Encrypt", effect="Deny")),
        )  # fmt: skip
        assert "with an explicit deny in a resource-based policy" in kms_account.refused(
            "Encrypt", one, KeyId=key_id, Plaintext=b"x"
        )

    def test_a_policy_must_not_lock_out_its_author_unless_that_is_asked_for(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        policy = document(statement(ROOT, "Encrypt"))
        calls: tuple[tuple[str, dict[str, Any]], ...] = (("PutKeyPolicy", {"KeyId": key_id}), ("CreateKey", {}))
        for operation, members in calls:
            refusal = kms_account.refused(operation, Policy=policy, **members)
            assert refusal.startswith(
                "MalformedPolicyDocumentException: The new key policy will not allow you to update the key policy"
            )
        kms_account.call("PutKeyPolicy", KeyId=key_id, Policy=policy, BypassPolicyLockoutSafetyCheck=True)
        assert kms_account.refused("PutKeyPolicy", KeyId=key_id, Policy=policy).startswith("AccessDenied")

    @pytest.mark.parametrize(
        ("policy", "refusal"),
        [
            ("{}", "MalformedPolicyDocumentException"),
            ("no json", "MalformedPolicyDocumentException"),
            (json.dumps({"Statement": [ROOT_ALL, statement(user_arn("gone"), "*")]}), "MalformedPolicyDocument"),
            (json.dumps({"Statement": ROOT_ALL}) + " " * 32768, "LimitExceededException"),
        ],
    )
    def test_policies_that_are_none(self, kms_account: Kms, policy: str, refusal: str) -> None:
        assert kms_account.refused("PutKeyPolicy", KeyId=kms_account.create(), Policy=policy).startswith(refusal)

    def test_the_only_policy_is_called_default(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        assert kms_account.call("ListKeyPolicies", KeyId=key_id) == {"PolicyNames": ["default"], "Truncated": False}
        refusal = kms_account.refused("GetKeyPolicy", KeyId=key_id, PolicyName="other")
        assert refusal.startswith("NotFoundException: No such policy exists")


class TestConditionKeys:
    @pytest.mark.parametrize(
        ("operation", "members", "condition", "holds"),
        [
            ("Encrypt", {"EncryptionContext": {"app": "a"}}, {"kms:EncryptionContext:app": "a"}, True),
            ("Encrypt", {"EncryptionContext": {"app": "b"}}, {"kms:EncryptionContext:app": "a"}, False),
            ("Encrypt", {}, {"kms:EncryptionContext:app": "a"}, False),
            ("Encrypt", {"EncryptionContext": {"app": "b"}}, {"kms:EncryptionContextKeys": "app"}, True),
            ("Encrypt", {}, {"kms:CallerAccount": "123456789012"}, True),
            ("Encrypt", {}, {"kms:ViaService": "rds.us-east-1.amazonaws.com"}, False),
            ("Encrypt", {}, {"aws:ResourceTag/team": "blue"}, True),
            ("Encrypt", {}, {"kms:ResourceAliases": "alias/app"}, True),
            ("Encrypt", {"KeyId": "alias/app"}, {"kms:RequestAlias": "alias/app"}, True),
            ("Encrypt", {}, {"kms:RequestAlias": "alias/app"}, False),
            ("Encrypt", {}, {"kms:KeySpec": "SYMMETRIC_DEFAULT", "kms:KeyUsage": "ENCRYPT_DECRYPT"}, True),
        ],
    )
    def test_they_decide(
        self, kms_account: Kms, operation: str, members: dict[str, Any],
        condition: dict[str, str], holds: bool,
    ) -> None:  # fmt: skip
        key_id = kms_account.create(Tags=[{"TagKey": "team", "TagValue": "blue"}])
        kms_account.call("CreateAlias", AliasName="alias/app", TargetKeyId=key_id)
        one = kms_account.user("one", allowing(operation, Condition={"StringEquals": condition}))
        request = {"KeyId": key_id, "Plaintext": b"x", **members}
        if holds:
            kms_account.call(operation, one, **request)
        else:
            assert kms_account.refused(operation, one, **request).startswith("AccessDenied")

    def test_the_waiting_period_and_re_encryption_on_the_same_key(self, kms_account: Kms) -> None:
        key_id, other = kms_account.create(), kms_account.create()
        one = kms_account.user(
            "one",
            allowing(
                "ScheduleKeyDeletion",
                Condition={"NumericGreaterThanEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": "20"}},
            ),
            allowing("ReEncrypt*", Condition={"Bool": {"kms:ReEncryptOnSameKey": "true"}}),
        )
        blob = kms_account.encrypt(key_id)
        for source in ({}, {"SourceKeyId": key_id}):
            kms_account.call("ReEncrypt", one, CiphertextBlob=blob, DestinationKeyId=key_id, **source)
            refusal = kms_account.refused("ReEncrypt", one, CiphertextBlob=blob, DestinationKeyId=other, **source)
            assert refusal.startswith("AccessDenied")
        refusal = kms_account.refused("ScheduleKeyDeletion", one, KeyId=key_id, PendingWindowInDays=7)
        assert refusal.startswith("AccessDenied")
        kms_account.call("ScheduleKeyDeletion", one, KeyId=key_id, PendingWindowInDays=20)


def test_the_curious_cannot_tell_absent_keys_from_forbidden_ones(kms_account: Kms) -> None:
    nobody, everything = kms_account.user("nobody"), kms_account.user("everything", allowing("*"))
    for key_id in (ABSENT, kms_account.create()):
        assert kms_account.refused("DescribeKey", nobody, KeyId=key_id).startswith("AccessDenied")
    assert kms_account.refused("DescribeKey", everything, KeyId=ABSENT).startswith("NotFoundException")


def test_aliases_need_permission_on_alias_and_key(kms_account: Kms) -> None:
    key_id = kms_account.create()
    alias_arn = kms_account.scope.arn("kms", "alias/app")
    for name, resource in (("key", kms_account.arn(key_id)), ("alias", alias_arn)):
        half = kms_account.user(name, allowing("CreateAlias", resource=resource))
        refusal = kms_account.refused("CreateAlias", half, AliasName="alias/app", TargetKeyId=key_id)
        assert refusal.startswith("AccessDenied"), name
    both = kms_account.user(
        "both", allowing("*Alias", resource=kms_account.arn(key_id)), allowing("*Alias", resource=alias_arn)
    )
    kms_account.call("CreateAlias", both, AliasName="alias/app", TargetKeyId=key_id)
    other = kms_account.create()
    refusal = kms_account.refused("UpdateAlias", both, AliasName="alias/app", TargetKeyId=other)
    assert refusal.startswith("AccessDenied")
    kms_account.call("DeleteAlias", both, AliasName="alias/app")


def test_creating_a_key_with_tags_needs_permission_to_tag(kms_account: Kms) -> None:
    creator = kms_account.user("creator", allowing("CreateKey"))
    kms_account.call("CreateKey", creator)
    refusal = kms_account.refused("CreateKey", creator, Tags=[{"TagKey": "a", "TagValue": "b"}])
    assert "kms:TagResource" in refusal


class TestGrants:
    def grant(self, kms_account: Kms, key_id: str, to: str, *names: str, by: Any = None, **more: Any) -> dict[str, Any]:
        made: dict[str, Any] = kms_account.call(
            "CreateGrant", by, KeyId=key_id, GranteePrincipal=user_arn(to), Operations=list(names), **more
        )
        return made

    def test_a_grant_allows_its_operations_until_it_is_revoked(self, kms_account: Kms) -> None:
        key_id, one = kms_account.create(), kms_account.user("one")
        made = self.grant(kms_account, key_id, "one", "Encrypt", "DescribeKey")
        blob = kms_account.encrypt(key_id, by=one, GrantTokens=[made["GrantToken"]])
        kms_account.call("DescribeKey", one, KeyId=key_id)
        assert kms_account.refused("Decrypt", one, CiphertextBlob=blob).startswith("AccessDenied")
        other = kms_account.create()
        assert kms_account.refused("Encrypt", one, KeyId=other, Plaintext=b"x").startswith("AccessDenied")
        (shown,) = kms_account.call("ListGrants", KeyId=key_id)["Grants"]
        assert shown == {
            "KeyId": kms_account.arn(key_id), "GrantId": made["GrantId"], "CreationDate": kms_account.clock.wall(),
            "GranteePrincipal": user_arn("one"), "IssuingAccount": ROOT, "Operations": ["Encrypt", "DescribeKey"],
        }  # fmt: skip
        kms_account.call("RevokeGrant", KeyId=key_id, GrantId=made["GrantId"])
        assert kms_account.refused("Encrypt", one, KeyId=key_id, Plaintext=b"x").startswith("AccessDenied")
        refusal = kms_account.refused("RevokeGrant", KeyId=key_id, GrantId=made["GrantId"])
        assert refusal == f"NotFoundException: Grant ID {made['GrantId']} not found"

    def test_a_deny_wins_over_a_grant(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        denied = kms_account.user(
            "denied", {"Effect": "Deny", "Action": "kms:Encrypt", "Resource": kms_account.arn(key_id)}
        )
        self.grant(kms_account, key_id, "denied", "Encrypt")
        assert "explicit deny" in kms_account.refused("Encrypt", denied, KeyId=key_id, Plaintext=b"x")

    @pytest.mark.parametrize(
        ("constraints", "context", "holds"),
        [
            ({"EncryptionContextSubset": {"a": "1"}}, {"a": "1", "b": "2"}, True),
            ({"EncryptionContextSubset": {"a": "1"}}, {"a": "2"}, False),
            ({"EncryptionContextSubset": {"a": "1"}}, {"A": "1"}, False),
            ({"EncryptionContextSubset": {"a": "1"}}, {}, False),
            ({"EncryptionContextEquals": {"a": "1"}}, {"a": "1"}, True),
            ({"EncryptionContextEquals": {"a": "1"}, "EncryptionContextSubset": {}}, {"a": "1"}, True),
            ({"EncryptionContextEquals": {"a": "1"}}, {"a": "1", "b": "2"}, False),
        ],
    )
    def test_constraints_on_the_encryption_context(
        self, kms_account: Kms, constraints: dict[str, Any], context: dict[str, str], holds: bool
    ) -> None:
        key_id, one = kms_account.create(), kms_account.user("one")
        self.grant(kms_account, key_id, "one", "GenerateDataKey", "DescribeKey", Constraints=constraints)
        request = {"KeyId": key_id, "KeySpec": "AES_256", "EncryptionContext": context}
        if holds:
            kms_account.call("GenerateDataKey", one, **request)
        else:
            assert kms_account.refused("GenerateDataKey", one, **request).startswith("AccessDenied")
        kms_account.call("DescribeKey", one, KeyId=key_id)

    def test_who_may_retire_a_grant(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        retirer, grantee, other = (kms_account.user(name) for name in ("retirer", "grantee", "other"))
        made = self.grant(kms_account, key_id, "grantee", "Encrypt", RetiringPrincipal=user_arn("retirer"))
        named = {"KeyId": kms_account.arn(key_id), "GrantId": made["GrantId"]}
        assert kms_account.refused("RetireGrant", grantee, **named).startswith("AccessDenied")
        assert kms_account.refused("RetireGrant", other, GrantToken=made["GrantToken"]).startswith("AccessDenied")
        listed = kms_account.call("ListRetirableGrants", RetiringPrincipal=user_arn("retirer"))["Grants"]
        assert [one["GrantId"] for one in listed] == [made["GrantId"]]
        assert kms_account.refused("RetireGrant", retirer, DryRun=True, **named).startswith("DryRunOperation")
        kms_account.call("RetireGrant", retirer, GrantToken=made["GrantToken"])
        refusal = kms_account.refused("RetireGrant", retirer, GrantToken=made["GrantToken"])
        assert refusal.startswith("InvalidGrantTokenException")
        own = self.grant(kms_account, key_id, "grantee", "Encrypt", "RetireGrant")
        kms_account.call("RetireGrant", grantee, KeyId=kms_account.arn(key_id), GrantId=own["GrantId"])
        assert kms_account.records(KmsGrant) == []

    def test_retiring_one_grant_by_another_is_refused(self, kms_account: Kms) -> None:
        key_id, one = kms_account.create(), kms_account.user("one")
        kms_account.user("two")
        self.grant(kms_account, key_id, "one", "RetireGrant")
        other = self.grant(kms_account, key_id, "two", "Encrypt")
        refusal = kms_account.refused("RetireGrant", one, KeyId=kms_account.arn(key_id), GrantId=other["GrantId"])
        assert refusal.startswith("AccessDenied")

    def test_a_grantee_hands_on_no_more_than_it_was_given(self, kms_account: Kms) -> None:
        key_id, one = kms_account.create(), kms_account.user("one")
        two = kms_account.user("two")
        constraint = {"EncryptionContextSubset": {"a": "1"}}
        self.grant(kms_account, key_id, "one", "CreateGrant", "Encrypt", Constraints=constraint)
        members = {"KeyId": key_id, "GranteePrincipal": user_arn("two")}
        for more in (
            {"Operations": ["Decrypt"], "Constraints": constraint},
            {"Operations": ["Encrypt"]},
            {"Operations": ["Encrypt"], "Constraints": {"EncryptionContextSubset": {"a": "2"}}},
        ):
            assert kms_account.refused("CreateGrant", one, **members, **more).startswith("AccessDenied"), more
        stricter = {"EncryptionContextEquals": {"a": "1", "b": "2"}}
        kms_account.call("CreateGrant", one, **members, Operations=["Encrypt"], Constraints=stricter)
        kms_account.encrypt(key_id, by=two, EncryptionContext={"a": "1", "b": "2"})

    def test_the_same_request_with_a_name_makes_one_grant(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        kms_account.user("one")
        first = self.grant(kms_account, key_id, "one", "Encrypt", Name="mine")
        assert self.grant(kms_account, key_id, "one", "Encrypt", Name="mine") == first
        assert self.grant(kms_account, key_id, "one", "Decrypt", Name="mine") != first
        assert len(kms_account.call("ListGrants", KeyId=key_id, GranteePrincipal=user_arn("one"))["Grants"]) == 2
        assert len(kms_account.call("ListGrants", KeyId=key_id, GrantId=first["GrantId"])["Grants"]) == 1

    @pytest.mark.parametrize(
        ("members", "code"),
        [
            ({"GranteePrincipal": user_arn("gone")}, "InvalidArnException"),
            ({"GranteePrincipal": "rds.amazonaws.com"}, "InvalidArnException"),
            ({"Operations": ["Sign"]}, "ValidationException"),
            ({"Operations": []}, "ValidationException"),
            ({"GrantTokens": ["never-was"]}, "InvalidGrantTokenException"),
        ],
    )
    def test_grants_that_are_none(self, kms_account: Kms, members: dict[str, Any], code: str) -> None:
        request = {"KeyId": kms_account.create(), "GranteePrincipal": ROOT, "Operations": ["Encrypt"], **members}
        assert kms_account.refused("CreateGrant", **request).startswith(code)

    def test_conditions_of_identity_policies_speak_of_grants(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        service_only = kms_account.user(
            "service_only", allowing("CreateGrant", Condition={"Bool": {"kms:GrantIsForAWSResource": "true"}})
        )
        request = {"KeyId": key_id, "GranteePrincipal": ROOT, "Operations": ["Encrypt"]}
        assert kms_account.refused("CreateGrant", service_only, **request).startswith("AccessDenied")
        narrow = kms_account.user(
            "narrow",
            allowing("CreateGrant", Condition={"ForAllValues:StringEquals": {"kms:GrantOperations": ["Encrypt"]}}),
        )
        kms_account.call("CreateGrant", narrow, **request)
        refusal = kms_account.refused("CreateGrant", narrow, **{**request, "Operations": ["Encrypt", "Decrypt"]})
        assert refusal.startswith("AccessDenied")


class TestServicesThatUseKeysForSomebody:
    def use(self, operation: str = "GenerateDataKey", via: str = "rds") -> Use:
        return Use(operation=operation, encryption_context={"aws:rds:db-id": "db-1"}, via=via)

    def test_a_users_right_may_be_for_one_service_alone(self, kms_account: Kms) -> None:
        key_id = kms_account.create()
        one = kms_account.user(
            "one", allowing("*", Condition={"StringEquals": {"kms:ViaService": "rds.us-east-1.amazonaws.com"}})
        )
        key = kms_account.key(key_id)
        with kms_account.store.transaction() as tx:
            require_use(kms_account.open_call(tx, one), key, self.use(), self.use("CreateGrant"))
            with pytest.raises(Exception, match="AccessDenied"):
                require_use(kms_account.open_call(tx, one), key, self.use(via="secretsmanager"))
        assert kms_account.refused("Encrypt", one, KeyId=key_id, Plaintext=b"x").startswith("AccessDenied")

    def test_an_aws_managed_key_serves_everybody_through_its_service(self, kms_account: Kms) -> None:
        kms_account.call("DescribeKey", KeyId="alias/aws/rds")
        nobody = kms_account.user("nobody")
        with kms_account.store.transaction() as tx:
            key = find_named_key(tx, kms_account.scope, "alias/aws/rds")
            assert key is not None
            require_use(kms_account.open_call(tx, nobody), key, self.use())
            with pytest.raises(Exception, match="AccessDenied"):
                require_use(kms_account.open_call(tx, nobody), key, self.use(via="secretsmanager"))

    def test_roles_in_which_services_act(self, kms_account: Kms) -> None:
        key = kms_account.key(kms_account.create())
        trust = document({"Effect": "Allow", "Principal": {"Service": "rds.amazonaws.com"}, "Action": "sts:AssumeRole"})
        kms_account.iam("CreateRole", RoleName="proxy", AssumeRolePolicyDocument=trust)

        def may() -> bool:
            with kms_account.store.read() as view:
                role = view.get(Role, Scope("123456789012", GLOBAL_REGION), "proxy")
                assert role is not None
                return role_may_use(view, kms_account.scope, role, key, self.use("Decrypt", "secretsmanager"))

        assert not may()
        condition = {"StringEquals": {"kms:ViaService": "secretsmanager.us-east-1.amazonaws.com"}}
        kms_account.iam(
            "PutRolePolicy", RoleName="proxy", PolicyName="own",
            PolicyDocument=document(allowing("Decrypt", Condition=condition)),
        )  # fmt: skip
        assert may()
