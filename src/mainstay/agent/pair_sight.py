"""What was seen of the two nodes of an instance, and since when. The view that is decided on is made of it.

Nothing here outlives the process, acts, or asks the nodes anything: the keepers and the watch have done that.
"""

from __future__ import annotations

from mainstay.agent.keeper import Keeper
from mainstay.agent.pair_nodes import incarnation, leaving, serves, standby_wanted
from mainstay.agent.watch import Watch
from mainstay.decide.failover import PairView, PrimaryState
from mainstay.host.clock import Clock
from mainstay.model.node import NodeTarget
from mainstay.model.pair import PairRecord

RENEWAL_PATIENCE_S = 120.0


class PairSight:
    """As the module says. Everything is told to it by `notice`, once a step."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen_running = False
        self._began_down: bool | None = None
        self._ready_pid = 0
        self._not_ready_since: float | None = None
        self._standby_down_since: float | None = None
        self._standby_process = ""
        self._switch_since: float | None = None
        self._renewal_since: float | None = None
        self._in_sync_before = False
        self._not_renewed_for: tuple[str, int, int] | None = None
        self.ended_at: float | None = None
        """Since when the leader's process is not there, on the monotonic clock; None while it is."""

    @property
    def standby_down_s(self) -> float:
        """How long the standby has not served."""
        since = self._standby_down_since
        return 0.0 if since is None else self._clock.monotonic() - since

    def leader_changed(self) -> None:
        """What was seen of the leader was of another one."""
        self._seen_running, self._began_down, self._ready_pid = False, False, 0
        self.ended_at = self._not_ready_since = None

    def notice(self, leader: Keeper, standby: Keeper | None, record: PairRecord | None) -> bool:
        """Remembers since when things are as they are; whether the standby is another process than it was."""
        now = self._clock.monotonic()
        process = leader.hands.engine.process
        if process is not None:
            self._seen_running, self._began_down, self.ended_at = True, False, None
            if leader.hands.health.ready:
                self._ready_pid, self._not_ready_since = process.pid, None
        elif self.ended_at is None:
            self.ended_at = now
        if not (process is not None and process.pid == self._ready_pid) and self._not_ready_since is None:
            self._not_ready_since = now
        if standby is None:
            return False
        running = serves(standby, record)
        if self._began_down is None:  # a host that was restarted: whoever is up first says nothing about the other
            self._began_down = process is None and not running
        self._standby_down_since = None if running else self._standby_down_since or now
        before, self._standby_process = self._standby_process, incarnation(standby)
        return self._standby_process != before

    def view(
        self,
        record: PairRecord,
        leader: Keeper,
        standby: Keeper,
        watch: Watch | None,
        *,
        sync_required: bool,
        sync_loaded: bool,
    ) -> PairView:
        """What the failover table is asked about, now."""
        now = self._clock.monotonic()
        outdated = leader.spec.rolling and not leader.current
        if not outdated and leader.spec.restart_token == standby.spec.restart_token:
            self._in_sync_before = record.standby == standby.spec.node_id
        tokens = max(leader.spec.failover_token, standby.spec.failover_token)
        told = leader.spec.failover_token == standby.spec.failover_token  # else one of the two specs is still to come
        switch_wanted = told and tokens > record.switched_for
        self._switch_since = (self._switch_since or now) if switch_wanted else None
        vitals = None if watch is None else watch.vitals
        engine = leader.hands.engine
        ready_process = engine.process is not None and engine.process.pid == self._ready_pid
        return PairView(
            in_sync=record.standby == standby.spec.node_id,
            recorded_process=record.incarnation == incarnation(leader),
            primary_wanted=leader.spec.target is NodeTarget.RUNNING,
            primary_leaving=leaving(leader, standby),
            primary=self.primary_state(leader, standby, watch),
            restarting_s=0.0 if self._not_ready_since is None else now - self._not_ready_since,
            start_failures=engine.start_failures,
            missed_probes=watch.missed_probes if watch is not None and ready_process else 0,
            storage_faults=0 if watch is None else watch.storage_faults,
            standby_wanted=standby_wanted(leader, standby),
            standby_running=serves(standby, record),
            standby_streaming=watch is not None and watch.streaming,
            standby_absent_s=0.0 if watch is None else watch.absent_s,
            standby_silent_s=0.0 if watch is None else watch.silent_s,
            standby_behind_bytes=0 if vitals is None else vitals.behind_bytes,
            sync_required=sync_required,
            sync_loaded=sync_loaded,
            primary_outdated=outdated,
            standby_current=standby.current and standby.settled and leader.spec.start == standby.spec.start,
            standby_renews=self._renewal_since is not None and self._in_sync_before,
            switch_wanted=switch_wanted,
            switch_waits_s=0.0 if self._switch_since is None else now - self._switch_since,
        )

    def primary_state(self, leader: Keeper, standby: Keeper, watch: Watch | None) -> PrimaryState:
        """What is to be thought of the leader."""
        engine = leader.hands.engine
        if engine.process is None:
            if engine.ended_as_wanted or engine.stopping is not None:
                return PrimaryState.RESTARTING
            if not self._seen_running and (self._began_down or standby.hands.engine.process is None):
                return PrimaryState.DOWN
            return PrimaryState.ENDED
        if engine.stopping is not None:
            return PrimaryState.RESTARTING
        if engine.process.pid != self._ready_pid or watch is None or watch.vitals is None or watch.vitals.starting:
            return PrimaryState.STARTING
        return PrimaryState.ANSWERS if watch.missed_probes == 0 else PrimaryState.SILENT

    def switch_abandoned(self, leader: Keeper) -> None:
        """The restart that the change of roles was to bring is not put off any longer."""
        self._not_renewed_for = leader.spec.start

    def renews_standby_first(self, leader: Keeper, standby: Keeper | None) -> bool:
        """Whether the standby is to be restarted before the primary.

        Only for so long: a standby that does not come up must not keep the primary from being restarted. And not while
        the primary's storage is full: before it has more, for which it is to be restarted, no standby gets in sync. Nor
        for another port: at the new one nobody, the standby neither, reaches the primary before it is restarted.
        """
        now = self._clock.monotonic()
        waits = standby is not None and leader.spec.rolling and not leader.current and not leader.elsewhere
        if (
            not waits
            or leader.spec.start == self._not_renewed_for
            or leader.hands.engine.process is None
            or leader.hands.volume.look().full
        ):
            self._renewal_since = None
            return False
        if self._renewal_since is None:
            self._renewal_since = now
        return now - self._renewal_since < RENEWAL_PATIENCE_S
