"""Creating, finding, updating, deleting and restoring secrets, in AWS's words."""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Any

import pytest

from harness.secrets_account import Secrets
from mainstay.model.errors import MainstayError
from mainstay.model.secrets_manager import SecretValue, StoredSecret
from mainstay.workflows.engine import Finish, Sleep, Work
from mainstay.workflows.secret_timers import PURGE

DAY_S = 24 * 3600.0
TOKEN = "0" * 32
OTHER = "1" * 32


def test_a_secret_gets_an_arn_with_six_random_characters_and_its_first_version_is_current(secrets: Secrets) -> None:
    made = secrets.create(ClientRequestToken=TOKEN)
    assert re.fullmatch(r"arn:aws:secretsmanager:us-east-1:123456789012:secret:app-[A-Za-z0-9]{6}", made["ARN"])
    assert (made["Name"], made["VersionId"]) == ("app", TOKEN)
    assert secrets.stages() == {TOKEN: ["AWSCURRENT"]}
    assert secrets.value() == "one"


def test_the_value_is_sealed_at_rest_and_opens_nowhere_else(secrets: Secrets) -> None:
    secrets.create(value="s3cret-value-7")
    (record,) = secrets.sealed_values()
    assert "s3cret-value-7" not in record.sealed
    assert b"s3cret-value-7" not in b"".join(
        row[0] for row in secrets.store._db.execute("SELECT document FROM records").fetchall()
    )
    secrets.create(name="other", value="x")
    other = next(one for one in secrets.sealed_values() if one.secret.startswith("other"))
    moved = SecretValue(scope=other.scope, secret=other.secret, version_id=other.version_id, sealed=record.sealed)
    with secrets.store.transaction() as tx:
        tx.put(moved)
    with pytest.raises(MainstayError, match="cannot be opened"):
        secrets.value("other")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "ü", "a!b", "rds!db-1", "x" * 513, "a\n", "*"])
def test_names_that_aws_does_not_take_are_refused(secrets: Secrets, name: str) -> None:
    assert secrets.refused("CreateSecret", Name=name, SecretString="x").startswith("ValidationException")


@pytest.mark.parametrize("name", ["a", "x" * 512, "prod/db/app", "A_b+c=d.e@f-g", "name-a1b2c3"])
def test_names_that_aws_takes(secrets: Secrets, name: str) -> None:
    secrets.create(name)
    assert secrets.value(name) == "one"


def test_a_secret_is_found_by_name_arn_and_partial_arn(secrets: Secrets) -> None:
    made = secrets.create("team/app")
    for secret_id in ("team/app", made["ARN"], made["ARN"][:-7]):
        assert secrets.call("DescribeSecret", SecretId=secret_id)["ARN"] == made["ARN"]
    gone = "ResourceNotFoundException: Secrets Manager can't find the specified secret."
    for secret_id in ("team", "team/app-", made["ARN"][:-1], made["ARN"][:-3] + "zzz", 
                      made["ARN"].replace("east", "west"),
                      "arn:aws:secretsmanager:us-east-1:999999999999:secret:team/app", "arn:aws:s3:::x"):  # fmt: skip
        assert secrets.refused("DescribeSecret", SecretId=secret_id) == gone, secret_id


def test_an_arn_does_not_find_a_later_secret_of_the_same_name(secrets: Secrets) -> None:
    first = secrets.create()["ARN"]
    secrets.call("DeleteSecret", SecretId="app", ForceDeleteWithoutRecovery=True)
    second = secrets.create()["ARN"]
    assert first != second
    assert secrets.refused("GetSecretValue", SecretId=first).startswith("ResourceNotFoundException")
    assert secrets.value(second) == "one"


def test_a_name_that_looks_like_a_name_with_suffix_is_not_confused(secrets: Secrets) -> None:
    secrets.create("app")
    tricky = secrets.create("app-abcdef", value="tricky")
    assert secrets.value("app-abcdef") == "tricky"
    assert secrets.value(tricky["ARN"]) == "tricky"
    assert secrets.value(tricky["ARN"][:-7]) == "tricky"


def test_creating_again_with_the_same_token_and_content_is_the_same_secret(secrets: Secrets) -> None:
    first = secrets.create(ClientRequestToken=TOKEN)
    assert secrets.create(ClientRequestToken=TOKEN) == first
    for request in ({"value": "two", "ClientRequestToken": TOKEN}, {"ClientRequestToken": OTHER}, {"value": None}):
        given: dict[str, Any] = dict(request)
        value = given.pop("value", "one")
        if value is not None:
            given["SecretString"] = value
        assert secrets.refused("CreateSecret", Name="app", **given) == (
            "ResourceExistsException: The operation failed because the secret app already exists."
        )
    assert secrets.value() == "one"


