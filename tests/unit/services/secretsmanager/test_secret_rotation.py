"""RotateSecret and CancelRotateSecret: schedules, timers, refusals. The workflows have tests of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.secrets_account import Secrets, allowing

DAY_S = 24 * 3600.0
TOKEN = "t" * 32


def value(**more: Any) -> str:
    found = {"engine": "postgres", "dbInstanceIdentifier": "db1", "username": "worker", "password": "old", **more}
    return json.dumps({name: one for name, one in found.items() if one is not None})


@pytest.fixture
def rotatable(secrets: Secrets) -> Any:
    secrets.instance()
    secrets.create(value=value())
    return secrets


def programs(secrets: Secrets) -> dict[str, Any]:
    return {job.program: job for job in secrets.jobs()}


def test_a_rotation_begins_at_once_and_the_next_is_scheduled(rotatable: Any) -> None:
    now = rotatable.clock.wall()
    rules = {"AutomaticallyAfterDays": 10, "Duration": "2h"}
    answer = rotatable.call("RotateSecret", SecretId="app", RotationRules=rules, ClientRequestToken=TOKEN)
    assert answer["VersionId"] == TOKEN
    shown = rotatable.call("DescribeSecret", SecretId="app")
    assert shown["RotationEnabled"] and shown["RotationRules"] == rules
    assert shown["NextRotationDate"] == now + 10 * DAY_S and "LastRotatedDate" not in shown
    jobs = programs(rotatable)
    assert set(jobs) == {"rotate_database_secret", "await_secret_rotation"}
    assert jobs["rotate_database_secret"].frame == {"version_id": TOKEN}
    assert jobs["await_secret_rotation"].due_at == now + 10 * DAY_S


def test_not_now_only_schedules(rotatable: Any) -> None:
    answer = rotatable.call(
        "RotateSecret", SecretId="app", RotateImmediately=False, RotationRules={"ScheduleExpression": "rate(2 days)"}
    )
    assert "VersionId" not in answer
    assert set(programs(rotatable)) == {"await_secret_rotation"}
    rotatable.call(
        "RotateSecret", SecretId="app", RotateImmediately=False, RotationRules={"ScheduleExpression": "rate(1 days)"}
    )
    assert programs(rotatable)["await_secret_rotation"].due_at == rotatable.clock.wall() + DAY_S


def test_a_second_rotation_waits_for_the_first(rotatable: Any) -> None:
    rotatable.call("RotateSecret", SecretId="app", ClientRequestToken=TOKEN)
    assert rotatable.refused("RotateSecret", SecretId="app") == (
        "InvalidRequestException: A previous rotation isn't complete. That rotation will be reattempted."
    )


def test_cancelling_ends_timer_and_rotation(rotatable: Any) -> None:
    rotatable.call("RotateSecret", SecretId="app")
    rotatable.call("CancelRotateSecret", SecretId="app")
    assert rotatable.jobs() == []
    shown = rotatable.call("DescribeSecret", SecretId="app")
    assert shown["RotationEnabled"] is False and "NextRotationDate" not in shown


def test_deletion_stops_the_timer_in_effect_and_restoring_brings_it_back(rotatable: Any) -> None:
    rotatable.call("RotateSecret", SecretId="app", RotateImmediately=False)
    rotatable.call("DeleteSecret", SecretId="app")
    rotatable.call("RestoreSecret", SecretId="app")
    assert set(programs(rotatable)) == {"await_secret_rotation"}
    rotatable.call("DeleteSecret", SecretId="app", ForceDeleteWithoutRecovery=True)
    assert rotatable.jobs() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "SecretString is a JSON object"),
        ("[1]", "SecretString is a JSON object"),
        (value(engine=None), "its engine is missing"),
        (value(password=7), "its password is missing or no string"),
        (value(username=""), "its username is missing"),
        (value(dbInstanceIdentifier="absent"), "no DB instance absent"),
        (value(dbInstanceIdentifier=None, host="10.0.0.1"), "no DB instance 10.0.0.1"),
        (value(dbInstanceIdentifier=None), "no DB instance (no host given)"),
        (value(engine="mysql"), "its engine is mysql, but DB instance db1 is postgres"),
        (value(dbInstanceIdentifier="replica"), "is a read replica"),
        (value(masterarn="absent"), "the secret in its masterarn does not exist"),
    ],
)
def test_what_cannot_be_rotated_is_refused_in_words_and_nothing_is_kept(
    secrets: Secrets, text: str, words: str
) -> None:
    secrets.instance()
    secrets.instance("replica", source_dbi_resource_id="db-DB1")
    secrets.create(value=text)
    refusal = secrets.refused("RotateSecret", SecretId="app")
    assert refusal.startswith("InvalidRequestException: The secret cannot be rotated") and words in refusal
    assert '"old"' not in refusal
    assert "RotationEnabled" not in secrets.call("DescribeSecret", SecretId="app") and secrets.jobs() == []


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"RotationLambdaARN": "arn:aws:lambda:us-east-1:1:function:f"}, "Lambda functions: not available"),
        ({"RotationRules": {"AutomaticallyAfterDays": 0}}, "greater than or equal to 1"),
        ({"RotationRules": {"ScheduleExpression": "rate(1 hours)"}}, "4 hours to 999 days"),
        ({"ClientRequestToken": None}, "You must provide a ClientRequestToken"),
    ],
)
def test_members_that_do_not_fit(rotatable: Any, members: dict[str, Any], words: str) -> None:
    assert words in rotatable.refused("RotateSecret", SecretId="app", **members)
    assert rotatable.jobs() == []


def test_using_a_masters_secret_needs_the_permission_to_read_it(rotatable: Any) -> None:
    master = rotatable.create("master", value=json.dumps({"username": "chief", "password": "x"}))["ARN"]
    rotatable.create("other", value=value(masterarn=master))
    user = rotatable.user("user", allowing("RotateSecret"))
    refusal = rotatable.refused("RotateSecret", user, SecretId="other")
    assert refusal.startswith("AccessDenied") and "secretsmanager:GetSecretValue" in refusal and master in refusal
    rotatable.call("RotateSecret", SecretId="other")
