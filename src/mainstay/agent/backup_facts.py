"""What the manifest of a complete backup says of it, and the log that it needs."""

from __future__ import annotations

import msgspec

from mainstay.backups.manifests import read_header
from mainstay.backups.objects import ObjectNotFound
from mainstay.backups.repository import Repository
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


def log_range(facts: BackupFacts, backups: EngineBackups) -> range:
    """Numbers of the log segments between the backup's positions."""
    return range(backups.index_at(facts.start_position), backups.index_at(facts.stop_position) + 1)
