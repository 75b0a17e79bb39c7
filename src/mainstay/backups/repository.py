"""One repository: a directory of an object storage, sealed with one data key; usually of one DB instance."""

from __future__ import annotations

import re

from mainstay.backups.objects import Objects, check_prefix
from mainstay.backups.sealing import LEVEL_DEFAULT, Sealer
from mainstay.host.randomness import Randomness
from mainstay.model.errors import Permanent

_BACKUP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


class Repository:
    """Objects below `prefix` ("" or "a/b/") with their key.

    The key of an object, prefix included, is part of what is authenticated: a repository may be moved to another object
    storage as it is, never to another prefix (copy it there instead).
    """

    def __init__(
        self, objects: Objects, prefix: str, data_key: bytes, randomness: Randomness, *, level: int = LEVEL_DEFAULT
    ) -> None:
        check_prefix(prefix)
        self.objects = objects
        self.prefix = prefix
        self.randomness = randomness
        self.sealer = Sealer(data_key, randomness.token_bytes, level=level)

    def key(self, name: str) -> str:
        """The object key of a name within this repository."""
        return self.prefix + name


def check_backup_id(backup_id: str) -> None:
    """Raises `Permanent` unless it can be part of an object's key."""
    if not _BACKUP_ID.fullmatch(backup_id):
        raise Permanent(f"{backup_id!r} cannot name a backup: at most 100 letters, digits and ._- are possible")
