"""From what the user wants (instance, groups, classes) to what a node must be. The one place that makes a `NodeSpec`.

`refresh_node` is idempotent: it writes a new generation only if something in the spec differs from the last one, so
that any number of callers may ask for it whenever anything an instance depends on has changed.
"""

from __future__ import annotations

import hashlib

import msgspec

from mainstay.decide.parameter_values import values_in_force
from mainstay.decide.parameters import FormulaVariables, evaluate
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_instance_class import CLASSES
from mainstay.model.db_parameter_group import DBParameterGroup
from mainstay.model.errors import Permanent
from mainstay.model.node import MasterUser, Node, NodeEndpoint, NodeLimits, NodeSpec, ServerCertificate
from mainstay.model.records import Scope
from mainstay.services.ec2.interfaces import access_list_for, set_real_addresses
from mainstay.settings import Settings
from mainstay.store import Reader, Transaction
from mainstay.workflows import addresses
from mainstay.workflows.engine import Tools

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
        true_if_replica=False,
    )
    return {name: evaluate(value, variables) for name, value in values.items()}


def refresh_node(tx: Transaction, tools: Tools, instance: DBInstance) -> NodeSpec:
    """Writes the instance's node as it should be now and returns its spec, private key still sealed away."""
    node = tx.get(Node, instance.scope, instance.node_id)
    wanted = _spec(tx, tools, instance, node)
    if node is None:
        tx.insert(Node(scope=instance.scope, spec=msgspec.structs.replace(wanted, generation=1)))
        return msgspec.structs.replace(wanted, generation=1)
    if wanted == node.spec:
        return node.spec
    wanted = msgspec.structs.replace(wanted, generation=node.spec.generation + 1)
    tx.put(msgspec.structs.replace(node, spec=wanted))
    return wanted


def with_private_key(spec: NodeSpec, tools: Tools) -> NodeSpec:
    """The spec as the agent needs it: the certificate's key opened."""
    certificate = spec.certificate
    key = tools.vault.unseal(certificate.private_key_pem, KEY_CONTEXT + spec.node_id)
    opened = ServerCertificate(certificate.certificate_pem, key, certificate.ca_pem)
    return msgspec.structs.replace(spec, certificate=opened)


def _spec(tx: Transaction, tools: Tools, instance: DBInstance, node: Node | None) -> NodeSpec:
    rules = tools.engines.rules(instance.engine)
    parameters = final_parameters(tx, tools, instance)
    db_class = CLASSES[instance.db_instance_class]
    account = instance.scope.account_id
    home = tools.settings.home
    address = addresses.lease(tx, account, addresses.endpoint_block(tools.settings), instance.dbi_resource_id)
    if node is None and instance.network_interface_id:
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
    return NodeSpec(
        node_id=instance.node_id,
        scope=instance.scope,
        dbi_resource_id=instance.dbi_resource_id,
        db_instance_identifier=instance.db_instance_identifier,
        availability_zone=instance.availability_zone,
        generation=0 if node is None else node.spec.generation,
        target=instance.target,
        engine=instance.engine,
        engine_version=instance.engine_version,
        listen_address=addresses.lease(tx, account, addresses.slot(addresses.NODES, home), instance.node_id),
        port=instance.port,
        endpoint=endpoint,
        parameters=rules.engine_settings(parameters),
        require_tls=rules.require_tls(parameters),
        log_retention_minutes=rules.log_retention_minutes(parameters),
        restart_token=instance.restart_token,
        master=MasterUser(instance.master_username, instance.master_password_verifier),
        database=instance.db_name,
        certificate=_certificate(tools, instance.node_id, endpoint, node),
        limits=NodeLimits(memory_bytes=db_class.memory_bytes, vcpus=db_class.vcpus),
    )


def _certificate(tools: Tools, node_id: str, endpoint: NodeEndpoint, node: Node | None) -> ServerCertificate:
    """The node's certificate, a new one if the name or address it stands for changed; its key sealed for the store."""
    if node is not None and (node.spec.endpoint.name, node.spec.endpoint.address) == (endpoint.name, endpoint.address):
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
