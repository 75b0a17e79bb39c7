"""What the agent remembers survives a kill between any two writes; an interrupted removal is resumed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstay.agent.journal import InEffect, Journal
from mainstay.model.errors import Permanent
from mainstay.model.node import MasterUser, NodeEndpoint, NodeLimits, NodeSpec, NodeTarget, ServerCertificate
from mainstay.model.records import Scope

SPEC = NodeSpec(
    node_id="node-1",
    scope=Scope("123456789012", "us-east-1"),
    dbi_resource_id="db-1",
    db_instance_identifier="db1",
    availability_zone="us-east-1a",
    target=NodeTarget.RUNNING,
    engine="postgres",
    engine_version="17.5",
    listen_address="127.96.0.1",
    port=5432,
    endpoint=NodeEndpoint(endpoint_id="db-1", address="127.64.0.1", port=5432, name="n", admits=()),
    parameters={},
    require_tls=True,
    master=MasterUser("chief", "v"),
    database="",
    certificate=ServerCertificate("c", "secret key", "ca"),
    limits=NodeLimits(memory_bytes=1, vcpus=1),
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "nodes", tmp_path / "sockets")


def again(journal: Journal) -> Journal:
    """As the next agent opens it."""
    return Journal(journal._directory, journal._sockets)


def test_specs_and_what_is_in_effect_are_found_again(journal: Journal) -> None:
    journal.write_spec(SPEC)
    newer = msgspec.structs.replace(SPEC, generation=2)
    journal.write_spec(newer)
    journal.write_in_effect("node-1", InEffect(written="w", loaded="l", loaded_by_pid=7))
    assert again(journal).specs() == [newer]
    assert again(journal).in_effect("node-1") == InEffect(written="w", loaded="l", loaded_by_pid=7)
    assert again(journal).in_effect("node-2") == InEffect()


def test_files_with_private_key_are_for_us_alone(journal: Journal) -> None:
    journal.write_spec(SPEC)
    assert (journal.files("node-1").root / "spec.json").stat().st_mode & 0o777 == 0o600


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_content(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.write_spec(SPEC)

    def killed(*_args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mainstay.host.files.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        journal.write_spec(msgspec.structs.replace(SPEC, generation=2))
    assert again(journal).specs() == [SPEC]


def test_a_kill_between_directory_and_spec_leaves_no_node(journal: Journal) -> None:
    journal.files("node-1").root.mkdir()
    assert again(journal).specs() == []
    assert not journal.files("node-1").root.exists()


def test_a_directory_without_a_spec_that_holds_something_is_not_touched(journal: Journal) -> None:
    volume = journal.files("node-1").volume
    volume.mkdir(parents=True)
    assert again(journal).specs() == []
    assert volume.exists()


def test_an_unreadable_spec_stops_the_agent(journal: Journal) -> None:
    journal.write_spec(SPEC)
    (journal.files("node-1").root / "spec.json").write_bytes(b"{")
    with pytest.raises(Permanent, match="cannot be read"):
        again(journal).specs()


def test_an_unreadable_in_effect_file_means_that_nothing_is_known(journal: Journal) -> None:
    journal.write_spec(SPEC)
    (journal.files("node-1").root / "in-effect.json").write_bytes(b"{")
    assert journal.in_effect("node-1") == InEffect()


@pytest.mark.parametrize("survived", range(8))
async def test_a_removal_killed_anywhere_is_resumed_by_the_next_agent(
    journal: Journal, survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = journal.files("node-1")
    journal.write_spec(SPEC)
    for path in (files.configuration, files.logs, files.data, files.sockets):
        path.mkdir(parents=True)
        (path / "file").touch()
    journal.write_in_effect("node-1", InEffect(written="w"))
    left = [survived]

    def counted(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", counted(shutil.rmtree))
        patched.setattr(Path, "unlink", counted(Path.unlink))
        patched.setattr(Path, "rmdir", counted(Path.rmdir))
        try:
            journal._remove("node-1")
        except KeyboardInterrupt:
            pass
    following = again(journal)
    for spec in following.specs():
        await following.forget(spec.node_id)
    assert not files.root.exists() and not files.sockets.exists()
    await following.forget("node-1")
