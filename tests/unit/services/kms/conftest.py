"""`kms_account`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.kms_account import Kms


@pytest.fixture
def kms_account() -> Iterator[Kms]:
    made = Kms()
    yield made
    made.store.close()
