"""The lifecycle of a DB proxy and of what belongs to it: one program that brings the proxy process to the records.

Create, modify, delete, targets, endpoints, a rotated secret: each is recorded first, then the spec that follows from
all records is handed over, and when it is in effect every status word that it settles goes away. Any number of changes
may be recorded meanwhile; the last look at the records is in the same turn in which the job ends.
"""

from __future__ import annotations

import msgspec

from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_proxy import (
    CREATING,
    DEFAULT_TARGET_GROUP,
    DELETING,
    MODIFYING,
    DBProxy,
    DBProxyEndpoint,
    DBProxyTargetGroup,
    GivenProxySpec,
)
from mainstay.model.errors import Permanent
from mainstay.services.ec2.interfaces import delete_service_interface
from mainstay.services.rds.events import record_event
from mainstay.store import Transaction
from mainstay.workflows import addresses
from mainstay.workflows.engine import Finish, Next, Outcome, Program, Sleep, Step, Work, new_job
from mainstay.workflows.proxy_specs import endpoints_of, opened, proxy_of, refresh_proxy, target_group_of

OBSERVE_AGAIN_S = 0.5
LOST_AFTER_S = 3.0
"""A spec that was handed over and of which nothing is seen after so long is handed over again."""

FAILED_AFTER_S = 10.0
"""A listener that cannot be opened for so long is told to the user; the proxy process goes on trying."""

_PROXY_EVENTS = {CREATING: "RDS-EVENT-0203", MODIFYING: "RDS-EVENT-0204"}
_ENDPOINT_EVENTS = {CREATING: "RDS-EVENT-0206", MODIFYING: "RDS-EVENT-0207"}


async def _put_spec(work: Work) -> Outcome:
    tools = work.tools
    with tools.store.transaction() as tx:
        proxy = proxy_of(tx, work.job.scope, work.job.subject)
        if proxy is None:
            return Finish()
        if proxy.change == DELETING and tx.get(GivenProxySpec, proxy.scope, proxy.db_proxy_id) is None:
            return Finish(lambda tx: forget(work, tx))  # the proxy process has never heard of it
        given = refresh_proxy(tx, tools, proxy)
    await tools.proxies.put_proxy(opened(given, tools))
    return Next("await_effect", frame={"generation": given.spec.generation, "put_at": tools.clock.wall()})


async def _await_effect(work: Work) -> Outcome:
    """Nothing is awaited here, so no request comes between this look at the records and the end of the job."""
    tools = work.tools
    with tools.store.transaction() as tx:
        proxy = proxy_of(tx, work.job.scope, work.job.subject)
        if proxy is None:
            return Finish()
        given = refresh_proxy(tx, tools, proxy)
    if given.spec.generation != work.job.frame["generation"]:
        return Next("put_spec")
    seen = tools.proxies.observe(proxy.db_proxy_id)
    waited_s = tools.clock.wall() - work.job.frame["put_at"]
    if given.spec.absent:
        gone = seen is None or seen.generation >= given.spec.generation
        return Finish(lambda tx: forget(work, tx)) if gone else Sleep(OBSERVE_AGAIN_S)
    if seen is None:
        return Next("put_spec") if waited_s > LOST_AFTER_S else Sleep(OBSERVE_AGAIN_S)
    if seen.generation >= given.spec.generation:
        return Finish(lambda tx: settle(work, tx))
    if seen.failure and waited_s > FAILED_AFTER_S:
        return Finish(lambda tx: settle(work, tx, failure=seen.failure))
    return Sleep(OBSERVE_AGAIN_S)


