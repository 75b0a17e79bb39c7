"""A node's volume and its key: in this process and in the kernel, never on disk, and gone after a lock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from harness.volumes import KEY, MIB, OURSELVES, Volume, scratch, why_not
from mainstay.agent.journal import Journal
from mainstay.agent.volumes import NodeVolume
from mainstay.host.volumes import mounts
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import (
    MasterUser,
    NodeEndpoint,
    NodeLimits,
    NodeSpec,
    NodeTarget,
    ServerCertificate,
    without_keys,
)
from mainstay.model.records import Scope
from mainstay.model.repository_job import RepositoryRef
from mainstay.model.volume import VolumePhase, VolumeSpec

SPEC = NodeSpec(
    node_id="node-1", scope=Scope("123456789012", "us-east-1"), dbi_resource_id="db-1", db_instance_identifier="db1",
    availability_zone="us-east-1a", target=NodeTarget.RUNNING, engine="postgres", engine_version="17.5",
    listen_address="127.96.0.1", port=5432,
    endpoint=NodeEndpoint(endpoint_id="db-1", address="127.64.0.1", port=5432, name="n", admits=()), parameters={},
    require_tls=True, master=MasterUser("chief", "v"), database="", certificate=ServerCertificate("c", "k", "ca"),
    limits=NodeLimits(memory_bytes=1, vcpus=1), archive=RepositoryRef(prefix="p", data_key="cd" * 32),
    volume=VolumeSpec(driver="image", size_bytes=64 * MIB, encrypted=True, data_key=KEY),
)  # fmt: skip


@pytest.fixture
def volume() -> Iterator[Volume]:
    if reason := why_not("image", True):
        pytest.skip(reason)
    with scratch("image", True) as made:
        yield made


def node(volume: Volume, spec: NodeSpec = SPEC) -> NodeVolume:
    """As an agent that starts now has it."""
    return NodeVolume(spec, volume.place.root, OURSELVES)


def test_the_journal_has_no_key_of_the_data_and_finds_the_spec_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "nodes", tmp_path / "sockets")
    journal.write_spec(SPEC)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or (KEY not in path.read_text() and "cd" * 32 not in path.read_text())
    assert journal.specs() == [without_keys(SPEC)]
    plain = msgspec.structs.replace(SPEC, volume=None)
    journal.write_spec(plain)
    assert journal.specs() == [plain]


async def test_an_agent_that_starts_anew_needs_no_key_for_what_is_open_and_one_for_what_is_not(volume: Volume) -> None:
    first = node(volume)
    await first.create()
    await first.open()
    second = node(volume, without_keys(SPEC))
    assert second.key_missing and second.look().phase is VolumePhase.OPEN
    await second.open()
    await second.close()  # as a reboot does
    with pytest.raises(Transient, match="locked"):
        await second.open()
    with pytest.raises(Permanent, match="not the key"):
        await second.unlock("00" * 32)
    assert second.key_missing
    with pytest.raises(Permanent, match="64 hexadecimal"):
        await second.unlock(KEY.upper())
    await second.unlock(KEY)
    assert second.look().phase is VolumePhase.OPEN and not second.key_missing


async def test_after_a_lock_nobody_opens_it_before_the_key_is_given_back(volume: Volume) -> None:
    held = node(volume)
    await held.create()
    await held.open()
    (volume.place.volume / "kept").write_text("text")
    await held.lock()
    assert held.key_missing and held.look().phase is VolumePhase.LOCKED
    await held.close()
    with pytest.raises(Transient, match="locked"):
        await held.open()
    held.take(without_keys(SPEC))
    assert held.key_missing, "a newer spec without the key changes nothing"
    held.take(SPEC)
    await held.open()
    assert (volume.place.volume / "kept").read_text() == "text"


async def test_growth_is_wanted_once(volume: Volume) -> None:
    held = node(volume)
    assert not held.must_grow(held.look()), "what is not there is made as large as wanted"
    await held.create()
    assert not held.must_grow(held.look())
    assert SPEC.volume is not None
    larger = msgspec.structs.replace(SPEC.volume, size_bytes=96 * MIB)
    held.take(msgspec.structs.replace(SPEC, volume=larger))
    assert held.must_grow(held.look())
    await held.grow()
    assert not held.must_grow(held.look())


async def test_a_plain_directory_cannot_be_locked(tmp_path: Path) -> None:
    plain = NodeVolume(msgspec.structs.replace(SPEC, volume=None), tmp_path, OURSELVES)
    await plain.create()
    assert not plain.key_missing and plain.look().phase is VolumePhase.OPEN
    for refused in (plain.lock(), plain.unlock(KEY)):
        with pytest.raises(Permanent, match="not encrypted"):
            await refused
    strange = NodeVolume(msgspec.structs.replace(SPEC, volume=VolumeSpec(driver="of the future")), tmp_path, OURSELVES)
    with pytest.raises(Permanent, match="no volume driver"):
        await strange.create()


async def test_a_node_is_not_forgotten_while_something_is_mounted_in_it(volume: Volume) -> None:
    journal = Journal(volume.place.root / "nodes", volume.place.root / "sockets")
    journal.write_spec(SPEC)
    root = journal.files("node-1").root
    held = NodeVolume(SPEC, root, OURSELVES)
    await held.create()
    await held.open()
    (root / "volume" / "kept").write_text("text")
    with pytest.raises(Transient, match="still mounted"):
        await journal.forget("node-1")
    assert (root / "volume" / "kept").read_text() == "text" and (root / "spec.json").exists()
    await held.destroy()
    await journal.forget("node-1")
    assert not root.exists() and not mounts.mounts_below(volume.place.root)
    for left in ("nodes", "sockets"):
        (volume.place.root / left).rmdir()
