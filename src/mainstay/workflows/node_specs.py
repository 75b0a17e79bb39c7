"""From what the user wants (instance, groups, classes) to what a node must be. The one place that makes a `NodeSpec`.

`refresh_nodes` is idempotent: it writes a new generation only if something in the spec differs from the last one, so
that any number of callers may ask for it whenever anything an instance depends on has changed.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from mainstay.decide.parameter_values import values_in_force
from mainstay.decide.parameters import FormulaVariables, evaluate
from mainstay.engines.base import EngineRules
from mainstay.host.certificates import ends_soon
from mainstay.model.database_logins import LoginListener
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_instance_class import CLASSES
from mainstay.model.db_parameter_group import DBParameterGroup
from mainstay.model.db_snapshot import BackupRepository
from mainstay.model.errors import Permanent
from mainstay.model.node import (
    DataExchange,
    MasterUser,
    Node,
    NodeEndpoint,
    NodeLimits,
    NodeRole,
    NodeSpec,
    NodeTarget,
    Peer,
    RestoreSpec,
    ServerCertificate,
)
from mainstay.model.option_group import OptionGroup
from mainstay.model.records import Scope
from mainstay.model.repository_job import RepositoryRef
from mainstay.model.volume import VolumeSpec
from mainstay.services.ec2.interfaces import access_list_for, set_real_addresses
from mainstay.settings import Settings
from mainstay.store import Reader, Transaction
from mainstay.workflows import addresses
from mainstay.workflows.engine import Tools
from mainstay.workflows.repositories import reference, require_repository, with_opened_repositories
from mainstay.workflows.volumes import volume_key_of, volume_of

GIB = 1 << 30
KEY_CONTEXT = "certificate-key:"


def endpoint_name(settings: Settings, scope: Scope, identifier: str) -> str:
    """The RDS-style name: `<id>.<12 characters constant per account and region>.<region>.rds.<zone>`."""
    constant = hashlib.sha256(str(scope).encode()).hexdigest()[:12]
    return f"{identifier}.{constant}.{scope.region}.rds.{settings.dns_zone}"


def instance_of(reader: Reader, scope: Scope, subject: str) -> DBInstance | None:
    """The instance a job's subject ("db:<DbiResourceId>") names, or None when it has gone."""
    found = reader.find(DBInstance, scope, "dbi-resource-id", subject.removeprefix("db:"))
    return found[0] if found else None


def final_parameters(reader: Reader, tools: Tools, instance: DBInstance) -> dict[str, str]:
    """Engine and rds.* parameters in force: the group's values, less those that wait for a reboot, formulas evaluated.

    Raises `ApiError` InvalidParameterValue for a formula that cannot be evaluated for this instance.
    """
    build = tools.engines.builds.resolve(instance.engine, instance.engine_version)
    definitions = tools.engines.rules(instance.engine).definitions(build)
    group = reader.get(DBParameterGroup, instance.scope, instance.parameter_group_in_force)
    values = values_in_force(group, definitions, instance.held_parameters)
    db_class = CLASSES[instance.db_instance_class]
    variables = FormulaVariables(
        allocated_storage_bytes=instance.allocated_storage_gib * GIB,
        db_instance_class_memory_bytes=db_class.db_instance_class_memory_bytes,
        db_instance_vcpu=db_class.vcpus,
        endpoint_port=instance.port,
        true_if_replica=bool(instance.source_dbi_resource_id),
    )
    return {name: evaluate(value, variables) for name, value in values.items()}


def replicas_of(reader: Reader, instance: DBInstance) -> list[DBInstance]:
    """The read replicas that follow an instance, in every region."""
    return reader.find(DBInstance, None, "source", instance.dbi_resource_id)


def source_of(reader: Reader, instance: DBInstance) -> DBInstance | None:
    """The instance that a read replica follows, None if it follows nobody or its source is gone."""
    if not instance.source_dbi_resource_id:
        return None
    found = reader.find(DBInstance, None, "dbi-resource-id", instance.source_dbi_resource_id)
    return found[0] if found else None


def refresh_nodes(tx: Transaction, tools: Tools, instance: DBInstance) -> tuple[NodeSpec, ...]:
    """Writes the instance's nodes as they should be now and returns their specs, private keys still sealed away.

    The one that leads comes first. A standby that is not wanted any more comes as one that shall be absent.
    """
    return tuple(_refresh_node(tx, tools, instance, node_id) for node_id in instance.node_ids)


