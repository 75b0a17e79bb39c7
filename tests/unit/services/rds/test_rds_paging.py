"""Pages and filters."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.model.errors import ApiError
from mainstay.services.rds.filters import select
from mainstay.services.rds.paging import page, sortable, stored_page


def names(count: int) -> list[str]:
    return [f"n{number:03}" for number in range(count)]


@given(st.sets(st.text(min_size=1, max_size=6), max_size=80), st.integers(20, 100))
def test_pages_show_everything_once_in_order(items: set[str], size: int) -> None:
    seen: list[str] = []
    more: dict[str, str] = {}
    while True:
        shown, more = page(items, str, {"MaxRecords": size} | more)
        assert len(shown) <= size
        seen += shown
        if not more:
            break
    assert seen == sorted(items)


@pytest.mark.parametrize("count", [0, 19, 20, 21, 40, 41])
def test_stored_pages_are_the_same_pages_and_read_no_more_than_one(count: int) -> None:
    limits: list[int] = []

    def scan(after: str, limit: int) -> list[str]:
        limits.append(limit)
        return [name for name in names(count) if name > after][:limit]

    more: dict[str, str] = {}
    while True:
        request = {"MaxRecords": 20} | more
        shown, more = stored_page(scan, str, request)
        assert (shown, more) == page(names(count), str, request)
        if not more:
            break
    assert set(limits) == {21}


def test_changes_between_pages_neither_skip_nor_repeat() -> None:
    items = names(60)
    first, more = page(items, str, {"MaxRecords": 20})
    changed = sorted({"a-new-one", "n025x", *items} - {"n003", "n019", "n020"})
    second, _ = page(changed, str, {"MaxRecords": 20} | more)
    assert first == items[:20]
    assert second[:6] == ["n021", "n022", "n023", "n024", "n025", "n025x"]


@pytest.mark.parametrize("size", [20, 100, None])
def test_page_size_limits(size: int | None) -> None:
    shown, _ = page(names(150), str, {} if size is None else {"MaxRecords": size})
    assert len(shown) == (size or 100)


@pytest.mark.parametrize("size", [-1, 0, 19, 101])
def test_page_sizes_out_of_bounds(size: int) -> None:
    with pytest.raises(ApiError) as caught:
        page([], str, {"MaxRecords": size})
    assert str(caught.value) == (
        f"InvalidParameterValue: Invalid value {size} for MaxRecords. Must be between 20 and 100"
    )


def test_exactly_one_page_has_no_marker() -> None:
    assert page(names(20), str, {"MaxRecords": 20})[1] == {}
    assert page(names(21), str, {"MaxRecords": 20})[1] != {}


@pytest.mark.parametrize("marker", ["x", "!!!!", "ä", "A" * 5000, base64.urlsafe_b64encode(b"n001").decode(), "/w=="])
def test_markers_we_did_not_make(marker: str) -> None:
    with pytest.raises(ApiError, match="InvalidParameterValue: Invalid Marker"):
        page(names(3), str, {"Marker": marker})


def test_numbers_sort_as_numbers() -> None:
    assert sorted(["17.10", "17.9", "9.6", "18"], key=sortable) == ["9.6", "17.9", "17.10", "18"]


COLUMNS = {"name": lambda item: (item,), "initial": lambda item: (item[0],)}


def test_filters_are_joined_by_and_their_values_by_or() -> None:
    def chosen(*filters: tuple[str, list[str]]) -> list[str]:
        request = {"Filters": [{"Name": name, "Values": values} for name, values in filters]}
        return select(["apple", "axe", "bow"], request, COLUMNS)

    assert chosen() == ["apple", "axe", "bow"]
    assert chosen(("initial", ["a", "c"])) == ["apple", "axe"]
    assert chosen(("initial", ["a"]), ("name", ["AXE", "bow"])) == ["axe"]


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("colour", ["red"], "Unrecognized filter name: colour"),
        ("name", [], "The filter name must have at least one value."),
        ("name", [str(number) for number in range(201)], "The filter name has more than 200 values."),
    ],
)
def test_filters_that_are_refused(name: str, values: list[str], text: str) -> None:
    with pytest.raises(ApiError) as caught:
        select(["a"], {"Filters": [{"Name": name, "Values": values}]}, COLUMNS)
    assert str(caught.value) == f"InvalidParameterValue: {text}"
