"""What the endpoint process and a pump process say to each other."""

from __future__ import annotations

import pytest

from mainstay.endpoint import pump_records as records


def test_numbers_are_divided_among_records_that_fit() -> None:
    numbers = [*range(2**64 - 10_000, 2**64)]
    said = [records.with_numbers(records.CUT, part) for part in records.in_records(numbers)]
    assert len(said) == 3
    assert max(map(len, said)) <= records.RECORD_BYTES_MAX
    assert [number for record in said for number in records.numbers_of(record)] == numbers
    assert [*records.in_records([])] == []


@pytest.mark.parametrize("record", [b"A", b"A1234567", b"A" + bytes(16)])
def test_what_is_not_one_number_is_refused(record: bytes) -> None:
    with pytest.raises(ValueError):
        records.number_of(record)


def test_of_a_long_traceback_the_end_is_told() -> None:
    record = records.defect("ä" * records.DEFECT_BYTES_MAX + "ValueError: what it is")
    assert len(record) <= records.DEFECT_BYTES_MAX + 1
    assert records.defect_of(record).endswith("ä" + "ValueError: what it is")