def settle(work: Work, tx: Transaction, *, failure: str = "") -> None:
    """What was under way has ended: the words go away, deleted endpoints are forgotten, events tell of it."""
    proxy = proxy_of(tx, work.job.scope, work.job.subject)
    if proxy is None or proxy.change == DELETING:
        return
    clock, name = work.tools.clock, proxy.db_proxy_name
    if proxy.change and not failure:
        record_event(tx, clock, proxy, _PROXY_EVENTS[proxy.change], name=name)
    if failure and failure != proxy.failure:
        record_event(tx, clock, proxy, "MAINSTAY-EVENT-0001", reason=failure)
    tx.put(msgspec.structs.replace(proxy, change="", failure=failure))
    group = target_group_of(tx, proxy)
    tx.put(msgspec.structs.replace(group, change=""))
    for endpoint in endpoints_of(tx, proxy):
        endpoint_name = endpoint.db_proxy_endpoint_name
        if endpoint.change == DELETING:
            _forget_endpoint(tx, endpoint)
            record_event(tx, clock, proxy, "RDS-EVENT-0208", name=name, endpoint=endpoint_name)
        elif endpoint.change:
            if not endpoint.is_default and not failure:
                event_id = _ENDPOINT_EVENTS[endpoint.change]
                record_event(tx, clock, proxy, event_id, name=name, endpoint=endpoint_name)
            tx.put(msgspec.structs.replace(endpoint, change=""))


def forget(work: Work, tx: Transaction) -> None:
    """Removes a deleted proxy's record and all that was held for it."""
    proxy = proxy_of(tx, work.job.scope, work.job.subject)
    if proxy is None:
        return
    for endpoint in endpoints_of(tx, proxy):
        _forget_endpoint(tx, endpoint)
    tx.delete(target_group_of(tx, proxy))
    given = tx.get(GivenProxySpec, proxy.scope, proxy.db_proxy_id)
    if given is not None:
        tx.delete(given)
    tx.delete(proxy)
    record_event(tx, work.tools.clock, proxy, "RDS-EVENT-0205", name=proxy.db_proxy_name)


def _forget_endpoint(tx: Transaction, endpoint: DBProxyEndpoint) -> None:
    for interface_id in endpoint.interface_ids:
        delete_service_interface(tx, endpoint.scope, interface_id)
    addresses.release(tx, endpoint.scope.account_id, endpoint.db_proxy_endpoint_id)
    tx.delete(endpoint)


def _failed(work: Work, error: Permanent) -> Finish:
    """The proxy keeps the reason and shows it as its status; what is being deleted is tried again later."""
    return Finish(lambda tx: settle(work, tx, failure=error.message))


def _tell_overdue(work: Work, tx: Transaction) -> None:
    """A person should look: bringing a proxy up takes a second."""
    proxy = proxy_of(tx, work.job.scope, work.job.subject)
    if proxy is not None:
        seen = work.tools.proxies.last_seen(proxy.db_proxy_id)
        reason = seen.failure if seen is not None and seen.failure else "the proxy process does not answer"
        reason = f"The change of DB proxy {proxy.db_proxy_name} is late: {reason}"
        record_event(tx, work.tools.clock, proxy, "MAINSTAY-EVENT-0001", reason=reason)


CONVERGE_PROXY = Program(
    name="converge_db_proxy",
    first="put_spec",
    steps={
        "put_spec": Step(_put_spec, successors=("await_effect",)),
        "await_effect": Step(_await_effect, successors=("put_spec",)),
    },
    deadline_s=120.0,
    failed=_failed,
    overdue=_tell_overdue,
)


def request_convergence_in(tx: Transaction, now: float, proxy: DBProxy) -> None:
    """Starts the program for the proxy, or brings it forward: it reads the records when it runs."""
    for job in tx.jobs(proxy.subject):
        if job.program == CONVERGE_PROXY.name:
            tx.put_job(msgspec.structs.replace(job, due_at=min(job.due_at, now)))
            return
    tx.add_job(new_job(CONVERGE_PROXY, proxy.subject, proxy.scope, now))


def deregister_deleted(tx: Transaction, clock: Clock, instance: DBInstance) -> None:
    """Takes an instance that is gone out of every target group, as RDS does."""
    for group in tx.find(DBProxyTargetGroup, None, "target", instance.dbi_resource_id):
        tx.put(msgspec.structs.replace(group, target="", target_since=0.0))
        proxy = tx.get(DBProxy, group.scope, group.db_proxy_id)
        if proxy is not None:
            record_event(
                tx, clock, proxy, "RDS-EVENT-0214",
                name=proxy.db_proxy_name, target_group=DEFAULT_TARGET_GROUP, instance=instance.db_instance_identifier,
            )  # fmt: skip
            request_convergence_in(tx, clock.wall(), proxy)
