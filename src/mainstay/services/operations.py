"""How a service offers its operations to the AWS front.

Each service package holds one `Operations` table; handlers register by the operation's name in the service model:

    operations = Operations("rds")

    @operations.handles("DeleteDBInstance", demands=on_instance)
    def delete_db_instance(call: Call, request: Request) -> Result: ...

A handler runs inside one store transaction (`call.tx`), synchronously, so it is atomic and two calls never interleave.
The few that must wait for a process (log downloads) are `async def`, registered with `opens_transaction=False`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from mainstay.host.clock import Clock
from mainstay.host.randomness import Randomness
from mainstay.model.records import Scope
from mainstay.settings import Settings
from mainstay.store import Transaction

T = TypeVar("T")

Request = Mapping[str, Any]
Result = dict[str, Any] | None


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who signed the request. `arn` and `user_id` are what GetCallerIdentity returns; `principal` names the record.

    `kind` is "root", "user" or "role". `session_policies` (documents) narrow an assumed role; `context` holds the
    condition keys that depend on the caller alone (aws:username, aws:userid, aws:PrincipalArn, tags).
    """

    kind: str
    account_id: str
    arn: str
    user_id: str
    principal: str
    access_key_id: str
    session_policies: tuple[str, ...] = ()
    context: dict[str, str] = {}


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """One thing an operation must be allowed to do: an IAM action on a resource, with its condition keys."""

    action: str
    resource: str = "*"
    context: dict[str, str | list[str]] = {}


@dataclass(frozen=True, kw_only=True)
class Call:
    """Everything a handler may use: the caller, the namespace, the open transaction, time and randomness.

    `requested_region` is where the call was made; it is not in `scope` when the service knows no regions.
    """

    caller: Caller
    scope: Scope
    tx: Transaction
    clock: Clock
    randomness: Randomness
    settings: Settings
    collaborators: Mapping[type, Any]
    source_ip: str = ""
    secure_transport: bool = False
    user_agent: str = ""
    referer: str = ""
    requested_region: str = ""
    request_id: str = ""

    def use(self, kind: type[T]) -> T:
        """The process's one object of this type (engine registry, vault, fleet …), given at start-up by `control`."""
        collaborator: T = self.collaborators[kind]
        return collaborator


Handler = Callable[[Call, Request], Result | Awaitable[Result]]
Demands = Callable[[Call, Request], Sequence[Demand]]


class Operation(msgspec.Struct, frozen=True):
    """A built operation: its handler and what it must be allowed to do."""

    name: str
    handler: Handler
    demands: Demands
    opens_transaction: bool


class Operations:
    """The operations of one service (name as in botocore: "rds", "ec2", "iam", "sts")."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.built: dict[str, Operation] = {}

    def handles(
        self, name: str, *, demands: Demands | None = None, opens_transaction: bool = True
    ) -> Callable[[Handler], Handler]:
        """Registers a handler. Without `demands` the call needs `<service>:<name>` on resource "*"."""

        def register(handler: Handler) -> Handler:
            if name in self.built:
                raise AssertionError(f"{self.service}:{name} is registered twice")
            wanted = demands or (lambda _call, _request: (Demand(action=f"{self.service}:{name}"),))
            self.built[name] = Operation(name, handler, wanted, opens_transaction)
            return handler

        return register
