"""A node that is copied anew keeps the data that it had until the copy is complete, if there is room for both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstay.engines import copy_room
from mainstay.engines.copy_room import make_room
from mainstay.engines.mysql_family.copy_room import COPIER_BYTES, bytes_for_copying, size_of_copy
from mainstay.engines.node_files import NodeFiles
from mainstay.model.assignment import Upstream

MIB = 1 << 20
UPSTREAM = Upstream(node_id="node-2", host="/run/node-2", port=3306)
COPY_BYTES = 10 * MIB * copy_room.ROOM_PERCENT // 100


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[NodeFiles]:
    """A node's, with data, beside those of a node that has 10 MiB of data and a large binary log."""
    found = NodeFiles(root=tmp_path / "node-1", sockets=tmp_path / "run" / "node-1")
    sparse(found.data / "ibdata1", MIB)
    source = found.of("node-2").data
    sparse(source / "shop" / "t.ibd", 10 * MIB)
    sparse(source / "mysql-bin-changelog.000001", 500 * MIB)
    yield found


def test_binary_logs_are_in_no_copy(files: NodeFiles) -> None:
    assert size_of_copy(files.of("node-2").data) == COPY_BYTES


@pytest.mark.parametrize("lacking", [0, 1])
def test_data_gives_way_only_where_both_do_not_fit(
    files: NodeFiles, monkeypatch: pytest.MonkeyPatch, lacking: int
) -> None:
    monkeypatch.setattr(copy_room, "free_bytes", lambda _volume: COPY_BYTES + COPIER_BYTES - lacking)
    asyncio.run(make_room(files, UPSTREAM, bytes_for_copying))
    assert files.data.exists() == (not lacking)
    assert sorted(path.name for path in files.volume.iterdir()) == ["data"][lacking:]
    asyncio.run(make_room(files, UPSTREAM, bytes_for_copying))  # again, after a copy that failed


def test_data_stays_where_the_source_is_on_another_host(files: NodeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_room, "free_bytes", lambda _volume: 0)
    asyncio.run(make_room(files, Upstream(node_id="node-3", host="10.0.0.1", port=3306), bytes_for_copying))
    assert files.data.exists()
