"""Versions and staging labels over the API: idempotency, moves, and the words of every refusal."""

from __future__ import annotations

from typing import Any

import pytest

from harness.secrets_account import Secrets

TOKENS = [str(number) * 32 for number in range(6)]
ONE, TWO, THREE = TOKENS[:3]


@pytest.fixture
def two(secrets: Secrets) -> Any:
    """A secret whose version TWO is current and ONE previous."""
    secrets.create(ClientRequestToken=ONE)
    secrets.call("PutSecretValue", SecretId="app", SecretString="two", ClientRequestToken=TWO)
    return secrets


def move(secrets: Secrets, **members: Any) -> Any:
    return secrets.call("UpdateSecretVersionStage", SecretId="app", **members)


def test_a_new_value_is_current_and_the_last_one_previous(two: Any) -> None:
    assert two.stages() == {ONE: ["AWSPREVIOUS"], TWO: ["AWSCURRENT"]}
    two.call("PutSecretValue", SecretId="app", SecretString="three", ClientRequestToken=THREE)
    assert two.stages() == {TWO: ["AWSPREVIOUS"], THREE: ["AWSCURRENT"]}
    assert (
        two.value() == "three" and two.value(VersionStage="AWSPREVIOUS") == "two" and two.value(VersionId=ONE) == "one"
    )


def test_the_same_token_with_the_same_content_does_nothing_and_with_another_is_refused(two: Any) -> None:
    before = two.secret()
    answer = two.call("PutSecretValue", SecretId="app", SecretString="one", ClientRequestToken=ONE)
    assert answer["VersionStages"] == ["AWSPREVIOUS"]
    two.call("UpdateSecret", SecretId="app", SecretString="two", ClientRequestToken=TWO)
    assert two.secret().versions == before.versions
    for operation in ("PutSecretValue", "UpdateSecret"):
        for content in ({"SecretString": "else"}, {"SecretBinary": b"one"}):
            refusal = two.refused(operation, SecretId="app", ClientRequestToken=ONE, **content)
            assert refusal.startswith("ResourceExistsException: A resource with the ID you requested already exists")
    assert two.secret().versions == before.versions


def test_put_needs_a_value(two: Any) -> None:
    assert two.refused("PutSecretValue", SecretId="app") == (
        "InvalidRequestException: You must provide either SecretString or SecretBinary."
    )


def test_pending_leaves_current_alone(two: Any) -> None:
    two.call("PutSecretValue", SecretId="app", SecretString="3", ClientRequestToken=THREE, VersionStages=["AWSPENDING"])
    assert two.stages() == {ONE: ["AWSPREVIOUS"], TWO: ["AWSCURRENT"], THREE: ["AWSPENDING"]}
    assert two.value() == "two" and two.value(VersionStage="AWSPENDING") == "3"


def test_a_version_is_read_by_id_label_or_both_if_they_agree(two: Any) -> None:
    assert two.value(VersionId=TWO, VersionStage="AWSCURRENT") == "two"
    assert two.refused("GetSecretValue", SecretId="app", VersionId=ONE, VersionStage="AWSCURRENT") == (
        "InvalidRequestException: You provided a VersionStage that is not associated to the provided VersionId."
    )
    assert two.refused("GetSecretValue", SecretId="app", VersionId=THREE) == (
        f"ResourceNotFoundException: Secrets Manager can't find the specified secret value for VersionId: {THREE}"
    )
    assert two.refused("GetSecretValue", SecretId="app", VersionStage="NONE").endswith("for staging label: NONE")


def test_rolling_back_moves_current_and_previous_follows(two: Any) -> None:
    move(two, VersionStage="AWSCURRENT", MoveToVersionId=ONE, RemoveFromVersionId=TWO)
    assert two.stages() == {ONE: ["AWSCURRENT"], TWO: ["AWSPREVIOUS"]}
    assert two.value() == "one"


