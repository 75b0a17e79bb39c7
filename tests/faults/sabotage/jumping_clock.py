"""The wall clock is wrong by as many seconds as the file `clock-offset` in the service's home says at this moment.

That of the engines too (`libfaketime`, which reads `clock-offset-of-engines`) if the home has its library.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from mainstay.engines.base import StartCommand
from mainstay.engines.postgresql.driver import PostgresqlDriver
from mainstay.host.clock import SystemClock

right_wall = SystemClock.wall
right_command = PostgresqlDriver.start_command
home = Path(os.environ["MAINSTAY_HOME"])


def wall(self: SystemClock) -> float:
    """Wrong."""
    offset = 0.0
    with suppress(OSError, ValueError):
        offset = float((home / "clock-offset").read_text())
    return right_wall(self) + offset


def start_command(*arguments: Any) -> StartCommand:
    """An engine that is lied to about the time of day, and only about that."""
    rightly = right_command(*arguments)
    lying = {
        "LD_PRELOAD": str(home / "libfaketime.so"),
        "FAKETIME_TIMESTAMP_FILE": str(home / "clock-offset-of-engines"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return msgspec.structs.replace(rightly, env=rightly.env | lying)


SystemClock.wall = wall
if (home / "libfaketime.so").exists():
    PostgresqlDriver.start_command = start_command
