"""Calls that the service makes itself, for its owner: the same handlers, so the same rules, as for anybody."""

from __future__ import annotations

from mainstay.engines.registry import Engines
from mainstay.host.capacity import host_capacity
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.vault import Vault
from mainstay.model.capacity import HostCapacity
from mainstay.model.records import Scope
from mainstay.services.operations import Call, Caller
from mainstay.store import Transaction
from mainstay.workflows.engine import Tools
from mainstay.workflows.fleet import Fleet
from mainstay.workflows.proxy_fleet import ProxyFleet


def internal_call(tx: Transaction, tools: Tools, scope: Scope) -> Call:
    """A call of the account's root in this transaction."""
    caller = Caller(
        kind="root",
        account_id=scope.account_id,
        arn=f"arn:aws:iam::{scope.account_id}:root",
        user_id=scope.account_id,
        principal="root",
        access_key_id="",
    )
    return Call(
        caller=caller,
        scope=scope,
        tx=tx,
        clock=tools.clock,
        randomness=tools.randomness,
        settings=tools.settings,
        collaborators={
            Engines: tools.engines,
            CertificateAuthorities: tools.certificates,
            Fleet: tools.fleet,
            ProxyFleet: tools.proxies,
            Vault: tools.vault,
            HostCapacity: host_capacity(),
        },
    )
