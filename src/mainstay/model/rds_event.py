"""The events of RDS that this service raises, and the categories that each source can have.

Source: RDS user guide, "Amazon RDS event categories and event messages". Retained for 14 days.
"""

from __future__ import annotations

from types import MappingProxyType

import msgspec

RETENTION_S = 14 * 24 * 3600.0

DB_INSTANCE = "db-instance"
DB_PARAMETER_GROUP = "db-parameter-group"
DB_PROXY = "db-proxy"
DB_SNAPSHOT = "db-snapshot"


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
        "RDS-EVENT-0013": EventKind("failover", "Multi-AZ instance failover started"),
        "RDS-EVENT-0015": EventKind(
            "failover", "Multi-AZ failover to standby complete - DNS propagation may take a few minutes"
        ),
        "RDS-EVENT-0016": EventKind("configuration change", "Reset master credentials"),
        "RDS-EVENT-0017": EventKind("configuration change", "Finished applying modification to allocated storage"),
        "RDS-EVENT-0018": EventKind("configuration change", "Applying modification to allocated storage"),
        "RDS-EVENT-0019": EventKind("restoration", "Restored from DB instance {origin} to {target}"),
        "RDS-EVENT-0020": EventKind("recovery", "Recovery of the DB instance has started"),
        "RDS-EVENT-0021": EventKind("recovery", "Recovery of the DB instance is complete"),
        "RDS-EVENT-0022": EventKind("availability", "Error restarting {engine}: {reason}"),
        "RDS-EVENT-0024": EventKind(
            "configuration change", "Applying modification to convert to a Multi-AZ DB instance"
        ),
        "RDS-EVENT-0025": EventKind(
            "configuration change", "Finished applying modification to convert to a Multi-AZ DB instance"
        ),
        "RDS-EVENT-0028": EventKind("configuration change", "Disabled automated backups"),
        "RDS-EVENT-0032": EventKind("configuration change", "Enabled automated backups"),
        "RDS-EVENT-0029": EventKind(
            "configuration change", "Finished applying modification to convert to a standard (Single-AZ) DB instance"
        ),
        "RDS-EVENT-0030": EventKind(
            "configuration change", "Applying modification to convert to a standard (Single-AZ) DB instance"
        ),
        "RDS-EVENT-0034": EventKind(
            "failover",
            "Abandoning user requested failover{since}: {reason}",
        ),
        "RDS-EVENT-0049": EventKind("failover", "Multi-AZ instance failover completed"),
        "RDS-EVENT-0026": EventKind("maintenance", "Applying off-line patches to DB instance"),
        "RDS-EVENT-0027": EventKind("maintenance", "Finished applying off-line patches to DB instance"),
        "RDS-EVENT-0031": EventKind("failure", "The DB instance has failed: {reason}"),
        "RDS-EVENT-0035": EventKind(
            "failure",
            "Database instance put into incompatible-parameters: {reason}. Change or reset what is wrong in the DB"
            " parameter group {group}, then reboot the DB instance.",
        ),
        "RDS-EVENT-0037": EventKind(
            "configuration change", "Updated parameter {name} to {value} with apply method {apply_method}"
        ),
        "RDS-EVENT-0040": EventKind("creation", "Creating manual snapshot"),
        "RDS-EVENT-0041": EventKind("deletion", "Deleted user snapshot"),
        "RDS-EVENT-0042": EventKind("creation", "Manual snapshot created"),
        "RDS-EVENT-0043": EventKind("restoration", "Restored from snapshot {snapshot}"),
        "RDS-EVENT-0059": EventKind("notification", "Started copy of snapshot {snapshot} from region {region}"),
        "RDS-EVENT-0060": EventKind("notification", "Finished copy of snapshot {snapshot} from region {region}"),
        "RDS-EVENT-0061": EventKind(
            "notification", "Canceled snapshot copy request of {snapshot} from region {region}"
        ),
        "RDS-EVENT-0090": EventKind("creation", "Creating automated snapshot"),
        "RDS-EVENT-0091": EventKind("creation", "Automated snapshot created"),
        "RDS-EVENT-0190": EventKind("notification", "Canceled snapshot copy request of {snapshot}"),
        "RDS-EVENT-0196": EventKind("notification", "Started copy of snapshot {snapshot} in region {region}"),
        "RDS-EVENT-0197": EventKind("notification", "Finished copy of snapshot {snapshot} in region {region}"),
        "RDS-EVENT-0044": EventKind("notification", "{reason}"),
        "RDS-EVENT-0045": EventKind("read replica", "Replication has stopped: {reason}"),
        "RDS-EVENT-0046": EventKind("read replica", "Replication for the Read Replica resumed"),
        "RDS-EVENT-0057": EventKind("read replica", "Replication streaming has been terminated"),
        "RDS-EVENT-0202": EventKind("read replica", "Read replica creation failed: {reason}"),
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
        "RDS-EVENT-0203": EventKind("creation", "RDS created DB proxy {name}."),
        "RDS-EVENT-0204": EventKind("configuration change", "RDS modified DB proxy {name}."),
        "RDS-EVENT-0205": EventKind("deletion", "RDS deleted DB proxy {name}."),
        "RDS-EVENT-0206": EventKind("creation", "RDS created endpoint {endpoint} for DB proxy {name}."),
        "RDS-EVENT-0207": EventKind("configuration change", "RDS modified endpoint {endpoint} of DB proxy {name}."),
        "RDS-EVENT-0208": EventKind("deletion", "RDS deleted endpoint {endpoint} for DB proxy {name}."),
        "RDS-EVENT-0214": EventKind(
            "configuration change",
            "RDS detected deletion of DB instance {instance} and automatically removed it from target group"
            " {target_group} of DB proxy {name}.",
        ),
        "RDS-EVENT-0217": EventKind(
            "configuration change", "Applying autoscaling-initiated modification to allocated storage"
        ),
        "RDS-EVENT-0218": EventKind(
            "configuration change", "Finished applying autoscaling-initiated modification to allocated storage"
        ),
        "RDS-EVENT-0220": EventKind(
            "failure",
            "The DB instance is in the cooling-off period for a previous scale storage operation. Autoscaling will"
            " retry six hours after it.",
        ),
        "RDS-EVENT-0223": EventKind(
            "failure", "Storage autoscaling is unable to scale the storage for the reason: {reason}"
        ),
        "RDS-EVENT-0224": EventKind(
            "failure",
            "Storage autoscaling has reached the maximum storage threshold. Increase the maximum storage threshold.",
        ),
        "RDS-EVENT-0225": EventKind(
            "notification",
            "Storage size {size} GB is approaching the maximum storage threshold {maximum} GB. Increase the maximum"
            " storage threshold.",
        ),
        "MAINSTAY-EVENT-0001": EventKind("failure", "{reason}"),
        "MAINSTAY-EVENT-0002": EventKind("notification", "{reason}"),
        "MAINSTAY-EVENT-0003": EventKind("backup", "{reason}"),
        "MAINSTAY-EVENT-0004": EventKind("failure", "{reason}"),
        "MAINSTAY-EVENT-0005": EventKind("notification", "{reason}"),
        "MAINSTAY-EVENT-0006": EventKind("restoration", "{reason}"),
        "MAINSTAY-EVENT-0007": EventKind("backup", "{doing} in progress: {progress}"),
        "MAINSTAY-EVENT-0008": EventKind("creation", "{doing} in progress: {progress}"),
        "MAINSTAY-EVENT-0009": EventKind("notification", "{doing} in progress: {progress}"),
        "MAINSTAY-EVENT-0010": EventKind("restoration", "{doing} in progress: {progress}"),
        "RDS-EVENT-0278": EventKind("failure", "The DB instance creation failed: {reason}"),
    }
)
"""Every event by RDS's number; those that RDS does not have are numbered MAINSTAY-EVENT."""

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
        DB_SNAPSHOT: ("creation", "deletion", "notification", "restoration"),
        DB_PROXY: ("configuration change", "creation", "deletion", "failure"),
    }
)
"""Source type -> the categories its events can have, as DescribeEventCategories lists them."""
