"""Clones of open volumes: of one moment, never leaving anybody frozen, never more than there is room for."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from harness.reflink import reflink_directory, why_no_clones
from harness.service import eventually
from harness.volumes import KEY, MIB, OURSELVES, Volume, why_not
from mainstay.host.volumes import clones, freezer, loops, mounts
from mainstay.host.volumes.base import SEEDED, VolumePlace
from mainstay.host.volumes.clones import Clones, mounted
from mainstay.host.volumes.loops import devices_of
from mainstay.model.errors import Permanent, Transient
from mainstay.model.volume import VolumePhase

pytestmark = [pytest.mark.timeout(600), pytest.mark.skipif(bool(why_no_clones()), reason=why_no_clones())]
GROUP = "123456789012/us-west-2/db-A/repo-1"
HOLD = """
import sys, time
from mainstay.host.volumes import freezer
import os
volume = os.open(sys.argv[1], os.O_RDONLY)
with freezer.frozen(volume, float(sys.argv[2])):
    print("frozen", flush=True)
    time.sleep(600)
"""

CLONE_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from mainstay.host.volumes import DRIVERS, VolumePlace
from mainstay.host.volumes.clones import Clones
place, volume = Path(sys.argv[1]), VolumePlace(Path(sys.argv[2]))
store, number = Clones(place / "clones", place), 0
print("begun", flush=True)
while True:
    clone = store.begin(sys.argv[3], str(number), volume.image)
    asyncio.run(DRIVERS["image"].clone(volume, clone.unfinished))
    store.complete(clone, "")
    number += 1
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    with reflink_directory() as directory:
        yield directory


@pytest.fixture
def place(shared: Path, tmp_path: Path) -> Iterator[Path]:
    """A directory of this test's own on it."""
    own = shared / tmp_path.name
    own.mkdir(mode=0o711)
    yield own
    for mount in reversed(mounts.mounts_below(own)):
        mounts.unmount(mount.point, mounts.MNT_DETACH)
    mounts.remove_tree(own)


async def opened(root: Path, *, encrypted: bool = False) -> Volume:
    """An open volume with the file `kept`."""
    root.mkdir(mode=0o711)
    volume = Volume(root, "image", encrypted)
    await volume.made()
    (volume.place.volume / "data").mkdir()
    (volume.place.volume / "data" / "kept").write_text("before")
    return volume


async def cloned(volume: Volume, store: Clones, name: str = "one") -> None:
    clone = store.begin(GROUP, name, volume.place.image)
    await volume.driver.clone(volume.place, clone.unfinished)
    store.complete(clone, name)


class Writer:
    """Writes and synchronises as long as the test lasts; how often it could."""

    def __init__(self, directory: Path) -> None:
        self.count = 0
        self._path, self._ended = directory / "written", threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._path.open("wb") as file:
            while not self._ended.is_set():
                file.write(b"x")
                file.flush()
                os.fsync(file.fileno())
                self.count += 1
                self._ended.wait(0.002)

    def goes_on(self) -> None:
        """Returns when it has written again."""
        there = self.count
        eventually(lambda: self.count > there)

    def end(self) -> None:
        self._ended.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


async def test_a_clone_is_what_was_on_disk_at_one_moment_and_changes_no_more(place: Path) -> None:
    volume, store = await opened(place / "a"), Clones(place / "clones", place)
    file = volume.place.volume / "data" / "kept"
    await cloned(volume, store)
    file.write_text("after")
    clone = store.clone(GROUP, "one")
    assert store.told(GROUP, "one") == "one" and store.told(GROUP, "two") is None
    assert clone.image.stat().st_mode & 0o777 == 0o600
    digest = clone.image.read_bytes()
    with mounted(clone) as directory:
        assert (directory / "data" / "kept").read_text() == "before"
        with pytest.raises(OSError, match="Read-only"):
            (directory / "data" / "kept").write_text("changed")
    assert clone.image.read_bytes() == digest and not devices_of(clone.image)
    await volume.driver.destroy(volume.place)
    with mounted(clone) as directory:
        assert (directory / "data" / "kept").read_text() == "before", "it outlives its source"
    store.keep_only(GROUP, ())
    assert not [path for path in (place / "clones").rglob("*") if path.is_file()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_whoever_freezes_and_dies_or_sleeps_leaves_nobody_waiting(place: Path, number: int) -> None:
    volume = await opened(place / "a")
    writer = Writer(volume.place.volume)
    writer.goes_on()
    limit_s = "600" if number == signal.SIGKILL else "1"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(volume.place.volume), limit_s], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"frozen\n"
        holder.send_signal(number)
        writer.goes_on()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()  # type: ignore[union-attr]
        volume.driver.thaw(volume.place)  # a test that fails must not leave a process that nobody can kill
        writer.end()
    await volume.driver.destroy(volume.place)


