"""What a statement costs the proxy's own code, in instructions: counted by valgrind, so a busy machine changes nothing.

`statement_driver.py` has one client's statements served by the proxy's parts in a process of its own, `login_driver.py`
one client after the other. The count of few is taken from that of many, so that what comes before the first statement
is in neither.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.report import Table
from bench.statement_driver import KINDS
from mainstay import compiled
from mainstay.host.layout import LARGE_PAGES

HEADING = "Instructions of a statement in the proxy"
FEW, MANY = 200, 1_000
TIMEOUT_S = 600.0
SERVED = "CPyDef_streams___Poller___run"
"""The compiled function within which the proxy is at work; the client's and the engine's parts are outside it."""


def run(say: Callable[[str], None]) -> list[Table]:
    """One table; none, in words, where there is no valgrind or nothing is compiled."""
    valgrind = shutil.which("valgrind")
    if valgrind is None or not (compiled.directory() / compiled.COMPLETE).exists():
        say("instructions: needs valgrind, and a C compiler when the environment is made; skipped")
        return []
    rows = []
    for kind, tls in itertools.product(KINDS, (False, True)):
        few, many = (
            _instructions(valgrind, "bench.statement_driver", kind, str(count), *["tls"] * tls) for count in (FEW, MANY)
        )
        rows.append((kind + ", TLS" * tls, f"{(many - few) / (MANY - FEW):.0f}"))
        say(f"instructions: {rows[-1][0]}")
    few, many = (_instructions(valgrind, "bench.login_driver", str(count)) for count in (FEW, MANY))
    rows.append(("login (SCRAM-SHA-256), simple, end", f"{(many - few) / (MANY - FEW):.0f}"))
    say(f"instructions: {rows[-1][0]}")
    title = "SELECT of one row by one client: instructions, without those of the kernel"
    return [Table(title=title, columns=("protocol", "a statement"), rows=tuple(rows))]


def _instructions(valgrind: str, driver: str, *asked: str) -> int:
    with tempfile.TemporaryDirectory() as directory:
        command = [
            valgrind, "--tool=callgrind", f"--callgrind-out-file={Path(directory) / 'out'}",
            f"--toggle-collect={SERVED}", sys.executable, "-m", driver, *asked,
        ]  # fmt: skip
        environment = os.environ | LARGE_PAGES  # a proxy's process has it: another allocator
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=environment)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"valgrind: {done.stderr[-1500:]}")
    return int(found[1])
