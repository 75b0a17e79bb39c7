"""ListSecrets, BatchGetSecretValue and GetRandomPassword."""

from __future__ import annotations

import string
from typing import Any

import pytest

from harness.secrets_account import Secrets, allowing

PUNCTUATION = set(string.punctuation)


@pytest.fixture
def several(secrets: Secrets) -> Any:
    secrets.create("prod/db", Description="The Main database", Tags=[{"Key": "Team", "Value": "Blue"}])
    secrets.clock.advance(10)
    secrets.create("prod/web", Description="web key", Tags=[{"Key": "team", "Value": "red"}])
    secrets.clock.advance(10)
    secrets.create("dev/db", Description="database for tests")
    secrets.clock.advance(10)
    secrets.create("gone")
    secrets.call("DeleteSecret", SecretId="gone")
    return secrets


def names(secrets: Secrets, **request: Any) -> list[str]:
    return [one["Name"] for one in secrets.call("ListSecrets", **request)["SecretList"]]


def test_secrets_come_in_order_without_those_to_be_deleted(several: Any) -> None:
    assert names(several) == ["prod/db", "prod/web", "dev/db"]
    assert names(several, SortOrder="desc") == ["dev/db", "prod/web", "prod/db"]
    assert names(several, SortBy="name", IncludePlannedDeletion=True) == ["dev/db", "gone", "prod/db", "prod/web"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([("name", ["prod/"])], ["prod/db", "prod/web"]),
        ([("name", ["Prod/"])], []),
        ([("name", ["prod/db", "dev"])], ["prod/db", "dev/db"]),
        ([("name", ["!prod/"])], ["dev/db"]),
        ([("name", ["prod/", "!prod/web"])], ["prod/db"]),
        ([("description", ["the main"])], ["prod/db"]),
        ([("tag-key", ["Team"])], ["prod/db"]),
        ([("tag-value", ["red"])], ["prod/web"]),
        ([("owning-service", ["rds"])], []),
        ([("all", ["DATABASE"])], ["prod/db", "dev/db"]),
        ([("all", ["database tests"])], ["dev/db"]),
        ([("name", ["prod/"]), ("tag-key", ["team"])], ["prod/web"]),
    ],
)
def test_filters(several: Any, filters: list[tuple[str, list[str]]], found: list[str]) -> None:
    assert names(several, Filters=[{"Key": key, "Values": values} for key, values in filters]) == found


def test_pages_hold_every_secret_once(secrets: Secrets) -> None:
    for number in range(7):
        secrets.create(f"s{number}")
    found: list[str] = []
    more: dict[str, Any] = {}
    while True:
        answer = secrets.call("ListSecrets", MaxResults=3, SortBy="name", **more)
        found += [one["Name"] for one in answer["SecretList"]]
        if "NextToken" not in answer:
            break
        more = {"NextToken": answer["NextToken"]}
    assert found == [f"s{number}" for number in range(7)]
    assert "InvalidNextTokenException" in secrets.refused("ListSecrets", NextToken="x")


def test_listing_tells_no_values(several: Any) -> None:
    assert "SecretString" not in str(several.call("ListSecrets"))


