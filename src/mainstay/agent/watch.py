"""Watching the primary of a pair, and through it its standby: what was seen, as numbers for `decide.failover`.

Everything is counted in looks that were made. A gap between two looks means that we were asleep ourselves, and starts
the counting anew: a frozen agent must not take its own silence for the primary's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from mainstay.agent.keeper import Keeper
from mainstay.engines.base import Monitor, Vitals
from mainstay.host.clock import Clock

LOOK_INTERVAL_S = 0.3
FAILED_LOOK_S = 1.5
GAP_S = 4.0
LOOKS_PER_WRITE = 12

log = structlog.get_logger()


class Watch:
    """The looks at one primary process, until `stop`."""

    def __init__(self, primary: Keeper, follower: str, clock: Clock, changed: Callable[[], None]) -> None:
        self._primary = primary
        self._follower = follower
        self._clock = clock
        self._changed = changed
        self._monitor: Monitor = primary.driver.monitor(primary.spec, primary.hands.files)
        self._looks = 0
        self._last_look = 0.0
        self._streamed_at: float | None = None
        self._heard = ""
        self._heard_at = 0.0
        self._write_due = False
        self.missed_probes = 0
        self.storage_faults = 0
        self.vitals: Vitals | None = None
        self.first_silence_at: float | None = None
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """No further look."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._monitor.close()

    def forget_standby(self) -> None:
        """The standby's process is another one: what was seen of the former says nothing about it."""
        if self.vitals is not None:
            self.vitals = msgspec.structs.replace(self.vitals, streaming=False, synchronous=False)

    @property
    def streaming(self) -> bool:
        """Whether the standby received at the last look."""
        return self.vitals is not None and self.vitals.streaming

    @property
    def absent_s(self) -> float:
        """For how long the standby has not been receiving, by the looks that were answered."""
        return 0.0 if self._streamed_at is None else max(0.0, self._last_look - self._streamed_at)

    @property
    def silent_s(self) -> float:
        """For how long a standby that seems to receive has not reported."""
        return max(0.0, self._last_look - self._heard_at) if self.streaming else 0.0

    async def _run(self) -> None:
        while True:
            if self._primary.hands.engine.process is None:
                await asyncio.sleep(LOOK_INTERVAL_S)
                continue
            self._looks += 1
            write = self._write_due or self._looks % LOOKS_PER_WRITE == 0
            started = self._clock.monotonic()
            vitals = await self._monitor.look(self._follower, write=write and self._primary.assignment.writable)
            self._write_due = write and (not vitals.answered or vitals.storage_fault)
            self._take(vitals, started)
            self._changed()
            # A probe that failed at once (a full backlog, say) counts no sooner than one that got no answer.
            rest_s = LOOK_INTERVAL_S if vitals.answered else started + FAILED_LOOK_S - self._clock.monotonic()
            await asyncio.sleep(max(0.0, rest_s))

    def _take(self, vitals: Vitals, started: float) -> None:
        if started - self._last_look > GAP_S or self.vitals is None:
            self.missed_probes, self.storage_faults = 0, 0
            self._streamed_at, self._heard_at = started, started
        self._last_look = now = self._clock.monotonic()
        self.vitals = vitals
        if not vitals.answered:
            if self.missed_probes == 0:
                self.first_silence_at = started
            self.missed_probes += 1
            log.warning("pair.no_answer", node_id=self._primary.spec.node_id, misses=self.missed_probes,
                        message=vitals.message)  # fmt: skip
            return
        self.missed_probes, self.first_silence_at = 0, None
        self.storage_faults = self.storage_faults + 1 if vitals.storage_fault else 0
        if vitals.storage_fault or vitals.starting or vitals.no_room:
            self._streamed_at, self._heard_at = now, now  # it says nothing about the standby
            return
        if vitals.streaming:
            self._streamed_at = now
        if vitals.heard != self._heard:
            self._heard, self._heard_at = vitals.heard, now
