"""The conformance suite: what an engine's folder must pass.

On the newest installed major version of each engine all of it runs; on the older ones what is marked `every_version`,
and the rest with `--faults-full`.
"""

from __future__ import annotations

import pytest

from harness.dialects import DIALECTS, EngineUnderTest, installed_engines, newest_of


@pytest.fixture(scope="module", params=installed_engines(), ids=lambda one: f"{one.dialect.engine}-{one.version}")
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    found: EngineUnderTest = request.param
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The tests that an older version is not put to are skipped, which the run then tells of."""
    if config.getoption("--faults-full"):
        return
    newest = [one for dialect in DIALECTS.values() for one in newest_of(dialect)]
    skipped = pytest.mark.skip(reason="an older major version: all of it with --faults-full or TEST_ENGINE_VERSIONS")
    for item in items:
        under_test = getattr(item, "callspec", None) and item.callspec.params.get("engine")  # type: ignore[attr-defined]
        if not isinstance(under_test, EngineUnderTest) or item.get_closest_marker("every_version"):
            continue
        if under_test not in newest:
            item.add_marker(skipped)
