"""What the endpoint process and a pump process say to each other: a letter, then what belongs to it.

Nothing of it outlives the two, which are of one version. Pairs have numbers, as many as fit into 64 bits.
"""

from __future__ import annotations

import array
from collections.abc import Iterator, Sequence

RECORD_BYTES_MAX = 64 * 1024
PAIRS_MAX = 4096
"""In one record."""

DEFECT_BYTES_MAX = 4096

ADD = b"A"
"""To the pump, with the client's and the engine's socket: the number of the pair."""

CUT = b"C"
"""To the pump: numbers of pairs to reset, those that it has."""

READY = b"R"
"""From the pump: it can carry. Its first word."""

CUT_DONE = b"D"
"""From the pump, for each `CUT`, in their order: how many of the pairs it had."""

CLOSED = b"X"
"""From the pump: numbers of pairs that have ended by themselves."""

DEFECT = b"E"
"""From the pump: a traceback, for the log."""


def with_numbers(letter: bytes, numbers: Sequence[int]) -> bytes:
    """A record. At most `PAIRS_MAX` numbers."""
    return letter + array.array("Q", numbers).tobytes()


def numbers_of(record: bytes) -> Sequence[int]:
    """What `with_numbers` was given. Raises `ValueError` if it is no such record."""
    numbers = array.array("Q")
    numbers.frombytes(record[1:])
    return numbers


def number_of(record: bytes) -> int:
    """The only number of the record. Raises `ValueError` if there is not just one."""
    (number,) = numbers_of(record)
    return number


def in_records(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Divides numbers among as many records as they need."""
    for at in range(0, len(numbers), PAIRS_MAX):
        yield numbers[at : at + PAIRS_MAX]


def defect(text: str) -> bytes:
    """A record with the end of the text, which says most in a traceback."""
    return DEFECT + text.encode(errors="replace")[-DEFECT_BYTES_MAX:]


def defect_of(record: bytes) -> str:
    """The text of it."""
    return record[1:].decode(errors="replace")
