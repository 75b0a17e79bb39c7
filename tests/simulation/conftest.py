"""Quiet logs, and no unexpected error left unseen."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog

UNEXPECTED = frozenset({"workflow.unexpected", "keeper.failed", "front.failed", "rpc.method_failed"})


@pytest.fixture(autouse=True)
def unexpected_errors() -> Iterator[list[MutableMapping[str, Any]]]:
    """What the outermost loops caught during the test; anything here is a bug."""
    seen: list[MutableMapping[str, Any]] = []

    def note(_logger: Any, _method: str, event: Any) -> Any:
        if event.get("event") in UNEXPECTED:
            seen.append(structlog.processors.format_exc_info(_logger, _method, dict(event)))
        raise structlog.DropEvent

    structlog.configure(processors=[note])
    yield seen
    structlog.reset_defaults()
    assert not seen, "\n".join(str(one.get("exception", one)) for one in seen)
