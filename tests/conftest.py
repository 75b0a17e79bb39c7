"""Fixtures for tests that need a running service: one for the whole run, shared by all that do not harm it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.service import Service


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-full", action="store_true", help="long fault runs instead of the short ones")


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """A running service that tests share: leave it as you found it."""
    with Service() as running:
        yield running


@pytest.fixture
def own_service() -> Iterator[Service]:
    """A running service of the test's own, to be treated badly."""
    with Service() as running:
        yield running