def nodes_of(reader: Reader, instance: DBInstance) -> tuple[Node, ...]:
    """The records of the instance's nodes, as far as they have been made."""
    found = (reader.get(Node, instance.scope, node_id) for node_id in instance.node_ids)
    return tuple(node for node in found if node is not None)


def _refresh_node(tx: Transaction, tools: Tools, instance: DBInstance, node_id: str) -> NodeSpec:
    node = tx.get(Node, instance.scope, node_id)
    wanted = _spec(tx, tools, instance, node_id, node)
    if node is None:
        tx.insert(Node(scope=instance.scope, spec=msgspec.structs.replace(wanted, generation=1)))
        return msgspec.structs.replace(wanted, generation=1)
    if wanted == node.spec:
        return node.spec
    wanted = msgspec.structs.replace(wanted, generation=node.spec.generation + 1)
    tx.put(msgspec.structs.replace(node, spec=wanted))
    return wanted


def with_private_key(spec: NodeSpec, tools: Tools) -> NodeSpec:
    """The spec as the agent needs it: the certificate's key opened, and those of its data, if they may be."""
    certificate = spec.certificate
    key = tools.vault.unseal(certificate.private_key_pem, KEY_CONTEXT + spec.node_id)
    opened = ServerCertificate(certificate.certificate_pem, key, certificate.ca_pem)
    spec = msgspec.structs.replace(spec, certificate=opened, volume=_with_volume_key(spec, tools))
    return with_opened_repositories(spec, tools.store, tools.vault)


def _with_volume_key(spec: NodeSpec, tools: Tools) -> VolumeSpec | None:
    volume, view = spec.volume, tools.store.view()
    found = view.find(DBInstance, None, "dbi-resource-id", spec.dbi_resource_id)
    if volume is None or not volume.encrypted or spec.target is NodeTarget.ABSENT or not found:
        return volume
    return msgspec.structs.replace(volume, data_key=volume_key_of(view, tools.vault, found[0]) or "")


def _membership(instance: DBInstance, node_id: str, node: Node | None) -> dict[str, Any]:
    """What tells the instance's nodes from each other."""
    leads = node_id == instance.node_id
    stays = instance.keeping_node_id or instance.node_id
    born = NodeRole.PRIMARY if leads else NodeRole.STANDBY
    peer = None
    if instance.multi_az and leads:
        peer = Peer(instance.standby_node_id, instance.secondary_availability_zone)
    elif instance.multi_az:
        peer = Peer(instance.node_id, instance.availability_zone)
    return {
        "availability_zone": instance.availability_zone if leads else instance.secondary_availability_zone,
        "role": born if node is None else node.spec.role,
        "peer": peer,
        "target": instance.target if instance.multi_az or node_id == stays else NodeTarget.ABSENT,
    }


def _spec(tx: Transaction, tools: Tools, instance: DBInstance, node_id: str, node: Node | None) -> NodeSpec:
    rules = tools.engines.rules(instance.engine)
    parameters = final_parameters(tx, tools, instance)
    db_class = CLASSES[instance.db_instance_class]
    account = instance.scope.account_id
    address = addresses.lease(tx, account, addresses.endpoint_block(tx, tools.settings), instance.dbi_resource_id)
    if node is None and node_id == instance.node_id and instance.network_interface_id:
        # Where this instance's packets come from: source groups that it is a member of resolve to this.
        set_real_addresses(tx, instance.scope, instance.network_interface_id, [address])
    access = access_list_for(tx, instance.scope, instance.vpc_security_group_ids, instance.port)
    endpoint = NodeEndpoint(
        endpoint_id=instance.dbi_resource_id,
        address=address,
        port=instance.port,
        name=endpoint_name(tools.settings, instance.scope, instance.db_instance_identifier),
        admits=access.ipv4 + access.ipv6,
    )
    login_port = _iam_login_port(tx, instance)
    return NodeSpec(
        **_membership(instance, node_id, node),
        node_id=node_id,
        scope=instance.scope,
        dbi_resource_id=instance.dbi_resource_id,
        db_instance_identifier=instance.db_instance_identifier,
        failover_token=instance.failover_token,
        rolling=instance.rolling,
        source=instance.source_dbi_resource_id,
        followed=bool(replicas_of(tx, instance)),
        archive=_archive(tx, instance),
        restore=_restore(tx, instance) if node_id == instance.node_id and not _waits_for_parting(instance) else None,
        **_kept_data(instance, node_id),
        generation=0 if node is None else node.spec.generation,
        engine=instance.engine,
        engine_version=instance.engine_version,
        listen_address=addresses.lease(tx, account, addresses.node_block(tx, tools.settings), node_id),
        port=instance.port,
        endpoint=endpoint,
        parameters=rules.engine_settings(parameters) | _option_settings(tx, rules, instance),
        require_tls=rules.require_tls(parameters),
        refuses_old_passwords=rules.refuses_old_passwords(parameters),
        iam_login_port=login_port,
        log_retention_minutes=rules.log_retention_minutes(parameters),
        restart_token=instance.restart_token,
        master=MasterUser(instance.master_username, instance.master_password_verifier),
        database=instance.db_name,
        certificate=_certificate(tools, node_id, endpoint, node, login_port),
        volume=volume_of(instance),
        limits=NodeLimits(memory_bytes=db_class.memory_bytes, vcpus=db_class.vcpus),
    )


