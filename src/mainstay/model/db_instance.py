"""The DB instance: what the user asked for, and the change under way. What is *seen* of it lives in `NodeStatus`."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mainstay.model.node import NodeTarget, RestoreTarget
from mainstay.model.records import Record, Scope


class PendingModification(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Changes accepted for the next maintenance window (ModifyDBInstance without ApplyImmediately). None: no change.

    `vpc_security_group_ids` go with a subnet group of another VPC, and only with one.
    """

    db_instance_class: str | None = None
    allocated_storage_gib: int | None = None
    engine_version: str | None = None
    db_instance_identifier: str | None = None
    storage_type: str | None = None
    iops: int | None = None
    storage_throughput: int | None = None
    ca_certificate_identifier: str | None = None
    db_subnet_group_name: str | None = None
    vpc_security_group_ids: tuple[str, ...] | None = None
    option_group_name: str | None = None
    multi_az: bool | None = None
    iam_database_authentication_enabled: bool | None = None
    backup_retention_period_days: int | None = None

    def __bool__(self) -> bool:
        return self != PendingModification()


class RestoreFrom(msgspec.Struct, frozen=True, kw_only=True):
    """Which backup a restored instance was made of; `described` is how events name it.

    `paused`: at the target it waits for a look, and is not opened before somebody says so. `crash_consistent`: as in
    `BackupFacts`.
    """

    repository_scope: Scope
    repository_id: str
    backup_id: str
    target: RestoreTarget
    described: str
    paused: bool = False
    crash_consistent: bool = False


class KeptData(msgspec.Struct, frozen=True, kw_only=True):
    """Data of an instance that was set aside, whole, when other data took its place.

    It is as of `kept_at`; its backups lead to moments up to `until` (epoch seconds, None: to none). `described` tells
    a person what took its place; of data that was `imported` and never in place, where it comes from. `foreign`: its
    history is not that of the data in place, so that one repository must not have the log of both. It is on the volume
    of the node `node_id`, "": of the only one there was.
    """

    name: str
    kept_at: float
    until: float | None = None
    described: str = ""
    imported: bool = False
    foreign: bool = False
    node_id: str = ""


class DataChange(msgspec.Struct, frozen=True, kw_only=True):
    """An exchange of an instance's data that is under way: names as in `DataExchange`.

    `restore_from` is where the wanted data comes from, None: it is kept here. It is made on the node `node_id`, ""
    for the only one, and waits while the instance has another.
    """

    wanted: str
    aside: str
    restore_from: RestoreFrom | None = None
    node_id: str = ""


