"""Records as services and workflows leave them."""

from __future__ import annotations

from typing import Any

from mainstay.model.db_instance import DBInstance
from mainstay.model.records import Scope

SCOPE = Scope("123456789012", "us-east-1")


def db_instance(identifier: str = "one", **fields: Any) -> DBInstance:
    """A PostgreSQL instance that is there, but for these fields; not stored."""
    values: dict[str, Any] = {
        "scope": SCOPE, "db_instance_identifier": identifier, "dbi_resource_id": f"db-{identifier.upper()}",
        "engine": "postgres", "engine_version": "17.5", "db_instance_class": "db.t3.micro",
        "allocated_storage_gib": 20, "storage_type": "gp3", "master_username": "app", "master_password_verifier": "x",
        "port": 5432, "vpc_id": "vpc-1", "subnet_id": "subnet-a", "vpc_security_group_ids": (),
        "db_subnet_group_name": "default", "availability_zone": "us-east-1a",
        "preferred_backup_window": "03:00-03:30", "preferred_maintenance_window": "sun:05:00-sun:05:30",
        "license_model": "postgresql-license", "db_parameter_group_name": "g", "parameter_group_in_force": "g",
        "option_group_name": "o", "ca_certificate_identifier": "ca", "requested_at": 0.0, "change": "",
        "node_id": f"node-{identifier}",
    }  # fmt: skip
    return DBInstance(**values | fields)
