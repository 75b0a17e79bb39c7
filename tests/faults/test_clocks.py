"""F14: the wall clock jumps, of the agent and the control plane, and of the engines where libfaketime can be had."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.pairs import MultiAZ
from harness.sabotage import SabotagedService
from harness.service import eventually
from harness.writers import describe_gaps, gaps, judge

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

JUMPS_S = (288, -288, 3600, -3600)
STROBE_S = 0.1
DWELL_S = 2.5
"""Long enough for the first of the three probes that a primary must miss before it counts as hung."""


class WrongClocks:
    """The clocks of one service."""

    def __init__(self, service: SabotagedService) -> None:
        self.home = service.home
        self.of_engines = put_libfaketime(service.home)
        self.jump(0)

    def jump(self, offset_s: int) -> None:
        """From now on the time of day is wrong by so much."""
        for name, text in (("clock-offset", str(offset_s)), ("clock-offset-of-engines", f"{offset_s:+d}")):
            new = self.home / f"{name}.new"
            new.write_text(text)
            new.chmod(0o644)
            new.rename(self.home / name)


def put_libfaketime(home: Path) -> bool:
    """The library from Debian's package, where the engines' user can read it; False if there is none to be had."""
    place = home / "faketime"
    place.mkdir()
    try:
        subprocess.run(
            ["apt-get", "-qq", "download", "libfaketime"], cwd=place, check=True, capture_output=True, timeout=60
        )
        package = next(place.glob("*.deb"))
        subprocess.run(["dpkg-deb", "--extract", package, place], check=True, capture_output=True, timeout=60)
        library = next(place.glob("usr/lib/*/faketime/libfaketimeMT.so.1"))
    except (OSError, subprocess.SubprocessError, StopIteration):
        return False
    shutil.copy(library, home / "libfaketime.so")
    (home / "libfaketime.so").chmod(0o644)
    return True


@pytest.fixture
def lied_to() -> Iterator[tuple[MultiAZ, WrongClocks]]:
    """A Multi-AZ instance whose agent, control plane and engines can be lied to."""
    service = SabotagedService("jumping_clock", processes=("agent", "control"))
    clocks = WrongClocks(service)
    with service:
        pair = MultiAZ(service, service.create_instance("m1", MultiAZ=True))
        pair.await_in_sync()
        pair.make_table()
        yield pair, clocks


def test_jumps_of_the_clock_change_no_roles_and_hinder_no_failover(lied_to: tuple[MultiAZ, WrongClocks]) -> None:
    pair, clocks = lied_to
    before = pair.record
    with pair.writers() as writers:
        eventually(writers.acknowledged)
        for offset_s in JUMPS_S:
            clocks.jump(offset_s)
            jumped_at = time.monotonic()
            time.sleep(DWELL_S)
            assert writers.acknowledged_since(jumped_at), f"nothing was acknowledged after a jump by {offset_s} s"
        for number in range(40):
            clocks.jump(JUMPS_S[number % len(JUMPS_S)])
            time.sleep(STROBE_S)
        assert pair.record == before, "a jump of the clock changed something of the pair"
        assert not [one for one in writers.operations if one.outcome != "acknowledged"], "a client noticed"

        clocks.jump(-3600)
        if clocks.of_engines:
            with pair.connect() as session:
                row = session.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()
                assert row is not None and abs(time.time() - float(row[0]) - 3600) < 60, "the engines know the time"
        killed_at = pair.kill(before.primary)
        after = pair.await_epoch(before.epoch + 1)
        assert after.primary == before.standby
        writers.resumed()
        clocks.jump(3600)
        pair.await_in_sync()
        writers.stop()
        verdict = judge(writers.operations, writers.read, pair.rows())
    print(f"F14 (engines too: {clocks.of_engines}): {verdict}; {describe_gaps(gaps(writers.operations, [killed_at]))}")
    assert verdict.clean, str(verdict)
    failover = pair.record.failovers[-1]
    assert abs(time.time() - 3600 - failover.at) < 60, "the agent knew the right time all along"
