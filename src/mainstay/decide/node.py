"""What the agent does next for one node: one ordered table, first match wins.

Guarantees: `decide` is a pure function; repeating an action it returned is harmless; when it returns `NOTHING` the node
agrees with its spec or a person must act (`Observed.failure`). The table is dumped to a golden file
(tests/unit/decide/node_table.txt), so that every change of policy is a reviewable difference.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

from mainstay.model.node import NodeRole, NodeSpec, NodeTarget
from mainstay.model.volume import VolumePhase

START_ATTEMPTS_MAX = 5
START_BACKOFF_S = (0.0, 0.2, 1.0, 5.0, 15.0)


class Action(StrEnum):
    """One step towards the spec. Every one may be repeated."""

    NOTHING = "nothing"
    WAIT = "wait"
    CREATE_VOLUME = "create-volume"
    OPEN_VOLUME = "open-volume"
    CLOSE_VOLUME = "close-volume"
    GROW_VOLUME = "grow-volume"
    INITIALISE = "initialise"
    CLONE = "clone"
    RESTORE = "restore"
    REJOIN = "rejoin"
    PROMOTE = "promote"
    FENCE = "fence"
    WRITE_CONFIGURATION = "write-configuration"
    START = "start"
    RELOAD = "reload"
    APPLY_ACCOUNTS = "apply-accounts"
    PUBLISH_ROUTE = "publish-route"
    HOLD_ROUTE = "hold-route"
    WITHDRAW_ROUTE = "withdraw-route"
    STOP = "stop"
    DESTROY = "destroy"
    SET_ASIDE = "set-aside"
    BRING_BACK = "bring-back"
    DISCARD = "discard"


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent sees of a node.

    The digests name the part of a spec that is in effect: `written` on disk, `loaded` by the running process,
    `accounts` in the database ("inherited": came with the data of a peer), `route` at the endpoint ("" for none, "hold"
    for one without a target). `follows`: the data directory is a standby's. `readable`: the process was started so that
    it takes queries while it follows. `outgrown`: it replays nothing before it is started with as much room as its
    source has now; `locked_out`: the running engine does not let us in, which its next start mends; `refuses`: it has
    answered us with errors for a while, which a start with other settings may mend; `lost`: it can never follow again
    from what it has. `had_data`: it was initialised once, so an absent data directory is a loss.
    `paused`: its restore waits for a look, so that it takes no writes. `volume`: there is something left of the node.
    `key_missing`: a volume that is not open cannot be made or opened from here. `cramped`: it is smaller than wanted;
    `grows_open`: it can be enlarged under a running engine. `storage_full`: an engine must be expected to fail on it.
    `data_name` is the name of the data in place, `kept` names what was set aside.
    """

    volume: bool = False
    volume_phase: VolumePhase = VolumePhase.MISSING
    key_missing: bool = False
    cramped: bool = False
    grows_open: bool = True
    storage_full: bool = False
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
    had_data: bool = False
    follows: bool = False
    readable: bool = True
    promoting: bool = False
    paused: bool = False
    outgrown: bool = False
    locked_out: bool = False
    refuses: bool = False
    lost: bool = False
    upstream_ready: bool = False
    copying: bool = False
    data_name: str = ""
    kept: tuple[str, ...] = ()


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A spec and an assignment, digested: what `Observed` is compared with.

    `may_restart`: a running engine may be stopped to be started anew. `may_start`: nobody else decides whether this
    engine shall run again. `may_publish`: clients may reach it. `restores`: its data comes from a backup, whose key may
    not be known (any more): `restore_key_missing`. `data_name`: the data of this name is to be in place, "" while no
    data is exchanged; `kept` names what must not be removed of what was set aside.
    """

    target: NodeTarget
    role: NodeRole = NodeRole.PRIMARY
    may_restart: bool = True
    may_start: bool = True
    may_publish: bool = True
    restores: bool = False
    restore_key_missing: bool = False
    data_name: str = ""
    kept: tuple[str, ...] = ()
    configuration_digest: str
    accounts_digest: str
    route_digest: str
    process_identity: str


HELD_ROUTE = "hold"
INHERITED_ACCOUNTS = "inherited"
Condition = Callable[[Wanted, Observed], bool]


class Row(msgspec.Struct, frozen=True):
    """One line of policy: under this name, when this holds, do that, because."""

    name: str
    when: Condition
    action: Action
    because: str


def _wanted_running(wanted: Wanted) -> bool:
    return wanted.target is NodeTarget.RUNNING


def _follows(wanted: Wanted) -> bool:
    return wanted.role is not NodeRole.PRIMARY


def _leads(wanted: Wanted) -> bool:
    return wanted.role is not NodeRole.STANDBY


def _locked(observed: Observed) -> bool:
    return observed.key_missing and observed.volume_phase is not VolumePhase.OPEN


def _has_accounts(wanted: Wanted, observed: Observed) -> bool:
    """A restore that waits for a look shows the accounts of its moment, and none can be written."""
    return wanted.role is NodeRole.PRIMARY and not observed.paused


def _has_open_route(observed: Observed) -> bool:
    return observed.route_digest not in ("", HELD_ROUTE)


TABLE: tuple[Row, ...] = (
    Row(
        "withdraw-unwanted",
        lambda w, o: not _wanted_running(w) and o.route_digest != "" and _leads(w),
        Action.WITHDRAW_ROUTE,
        "nobody may connect to what is being stopped or deleted",
    ),
    Row("await-stop", lambda w, o: o.stopping and o.running, Action.WAIT, "the engine is shutting down"),
    Row("await-copy", lambda w, o: o.copying, Action.WAIT, "the data is being copied"),
    Row("stop-unwanted", lambda w, o: not _wanted_running(w) and o.running, Action.STOP, "it should not run"),
    Row(
        "destroy",
        lambda w, o: w.target is NodeTarget.ABSENT and (o.volume or o.initialised),
        Action.DESTROY,
        "nothing of a deleted node may be left",
    ),
    Row(
        "withdraw-locked",
        lambda w, o: _locked(o) and o.route_digest != "" and _leads(w),
        Action.WITHDRAW_ROUTE,
        "nobody can be served from a volume whose key was taken away",
    ),
    Row(
        "fence-locked",
        lambda w, o: _locked(o) and o.running,
        Action.FENCE,
        "the engine cannot read its data any more, and what it has of it in memory must go",
    ),
    Row(
        "close-locked",
        lambda w, o: _locked(o) and o.volume_phase is VolumePhase.LOCKED,
        Action.CLOSE_VOLUME,
        "what the kernel still has of it in memory must go too",
    ),
    Row("rest", lambda w, o: not _wanted_running(w), Action.NOTHING, "stopped or gone, as wanted"),
    Row("await-key", lambda w, o: _locked(o), Action.NOTHING, "without its key the volume cannot be opened"),
    Row(
        "create-volume",
        lambda w, o: o.volume_phase is VolumePhase.MISSING,
        Action.CREATE_VOLUME,
        "data needs a place",
    ),
    Row(
        "grow-volume",
        lambda w, o: o.cramped and (not o.running or o.grows_open),
        Action.GROW_VOLUME,
        "more storage was allocated",
    ),
    Row(
        "open-volume",
        lambda w, o: o.volume_phase is not VolumePhase.OPEN,
        Action.OPEN_VOLUME,
        "data that is not mounted and unlocked only looks as if it were lost",
    ),
    Row(
        "withdraw-to-set-aside",
        lambda w, o: _exchanges(w, o) and o.route_digest != "",
        Action.WITHDRAW_ROUTE,
        "nobody may write to data that is set aside",
    ),
    Row("stop-to-set-aside", lambda w, o: _exchanges(w, o) and o.running, Action.STOP, "it is set aside at rest"),
    Row("set-aside", lambda w, o: _exchanges(w, o), Action.SET_ASIDE, "other data takes its place, and it is kept"),
    Row(
        "fence-exchanged",
        lambda w, o: w.data_name != "" and not o.initialised and o.running,
        Action.FENCE,
        "an engine without its data directory is of no use",
    ),
    Row(
        "bring-back",
        lambda w, o: not o.initialised and w.data_name in o.kept,
        Action.BRING_BACK,
        "the data that was set aside is wanted again",
    ),
    Row(
        "kept-lost",
        lambda w, o: w.data_name != "" and not o.initialised and not w.restores,
        Action.NOTHING,
        "the data that was set aside is gone; an empty database in its place would only hide that",
    ),
    Row(
        "stop-dataless",
        lambda w, o: _follows(w) and not o.initialised and o.running,
        Action.FENCE,
        "an engine without its data directory is of no use, and a new copy needs the place",
    ),
    Row(
        "await-source",
        lambda w, o: _follows(w) and not o.initialised and not o.upstream_ready,
        Action.WAIT,
        "there is nothing to copy from yet",
    ),
    Row("clone", lambda w, o: _follows(w) and not o.initialised, Action.CLONE, "a follower starts from a copy"),
    Row(
        "data-lost",
        lambda w, o: not o.initialised and o.had_data,
        Action.NOTHING,
        "the data directory is gone; an empty database in its place would only hide that",
    ),
    Row(
        "await-restore-key",
        lambda w, o: not o.initialised and w.restores and w.restore_key_missing,
        Action.WAIT,
        "the backup's key is on no agent's disk: it is sent again",
    ),
    Row(
        "restore",
        lambda w, o: not o.initialised and w.restores,
        Action.RESTORE,
        "a restored database begins as the copy that was backed up",
    ),
    Row("initialise", lambda w, o: not o.initialised, Action.INITIALISE, "an engine needs a data directory"),
    Row(
        "fence-former-primary",
        lambda w, o: _follows(w) and o.running and not o.follows,
        Action.FENCE,
        "another node leads: this one must not acknowledge anything more",
    ),
    Row(
        "await-source-to-rejoin",
        lambda w, o: _follows(w) and not o.follows and not o.upstream_ready,
        Action.WAIT,
        "there is nobody to rejoin yet",
    ),
    Row(
        "rejoin",
        lambda w, o: _follows(w) and not o.follows,
        Action.REJOIN,
        "a former primary may hold what nobody else has: it is wound back to where the histories part, or copied anew",
    ),
    Row(
        "copy-anew",
        lambda w, o: _follows(w) and o.lost and not o.running and o.upstream_ready,
        Action.CLONE,
        "it can never follow its source again from what it has",
    ),
    Row(
        "hold-for-restart",
        lambda w, o: o.running and _must_restart(w, o) and _has_open_route(o) and _leads(w),
        Action.HOLD_ROUTE,
        "new connections wait at the endpoint while the engine restarts",
    ),
    Row(
        "stop-for-restart",
        lambda w, o: o.running and _must_restart(w, o),
        Action.STOP,
        "this process was started for another restart token, address, port or role, has too little room, is lost, or"
        " lets us in no more, or answers nothing but errors and other settings are wanted; or its volume can only grow"
        " without it",
    ),
    Row(
        "hold-until-allowed",
        lambda w, o: _leads(w) and not w.may_publish and _has_open_route(o),
        Action.HOLD_ROUTE,
        "what this process shows is not known to survive it: new connections wait",
    ),
    Row(
        "promote",
        lambda w, o: w.role is NodeRole.PRIMARY and o.running and o.follows and not o.promoting,
        Action.PROMOTE,
        "it leads now",
    ),
    Row(
        "hold-while-down",
        lambda w, o: _leads(w) and (not o.running or o.promoting) and _has_open_route(o),
        Action.HOLD_ROUTE,
        "new connections wait at the endpoint instead of being refused by a dead port",
    ),
    Row("await-promotion", lambda w, o: o.promoting, Action.WAIT, "the engine ends its recovery"),
    Row(
        "write-configuration",
        lambda w, o: o.written_digest != w.configuration_digest,
        Action.WRITE_CONFIGURATION,
        "settings are read from files",
    ),
    Row(
        "discard-kept",
        lambda w, o: not set(o.kept) <= set(w.kept),
        Action.DISCARD,
        "nobody wants to go back to it any more",
    ),
    Row(
        "await-pair",
        lambda w, o: not o.running and not w.may_start,
        Action.WAIT,
        "its standby has every commit and takes over: this one comes back behind it",
    ),
    Row(
        "await-storage",
        lambda w, o: not o.running and o.start_failures > 0 and o.storage_full,
        Action.NOTHING,
        "an engine that failed on a full volume fails again until it has more room",
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
        "apply-accounts-first",
        lambda w, o: _has_accounts(w, o) and o.accounts_digest not in (w.accounts_digest, INHERITED_ACCOUNTS),
        Action.APPLY_ACCOUNTS,
        "roles, the master password or the database differ",
    ),
    Row(
        "publish-route",
        lambda w, o: _leads(w) and w.may_publish and o.route_digest != w.route_digest,
        Action.PUBLISH_ROUTE,
        "clients may connect now, under the present access list",
    ),
    Row(
        "reload",
        lambda w, o: o.loaded_digest != w.configuration_digest,
        Action.RELOAD,
        "the process runs with older settings",
    ),
    Row(
        "apply-accounts",
        lambda w, o: _has_accounts(w, o) and o.accounts_digest != w.accounts_digest,
        Action.APPLY_ACCOUNTS,
        "what came with the data of a peer may be older than what is wanted",
    ),
    Row(
        "await-permission",
        lambda w, o: _leads(w) and not w.may_publish,
        Action.WAIT,
        "the pair has not recorded yet that this process leads",
    ),
    Row(
        "await-renewal",
        lambda w, o: o.process_identity != w.process_identity or _stops_to_grow(o),
        Action.WAIT,
        "its standby is restarted first and takes over then",
    ),
    Row("settled", lambda w, o: True, Action.NOTHING, "the node agrees with its spec"),
)


def _exchanges(wanted: Wanted, observed: Observed) -> bool:
    """Whether the data in place is not the data that is to be there."""
    return wanted.data_name not in ("", observed.data_name) and observed.initialised


def _must_restart(wanted: Wanted, observed: Observed) -> bool:
    if observed.locked_out:  # a switch would need a session as well
        return True
    if observed.refuses and observed.loaded_digest != wanted.configuration_digest:  # as would a reload
        return True
    if not wanted.may_restart:
        return False
    if observed.process_identity != wanted.process_identity or _stops_to_grow(observed):
        return True
    if observed.outgrown and (_follows(wanted) or observed.paused):
        return True
    if observed.lost and observed.upstream_ready and _follows(wanted):
        return True
    return _follows(wanted) and observed.readable != (wanted.role is NodeRole.REPLICA)


def _stops_to_grow(observed: Observed) -> bool:
    return observed.cramped and not observed.grows_open


def decide(wanted: Wanted, observed: Observed) -> Row:
    """The first row of the table that matches; its action is what to do next."""
    return next(row for row in TABLE if row.when(wanted, observed))


def start_backoff_s(failures: int) -> float:
    """How long to wait before the next start after so many failed ones in a row."""
    return START_BACKOFF_S[min(failures, len(START_BACKOFF_S) - 1)]


def process_identity(spec: NodeSpec) -> str:
    """What a process must have been started for: a change of any of these needs a restart."""
    return f"{spec.engine_version}|{spec.restart_token}{_place(spec)}"


def is_elsewhere(identity: str, spec: NodeSpec) -> bool:
    """Whether a process of this identity listens at another address or port than is wanted now."""
    return not identity.endswith(_place(spec))


def _place(spec: NodeSpec) -> str:
    return f"|{spec.listen_address}|{spec.port}"
