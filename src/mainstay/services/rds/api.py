"""Every RDS operation: importing the modules fills the table."""

from mainstay.services.rds import (
    account,
    certificates,
    create_db_instance,
    db_instances,
    engine_versions,
    event_operations,
    instance_actions,
    log_files,
    maintenance,
    modify_db_instance,
    option_groups,
    orderable_options,
    parameter_groups,
    parameters,
    retired,
    subnet_groups,
    tags,
)
from mainstay.services.rds.table import operations

__all__ = [
    "account",
    "certificates",
    "create_db_instance",
    "db_instances",
    "engine_versions",
    "event_operations",
    "instance_actions",
    "log_files",
    "maintenance",
    "modify_db_instance",
    "operations",
    "option_groups",
    "orderable_options",
    "parameter_groups",
    "parameters",
    "retired",
    "subnet_groups",
    "tags",
]
