"""Names and ARNs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide.identifiers import (
    Arn,
    check_db_instance_identifier,
    check_description,
    check_option_group_name,
    check_parameter_group_name,
    check_subnet_group_name,
    parse_arn,
)
from mainstay.model.errors import ApiError

RULE = (
    "InvalidParameterValue: The parameter {} is not a valid identifier. Identifiers must begin with a letter; must"
    " contain only ASCII letters, digits, and hyphens; and must not end with a hyphen or contain two consecutive"
    " hyphens."
)
Check = Callable[[str], str]
CHECKS: list[tuple[Check, str, int]] = [
    (check_db_instance_identifier, "DBInstanceIdentifier", 63),
    (check_parameter_group_name, "DBParameterGroupName", 255),
    (check_option_group_name, "OptionGroupName", 255),
]


@pytest.mark.parametrize(("check", "member", "most"), CHECKS)
@pytest.mark.parametrize("text", ["1a", "-a", "a-", "a--b", "a_b", "a.b", "ä", "a b", "a\n"])
def test_wrong_names_are_refused_in_aws_words(check: Check, member: str, most: int, text: str) -> None:
    with pytest.raises(ApiError) as caught:
        check(text)
    assert str(caught.value) == RULE.format(member)


@pytest.mark.parametrize(("check", "member", "most"), CHECKS)
def test_length_limits(check: Check, member: str, most: int) -> None:
    assert check("A" * most) == "a" * most
    assert check("x") == "x"
    with pytest.raises(ApiError, match=f"longer than {most} characters"):
        check("a" * (most + 1))
    with pytest.raises(ApiError, match=f"The parameter {member} must be provided and must not be blank"):
        check("")


@given(st.from_regex(r"[A-Za-z](-?[A-Za-z0-9]){0,30}", fullmatch=True))
def test_good_names_are_stored_in_lower_case(text: str) -> None:
    assert check_db_instance_identifier(text) == text.lower()


@given(st.text(max_size=70))
def test_accepted_names_keep_the_rule(text: str) -> None:
    try:
        name = check_db_instance_identifier(text)
    except ApiError:
        return
    assert name.isascii()
    assert name[0].isalpha()
    assert not name.endswith("-")
    assert "--" not in name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_the_member_is_named_as_the_request_names_it() -> None:
    with pytest.raises(ApiError, match="The parameter NewDBInstanceIdentifier is not a valid identifier"):
        check_db_instance_identifier("9", "NewDBInstanceIdentifier")


def test_subnet_group_names_may_have_more_characters() -> None:
    assert check_subnet_group_name("My group_1.x-") == "my group_1.x-"
    for text in ("1a", "a:b", "Default", "a" * 256, ""):
        with pytest.raises(ApiError, match="InvalidParameterValue"):
            check_subnet_group_name(text)


def test_descriptions() -> None:
    assert check_description("Täglich\tneu", "Description") == "Täglich\tneu"
    for text in ("", "a\x00", "a" * 256):
        with pytest.raises(ApiError, match="The parameter Description"):
            check_description(text, "Description")


def test_arns() -> None:
    arn = parse_arn("arn:aws:rds:us-east-1:123456789012:og:default:postgres-17")
    assert arn == Arn("us-east-1", "123456789012", "og", "default:postgres-17")
    for text in ("", "db", "arn:aws:rds:us-east-1:123456789012:db", "arn:aws:ec2:us-east-1:123456789012:db:x",
                 "arn:aws:rds::123456789012:db:x", "arn:aws:rds:us-east-1:123456789012:db:"):  # fmt: skip
        assert parse_arn(text) is None
