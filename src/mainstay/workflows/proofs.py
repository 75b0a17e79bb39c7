"""What verifications and restore tests came to: recorded, and told in an event."""

from __future__ import annotations

from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import BackupRepository, DBSnapshot, Proof
from mainstay.services.rds.events import record_event
from mainstay.store import Reader, Transaction

DAMAGES_MAX = 100
DAMAGES_TOLD = 5
TEXT_MAX = 1000


def proof_of(
    *,
    at: float,
    since: float,
    size_bytes: int = 0,
    moment: float | None = None,
    damages: tuple[str, ...] = (),
    failure: str = "",
) -> Proof:
    """The record, with a limit on what it may hold."""
    kept = tuple(one[:TEXT_MAX] for one in damages[:DAMAGES_MAX])
    if len(damages) > DAMAGES_MAX:
        kept += (f"and {len(damages) - DAMAGES_MAX} more",)
    seconds = round(max(0.0, at - since), 3)
    return Proof(at=at, seconds=seconds, size_bytes=size_bytes, moment=moment, damages=kept, failure=failure[:TEXT_MAX])


def words(proof: Proof, doing: str, good: str, bad: str) -> str:
    """For the event: "The restore test failed: …"."""
    if proof.failure:
        return f"{doing} was not possible: {proof.failure}"
    if proof.damages:
        more = len(proof.damages) - DAMAGES_TOLD
        shown = "; ".join(proof.damages[:DAMAGES_TOLD]) + (f"; and {more} more" if more > 0 else "")
        return f"{doing} {bad}: {shown}"
    return f"{doing} {good} in {proof.seconds:.0f} s."


def tell(
    tx: Transaction,
    clock: Clock,
    repository: BackupRepository,
    proof: Proof,
    reason: str,
    row: DBSnapshot | None = None,
) -> None:
    """To whoever reads the events of the instance, or of the snapshot if it was about that or there is no instance."""
    instance = source_instance(tx, repository)
    if row is None and instance is not None:
        record_event(tx, clock, instance, "MAINSTAY-EVENT-0003" if proof.good else "MAINSTAY-EVENT-0004", reason=reason)
    elif row is not None:
        record_event(tx, clock, row, "MAINSTAY-EVENT-0002", reason=reason)


def source_instance(reader: Reader, repository: BackupRepository) -> DBInstance | None:
    """The instance whose data the repository holds, None when it is gone."""
    found = reader.find(DBInstance, repository.scope, "dbi-resource-id", repository.dbi_resource_id)
    return found[0] if found else None
