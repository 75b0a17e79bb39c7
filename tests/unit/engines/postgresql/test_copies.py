"""A follower that is copied anew on a volume without room for both: what it had gives way before the copy begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mainstay.engines import copy_room
from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql import replication
from mainstay.host.processes import User
from mainstay.model.assignment import Upstream
from mainstay.model.errors import Transient

MIB = 1 << 20
NEEDED_BYTES = 11 * MIB + (64 << 20)


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


@pytest.mark.parametrize("lacking", [0, 1])
async def test_data_gives_way_only_where_both_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: int
) -> None:
    files = NodeFiles(root=tmp_path / "node-1", sockets=tmp_path / "run" / "node-1")
    sparse(files.data / "PG_VERSION", MIB)
    source = files.of("node-2").data
    sparse(source / "base" / "5" / "1259", 10 * MIB)
    sparse(source / "pg_wal" / "000000010000000000000001", 500 * MIB)
    there: list[bool] = []

    async def copies(*_: Any) -> None:
        there.append(files.data.exists())
        raise Transient("the source went away")

    monkeypatch.setattr(replication, "_upstream_tool", copies)
    monkeypatch.setattr(copy_room, "free_bytes", lambda _: NEEDED_BYTES - lacking)
    upstream = Upstream(node_id="node-2", host="/run/node-2", port=5432)
    build: Any = SimpleNamespace(bin_directory=Path("/bin"), environment={})
    spec: Any = SimpleNamespace(node_id="node-1")
    with pytest.raises(Transient):
        await replication.clone(spec, files, build, User("nobody"), upstream)
    assert there == [not lacking]
