"""A process of the service has nothing in memory that only colours a terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import importlib, sys
importlib.import_module("mainstay.{name}.__main__")
import structlog
structlog.get_logger().error("shown")
print(*[name for name, module in sys.modules.items() if module is not None and name.split(".")[0] in {unwanted}])
"""
UNWANTED = {"rich", "colorama", "pygments"}


@pytest.mark.parametrize("name", ["agent", "control", "endpoint", "proxy", "supervisor"])
def test_no_process_of_the_service_loads_what_colours_a_terminal(name: str) -> None:
    command = [sys.executable, "-c", CODE.format(name=name, unwanted=UNWANTED)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "shown" in loaded[0]
    assert loaded[1] == ""
