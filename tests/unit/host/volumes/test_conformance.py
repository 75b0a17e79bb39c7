"""What every volume driver does, on every kind of volume that this host can have."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import msgspec
import pytest

from harness.volumes import KIND_NAMES, MIB, OURSELVES, Volume, scratch, why_not
from mainstay.host.volumes.detection import KINDS
from mainstay.model.errors import MainstayError, Permanent, Transient
from mainstay.model.volume import VolumePhase

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(params=KINDS, ids=KIND_NAMES)
def volume(request: pytest.FixtureRequest) -> Iterator[Volume]:
    driver, encrypted = request.param
    if reason := why_not(driver, encrypted):
        pytest.skip(reason)
    with scratch(driver, encrypted) as made:
        yield made


def phase(volume: Volume) -> VolumePhase:
    return volume.driver.usage(volume.place, volume.spec).phase


async def test_what_was_written_is_there_when_it_is_opened_again(volume: Volume) -> None:
    assert phase(volume) is VolumePhase.MISSING
    await volume.made()
    assert phase(volume) is VolumePhase.OPEN
    (volume.place.volume / "kept").write_text("text")
    os.link(volume.place.volume / "kept", volume.place.volume / "other")
    await volume.made()
    assert (volume.place.volume / "kept").read_text() == "text"
    await volume.driver.close(volume.place)
    await volume.driver.close(volume.place)
    assert not volume.devices()
    await volume.driver.open(volume.place, volume.spec, OURSELVES)
    assert (volume.place.volume / "other").read_text() == "text"
    assert volume.place.volume.stat().st_mode & 0o777 == 0o700


async def test_it_is_destroyed_in_any_state_and_made_again(volume: Volume) -> None:
    await volume.driver.destroy(volume.place)
    for number in range(3):
        await volume.made()
        assert list(volume.place.volume.iterdir()) == []
        (volume.place.volume / "kept").write_text("text")
        if number == 1:
            await volume.driver.close(volume.place)
        await volume.driver.destroy(volume.place)
        assert volume.left() == []
    assert phase(volume) is VolumePhase.MISSING


async def test_while_somebody_uses_it_it_is_not_destroyed_and_he_is_named(volume: Volume) -> None:
    if volume.spec.driver == "directory":
        pytest.skip("nothing is mounted")
    await volume.made()
    with (volume.place.volume / "kept").open("w") as file:
        file.write("text")
        file.flush()
        with pytest.raises(Transient, match=rf"pid {os.getpid()}, has a file of it open"):
            await volume.driver.destroy(volume.place)
        assert (volume.place.volume / "kept").read_text() == "text", "nothing was removed through the mount"
        with pytest.raises(Transient, match="used by"):
            await volume.driver.close(volume.place)
        assert phase(volume) is VolumePhase.OPEN
    await volume.driver.close(volume.place)


async def test_two_at_once_do_not_meet(volume: Volume) -> None:
    if volume.spec.driver == "directory":
        pytest.skip("nothing can go wrong")
    results = await asyncio.gather(*(volume.made() for _ in range(5)), return_exceptions=True)
    assert all(result is None or isinstance(result, Transient) for result in results), results
    await volume.made()
    assert phase(volume) is VolumePhase.OPEN


async def test_without_its_key_nothing_is_read_and_with_it_everything(volume: Volume) -> None:
    if not volume.spec.encrypted:
        await volume.made()
        if volume.spec.driver == "directory":
            with pytest.raises(Permanent):
                await volume.driver.lock(volume.place)
        return
    await volume.made()
    (volume.place.volume / "kept").write_text("text")
    await volume.driver.lock(volume.place)
    assert phase(volume) is VolumePhase.LOCKED
    with pytest.raises(OSError):
        (volume.place.volume / "kept").read_text()
    with pytest.raises(OSError):
        (volume.place.volume / "new").write_text("text")
    keyless = msgspec.structs.replace(volume.spec, data_key="")
    with pytest.raises(Transient, match="locked"):
        await volume.driver.open(volume.place, keyless, OURSELVES)
    with pytest.raises(Permanent, match="not the key"):
        await volume.driver.open(volume.place, msgspec.structs.replace(volume.spec, data_key="00" * 32), OURSELVES)
    assert phase(volume) is not VolumePhase.OPEN
    await volume.driver.open(volume.place, volume.spec, OURSELVES)
    assert (volume.place.volume / "kept").read_text() == "text"
    await volume.driver.open(volume.place, keyless, OURSELVES)
    await volume.driver.lock(volume.place)
    await volume.driver.lock(volume.place)
    await volume.driver.close(volume.place)
    with pytest.raises(Transient, match="locked"):
        await volume.driver.open(volume.place, keyless, OURSELVES)


@pytest.mark.parametrize("bad_key", ["", "00", "zz" * 32])
async def test_an_encrypted_volume_is_not_made_without_a_proper_key(volume: Volume, bad_key: str) -> None:
    if not volume.spec.encrypted or volume.spec.driver == "gocryptfs":
        pytest.skip("takes any or no key")
    with pytest.raises(Permanent, match="64 hexadecimal digits"):
        await volume.driver.create(volume.place, msgspec.structs.replace(volume.spec, data_key=bad_key), OURSELVES)
    assert phase(volume) is VolumePhase.MISSING


async def test_no_plain_text_is_below_an_encrypted_volume(volume: Volume) -> None:
    canary = os.urandom(32).hex().encode()
    await volume.made()
    (volume.place.volume / canary.decode()).write_bytes(canary * 1000)
    await volume.driver.close(volume.place)
    # What is below the mount: of a plain directory the directory itself.
    files = [path for path in volume.place.root.rglob("*") if path.is_file()]
    found = any(canary in path.read_bytes() or canary.decode() in path.name for path in files)
    assert found == (not volume.spec.encrypted)


async def test_opening_what_was_never_made_says_so(volume: Volume) -> None:
    if volume.spec.driver == "directory":
        pytest.skip("there is nothing to open")
    with pytest.raises(MainstayError, match="is not there"):
        await volume.driver.open(volume.place, volume.spec, OURSELVES)


async def test_growing_keeps_everything(volume: Volume) -> None:
    await volume.made()
    (volume.place.volume / "kept").write_text("text")
    larger = msgspec.structs.replace(volume.spec, size_bytes=512 * MIB)
    before = volume.driver.usage(volume.place, volume.spec)
    await volume.driver.grow(volume.place, larger)
    await volume.driver.grow(volume.place, larger)
    await volume.driver.open(volume.place, larger, OURSELVES)
    assert (volume.place.volume / "kept").read_text() == "text"
    after = volume.driver.usage(volume.place, larger)
    assert not after.growing
    if before.size_bytes:
        assert (before.size_bytes, after.size_bytes) == (64 * MIB, 512 * MIB)
        assert after.free_bytes > 400 * MIB
