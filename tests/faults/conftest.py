"""What the fault tests share."""

from __future__ import annotations

import random
import secrets

import pytest


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether this is `make faults`."""
    return bool(request.config.getoption("--faults-full"))


@pytest.fixture
def chance() -> random.Random:
    """Random instants, repeatable: the seed is printed."""
    seed = secrets.randbits(30)
    print(f"seed {seed}")
    return random.Random(seed)
