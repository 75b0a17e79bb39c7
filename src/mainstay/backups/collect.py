"""Deleting backups, and the packs that no backup needs any more.

Safe beside writers that are named: a writer stores its intent, looks whether its base is still there, then stores
packs, its manifest, and removes the intent. Hence the order below: packs, manifests, intents, manifests again. A base
that was deleted meanwhile was either seen in the first list, or after its user's intent was stored; a writer that has
finished meanwhile is in the second list.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from mainstay.backups.manifests import (
    MANIFESTS,
    PACKS,
    delete_intent,
    list_backups,
    list_intents,
    pack_name,
    read_header,
    read_intent,
)
from mainstay.backups.objects import ObjectNotFound
from mainstay.backups.repository import Repository, check_backup_id


class Collected(msgspec.Struct, frozen=True):
    """What was removed."""

    packs: int
    bytes: int


def delete_backup(repository: Repository, backup_id: str) -> None:
    """The backup is gone when this returns; what only it needed, after the next `collect_garbage`. Repeatable."""
    check_backup_id(backup_id)
    repository.objects.delete([repository.key(MANIFESTS + backup_id)])


def collect_garbage(repository: Repository, writing: Collection[str]) -> Collected:
    """Removes the packs that neither a backup needs nor one that is being written.

    `writing` names the backups being written now; no other may begin during the call. What is left of any other
    writer is removed. Raises `Damaged`, having removed nothing, if a manifest cannot be read: nobody knows what it
    needs.
    """
    packs = repository.objects.list(repository.key(PACKS))
    needed: set[str] = set()
    known: set[str] = set()
    _add_needs(repository, needed, known)
    dead = []
    for backup_id in list_intents(repository):
        if backup_id not in writing:
            dead.append(backup_id)
        elif intent := read_intent(repository, backup_id):
            needed |= {pack_name(*pack) for pack in intent.packs}
    _add_needs(repository, needed, known)
    own = tuple(repository.key(f"{PACKS}{backup_id}/") for backup_id in writing)
    garbage = {
        key: size
        for key, size in packs
        if key.removeprefix(repository.prefix) not in needed and not key.startswith(own)
    }
    for backup_id in dead:
        delete_intent(repository, backup_id)
    repository.objects.delete(sorted(garbage))
    return Collected(len(garbage), sum(garbage.values()))


def _add_needs(repository: Repository, needed: set[str], known: set[str]) -> None:
    for backup_id in list_backups(repository):
        if backup_id in known:
            continue
        try:
            header = read_header(repository, backup_id)
        except ObjectNotFound:
            continue
        needed |= {pack_name(pack.backup_id, pack.number) for pack in header.packs}
        known.add(backup_id)
