"""The events of RDS that this service raises, and the categories that each source can have.

Source: RDS user guide, "Amazon RDS event categories and event messages". Retained for 14 days.
"""

from __future__ import annotations

from types import MappingProxyType

import msgspec

RETENTION_S = 14 * 24 * 3600.0

DB_INSTANCE = "db-instance"
DB_PARAMETER_GROUP = "db-parameter-group"


class EventKind(msgspec.Struct, frozen=True):
    """One event id: its category and its message, with places for words."""

    category: str
    message: str


EVENTS = MappingProxyType(
    {
        "RDS-EVENT-0001": EventKind("backup", "Backing up DB instance"),
        "RDS-EVENT-0002": EventKind("backup", "Finished DB Instance backup"),
        "RDS-EVENT-0003": EventKind("deletion", "DB instance deleted"),
        "RDS-EVENT-0004": EventKind("availability", "DB instance shutdown"),
        "RDS-EVENT-0005": EventKind("creation", "DB instance created"),
        "RDS-EVENT-0006": EventKind("availability", "DB instance restarted"),
        "RDS-EVENT-0007": EventKind("low storage", "Allocated storage has been exhausted"),
        "RDS-EVENT-0009": EventKind("configuration change", "Added to security group {name}"),
        "RDS-EVENT-0010": EventKind("configuration change", "Removed from security group {name}"),
        "RDS-EVENT-0011": EventKind("configuration change", "Updated to use DBParameterGroup {name}"),
        "RDS-EVENT-0012": EventKind("configuration change", "Applying modification to database instance class"),
        "RDS-EVENT-0014": EventKind("configuration change", "Finished applying modification to DB instance class"),
        "RDS-EVENT-0016": EventKind("configuration change", "Reset master credentials"),
        "RDS-EVENT-0017": EventKind("configuration change", "Finished applying modification to allocated storage"),
        "RDS-EVENT-0018": EventKind("configuration change", "Applying modification to allocated storage"),
        "RDS-EVENT-0020": EventKind("recovery", "Recovery of the DB instance has started"),
        "RDS-EVENT-0021": EventKind("recovery", "Recovery of the DB instance is complete"),
        "RDS-EVENT-0022": EventKind("availability", "Error restarting {engine}: {reason}"),
        "RDS-EVENT-0026": EventKind("maintenance", "Applying off-line patches to DB instance"),
        "RDS-EVENT-0027": EventKind("maintenance", "Finished applying off-line patches to DB instance"),
        "RDS-EVENT-0031": EventKind("failure", "The DB instance has failed: {reason}"),
        "RDS-EVENT-0035": EventKind("failure", "Database instance put into incompatible-parameters: {reason}"),
        "RDS-EVENT-0037": EventKind(
            "configuration change", "Updated parameter {name} to {value} with apply method {apply_method}"
        ),
        "RDS-EVENT-0044": EventKind("notification", "{reason}"),
        "RDS-EVENT-0047": EventKind("maintenance", "Database instance patched"),
        "RDS-EVENT-0067": EventKind("configuration change", "Unable to reset your password: {reason}"),
        "RDS-EVENT-0087": EventKind("notification", "DB instance stopped"),
        "RDS-EVENT-0088": EventKind("notification", "DB instance started"),
        "RDS-EVENT-0089": EventKind(
            "low storage", "The free storage capacity for the DB instance is low at {percent}% of the allocated storage"
        ),
        "RDS-EVENT-0092": EventKind("configuration change", "Finished updating DB parameter group"),
        "RDS-EVENT-0154": EventKind(
            "notification", "DB instance is being started due to it exceeding the maximum allowed time being stopped"
        ),
        "RDS-EVENT-0155": EventKind("maintenance", "A DB engine minor version upgrade is available: {version}"),
        "RDS-EVENT-0278": EventKind("failure", "The DB instance creation failed: {reason}"),
    }
)
"""Every event by RDS's number."""

CATEGORIES = MappingProxyType(
    {
        DB_INSTANCE: (
            "availability",
            "backup",
            "configuration change",
            "creation",
            "deletion",
            "failover",
            "failure",
            "low storage",
            "maintenance",
            "notification",
            "read replica",
            "recovery",
            "restoration",
            "security patching",
        ),
        DB_PARAMETER_GROUP: ("configuration change",),
        "db-snapshot": ("creation", "deletion", "notification", "restoration"),
        "db-proxy": ("configuration change", "creation", "deletion", "failure"),
    }
)
"""Source type -> the categories its events can have, as DescribeEventCategories lists them."""