class DBInstance(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One DB instance. Fields are named as in the RDS API; sizes in GiB as there; times are epoch seconds.

    `change` is the AWS status word of the workflow under way ("creating", "modifying" …) or "": then the status is
    whatever the node is seen to be (`decide.db_instance_status`).
    `failure` is what its last change came to nothing by; `unusable`: by an engine that does not come up, or cannot be
    operated, with the parameters of its group.
    `held_parameters` are parameters of the group whose new value waits for a reboot: name -> the value still in force,
    None for "engine default". `parameter_group_in_force` differs from `db_parameter_group_name` after another group was
    attached, until the reboot.
    `node_id` is the node that leads, `standby_node_id` the other one of a Multi-AZ instance; they change places when a
    failover has been seen, whose epoch is `failover_epoch`. `source_dbi_resource_id` is what a read replica follows,
    `source_identifier` how the API named it last: its identifier, or its ARN if it is in another region.
    `kms_key_id` is the ARN of the key that protects an encrypted one. `volume_driver` is what its nodes keep data on,
    "" for plain directories; the key of an encrypted one is in `wrapped_volume_key`, wrapped by the KMS key
    for the instance itself or, if its volume may have begun as a clone of that one's, for `volume_key_owner`.
    `key_lost_at`: the KMS key was found not enabled then, and the instance has not been started since;
    `key_lost_for_good`: it cannot be any more. `storage_word` is what was last recorded of its space ("", "low",
    "full").
    `max_allocated_storage_gib` None: its storage does not grow by itself; `storage_changed_at` is when its size was
    last changed after the creation; `autoscaling_told` what was told of its growth, with the sizes of then.
    `repository_id` is where its automated backups are, "" if it never had any; `restore_from` what it was made of.
    `data_name` is the name of its data ("" before it was first exchanged), `kept_data` what was set aside and can be
    gone back to, `exchange` what takes its place now.
    `replication_status` is the status word last recorded of a read replica ("replicating", "error", "terminated").
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
    storage_changed_at: float | None = None
    autoscaling_told: tuple[str, ...] = ()
    storage_encrypted: bool = False
    kms_key_id: str = ""
    wrapped_volume_key: str = ""
    volume_key_owner: str = ""
    key_lost_at: float | None = None
    key_lost_for_good: bool = False
    volume_driver: str = ""
    storage_word: str = ""
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
    iam_database_authentication_enabled: bool = False
    enabled_cloudwatch_logs_exports: tuple[str, ...] = ()
    ca_certificate_identifier: str
    network_type: str = "IPV4"
    tags: dict[str, str] = {}
    requested_at: float
    instance_create_time: float | None = None
    change: str = "creating"
    failure: str = ""
    unusable: bool = False
    target: NodeTarget = NodeTarget.RUNNING
    restart_token: int = 0
    pending: PendingModification = PendingModification()
    pending_master_password: bool = False
    automatic_restart_at: float | None = None
    node_id: str
    multi_az: bool = False
    standby_node_id: str = ""
    standby_subnet_id: str = ""
    secondary_availability_zone: str = ""
    standby_in_sync: bool = False
    failover_token: int = 0
    failover_epoch: int = 1
    rolling: bool = False
    source_dbi_resource_id: str = ""
    source_identifier: str = ""
    replication_status: str = ""
    repository_id: str = ""
    restore_from: RestoreFrom | None = None
    data_name: str = ""
    kept_data: tuple[KeptData, ...] = ()
    exchange: DataChange | None = None
    endpoint_address: str = ""
    endpoint_name: str = ""

    def key(self) -> str:
        return self.db_instance_identifier

    def index(self) -> dict[str, str]:
        source = {"source": self.source_dbi_resource_id} if self.source_dbi_resource_id else {}
        if self.restoring_from is not None:
            source["restored-from"] = self.restoring_from.repository_id
        return source | {
            "dbi-resource-id": self.dbi_resource_id,
            "db-parameter-group": self.db_parameter_group_name,
            "db-subnet-group": self.db_subnet_group_name,
            "option-group": self.option_group_name,
            "engine": self.engine,
        }

    @property
    def node_ids(self) -> tuple[str, ...]:
        """Every node there is, or is to be removed; the one that leads first."""
        return (self.node_id, self.standby_node_id) if self.standby_node_id else (self.node_id,)

    @property
    def keeping_node_id(self) -> str:
        """The node that has data which was set aside, or is to be exchanged; "" if none has. It is never more than one.

        Of a pair that is parted it is this one that stays, whichever leads: with the other one nothing is lost.
        """
        if self.exchange is not None:
            return self.exchange.node_id or self.node_id
        return (self.kept_data[0].node_id or self.node_id) if self.kept_data else ""

    @property
    def with_nodes_swapped(self) -> DBInstance:
        """The instance after its nodes have changed places."""
        return msgspec.structs.replace(
            self,
            node_id=self.standby_node_id,
            standby_node_id=self.node_id,
            subnet_id=self.standby_subnet_id,
            standby_subnet_id=self.subnet_id,
            availability_zone=self.secondary_availability_zone,
            secondary_availability_zone=self.availability_zone,
        )

    @property
    def restoring_from(self) -> RestoreFrom | None:
        """What its data is being made of now."""
        if self.instance_create_time is None:
            return self.restore_from
        return None if self.exchange is None else self.exchange.restore_from

    @property
    def exchanged(self) -> DBInstance:
        """The instance when the exchange of its data, if there is one, has come to its end."""
        change = self.exchange
        if change is None:
            return self
        kept = tuple(one for one in self.kept_data if one.name != change.wanted)
        return msgspec.structs.replace(self, data_name=change.wanted, kept_data=kept, exchange=None)

    @property
    def waits_for_look(self) -> bool:
        """Whether it is restored, and is to be looked at before it is opened."""
        return self.restore_from is not None and self.restore_from.paused and self.instance_create_time is None

    @property
    def arn(self) -> str:
        """`arn:aws:rds:<region>:<account>:db:<identifier>`."""
        return self.scope.arn("rds", f"db:{self.db_instance_identifier}")
