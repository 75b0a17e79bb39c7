"""What the manifest of a complete backup says of it, and the log that it needs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mainstay.backups.log_archive import LogArchive
from mainstay.backups.manifests import read_header
from mainstay.backups.objects import ObjectNotFound
from mainstay.backups.repository import Repository
from mainstay.backups.verify_log import NeededSegment
from mainstay.engines.backups import EngineBackups
from mainstay.model.repository_job import BackupFacts

FACTS = "facts"
"""The attribute of a manifest that holds `BackupFacts`."""


def read_facts(repository: Repository, backup_id: str) -> BackupFacts | None:
    """What the backup is, None if there is none of this id. Raises `Damaged`."""
    try:
        header = read_header(repository, backup_id)
    except ObjectNotFound:
        return None
    facts = msgspec.json.decode(header.attributes[FACTS].encode(), type=BackupFacts)
    return msgspec.structs.replace(facts, size_bytes=header.size)


def log_of(facts: BackupFacts, archive: LogArchive, backups: EngineBackups) -> Sequence[NeededSegment]:
    """The log segments between the backup's positions."""
    if facts.start_position == facts.stop_position:
        return ()
    name = backups.history_file(facts.timeline)
    history = (archive.read_small(name) or b"").decode(errors="replace") if name else ""
    stored = archive.segments(facts.timeline)
    return backups.segments_between(facts.start_position, facts.stop_position, facts.timeline, history, stored)
