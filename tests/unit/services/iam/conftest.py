"""`account`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.accounts import Account


@pytest.fixture
def account() -> Iterator[Account]:
    made = Account()
    yield made
    made.store.close()
