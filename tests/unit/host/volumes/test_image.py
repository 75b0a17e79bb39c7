"""What images do besides: a real limit, what is kept back, and what a killed process leaves."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from harness.volumes import MIB, OURSELVES, Volume, scratch, why_not
from mainstay.host.processes import User
from mainstay.host.volumes import loops, mounts
from mainstay.model.errors import Permanent, Transient
from mainstay.model.volume import VolumePhase

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not("image", False)), reason=why_not("image", False)),
]
NOBODY = User("nobody", 65534, 65534)


@pytest.fixture
def volume() -> Iterator[Volume]:
    with scratch("image", False) as made:
        yield made


def write_as(user: User, path: Path, count: int) -> int:
    """How many MiB this user could write there."""
    command = ["dd", "if=/dev/zero", f"of={path}", "bs=64K", f"count={16 * count}"]
    subprocess.run(command, user=user.user_id, group=user.group_id, capture_output=True, check=False, timeout=30)
    return path.stat().st_size // MIB if path.exists() else 0


async def test_its_size_is_a_limit_and_something_is_kept_back_for_an_orderly_end(volume: Volume) -> None:
    await volume.driver.create(volume.place, volume.spec, NOBODY)
    await volume.driver.open(volume.place, volume.spec, NOBODY)
    volume.place.root.chmod(0o711)
    assert 40 < write_as(NOBODY, volume.place.volume / "filling", 200) < 64
    seen = volume.driver.usage(volume.place, volume.spec)
    assert seen.full and seen.free_bytes < MIB and seen.size_bytes == 64 * MIB
    assert write_as(NOBODY, volume.place.volume / "more", 1) == 0
    await volume.driver.relieve(volume.place, NOBODY)
    assert write_as(NOBODY, volume.place.volume / "more", 1) == 1
    await volume.driver.relieve(volume.place, None)
    (volume.place.volume / "more").unlink()
    assert write_as(NOBODY, volume.place.volume / "more", 1) == 0
    await volume.driver.grow(volume.place, msgspec.structs.replace(volume.spec, size_bytes=128 * MIB))
    await volume.driver.open(volume.place, volume.spec, NOBODY)
    assert not volume.driver.usage(volume.place, volume.spec).full
    assert write_as(NOBODY, volume.place.volume / "more", 1) == 1


async def test_what_is_mounted_is_seen_and_goes_with_its_device(volume: Volume) -> None:
    await volume.made()
    (mount,) = mounts.mounts_below(volume.place.root)
    assert mount.point == volume.place.volume and mount.part == "/volume" and mount.kind == "ext4"
    options = next(line for line in Path("/proc/mounts").read_text().splitlines() if str(mount.point) in line)
    for option in ("noatime", "nodev", "nosuid", "errors=remount-ro"):
        assert option in options
    assert volume.devices() == [Path(mount.source)]
    mounts.unmount(volume.place.volume)  # as a person might, or a machine that goes down
    assert volume.devices() == [], "the kernel has detached it"
    with pytest.raises(subprocess.CalledProcessError):  # the place of a volume that is not mounted is closed
        subprocess.run(["touch", str(volume.place.volume / "x")], user=65534, check=True, capture_output=True)
    assert volume.driver.usage(volume.place, volume.spec).phase is VolumePhase.CLOSED


async def test_leftovers_of_a_killed_process_are_found(volume: Volume) -> None:
    place = volume.place
    place.unfinished.write_bytes(b"half of an image")  # killed in mkfs
    await volume.made()
    (place.volume / "kept").write_text("text")
    await volume.driver.close(place)
    device = subprocess.run(
        ["losetup", "-f", "--show", str(place.image)], capture_output=True, text=True, check=True
    ).stdout.strip()  # attached by hand, without being detached by itself
    place.whole.mkdir(exist_ok=True)
    mounts.mount(device, place.whole, "ext4")  # killed between the two mounts
    await volume.driver.open(place, volume.spec, OURSELVES)
    assert (place.volume / "kept").read_text() == "text"
    assert len(mounts.mounts_below(place.root)) == 1 and len(volume.devices()) == 1
    await volume.driver.close(place)
    os.truncate(place.image, 128 * MIB)  # killed between enlarging the file and the file system
    place.growing.touch()
    larger = msgspec.structs.replace(volume.spec, size_bytes=128 * MIB)
    assert volume.driver.usage(place, larger).growing
    await volume.driver.open(place, larger, OURSELVES)
    assert volume.driver.usage(place, larger).free_bytes < 64 * MIB
    await volume.driver.grow(place, larger)
    await volume.driver.open(place, larger, OURSELVES)
    assert volume.driver.usage(place, larger).free_bytes > 64 * MIB
    assert (place.volume / "kept").read_text() == "text"


async def test_a_helper_that_outlives_its_agent_keeps_the_next_one_away(volume: Volume) -> None:
    await volume.made()
    await volume.driver.close(volume.place)
    with volume.place.lock.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        helper = subprocess.Popen(["sleep", "60"], pass_fds=(lock.fileno(),))
    with pytest.raises(Transient, match="under way"):
        await volume.driver.open(volume.place, volume.spec, OURSELVES)
    helper.kill()
    helper.wait()
    await volume.driver.open(volume.place, volume.spec, OURSELVES)


async def test_a_damaged_image_is_refused_in_words(volume: Volume) -> None:
    await volume.made()
    await volume.driver.close(volume.place)
    with volume.place.image.open("r+b") as file:
        file.write(b"\0" * 4096 * 64)
    with pytest.raises(Permanent, match="e2fsck failed"):
        await volume.driver.open(volume.place, volume.spec, OURSELVES)
    assert not volume.devices() and not mounts.mounts_below(volume.place.root)


@pytest.mark.parametrize("size", [0, 15 * MIB, 64 * MIB + 1])
async def test_sizes_that_cannot_be_are_refused(volume: Volume, size: int) -> None:
    with pytest.raises(Permanent, match="bytes"):
        await volume.driver.create(volume.place, msgspec.structs.replace(volume.spec, size_bytes=size), OURSELVES)


def test_nothing_is_removed_through_a_mount(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    mounts.mount("tmpfs", below, "tmpfs")
    try:
        (below / "kept").write_text("text")
        with pytest.raises(Transient, match="still mounted"):
            mounts.remove_tree(tmp_path / "a")
        assert (below / "kept").read_text() == "text"
    finally:
        mounts.unmount(below)
    mounts.remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "kept").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    mounts.remove_tree(tmp_path / "link")
    mounts.remove_tree(tmp_path / "absent")
    assert (tmp_path / "target" / "kept").exists() and not (tmp_path / "link").exists()


def test_a_block_attaches_a_device_and_detaches_it(volume: Volume) -> None:
    volume.place.image.write_bytes(bytes(MIB))
    with loops.attached(volume.place.image) as device:
        assert loops.devices_of(volume.place.image) == [device]
    assert loops.devices_of(volume.place.image) == []
    assert loops.devices_of(volume.place.root / "absent") == []
