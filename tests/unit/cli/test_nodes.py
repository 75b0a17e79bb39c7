"""`mainstay nodes`: how a read replica follows, in words."""

from __future__ import annotations

from mainstay.cli.nodes import replication_of, replication_words
from mainstay.decide.replication_status import STORAGE_FULL

FOLLOWS = {"streaming": True, "lag_s": 0.0}


def test_a_replica_that_waits_for_room_is_not_said_to_follow() -> None:
    """MariaDB and MySQL call that replicating, without lag."""
    words = replication_words(replication_of({"replication": FOLLOWS, "storage_full": True}))
    assert words == f"{STORAGE_FULL}, lag unknown"
    assert replication_words(replication_of({"replication": FOLLOWS})) == "streaming, lag 0.0 s"
    assert replication_of({"storage_full": True}) is None
