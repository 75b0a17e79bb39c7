"""What the agent gives a node to do at this moment: decided by its pair, or fixed for a node that has no peer."""

from __future__ import annotations

import msgspec

from mainstay.model.node import NodeRole


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """The node that another one follows. `host` is an address, or the directory of a Unix socket on the same host."""

    node_id: str
    host: str
    port: int


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Role and epoch of a node now. `synchronous_standby` is the node id that every commit waits for, "" for none.

    `acknowledges`: of a standby, that commits are told to wait for it, or are about to be. Those of a read replica
    never are: its source has them all.
    `may_restart` is false while the standby is renewed first. `may_start` is false while the pair decides whether this
    engine shall run again, `may_publish` while it must not be reached by clients. `stay` overrides a spec that wants
    the node stopped or gone: it leads, and must hand over first.
    """

    role: NodeRole = NodeRole.PRIMARY
    epoch: int = 1
    upstream: Upstream | None = None
    synchronous_standby: str = ""
    acknowledges: bool = True
    may_restart: bool = True
    may_start: bool = True
    may_publish: bool = True
    stay: bool = False

    @property
    def writable(self) -> bool:
        """Whether the node takes writes in this role."""
        return self.role is NodeRole.PRIMARY