def test_a_token_is_required_as_on_aws(secrets: Secrets) -> None:
    assert "You must provide a ClientRequestToken value" in secrets.refused(
        "CreateSecret", Name="app", SecretString="x", ClientRequestToken=None
    )
    assert "Member must have length greater than or equal to 32" in secrets.refused(
        "CreateSecret", Name="app", SecretString="x", ClientRequestToken="short"
    )


def test_a_secret_may_be_without_a_value(secrets: Secrets) -> None:
    made = secrets.create(value=None)
    assert "VersionId" not in made
    assert secrets.refused("GetSecretValue", SecretId="app") == (
        "ResourceNotFoundException: Secrets Manager can't find the specified secret value for staging label: AWSCURRENT"
    )
    secrets.call("PutSecretValue", SecretId="app", SecretString="first", ClientRequestToken=TOKEN,
                 VersionStages=["MINE"])  # fmt: skip
    assert secrets.stages() == {TOKEN: ["MINE", "AWSCURRENT"]}, "the first version is always current"


def test_values_have_limits_in_bytes(secrets: Secrets) -> None:
    secrets.create("most", value="x" * 65536)
    assert len(secrets.value("most")) == 65536
    for members in ({"SecretString": "x" * 65537}, {"SecretString": "ü" * 32769}, {"SecretBinary": b"x" * 65537}):
        assert "less than or equal to 65536" in secrets.refused("CreateSecret", Name="more", **members)
    secrets.call("CreateSecret", Name="binary", SecretBinary=bytes(range(256)) * 256)
    assert secrets.call("GetSecretValue", SecretId="binary")["SecretBinary"] == bytes(range(256)) * 256
    assert "both a binary secret value and a string" in secrets.refused(
        "CreateSecret", Name="both", SecretString="x", SecretBinary=b"x"
    )


@pytest.mark.parametrize("members", [{"AddReplicaRegions": [{"Region": "eu-west-1"}]}, {"Type": "Partner"}])
def test_a_feature_that_is_not_there_is_refused_by_name(secrets: Secrets, members: dict[str, Any]) -> None:
    refusal = secrets.refused("CreateSecret", Name="app", SecretString="x", **members)
    assert "not available in this version of Mainstay" in refusal and next(iter(members)) in refusal


def test_describe_shows_only_what_has_a_value(secrets: Secrets) -> None:
    secrets.create(
        Description="d", Tags=[{"Key": "b", "Value": "2"}, {"Key": "a", "Value": "1"}], ClientRequestToken=TOKEN
    )
    shown = secrets.call("DescribeSecret", SecretId="app")
    assert set(shown) == {"ARN", "Name", "Description", "CreatedDate", "LastChangedDate", "Tags", "VersionIdsToStages"}
    assert shown["Tags"] == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]
    secrets.clock.advance(5 * DAY_S)
    secrets.value()
    today = secrets.clock.wall() // DAY_S * DAY_S
    assert secrets.call("DescribeSecret", SecretId="app")["LastAccessedDate"] == today
    (version,) = secrets.call("ListSecretVersionIds", SecretId="app")["Versions"]
    assert version["LastAccessedDate"] == today


def test_update_changes_description_without_a_new_version_and_value_with_one(secrets: Secrets) -> None:
    secrets.create(ClientRequestToken=TOKEN)
    assert "VersionId" not in secrets.call("UpdateSecret", SecretId="app", Description="new")
    assert secrets.stages() == {TOKEN: ["AWSCURRENT"]}
    made = secrets.call("UpdateSecret", SecretId="app", SecretString="two", ClientRequestToken=OTHER)
    assert made["VersionId"] == OTHER
    assert secrets.stages() == {TOKEN: ["AWSPREVIOUS"], OTHER: ["AWSCURRENT"]}
    assert secrets.call("DescribeSecret", SecretId="app")["Description"] == "new"


