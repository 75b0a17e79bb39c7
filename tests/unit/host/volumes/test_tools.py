"""A helper program holds the volume's lock for as long as it runs, whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mainstay.host.volumes.tools import exclusively, in_thread, program, run_helper
from mainstay.model.errors import Permanent, Transient

HOLD = """
import sys
from pathlib import Path
from mainstay.host.volumes.tools import exclusively, run_helper
with exclusively(Path(sys.argv[1])) as lock:
    run_helper(["sleep", "60"], lock, timeout_s=60.0)
"""


def test_a_helper_that_outlives_who_started_it_keeps_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    starter = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)])
    deadline = time.monotonic() + 20.0
    while not (helpers := psutil.Process(starter.pid).children()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    starter.kill()
    starter.wait()
    with pytest.raises(Transient, match="under way"), exclusively(lock):
        pass
    os.kill(helpers[0].pid, signal.SIGKILL)
    while True:
        try:
            with exclusively(lock):
                return
        except Transient:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_what_a_helper_says_is_told(tmp_path: Path) -> None:
    with exclusively(tmp_path / "lock") as lock:
        assert run_helper(["echo", "word"], lock, timeout_s=5.0) == b"word\n"
        assert run_helper(["cat"], lock, timeout_s=5.0, stdin=b"in") == b"in"
        with pytest.raises(Permanent, match=r"status 2.*no-such-file"):
            run_helper(["ls", "/no-such-file"], lock, timeout_s=5.0)
        assert run_helper(["ls", "/no-such-file"], lock, timeout_s=5.0, accepted=(2,))
        with pytest.raises(Transient, match="longer than"):
            run_helper(["sleep", "5"], lock, timeout_s=0.05)
    with pytest.raises(Permanent, match="missing"):
        program("no-such-program")


async def test_errors_of_the_system_become_ours() -> None:
    with pytest.raises(Transient, match="No such file"):
        await in_thread(os.stat, "/no/such/file")