async def test_it_does_freeze(place: Path) -> None:
    """The control of the test before: without anybody who thaws, the writer waits."""
    volume = await opened(place / "a")
    descriptor = os.open(volume.place.volume, os.O_RDONLY)
    try:
        with freezer.frozen(descriptor, 600.0):
            writer = Writer(volume.place.volume)
            writer._ended.wait(0.5)
            assert writer.count == 0
        writer.goes_on()
        writer.end()
        with pytest.raises(TimeoutError), freezer.frozen(descriptor, 600.0):
            assert freezer.thaw(descriptor), "somebody else"
        fcntl.ioctl(descriptor, freezer.FIFREEZE, 0)
        volume.driver.thaw(volume.place)  # as an agent does that finds what a killed one left
        (volume.place.volume / "more").write_text("text")
    finally:
        os.close(descriptor)
    await volume.driver.destroy(volume.place)


async def test_an_agent_killed_at_any_moment_of_cloning_leaves_nobody_waiting_and_nothing_behind(place: Path) -> None:
    volume, store = await opened(place / "a"), Clones(place / "clones", place)
    writer = Writer(volume.place.volume)
    try:
        for number in range(4):
            agent = subprocess.Popen(
                [sys.executable, "-c", CLONE_FOR_EVER, str(place), str(volume.place.root), GROUP],
                stdout=subprocess.PIPE,
            )
            assert agent.stdout is not None and agent.stdout.readline() == b"begun\n"
            await asyncio.sleep(random.Random(number).uniform(0.0, 0.3))  # whatever it is doing then
            agent.kill()
            agent.wait()
            agent.stdout.close()
            writer.goes_on()
            # Its helper may go on for a moment; until then the volume is its.
            eventually(lambda: not helpers(volume.place.root))
            store.sweep()
            assert not list((place / "clones").glob("*/*.new"))
            store.keep_only(GROUP, ())
            await cloned(volume, store)
            store.keep_only(GROUP, ())
    finally:
        writer.end()
    await volume.driver.destroy(volume.place)


