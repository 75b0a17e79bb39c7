"""The conformance suite: what an engine's folder must pass, on every version that is installed."""

from __future__ import annotations

import pytest

from harness.dialects import EngineUnderTest, installed_engines


@pytest.fixture(scope="module", params=installed_engines(), ids=lambda one: f"{one.dialect.engine}-{one.version}")
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    found: EngineUnderTest = request.param
    return found
