"""`cloud`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.ec2_calls import Cloud


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud()
    yield made
    made.store.close()
