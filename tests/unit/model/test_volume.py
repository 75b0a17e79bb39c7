"""Keys are not shown and not written; what counts as full."""

from __future__ import annotations

import msgspec
import pytest

from mainstay.model.node import (
    MasterUser,
    NodeEndpoint,
    NodeLimits,
    NodeSpec,
    NodeTarget,
    RestoreSpec,
    RestoreTarget,
    ServerCertificate,
    lacks_keys,
    without_keys,
)
from mainstay.model.records import Scope
from mainstay.model.repository_job import RepositoryRef
from mainstay.model.volume import FULL_BELOW_BYTES, VolumePhase, VolumeSpec, VolumeUsage

KEY = "ab" * 32
REPOSITORY = RepositoryRef(prefix="p", data_key="cd" * 32)
PLAIN = NodeSpec(
    node_id="node-1", scope=Scope("123456789012", "us-east-1"), dbi_resource_id="db-1", db_instance_identifier="db1",
    availability_zone="us-east-1a", target=NodeTarget.RUNNING, engine="postgres", engine_version="17.5",
    listen_address="127.96.0.1", port=5432,
    endpoint=NodeEndpoint(endpoint_id="db-1", address="127.64.0.1", port=5432, name="n", admits=()), parameters={},
    require_tls=True, master=MasterUser("chief", "v"), database="", certificate=ServerCertificate("c", "k", "ca"),
    limits=NodeLimits(memory_bytes=1, vcpus=1), archive=REPOSITORY,
    restore=RestoreSpec(repository=REPOSITORY, backup_id="b", target=RestoreTarget()),
)  # fmt: skip
ENCRYPTED = msgspec.structs.replace(PLAIN, volume=VolumeSpec(driver="image", encrypted=True, data_key=KEY))


def test_a_spec_of_an_encrypted_node_is_written_without_any_key_of_its_data() -> None:
    written = without_keys(ENCRYPTED)
    text = msgspec.json.encode(written).decode()
    assert KEY not in text and REPOSITORY.data_key not in text
    assert lacks_keys(written) and not lacks_keys(ENCRYPTED)
    assert without_keys(PLAIN) is PLAIN and not lacks_keys(PLAIN)
    sized = msgspec.structs.replace(PLAIN, volume=VolumeSpec(driver="image", size_bytes=1))
    assert without_keys(sized) is sized and not lacks_keys(sized)
    bare = msgspec.structs.replace(written, archive=None, restore=None, volume=None)
    assert not lacks_keys(bare) and without_keys(bare) == bare


def test_a_key_is_not_shown() -> None:
    assert KEY not in repr(ENCRYPTED) and "****" in repr(ENCRYPTED.volume)
    assert "****" not in repr(without_keys(ENCRYPTED).volume)


@pytest.mark.parametrize(
    ("phase", "size", "free", "full"),
    [
        (VolumePhase.OPEN, 20 << 30, FULL_BELOW_BYTES - 1, True),
        (VolumePhase.OPEN, 20 << 30, FULL_BELOW_BYTES, False),
        (VolumePhase.OPEN, 100 << 20, (5 << 20) - 1, True),
        (VolumePhase.OPEN, 100 << 20, 5 << 20, False),
        (VolumePhase.OPEN, 0, 0, False),
        (VolumePhase.CLOSED, 20 << 30, 0, False),
    ],
)
def test_full(phase: VolumePhase, size: int, free: int, full: bool) -> None:
    assert VolumeUsage(phase=phase, size_bytes=size, free_bytes=free).full is full
