"""Randomness as a parameter, so that a simulated run can be repeated from its seed."""

from __future__ import annotations

import random
import secrets
from typing import Protocol

BASE32_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
HEX = "0123456789abcdef"


class Randomness(Protocol):
    """Source of identifiers and secrets."""

    def token_bytes(self, count: int) -> bytes:
        """`count` unpredictable bytes."""

    def text(self, count: int, alphabet: str) -> str:
        """`count` characters drawn evenly from `alphabet`."""

    def below(self, limit: int) -> int:
        """An even integer in [0, limit)."""


class SystemRandomness:
    """The kernel's generator."""

    def token_bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)

    def text(self, count: int, alphabet: str) -> str:
        return "".join(secrets.choice(alphabet) for _ in range(count))

    def below(self, limit: int) -> int:
        return secrets.randbelow(limit)


class SeededRandomness:
    """Repeatable, for simulation and tests only."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose, never used outside tests

    def token_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def text(self, count: int, alphabet: str) -> str:
        return "".join(self._random.choice(alphabet) for _ in range(count))

    def below(self, limit: int) -> int:
        return self._random.randrange(limit)