def test_a_label_is_put_moved_and_taken_away(two: Any) -> None:
    move(two, VersionStage="MINE", MoveToVersionId=ONE)
    assert two.stages()[ONE] == ["AWSPREVIOUS", "MINE"]
    move(two, VersionStage="MINE", MoveToVersionId=TWO, RemoveFromVersionId=ONE)
    assert two.stages() == {ONE: ["AWSPREVIOUS"], TWO: ["AWSCURRENT", "MINE"]}
    move(two, VersionStage="MINE", MoveToVersionId=TWO)  # it is there already
    move(two, VersionStage="MINE", RemoveFromVersionId=TWO)
    move(two, VersionStage="AWSPREVIOUS", RemoveFromVersionId=ONE)
    assert two.stages() == {TWO: ["AWSCURRENT"]}
    versions = two.call("ListSecretVersionIds", SecretId="app")["Versions"]
    assert [one["VersionId"] for one in versions] == [TWO]
    versions = two.call("ListSecretVersionIds", SecretId="app", IncludeDeprecated=True)["Versions"]
    assert {one["VersionId"]: one.get("VersionStages") for one in versions} == {ONE: None, TWO: ["AWSCURRENT"]}
    assert two.value(VersionId=ONE) == "one", "a deprecated version can be read until it is dropped"


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "InvalidParameterException: You must specify MoveToVersionId, RemoveFromVersionId or both."),
        (
            {"MoveToVersionId": ONE},
            f"Staging label AWSCURRENT is currently attached to version {TWO}, so you must explicitly",
        ),
        ({"RemoveFromVersionId": TWO}, "You can only move staging label AWSCURRENT to a different secret version."),
        ({"MoveToVersionId": ONE, "RemoveFromVersionId": ONE}, f"not attached to version {ONE}"),
        ({"MoveToVersionId": THREE, "RemoveFromVersionId": TWO}, "ResourceNotFoundException"),
        ({"RemoveFromVersionId": ONE}, f"not attached to version {ONE}"),
    ],
)
def test_a_move_that_does_not_fit_is_refused_and_changes_nothing(two: Any, members: dict[str, str], words: str) -> None:
    before = two.stages()
    assert words in two.refused("UpdateSecretVersionStage", SecretId="app", VersionStage="AWSCURRENT", **members)
    assert two.stages() == before


def test_no_more_than_twenty_labels(two: Any) -> None:
    for number in range(18):
        move(two, VersionStage=f"L{number}", MoveToVersionId=ONE)
    assert "LimitExceededException" in two.refused(
        "UpdateSecretVersionStage", SecretId="app", VersionStage="L18", MoveToVersionId=TWO
    )


def test_old_deprecated_versions_are_dropped_with_their_values(two: Any) -> None:
    two.clock.advance(25 * 3600)
    for number in range(130):
        two.call("PutSecretValue", SecretId="app", SecretString=f"v{number}", ClientRequestToken=f"a{number:031}")
    assert len(two.secret().versions) == 130, "those of the last 24 hours are kept; ONE and TWO are dropped"
    two.clock.advance(25 * 3600)
    two.call("PutSecretValue", SecretId="app", SecretString="last", ClientRequestToken="f" * 32)
    secret = two.secret()
    assert len(secret.versions) == 100
    assert {one.version_id for one in secret.versions} == {value.version_id for value in two.sealed_values()}
    assert two.value() == "last" and two.value(VersionStage="AWSPREVIOUS") == "v129"


def test_versions_come_in_pages_newest_first(two: Any) -> None:
    for number in range(5):
        two.clock.advance(1)
        two.call("PutSecretValue", SecretId="app", SecretString=f"v{number}", ClientRequestToken=f"a{number:031}")
    found: list[str] = []
    more: dict[str, str] = {}
    while True:
        answer = two.call("ListSecretVersionIds", SecretId="app", IncludeDeprecated=True, MaxResults=3, **more)
        found += [one["VersionId"] for one in answer["Versions"]]
        if "NextToken" not in answer:
            break
        more = {"NextToken": answer["NextToken"]}
    assert found == [f"a{number:031}" for number in (4, 3, 2, 1, 0)] + [ONE, TWO]
    assert "InvalidNextTokenException" in two.refused("ListSecretVersionIds", SecretId="app", NextToken="nonsense")