class TestDeletion:
    def test_it_is_scheduled_hides_the_value_and_can_be_taken_back(self, secrets: Secrets) -> None:
        secrets.create()
        now = secrets.clock.wall()
        answer = secrets.call("DeleteSecret", SecretId="app", RecoveryWindowInDays=7)
        assert answer["DeletionDate"] == now + 7 * DAY_S
        assert secrets.call("DescribeSecret", SecretId="app")["DeletedDate"] == now
        marked = "InvalidRequestException: You can't perform this operation on the secret because it was marked for"
        marked += " deletion."
        assert secrets.refused("GetSecretValue", SecretId="app") == marked
        assert secrets.refused("PutSecretValue", SecretId="app", SecretString="x") == marked
        assert secrets.refused("CreateSecret", Name="app", SecretString="x") == (
            "InvalidRequestException: You can't create this secret because a secret with this name is already scheduled"
            " for deletion."
        )
        assert "already scheduled" in secrets.refused("DeleteSecret", SecretId="app")
        secrets.call("RestoreSecret", SecretId="app")
        assert secrets.value() == "one"
        assert secrets.jobs() == []

    @pytest.mark.parametrize("days", [-1, 0, 6, 31])
    def test_the_window_is_seven_to_thirty_days(self, secrets: Secrets, days: int) -> None:
        secrets.create()
        assert "between 7 and 30 days (inclusive)" in secrets.refused(
            "DeleteSecret", SecretId="app", RecoveryWindowInDays=days
        )

    def test_the_default_window_is_thirty_days(self, secrets: Secrets) -> None:
        secrets.create()
        now = secrets.clock.wall()
        assert secrets.call("DeleteSecret", SecretId="app")["DeletionDate"] == now + 30 * DAY_S

    def test_force_leaves_nothing_and_takes_absent_and_scheduled_secrets(self, secrets: Secrets) -> None:
        secrets.create()
        secrets.call("PutSecretValue", SecretId="app", SecretString="two")
        secrets.call("DeleteSecret", SecretId="app")
        assert "in conjunction with" in secrets.refused(
            "DeleteSecret", SecretId="app", ForceDeleteWithoutRecovery=True, RecoveryWindowInDays=7
        )
        secrets.call("DeleteSecret", SecretId="app", ForceDeleteWithoutRecovery=True)
        assert (secrets.records(StoredSecret), secrets.sealed_values(), secrets.jobs()) == ([], [], [])
        assert secrets.call("DeleteSecret", SecretId="app", ForceDeleteWithoutRecovery=True)["Name"] == "app"
        assert secrets.refused("DeleteSecret", SecretId="app").startswith("ResourceNotFoundException")
        secrets.create()

    def test_the_purge_comes_when_the_window_ends_and_not_before(self, secrets: Secrets) -> None:
        secrets.create()
        secrets.call("DeleteSecret", SecretId="app", RecoveryWindowInDays=7)
        (job,) = secrets.jobs()
        assert (job.program, job.due_at) == ("purge_secret", secrets.clock.wall() + 7 * DAY_S)

        class Tools:
            store, clock = secrets.store, secrets.clock

        def step() -> Any:
            return asyncio.run(PURGE.steps["purge"].run(Work(job, Tools())))  # type: ignore[arg-type]

        secrets.clock.advance(7 * DAY_S - 1)
        early = step()
        assert isinstance(early, Sleep) and early.seconds == 1
        secrets.clock.advance(1)
        late = step()
        assert isinstance(late, Finish)
        with secrets.store.transaction() as tx:
            late.record(tx)
        assert (secrets.records(StoredSecret), secrets.sealed_values()) == ([], [])


class TestTags:
    def test_they_are_added_replaced_and_removed(self, secrets: Secrets) -> None:
        secrets.create(Tags=[{"Key": "a", "Value": "1"}])
        secrets.call("TagResource", SecretId="app", Tags=[{"Key": "a", "Value": "2"}, {"Key": "A", "Value": "3"}])
        secrets.call("UntagResource", SecretId="app", TagKeys=["a", "absent"])
        assert secrets.call("DescribeSecret", SecretId="app")["Tags"] == [{"Key": "A", "Value": "3"}]

    @pytest.mark.parametrize(
        "tags",
        [
            [{"Key": "aws:x", "Value": ""}],
            [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}],
            [{"Key": "k<", "Value": ""}],
            [{"Key": f"k{number}", "Value": ""} for number in range(51)],
            [{"Value": "x"}],
        ],
    )
    def test_those_that_aws_does_not_take_are_refused(self, secrets: Secrets, tags: list[dict[str, str]]) -> None:
        secrets.create()
        assert secrets.refused("TagResource", SecretId="app", Tags=tags).startswith("InvalidParameterException")


def test_a_version_id_is_what_the_token_says(secrets: Secrets) -> None:
    token = str(uuid.uuid4())
    secrets.create(value=None)
    answer = secrets.call("PutSecretValue", SecretId="app", SecretString="x", ClientRequestToken=token)
    assert answer["VersionId"] == token and answer["VersionStages"] == ["AWSCURRENT"]
