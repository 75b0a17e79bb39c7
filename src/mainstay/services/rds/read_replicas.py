"""What several operations need to know about read replicas: who follows whom, by which name, and how well."""

from __future__ import annotations

from typing import Any

from mainstay.decide.identifiers import parse_arn
from mainstay.decide.replication_status import REPLICATING, replication_state
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import ApiError, invalid_value
from mainstay.model.node import NodeStatus
from mainstay.model.records import Scope
from mainstay.services.operations import Call
from mainstay.store import Reader
from mainstay.workflows.node_specs import replicas_of, source_of

CHAIN_MAX = 16
"""More instances in a row than any engine's rules allow: following sources ends here at the latest."""


def name_for(seen_from: Scope, instance: DBInstance) -> str:
    """How the API names an instance to somebody in `seen_from`: its identifier, its ARN in another region."""
    return instance.db_instance_identifier if instance.scope == seen_from else instance.arn


def show_replication(reader: Reader, instance: DBInstance, seen: NodeStatus | None) -> dict[str, Any]:
    """The members of `DBInstance` that tell who follows whom; those that do not hold are None."""
    source = source_of(reader, instance)
    state = replication_state(instance, seen)
    return {
        "ReadReplicaDBInstanceIdentifiers": [name_for(instance.scope, one) for one in replicas_of(reader, instance)],
        "ReadReplicaSourceDBInstanceIdentifier": (
            name_for(instance.scope, source) if source is not None else instance.source_identifier or None
        ),
        "StatusInfos": None
        if state is None
        else [
            {
                "StatusType": "read replication",
                "Normal": state.status == REPLICATING,
                "Status": state.status,
                **({"Message": state.message} if state.message else {}),
            }
        ],
    }


def find_source(call: Call, named: str) -> DBInstance:
    """The source instance named by identifier or ARN, of this region or another one of this service.

    Raises `ApiError` DBInstanceNotFound, or InvalidParameterValue for what is no ARN of an instance of this account.
    """
    scope, name = call.scope, named.lower()
    if ":" in named:
        arn = parse_arn(named)
        if arn is None or arn.resource_type != "db":
            raise invalid_value(f"Invalid SourceDBInstanceIdentifier: {named} is not the ARN of a DB instance.")
        if arn.region not in call.settings.regions:
            raise invalid_value(f"Invalid region {arn.region}. This service has {', '.join(call.settings.regions)}.")
        scope, name = Scope(arn.account_id, arn.region), arn.name.lower()
    source = call.tx.get(DBInstance, scope, name) if scope.account_id == call.scope.account_id else None
    if source is None:
        raise ApiError("DBInstanceNotFoundFault", f"DBInstance {named} not found.")
    return source


def level(reader: Reader, instance: DBInstance) -> int:
    """How many instances are above this one in its chain: 0 for one that follows nobody."""
    above = 0
    source = source_of(reader, instance)
    while source is not None and above < CHAIN_MAX:
        above += 1
        source = source_of(reader, source)
    return above


def all_replicas_of(reader: Reader, instance: DBInstance) -> list[DBInstance]:
    """The replicas of an instance, their replicas, and so on."""
    found = replicas_of(reader, instance)
    for one in found:  # grows while it is walked
        if len(found) < 10_000:
            found += replicas_of(reader, one)
    return found
