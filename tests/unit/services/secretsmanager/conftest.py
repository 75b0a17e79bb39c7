"""`secrets`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.secrets_account import Secrets


@pytest.fixture
def secrets() -> Iterator[Secrets]:
    made = Secrets()
    yield made
    made.store.close()
