"""What a follower's postgresql.conf takes over from its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql.configuration import render
from mainstay.model.assignment import Assignment, Upstream
from mainstay.model.node import (
    MasterUser,
    NodeEndpoint,
    NodeLimits,
    NodeRole,
    NodeSpec,
    NodeTarget,
    ServerCertificate,
)
from mainstay.model.records import Scope

FLOORS = {"max_connections": 200, "max_worker_processes": 8, "max_wal_senders": 40}
UPSTREAM = Upstream(node_id="node-source", host="/run/source", port=5432)


def settings(role: NodeRole, upstream: Upstream | None, floors: dict[str, int], **parameters: str) -> dict[str, str]:
    spec = NodeSpec(
        node_id="node-1", scope=Scope("123456789012", "us-east-1"), dbi_resource_id="db-1",
        db_instance_identifier="rep", availability_zone="us-east-1a", target=NodeTarget.RUNNING, engine="postgres",
        engine_version="17.5", listen_address="127.96.0.1", port=5432,
        endpoint=NodeEndpoint(endpoint_id="db-1", address="127.64.0.1", port=5432, name="rep", admits=()),
        parameters=parameters, require_tls=False, master=MasterUser("app", "v"), database="",
        certificate=ServerCertificate("c", "k", "ca"), limits=NodeLimits(memory_bytes=1 << 30, vcpus=2),
        source="db-source",
    )  # fmt: skip
    files = NodeFiles(root=Path("/node"), sockets=Path("/run/node"))
    text = render(spec, Assignment(role=role, upstream=upstream), files, (), floors)["postgresql.conf"]
    lines = [line.split(" = ", 1) for line in text.splitlines() if " = " in line]
    assert len({name for name, _ in lines}) == len(lines), "no setting twice"
    return {name: value.strip("'") for name, value in lines}


@pytest.mark.parametrize("upstream", [UPSTREAM, None], ids=["following", "terminated"])
def test_no_setting_is_lower_than_the_source_has(upstream: Upstream | None) -> None:
    low = settings(NodeRole.REPLICA, upstream, FLOORS, max_connections="100", work_mem="8192")
    assert (low["max_connections"], low["max_worker_processes"], low["work_mem"]) == ("200", "8", "8192")
    high = settings(NodeRole.REPLICA, upstream, FLOORS, max_connections="300", max_wal_senders="50")
    assert (high["max_connections"], high["max_wal_senders"]) == ("300", "50")
    assert ("primary_conninfo" in low) is (upstream is not None)
    assert low["hot_standby"] == "on" and low["synchronous_standby_names"] == ""


def test_one_that_leads_has_its_own_settings() -> None:
    assert settings(NodeRole.PRIMARY, None, {}, max_connections="100")["max_connections"] == "100"
