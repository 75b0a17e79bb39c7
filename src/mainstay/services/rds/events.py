"""Records what happened to an RDS resource, for DescribeEvents."""

from __future__ import annotations

from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_parameter_group import DBParameterGroup
from mainstay.model.rds_event import DB_INSTANCE, DB_PARAMETER_GROUP, EVENTS
from mainstay.store import Event, Transaction

_SOURCE_TYPES: dict[type[DBInstance | DBParameterGroup], str] = {
    DBInstance: DB_INSTANCE,
    DBParameterGroup: DB_PARAMETER_GROUP,
}


def record_event(
    tx: Transaction, clock: Clock, source: DBInstance | DBParameterGroup, event_id: str, **words: str
) -> None:
    """Adds the event to the transaction, so that it is seen exactly if what it tells of has been recorded.

    `words` fill the places of the event's message ("reason", "name" …, see `model.rds_event.EVENTS`).
    """
    kind = EVENTS[event_id]
    tx.append_event(
        Event(
            scope=source.scope,
            at=clock.wall(),
            source_type=_SOURCE_TYPES[type(source)],
            source_id=source.key(),
            source_arn=source.arn,
            categories=(kind.category,),
            message=kind.message.format_map(words),
            event_id=event_id,
        )
    )


record_instance_event = record_event
"""The name under which instance lifecycles import it."""
