"""kill -9 of a process at any moment of what it does to a volume: the next one goes on, and nothing is left over."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import pytest

from harness.volumes import MIB, OURSELVES, Volume, scratch, why_not
from mainstay.host.volumes.mounts import mounts_below
from mainstay.model.errors import Transient
from mainstay.model.volume import VolumePhase

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KINDS = [("image", False), ("image", True), ("gocryptfs", True)]
WORK = """
import asyncio, pathlib, sys
import msgspec
from mainstay.host.processes import User
from mainstay.host.volumes import DRIVERS, VolumePlace
from mainstay.model.volume import VolumeSpec
place, spec = VolumePlace(pathlib.Path(sys.argv[1])), msgspec.json.decode(sys.argv[2], type=VolumeSpec)
driver, owner = DRIVERS[spec.driver], User("self", 0, 0)
async def work():
    print("begun", flush=True)
    size = spec.size_bytes
    while True:
        await driver.create(place, spec, owner)
        await driver.open(place, spec, owner)
        if {keeps}:
            size += 16 << 20
            await driver.close(place)
            await driver.grow(place, msgspec.structs.replace(spec, size_bytes=size))
        else:
            await driver.destroy(place)
asyncio.run(work())
"""


@pytest.fixture(params=KINDS, ids=["image", "image-encrypted", "gocryptfs"])
def volume(request: pytest.FixtureRequest) -> Iterator[Volume]:
    driver, encrypted = request.param
    if reason := why_not(driver, encrypted):
        pytest.skip(reason)
    with scratch(driver, encrypted) as made:
        yield made


def killed(volume: Volume, after_s: float, *, keeps: bool) -> None:
    """A process that makes, opens and removes (or grows) the volume over and over, until it is killed."""
    argument = msgspec.json.encode(volume.spec).decode()
    script = WORK.replace("{keeps}", str(keeps))
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(volume.place.root), argument], stdout=subprocess.PIPE, env=os.environ
    )
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    time.sleep(after_s)
    assert process.poll() is None, "it failed by itself"
    process.send_signal(signal.SIGKILL)
    process.communicate()


async def patiently(volume: Volume, name: str, *arguments: object) -> None:
    """Again as long as a helper of the killed process is still at work, or dies."""
    deadline = time.monotonic() + 20.0
    while True:
        try:
            await getattr(volume.driver, name)(volume.place, *arguments)
            return
        except Transient as error:
            assert time.monotonic() < deadline, error
            await asyncio.sleep(0.05)


async def test_killed_while_it_makes_and_removes_volumes(volume: Volume, request: pytest.FixtureRequest) -> None:
    draw = random.Random(7)
    for number in range(60 if request.config.getoption("--faults-full") else 12):
        killed(volume, draw.uniform(0.0, 0.25), keeps=False)
        if number % 2:
            await patiently(volume, "destroy")
            assert volume.left() == []
        else:
            await patiently(volume, "create", volume.spec, OURSELVES)
            await patiently(volume, "open", volume.spec, OURSELVES)
            (volume.place.volume / "kept").write_text("text")
            assert len(mounts_below(volume.place.root)) == 1
            assert len(volume.devices()) == (volume.spec.driver == "image")
            await patiently(volume, "close")
            assert not mounts_below(volume.place.root) and not volume.devices()
            await patiently(volume, "destroy")


async def test_killed_while_it_grows_a_volume(volume: Volume, request: pytest.FixtureRequest) -> None:
    if volume.spec.driver != "image":
        pytest.skip("it has no size")
    await volume.made()
    (volume.place.volume / "kept").write_bytes(b"text" * MIB)
    await volume.driver.close(volume.place)
    draw = random.Random(8)
    for _ in range(40 if request.config.getoption("--faults-full") else 10):
        killed(volume, draw.uniform(0.0, 0.4), keeps=True)
        await patiently(volume, "close")
        assert not mounts_below(volume.place.root) and not volume.devices()
        seen = volume.driver.usage(volume.place, volume.spec)
        assert seen.phase is VolumePhase.CLOSED
        larger = msgspec.structs.replace(volume.spec, size_bytes=seen.size_bytes)
        await patiently(volume, "grow", larger)
        subprocess.run(["e2fsck", "-fn", str(volume.place.image)], check=True, capture_output=True, timeout=60)
        header = subprocess.run(
            ["dumpe2fs", "-h", str(volume.place.image)], check=True, capture_output=True, text=True, timeout=60
        ).stdout
        blocks = re.search(r"^Block count: +(\d+)$", header, re.MULTILINE)
        assert blocks is not None and int(blocks[1]) * 4096 == seen.size_bytes, "the file system fills its image"
        await patiently(volume, "open", larger, OURSELVES)
        assert (volume.place.volume / "kept").read_bytes() == b"text" * MIB
        assert not volume.driver.usage(volume.place, larger).growing
        await patiently(volume, "close")
