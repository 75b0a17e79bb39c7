"""Fixtures for tests that need a running service: one for the whole run, shared by all that do not harm it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
from hypothesis import HealthCheck

from harness import refusals
from harness.memory import memory_or
from harness.service import Service


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure is named when it happens: the run is long, and tells why at its end only."""
    if report.failed:
        print(f"\n{report.when} of {report.nodeid} failed", file=sys.__stderr__, flush=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A refused connection is told with what can be known of it only now, while the test's services run."""
    report = yield
    if report.failed and (told := refusals.about(report.longreprtext)):
        report.sections.append(("endpoints", told))
    return report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-full", action="store_true", help="long fault runs instead of the short ones")


def pytest_configure(config: pytest.Config) -> None:
    """`tmp_path` is where the tests' other files are; no example of a property fails for being slow."""
    hypothesis.settings.register_profile("mainstay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    hypothesis.settings.load_profile("mainstay")
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory_or(Path(tempfile.gettempdir()))))


def pytest_collection_finish(session: pytest.Session) -> None:
    """The order is random: with this seed it is the same again."""
    print(f"--randomly-seed={session.config.getoption('randomly_seed', None)}", file=sys.__stderr__, flush=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests whose work is done in the background come last, after the others in their random order."""
    items.sort(key=_begins_early)


@pytest.fixture(scope="session", autouse=True)
def begun_early(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The `begin` of the modules that have one: their tests only look at what became of it."""
    items: dict[ModuleType, list[pytest.Item]] = {}
    for item in filter(_begins_early, request.session.items):
        items.setdefault(item.module, []).append(item)  # type: ignore[attr-defined]
    with ExitStack() as begun:
        for module, tests in items.items():
            begun.enter_context(module.begin(tests, tmp_path_factory.mktemp("begun")))
        yield


def _begins_early(item: pytest.Item) -> bool:
    return hasattr(getattr(item, "module", None), "begin")


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
