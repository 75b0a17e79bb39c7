"""Records what happened to an RDS resource, for DescribeEvents."""

from __future__ import annotations

from typing import TypeAlias

from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_parameter_group import DBParameterGroup
from mainstay.model.db_proxy import DBProxy
from mainstay.model.db_snapshot import DBSnapshot
from mainstay.model.rds_event import DB_INSTANCE, DB_PARAMETER_GROUP, DB_PROXY, DB_SNAPSHOT, EVENTS
from mainstay.store import Event, Transaction

Source: TypeAlias = DBInstance | DBParameterGroup | DBProxy | DBSnapshot

_SOURCE_TYPES: dict[type[Source], str] = {
    DBInstance: DB_INSTANCE,
    DBParameterGroup: DB_PARAMETER_GROUP,
    DBProxy: DB_PROXY,
    DBSnapshot: DB_SNAPSHOT,
}


def record_event(
    tx: Transaction,
    clock: Clock,
    source: Source,
    event_id: str,
    *,
    at: float | None = None,
    **words: str,
) -> None:
    """Adds the event to the transaction, so that it is seen exactly if what it tells of has been recorded.

    `at` is when it happened, if not now (epoch seconds). `words` fill the places of the event's message ("reason",
    "name" …, see `model.rds_event.EVENTS`).
    """
    kind = EVENTS[event_id]
    tx.append_event(
        Event(
            scope=source.scope,
            at=clock.wall() if at is None else at,
            source_type=_SOURCE_TYPES[type(source)],
            source_id=source.db_proxy_name if isinstance(source, DBProxy) else source.key(),
            source_arn=source.arn,
            categories=(kind.category,),
            message=kind.message.format_map(words),
            event_id=event_id,
        )
    )


record_instance_event = record_event
"""The name under which instance lifecycles import it."""
