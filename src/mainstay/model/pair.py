"""What must be known durably of a Multi-AZ pair to fail over without losing an acknowledged commit."""

from __future__ import annotations

import msgspec

from mainstay.model.node import Failover

FAILOVERS_KEPT = 20


class PairRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The lease of a pair: which node is primary at which epoch, and whether the other may take over.

    `standby` names the node that has every acknowledged commit (IN_SYNC); "" means that the primary acknowledges alone
    (ALONE) and nobody may take over. `incarnation` names the primary's process under which `standby` was observed,
    `standby_incarnation` the standby's. `since` is epoch seconds. docs/invariants.md, "The two-node rule", tells in
    which order this may change.
    """

    epoch: int
    primary: str
    standby: str = ""
    incarnation: str = ""
    standby_incarnation: str = ""
    since: float
    reason: str
    switched_for: int = 0
    given_up: int = 0
    failovers: tuple[Failover, ...] = ()

    def in_sync(self, standby: str, incarnation: str, standby_incarnation: str, now: float) -> PairRecord:
        """Rule 1: only after it was observed that commits wait for the standby, and that it has caught up."""
        return msgspec.structs.replace(
            self,
            standby=standby,
            incarnation=incarnation,
            standby_incarnation=standby_incarnation,
            since=now,
            reason="the standby has every commit",
        )

    def outlived(self, standby_incarnation: str) -> bool:
        """Whether the standby runs in another process than the one that was observed."""
        return self.standby != "" and self.standby_incarnation != standby_incarnation

    def alone(self, reason: str, now: float) -> PairRecord:
        """Rule 2: before anything may be acknowledged that the standby does not have."""
        return msgspec.structs.replace(
            self, standby="", incarnation="", standby_incarnation="", since=now, reason=reason
        )

    def taken_over(self, failover: Failover, switched_for: int, now: float) -> PairRecord:
        """Rules 3 and 5: the standby is primary at the next epoch, and alone.

        Until it is anything else, the record still names the process that was observed.
        """
        return PairRecord(
            epoch=failover.epoch,
            primary=failover.new_primary,
            standby_incarnation=self.standby_incarnation,
            since=now,
            reason=f"failed over: {failover.because}",
            switched_for=switched_for,
            given_up=self.given_up,
            failovers=(*self.failovers, failover)[-FAILOVERS_KEPT:],
        )
