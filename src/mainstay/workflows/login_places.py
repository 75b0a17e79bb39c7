"""Where this host logs in to an instance as one of its users."""

from __future__ import annotations

from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import Transient
from mainstay.model.login_place import LoginPlace
from mainstay.model.node import Node
from mainstay.store import Reader
from mainstay.workflows.engine import Tools
from mainstay.workflows.fleet import leader_id


def login_place(reader: Reader, tools: Tools, instance: DBInstance, database: str = "") -> LoginPlace:
    """The node that leads the instance now: an endpoint's security groups need not admit this machine.

    Raises `Transient` while it does not run.
    """
    node = reader.get(Node, instance.scope, leader_id(tools.fleet, instance))
    if node is None:
        raise Transient(f"DB instance {instance.db_instance_identifier} does not run yet", retry_after_s=5.0)
    return LoginPlace(
        address=node.spec.listen_address,
        host=node.spec.endpoint.name,
        port=node.spec.port,
        database=database or instance.db_name,
        authorities=tools.settings.home / "ca-bundle.pem",
    )
