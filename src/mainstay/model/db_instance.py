"""The DB instance: what the user asked for, and the change under way. What is *seen* of it lives in `NodeStatus`."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mainstay.model.node import NodeTarget
from mainstay.model.records import Record


class PendingModification(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Changes accepted for the next maintenance window (ModifyDBInstance without ApplyImmediately). None: no change."""

    db_instance_class: str | None = None
    allocated_storage_gib: int | None = None
    engine_version: str | None = None
    db_instance_identifier: str | None = None
    storage_type: str | None = None
    iops: int | None = None
    storage_throughput: int | None = None
    ca_certificate_identifier: str | None = None
    db_subnet_group_name: str | None = None
    option_group_name: str | None = None

    def __bool__(self) -> bool:
        return self != PendingModification()


class DBInstance(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One DB instance. Fields are named as in the RDS API; sizes in GiB as there; times are epoch seconds.

    `change` is the AWS status word of the workflow under way ("creating", "modifying" …) or "": then the status is
    whatever the node is seen to be (`decide.db_instance_status`).
    `held_parameters` are parameters of the group whose new value waits for a reboot: name -> the value still in force,
    None for "engine default". `parameter_group_in_force` differs from `db_parameter_group_name` after another group was
    attached, until the reboot.
    """

    KIND: ClassVar[str] = "db-instance"

    db_instance_identifier: str
    dbi_resource_id: str
    engine: str
    engine_version: str
    db_instance_class: str
    allocated_storage_gib: int
    storage_type: str
    iops: int | None = None
    storage_throughput: int | None = None
    max_allocated_storage_gib: int | None = None
    db_name: str = ""
    master_username: str
    master_password_verifier: str
    port: int
    vpc_id: str
    subnet_id: str
    network_interface_id: str = ""
    vpc_security_group_ids: tuple[str, ...]
    db_subnet_group_name: str
    availability_zone: str
    publicly_accessible: bool = False
    backup_retention_period_days: int = 0
    preferred_backup_window: str
    preferred_maintenance_window: str
    auto_minor_version_upgrade: bool = True
    license_model: str
    db_parameter_group_name: str
    parameter_group_in_force: str
    held_parameters: dict[str, str | None] = {}
    option_group_name: str
    copy_tags_to_snapshot: bool = False
    deletion_protection: bool = False
    enabled_cloudwatch_logs_exports: tuple[str, ...] = ()
    ca_certificate_identifier: str
    server_certificate_valid_till: float = 0.0
    network_type: str = "IPV4"
    tags: dict[str, str] = {}
    requested_at: float
    instance_create_time: float | None = None
    change: str = "creating"
    failure: str = ""
    target: NodeTarget = NodeTarget.RUNNING
    restart_token: int = 0
    pending: PendingModification = PendingModification()
    pending_master_password: bool = False
    automatic_restart_at: float | None = None
    node_id: str
    endpoint_address: str = ""
    endpoint_name: str = ""

    def key(self) -> str:
        return self.db_instance_identifier

    def index(self) -> dict[str, str]:
        return {
            "dbi-resource-id": self.dbi_resource_id,
            "db-parameter-group": self.db_parameter_group_name,
            "db-subnet-group": self.db_subnet_group_name,
            "option-group": self.option_group_name,
            "engine": self.engine,
        }

    @property
    def arn(self) -> str:
        """`arn:aws:rds:<region>:<account>:db:<identifier>`."""
        return self.scope.arn("rds", f"db:{self.db_instance_identifier}")