def helpers(root: Path) -> list[int]:
    """Processes that have the volume's lock open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        if str(root / "volume.lock") in links:
            found.append(int(process.name))
    return found


async def test_what_cannot_be_cloned_says_so_and_leaves_no_file(place: Path) -> None:
    volume, store = await opened(place / "a"), Clones(place / "clones", place)
    await volume.driver.close(volume.place)
    clone = store.begin(GROUP, "one", volume.place.image)
    with pytest.raises(Transient, match="not open"):
        await volume.driver.clone(volume.place, clone.unfinished)
    await volume.driver.open(volume.place, volume.spec, OURSELVES)
    elsewhere = Path("/dev/shm/mainstay-clone-elsewhere")
    with pytest.raises(Transient, match="not cloned"):
        await volume.driver.clone(volume.place, elsewhere)
    assert not elsewhere.exists() and not clone.unfinished.exists()
    (volume.place.volume / "more").write_text("it is not frozen")
    with pytest.raises(Permanent, match="cannot share blocks"):
        Clones(Path("/dev/shm/clones"), place).begin(GROUP, "one", volume.place.image)
    await volume.driver.destroy(volume.place)


async def test_there_is_room_for_all_that_clones_may_come_to_take(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, store = await opened(place / "a"), Clones(place / "clones", place)
    (volume.place.volume / "filling").write_bytes(os.urandom(16 * MIB))
    await cloned(volume, store, "stored")
    await cloned(volume, store, "not-stored")
    store.note_stored(GROUP, "stored")
    seen = os.statvfs(place)
    free = seen.f_bavail * seen.f_frsize
    one = clones._allocated(volume.place.image)
    assert one > 16 * MIB
    monkeypatch.setattr(clones, "RESERVE_BYTES", free - 2 * one - one // 2)
    store.begin(GROUP, "third", volume.place.image)
    assert store.told(GROUP, "stored") is None, "it is elsewhere too, and made room"
    assert store.told(GROUP, "not-stored") == "not-stored"
    monkeypatch.setattr(clones, "RESERVE_BYTES", free)
    with pytest.raises(Permanent, match="could come to take"):
        store.begin(GROUP, "fourth", volume.place.image)
    assert store.told(GROUP, "not-stored") == "not-stored"
    (place / "b").mkdir(mode=0o711)
    second = Volume(place / "b", "image", False)
    store.lend(GROUP, "not-stored", second.place)
    assert not second.place.seed.exists(), "nor for a volume that begins as one"
    monkeypatch.setattr(clones, "RESERVE_BYTES", free - 2 * one - one // 2)
    store.lend(GROUP, "not-stored", second.place)
    await second.driver.create(second.place, second.spec, OURSELVES)
    with pytest.raises(Permanent, match="could come to take"):
        store.begin(GROUP, "fifth", volume.place.image)  # for the blocks of that volume are shared as well
    for done in (volume, second):
        await done.driver.destroy(done.place)
        assert done.left() == []
    store.begin(GROUP, "sixth", place / "nothing")


async def test_what_a_killed_process_leaves_is_swept(place: Path) -> None:
    volume, store = await opened(place / "a"), Clones(place / "clones", place)
    await cloned(volume, store)
    half = store.begin(GROUP, "half", volume.place.image)
    half.unfinished.write_bytes(b"half of a clone")
    half.note.write_text("{}")
    clone = store.clone(GROUP, "one")
    clone.mount.mkdir()
    with loops.attached(clone.image, read_only=True) as device:
        mounts.mount(str(device), clone.mount, "ext4", clones.READ_ONLY_MOUNT, "noload")
    Clones(place / "clones", place).sweep()
    assert sorted(path.name for path in half.directory.iterdir()) == ["one.img", "one.json"]
    assert not mounts.mounts_below(place / "clones") and not devices_of(store.clone(GROUP, "one").image)
    with mounted(store.clone(GROUP, "one")) as directory:
        assert (directory / "data" / "kept").read_text() == "before"
    await volume.driver.destroy(volume.place)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
async def test_a_volume_begins_as_a_clone_and_is_its_own(place: Path, encrypted: bool) -> None:
    if reason := why_not("image", encrypted):
        pytest.skip(reason)
    volume, store = await opened(place / "a", encrypted=encrypted), Clones(place / "clones", place)
    await cloned(volume, store)
    (place / "b").mkdir(mode=0o711)
    second = Volume(place / "b", "image", encrypted)
    larger = msgspec.structs.replace(second.spec, size_bytes=128 * MIB)
    store.lend(GROUP, "one", second.place)
    await second.driver.create(second.place, larger, OURSELVES)
    assert not second.place.seed.exists()
    assert second.driver.usage(second.place, larger).size_bytes == 64 * MIB, "it is enlarged next, as ever"
    await second.driver.grow(second.place, larger)
    await second.driver.open(second.place, larger, OURSELVES)
    there = second.place.volume / SEEDED / "data"
    assert [path.name for path in second.place.volume.iterdir()] == [SEEDED]
    there.rename(second.place.volume / "data")
    kept = second.place.volume / "data" / "kept"
    assert kept.read_text() == "before"
    kept.write_text("another life")
    assert (volume.place.volume / "data" / "kept").read_text() == "before"
    assert second.driver.usage(second.place, larger).free_bytes > 60 * MIB
    for one in (volume, second):
        await one.driver.destroy(one.place)
        assert one.left() == []


async def test_a_clone_under_another_key_or_a_broken_one_is_not_taken(place: Path) -> None:
    if reason := why_not("image", True):
        pytest.skip(reason)
    volume, store = await opened(place / "a", encrypted=True), Clones(place / "clones", place)
    await cloned(volume, store)
    await volume.driver.destroy(volume.place)
    for name, key, harm in (("b", "7a" * 32, False), ("c", KEY, True)):
        (place / name).mkdir(mode=0o711)
        second = Volume(place / name, "image", True)
        second.spec = msgspec.structs.replace(second.spec, data_key=key)
        store.lend(GROUP, "one", second.place)
        if harm:
            with second.place.seed.open("r+b") as file:
                file.write(bytes(MIB))
        await second.made()
        assert list(second.place.volume.iterdir()) == []
        assert second.driver.usage(second.place, second.spec).phase is VolumePhase.OPEN
        await second.driver.destroy(second.place)
        assert second.left() == []


async def test_a_lent_clone_may_be_lent_again_and_nothing_is_lent_that_is_not_there(place: Path) -> None:
    volume, store = await opened(place / "a"), Clones(place / "clones", place)
    other = VolumePlace(place)
    store.lend(GROUP, "one", other)
    assert not other.seed.exists()
    await cloned(volume, store)
    store.lend(GROUP, "one", other)
    store.lend(GROUP, "one", other)
    assert other.seed.stat().st_size == volume.place.image.stat().st_size
    await volume.driver.destroy(volume.place)
