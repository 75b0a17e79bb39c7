"""What a verification of a repository has to read, and what of the log must be there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from mainstay.agent.backup_facts import read_facts
from mainstay.backups.log_archive import LogArchive, StoredSegment, place_of
from mainstay.backups.repository import Repository
from mainstay.backups.sealing import Damaged
from mainstay.backups.verify_log import NeededSegment
from mainstay.engines.backups import EngineBackups
from mainstay.model.repository_job import LogPromise, LostLog

LOST_MAX = 1000


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found: sentences, and what of the promised log is lost."""

    damages: tuple[str, ...] = ()
    lost_log: tuple[LostLog, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the backups by id and of the log, for progress; the log segments and small files that must be there.

    `promised` are those of the segments that the restore window needs.
    """

    sizes: dict[str, int]
    log_bytes: int
    needed: tuple[NeededSegment, ...]
    promised: tuple[NeededSegment, ...]
    small: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """What will be read, about."""
        return sum(self.sizes.values()) + self.log_bytes


def plan_verification(
    repository: Repository, backup_ids: Sequence[str], promised: LogPromise | None, backups: EngineBackups
) -> Plan:
    """A backup whose manifest cannot be read has no size and needs no log: that damage is found when it is verified."""
    archive = LogArchive(repository)
    stored = archive.segments()
    stretches = [] if promised is None else [_ending(promised, stored, backups)]
    sizes = {}
    for backup_id in backup_ids:
        sizes[backup_id] = 0
        try:
            facts = read_facts(repository, backup_id)
        except Damaged:
            continue
        if facts is not None:
            sizes[backup_id] = facts.size_bytes
            stretches.append(
                LogPromise(
                    timeline=facts.timeline, start_position=facts.start_position, end_position=facts.stop_position
                )
            )
    needed: dict[tuple[str, int], NeededSegment] = {}
    of_window: tuple[NeededSegment, ...] = ()
    small: set[str] = set()
    for stretch in stretches:
        if stretch.start_position == stretch.end_position:
            continue  # a backup that is consistent by itself
        name = backups.history_file(stretch.timeline)
        small |= {name} - {""}
        history = _history(archive, name) if name else ""
        if history is None:
            continue
        found = backups.segments_between(
            stretch.start_position, stretch.end_position, stretch.timeline, history, stored
        )
        if promised is not None and stretch is stretches[0]:
            of_window = tuple(found)
        for one in found:
            known = needed.get((one.timeline, one.index))
            if known is None or known.end < one.end:
                needed[one.timeline, one.index] = one
    return Plan(
        sizes=sizes,
        log_bytes=sum(one.stored for one in stored),
        needed=tuple(needed.values()),
        promised=of_window,
        small=tuple(sorted(small)),
    )


def lost_log(
    repository: Repository, plan: Plan, damaged: Collection[str], backups: EngineBackups
) -> tuple[LostLog, ...]:
    """The promised segments that are among the damaged objects, or whose places are."""
    lost = []
    for one in plan.promised:
        place = repository.key(place_of(one.segment))
        if any(key == place or key.startswith((place + "/", place + ".")) for key in damaged):
            end = backups.position_in(one.name, backups.segment_bytes)
            lost.append(LostLog(start_position=backups.position_in(one.name, 0), end_position=end))
    return tuple(lost[:LOST_MAX])


def _history(archive: LogArchive, name: str) -> str | None:
    """None for one that is missing or damaged: the verification tells of it, and nobody knows what else is needed."""
    try:
        content = archive.read_small(name)
    except Damaged:
        return None
    return None if content is None else content.decode(errors="replace")


def _ending(promised: LogPromise, stored: Sequence[StoredSegment], backups: EngineBackups) -> LogPromise:
    """With the end of what is stored of the timeline, where no end is told."""
    if promised.end_position:
        return promised
    end = promised.start_position
    for last in [one for one in stored if one.segment.timeline == promised.timeline][-1:]:
        end = backups.position_in(last.segment.name, backups.segment_bytes if last.whole else last.end)
    return msgspec.structs.replace(promised, end_position=end)