def test_a_batch_tells_values_and_errors_one_by_one(several: Any) -> None:
    answer = several.call("BatchGetSecretValue", SecretIdList=["prod/db", "gone", "absent"])
    assert [(one["Name"], one["SecretString"]) for one in answer["SecretValues"]] == [("prod/db", "one")]
    assert [(one["SecretId"], one["ErrorCode"]) for one in answer["Errors"]] == [
        ("gone", "InvalidRequestException"), ("absent", "ResourceNotFoundException"),
    ]  # fmt: skip
    prefix = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/*"
    user = several.user("user", allowing("BatchGetSecretValue"), allowing("GetSecretValue", resource=prefix))
    answer = several.call("BatchGetSecretValue", user, SecretIdList=["prod/web", "dev/db"])
    assert [one["Name"] for one in answer["SecretValues"]] == ["prod/web"]
    assert [one["ErrorCode"] for one in answer["Errors"]] == ["AccessDeniedException"]
    filters = [{"Key": "name", "Values": ["prod/"]}]
    assert "secretsmanager:ListSecrets" in several.refused("BatchGetSecretValue", user, Filters=filters)
    answer = several.call("BatchGetSecretValue", Filters=filters, MaxResults=1)
    rest = several.call("BatchGetSecretValue", Filters=filters, NextToken=answer["NextToken"])
    assert [answer["SecretValues"][0]["Name"], rest["SecretValues"][0]["Name"]] == ["prod/db", "prod/web"]
    for wrong in ({}, {"Filters": filters, "SecretIdList": ["a"]}, {"SecretIdList": ["a"], "MaxResults": 1}):
        assert several.refused("BatchGetSecretValue", **wrong).startswith("InvalidParameterException")


def drawn(secrets: Secrets, **request: Any) -> set[str]:
    """The characters of many passwords."""
    return {one for _ in range(40) for one in secrets.call("GetRandomPassword", **request)["RandomPassword"]}


class TestRandomPasswords:
    def test_by_default_32_characters_with_every_type_in_each(self, secrets: Secrets) -> None:
        for _ in range(50):
            password = set(secrets.call("GetRandomPassword")["RandomPassword"])
            assert all(password & kind for kind in (set(string.ascii_lowercase), set(string.ascii_uppercase),
                                                    set(string.digits), PUNCTUATION))  # fmt: skip
        assert len(secrets.call("GetRandomPassword")["RandomPassword"]) == 32

    @pytest.mark.parametrize(
        ("request_members", "characters"),
        [
            ({"ExcludePunctuation": True}, set(string.ascii_letters + string.digits)),
            ({"ExcludeNumbers": True, "ExcludePunctuation": True}, set(string.ascii_letters)),
            ({"ExcludeUppercase": True, "ExcludeLowercase": True, "ExcludePunctuation": True}, set(string.digits)),
            ({"ExcludePunctuation": True, "IncludeSpace": True}, set(string.ascii_letters + string.digits + " ")),
            ({"ExcludeCharacters": string.ascii_letters + string.punctuation}, set(string.digits)),
            ({"ExcludeLowercase": True, "ExcludePunctuation": True, "ExcludeCharacters": "ABC0"},
             set(string.ascii_uppercase + string.digits) - set("ABC0")),
        ],
    )  # fmt: skip
    def test_exactly_the_characters_asked_for(
        self, secrets: Secrets, request_members: dict[str, Any], characters: set[str]
    ) -> None:
        assert drawn(secrets, PasswordLength=200, **request_members) == characters

    def test_lengths(self, secrets: Secrets) -> None:
        for length in (4, 5, 4096):
            assert len(secrets.call("GetRandomPassword", PasswordLength=length)["RandomPassword"]) == length
        assert "too short based on the required types" in secrets.refused("GetRandomPassword", PasswordLength=3)
        short = secrets.call("GetRandomPassword", PasswordLength=1, RequireEachIncludedType=False)
        assert len(short["RandomPassword"]) == 1
        for length in (0, 4097):
            assert secrets.refused("GetRandomPassword", PasswordLength=length).startswith("ValidationException")

    def test_nothing_left_is_refused(self, secrets: Secrets) -> None:
        everything: dict[str, Any] = {
            f"Exclude{kind}": True for kind in ("Lowercase", "Uppercase", "Numbers", "Punctuation")
        }
        assert "every character is excluded" in secrets.refused("GetRandomPassword", **everything)
        assert drawn(secrets, IncludeSpace=True, **everything) == {" "}

    def test_two_are_never_alike(self, secrets: Secrets) -> None:
        assert len({secrets.call("GetRandomPassword")["RandomPassword"] for _ in range(200)}) == 200