def _option_settings(reader: Reader, rules: EngineRules, instance: DBInstance) -> dict[str, str]:
    group = reader.get(OptionGroup, instance.scope, instance.option_group_name)
    return {} if group is None else rules.option_settings(group.options)


def _archive(reader: Reader, instance: DBInstance) -> RepositoryRef | None:
    """Where the log goes while there are automated backups; the agent gets the key, the record does not."""
    if not instance.backup_retention_period_days or not instance.repository_id:
        return None
    repository = reader.get(BackupRepository, instance.scope, instance.repository_id)
    return None if repository is None else reference(repository)


def _restore(reader: Reader, instance: DBInstance) -> RestoreSpec | None:
    """What a restored instance is made of, until it is there. Its standby is copied from it like any other."""
    source = instance.restoring_from
    if source is None:
        return None
    repository = require_repository(reader, source.repository_scope, source.repository_id)
    return RestoreSpec(
        repository=reference(repository),
        backup_id=source.backup_id,
        target=source.target,
        paused=source.paused,
        crash_consistent=source.crash_consistent,
    )


def _kept_data(instance: DBInstance, node_id: str) -> dict[str, Any]:
    """What of its data stays beside what is in use. Data is exchanged while there is no other node."""
    if node_id != (instance.keeping_node_id or instance.node_id):
        return {}
    kept, change = [one.name for one in instance.kept_data], instance.exchange
    names = tuple(dict.fromkeys([*kept, *((change.wanted, change.aside) if change else ())]))
    if change is None or _waits_for_parting(instance):
        return {"kept": names}
    return {"kept": names, "exchange": DataExchange(wanted=change.wanted, aside=change.aside)}


def _waits_for_parting(instance: DBInstance) -> bool:
    """A standby, which has the history that is to be left, must not be there to take over with it."""
    return instance.exchange is not None and instance.standby_node_id != ""


def _iam_login_port(reader: Reader, instance: DBInstance) -> int:
    if not instance.iam_database_authentication_enabled:
        return 0
    listener = reader.get(LoginListener, LoginListener.scope_of(instance.scope.account_id), "current")
    return 0 if listener is None else listener.port


def _certificate(
    tools: Tools, node_id: str, endpoint: NodeEndpoint, node: Node | None, login_port: int
) -> ServerCertificate:
    """The node's certificate, its key sealed; a new one if its name or address changed, or if it ends soon."""
    if node is not None and (node.spec.endpoint.name, node.spec.endpoint.address) == (endpoint.name, endpoint.address):
        # One from before engines asked about logins says that it is a server's alone: not with IAM logins.
        fits = not login_port or node.spec.iam_login_port != 0
        if fits and not ends_soon(node.spec.certificate.certificate_pem, tools.clock.wall()):
            return node.spec.certificate
    issued, _valid_till = tools.certificates.issue((endpoint.name,), (endpoint.address,))
    sealed = tools.vault.seal(issued.private_key_pem, KEY_CONTEXT + node_id)
    return ServerCertificate(issued.certificate_pem, sealed, issued.ca_pem)


def require_instance(reader: Reader, scope: Scope, subject: str) -> DBInstance:
    """As `instance_of`, for steps that cannot go on without it. Raises `Permanent`."""
    instance = instance_of(reader, scope, subject)
    if instance is None:
        raise Permanent(f"{subject} does not exist any more")
    return instance
