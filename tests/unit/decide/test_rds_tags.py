"""Tags of RDS resources."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide.rds_tags import tag_list, with_tags, without_tags
from mainstay.model.errors import ApiError


def tag(key: str, value: str = "") -> dict[str, str]:
    return {"Key": key, "Value": value}


def many(count: int) -> list[dict[str, str]]:
    return [tag(f"k{number}") for number in range(count)]


TAGS = st.dictionaries(
    st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.from_regex(r"[a-z]{0,8}", fullmatch=True), max_size=20
)


@given(TAGS, TAGS)
def test_adding_is_idempotent_and_replaces(present: dict[str, str], added: dict[str, str]) -> None:
    once = with_tags(present, tag_list(added))
    assert once == {**present, **added}
    assert with_tags(once, tag_list(added)) == once


@given(TAGS, TAGS)
def test_removing_leaves_the_others(present: dict[str, str], removed: dict[str, str]) -> None:
    rest = without_tags(present, removed)
    assert rest == {key: value for key, value in present.items() if key not in removed}
    assert without_tags(rest, removed) == rest


def test_fifty_tags_at_most() -> None:
    full = with_tags({}, many(50))
    assert len(full) == 50
    assert with_tags(full, [tag("k0", "new")])["k0"] == "new"
    with pytest.raises(ApiError, match="at most 50 tags"):
        with_tags(full, [tag("one-more")])
    with pytest.raises(ApiError, match="at most 50 tags"):
        with_tags({}, many(51))


@pytest.mark.parametrize(
    "wrong",
    [
        tag(""),
        tag("k" * 129),
        tag("k", "v" * 257),
        tag("aws:x"),
        tag("RDS:x"),
        tag("k", "aws:v"),
        tag("k#"),
        tag("k", "a|b"),
    ],
)
def test_tags_that_are_not_allowed(wrong: dict[str, str]) -> None:
    with pytest.raises(ApiError, match="InvalidParameterValue"):
        with_tags({}, [wrong])


def test_tags_at_the_limit() -> None:
    assert with_tags({}, [tag("k" * 128, "v" * 256), tag("Ümläut _.:/=+-@1", "x aws:")])


def test_a_key_twice_in_one_request() -> None:
    with pytest.raises(ApiError, match="must be unique"):
        with_tags({}, [tag("a", "1"), tag("a", "2")])
