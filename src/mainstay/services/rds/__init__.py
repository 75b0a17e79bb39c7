"""Amazon RDS. Importing the package fills `operations` with every operation that is built."""

from mainstay.services.rds import (
    account,
    certificates,
    engine_versions,
    event_operations,
    maintenance,
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
    "engine_versions",
    "event_operations",
    "maintenance",
    "operations",
    "option_groups",
    "orderable_options",
    "parameter_groups",
    "parameters",
    "retired",
    "subnet_groups",
    "tags",
]
