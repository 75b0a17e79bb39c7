"""What the agent does next for one node: one ordered table, first match wins.

Guarantees: `decide` is a pure function; repeating an action it returned is harmless; when it returns `NOTHING` the node
agrees with its spec or a person must act (`Observed.failure`). The table is dumped to a golden file
(tests/unit/decide/node_table.txt), so that every change of policy is a reviewable difference.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

from mainstay.model.node import NodeSpec, NodeTarget

START_ATTEMPTS_MAX = 5
START_BACKOFF_S = (0.0, 0.2, 1.0, 5.0, 15.0)


class Action(StrEnum):
    """One step towards the spec. Every one may be repeated."""

    NOTHING = "nothing"
    WAIT = "wait"
    CREATE_VOLUME = "create-volume"
    INITIALISE = "initialise"
    WRITE_CONFIGURATION = "write-configuration"
    START = "start"
    RELOAD = "reload"
    APPLY_ACCOUNTS = "apply-accounts"
    PUBLISH_ROUTE = "publish-route"
    HOLD_ROUTE = "hold-route"
    WITHDRAW_ROUTE = "withdraw-route"
    STOP = "stop"
    DESTROY = "destroy"


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent sees of a node.

    The digests name the part of a spec that is in effect: `written` on disk, `loaded` by the running process,
    `accounts` in the database, `route` at the endpoint ("" for none, "hold" for one without a target).
    """

    volume: bool = False
    initialised: bool = False
    written_digest: str = ""
    running: bool = False
    stopping: bool = False
    ready: bool = False
    process_identity: str = ""
    loaded_digest: str = ""
    accounts_digest: str = ""
    route_digest: str = ""
    start_failures: int = 0
    start_due: bool = True


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A spec, digested: what `Observed` is compared with."""

    target: NodeTarget
    configuration_digest: str
    accounts_digest: str
    route_digest: str
    process_identity: str


HELD_ROUTE = "hold"
Condition = Callable[[Wanted, Observed], bool]


class Row(msgspec.Struct, frozen=True):
    """One line of policy: under this name, when this holds, do that, because."""

    name: str
    when: Condition
    action: Action
    because: str


def _wanted_running(wanted: Wanted) -> bool:
    return wanted.target is NodeTarget.RUNNING


TABLE: tuple[Row, ...] = (
    Row(
        "withdraw-unwanted",
        lambda w, o: not _wanted_running(w) and o.route_digest != "",
        Action.WITHDRAW_ROUTE,
        "nobody may connect to what is being stopped or deleted",
    ),
    Row("await-stop", lambda w, o: o.stopping and o.running, Action.WAIT, "the engine is shutting down"),
    Row("stop-unwanted", lambda w, o: not _wanted_running(w) and o.running, Action.STOP, "it should not run"),
    Row(
        "destroy",
        lambda w, o: w.target is NodeTarget.ABSENT and (o.volume or o.initialised),
        Action.DESTROY,
        "nothing of a deleted node may be left",
    ),
    Row("rest", lambda w, o: not _wanted_running(w), Action.NOTHING, "stopped or gone, as wanted"),
    Row("create-volume", lambda w, o: not o.volume, Action.CREATE_VOLUME, "data needs a place"),
    Row("initialise", lambda w, o: not o.initialised, Action.INITIALISE, "an engine needs a data directory"),
    Row(
        "hold-for-restart",
        lambda w, o: o.running and o.process_identity != w.process_identity and o.route_digest not in ("", HELD_ROUTE),
        Action.HOLD_ROUTE,
        "new connections wait at the endpoint while the engine restarts",
    ),
    Row(
        "stop-for-restart",
        lambda w, o: o.running and o.process_identity != w.process_identity,
        Action.STOP,
        "this process was started for another restart token, address or port",
    ),
    Row(
        "write-configuration",
        lambda w, o: o.written_digest != w.configuration_digest,
        Action.WRITE_CONFIGURATION,
        "settings are read from files",
    ),
    Row(
        "hold-while-down",
        lambda w, o: not o.running and o.route_digest not in ("", HELD_ROUTE),
        Action.HOLD_ROUTE,
        "new connections wait at the endpoint instead of being refused by a dead port",
    ),
    Row(
        "give-up-starting",
        lambda w, o: not o.running and o.start_failures >= START_ATTEMPTS_MAX,
        Action.NOTHING,
        "it did not start in several attempts; a person or a changed spec must help",
    ),
    Row("back-off", lambda w, o: not o.running and not o.start_due, Action.WAIT, "the last start failed just now"),
    Row("start", lambda w, o: not o.running, Action.START, "it should run"),
    Row("await-ready", lambda w, o: not o.ready, Action.WAIT, "the engine is starting or recovering"),
    Row(
        "reload",
        lambda w, o: o.loaded_digest != w.configuration_digest,
        Action.RELOAD,
        "the process runs with older settings",
    ),
    Row(
        "apply-accounts",
        lambda w, o: o.accounts_digest != w.accounts_digest,
        Action.APPLY_ACCOUNTS,
        "roles, the master password or the database differ",
    ),
    Row(
        "publish-route",
        lambda w, o: o.route_digest != w.route_digest,
        Action.PUBLISH_ROUTE,
        "clients may connect now, under the present access list",
    ),
    Row("settled", lambda w, o: True, Action.NOTHING, "the node agrees with its spec"),
)


def decide(wanted: Wanted, observed: Observed) -> Row:
    """The first row of the table that matches; its action is what to do next."""
    return next(row for row in TABLE if row.when(wanted, observed))


def start_backoff_s(failures: int) -> float:
    """How long to wait before the next start after so many failed ones in a row."""
    return START_BACKOFF_S[min(failures, len(START_BACKOFF_S) - 1)]


def process_identity(spec: NodeSpec) -> str:
    """What a process must have been started for: a change of any of these needs a restart."""
    return f"{spec.engine_version}|{spec.restart_token}|{spec.listen_address}|{spec.port}"
