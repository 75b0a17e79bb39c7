"""Who gets a server connection, and when; what a client is told when there is none."""

from __future__ import annotations

from harness.proxy_parts import ANSWER, Parts, client_got, kinds, server_got, turn
from mainstay.model.proxy import ProxyUser
from mainstay.protocol.postgres import wire
from mainstay.proxy.engine_login import LoginFailed
from mainstay.proxy.opening import LOOK_AGAIN_S, SETTLING_S
from mainstay.proxy.pool import ROTATION_S
from mainstay.proxy.session import ClientSession

ASK = wire.query(b"SELECT 1")


async def test_never_more_than_the_budget_and_in_the_order_of_asking() -> None:
    parts = Parts(budget=3)
    sessions = [parts.session() for _ in range(20)]
    for session in sessions:
        session.data_received(ASK)
    await turn()
    assert len(parts.opened) == 3
    assert [one for one in sessions if one.server is not None] == sessions[:3]
    order = []
    while any(session.waiting or session.server for session in sessions):
        session = next(one for one in sessions if one.server is not None)
        assert session.server is not None
        assert server_got(session.server) == ASK
        session.server.data_received(ANSWER)
        assert kinds(client_got(session)) == "TCZ"
        order.append(session)
        await turn()
    assert order == sessions
    assert len(parts.opened) == 3 and len(parts.target.connections) == 3


async def test_a_connection_of_another_pool_makes_room() -> None:
    parts = Parts(budget=1)
    one, two = parts.session(parts.pool("a")), parts.session(parts.pool("b"))
    one.data_received(ASK)
    await turn()
    two.data_received(ASK)
    await turn()
    assert two.waiting and len(parts.opened) == 1
    parts.opened[0].data_received(ANSWER)
    await turn()
    assert not two.waiting and len(parts.opened) == 2
    assert parts.opened[0].closed
    assert len(parts.target.connections) == 1


async def test_who_waits_too_long_is_told() -> None:
    parts = Parts(budget=1)
    parts.target.borrow_timeout_s = 5.0
    holder, simple, extended, login = (parts.session() for _ in range(4))
    holder.data_received(ASK)
    await turn()
    simple.data_received(ASK + ASK)
    extended.data_received(wire.parse(b"", b"SELECT 1\0\0\0") + wire.message(b"S"))
    parts.time = 4.0
    login.data_received(ASK)
    await turn()
    parts.target.expire()
    assert client_got(simple) == b""
    parts.time = 5.0
    parts.target.expire()
    assert kinds(client_got(simple)) == "EZEZ"
    assert kinds(client_got(extended)) == "EZ"
    assert client_got(login) == b"", "its time is not up"
    parts.opened[0].data_received(ANSWER)
    assert not login.waiting
    simple.data_received(ASK)
    assert simple.waiting, "and the others may ask again"


async def test_whoever_leaves_waits_no_more() -> None:
    parts = Parts(budget=1)
    holder, leaver, last = (parts.session() for _ in range(3))
    for session in (holder, leaver, last):
        session.data_received(ASK)
    await turn()
    leaver.connection_lost(None)
    parts.opened[0].data_received(ANSWER)
    assert last.server is parts.opened[0]
    assert len(parts.target.waiters) == 0


async def test_an_answer_that_is_under_way_is_nobody_elses() -> None:
    """The connection of a client that has left is closed, not handed on, though its answer comes at that moment."""
    parts = Parts(budget=1)
    leaver, other = parts.session(), parts.session()
    leaver.data_received(ASK)
    await turn()
    connection = parts.opened[0]
    leaver.connection_lost(None)
    connection.data_received(ANSWER)
    other.data_received(ASK)
    assert other.server is None
    assert client_got(other) == b""


async def refused_what_was_right() -> tuple[Parts, ClientSession]:
    """One session has a connection, the engine takes its password no more; another one wants a connection now."""
    parts = Parts(budget=2)
    first, second = parts.session(), parts.session()
    first.data_received(ASK)
    await turn()
    parts.refuse = LoginFailed("28P01", "password authentication failed")
    second.data_received(ASK)
    await turn()
    return parts, second


async def test_a_password_that_was_right_may_be_being_changed() -> None:
    parts, second = await refused_what_was_right()
    assert second.waiting and client_got(second) == b"", "the new password is on its way"
    parts.refuse = None
    parts.target.know({"app": ProxyUser(username="app", password="new")})
    parts.target.serve()
    await turn()
    assert not second.waiting and [one.pool.user.password for one in parts.opened] == ["new", "new"]


async def test_a_password_that_was_right_is_given_up_in_the_end() -> None:
    parts, second = await refused_what_was_right()
    parts.time += ROTATION_S + 1
    parts.target.serve()
    await turn()
    assert not second.waiting and b"28P01" in client_got(second)


async def test_a_refused_login_is_told_at_once() -> None:
    parts = Parts()
    parts.refuse = LoginFailed("28P01", "password authentication failed")
    session = parts.session()
    session.data_received(ASK)
    await turn()
    data = client_got(session)
    assert kinds(data) == "EZ" and b"password authentication failed" in data
    parts.refuse = LoginFailed("57P03", "the database system is starting up")
    session.data_received(ASK)
    await turn()
    assert session.waiting, "that heals"
    assert parts.target.opener.under_way == 0


async def test_pausing_is_left_with_the_client_that_caused_it() -> None:
    parts = Parts(budget=1)
    slow, other = parts.session(), parts.session()
    slow.data_received(ASK)
    await turn()
    connection = parts.opened[0]
    slow.pause_writing()
    assert not connection.transport.is_reading()
    connection.data_received(ANSWER)
    assert slow.server is None
    assert connection.transport.is_reading()
    other.data_received(ASK)
    assert other.server is connection
    slow.data_received(ASK)
    connection.data_received(ANSWER)
    await turn()
    assert slow.server is connection and not connection.transport.is_reading()
    slow.resume_writing()
    assert connection.transport.is_reading()


async def test_failover_closes_what_was_connected_before() -> None:
    parts = Parts(budget=4)
    asking, idle, inside = (parts.session() for _ in range(3))
    for session in (asking, idle, inside):
        session.data_received(ASK)
    await turn()
    for session, status in ((idle, b"I"), (inside, b"T")):
        assert session.server is not None
        session.server.data_received(ANSWER[:-1] + status)
    for session in (asking, idle, inside):
        client_got(session)
    parts.target.moved(None, 1)
    parts.target.moved("/elsewhere", 2)
    await turn()
    assert all(connection.closed for connection in parts.opened[:3])
    told = client_got(asking)
    assert kinds(told) == "EZ" and b"C08007\0" in told
    assert client_got(idle) == b"" and client_got(inside) == b""
    inside.data_received(ASK)
    told = client_got(inside)
    assert kinds(told) == "EZ" and b"C08006\0" in told
    for session in (asking, idle, inside):
        assert not session.closed


async def test_the_limit_is_asked_again_where_the_database_is_new() -> None:
    parts = Parts(budget=50)
    session = parts.session()
    parts.target.moved("/elsewhere", 2)
    assert parts.target.budget == 1
    session.data_received(ASK)
    await turn()
    (connection,) = parts.opened
    assert server_got(connection) == wire.query(b"SHOW max_connections")
    shown = wire.message(b"D", b"\0\1\0\0\0\00210")
    connection.data_received(shown + wire.message(b"C", b"SHOW\0") + wire.ready_for_query(b"I"))
    assert parts.target.budget == 7
    assert session.server is connection
    assert client_got(session) == b"", "what the proxy asked is nobody's answer"
    connection.data_received(ANSWER)
    assert kinds(client_got(session)) == "TCZ"


async def test_a_broken_engine_is_left() -> None:
    for broken in (
        wire.message(b"Z"),
        wire.message(b"2"),
        b"C\0\0\0\3",
        b"C\x7f\xff\xff\xff",
        wire.message(b"S", b"no end"),
    ):
        parts = Parts()
        session = parts.session()
        session.data_received(wire.parse(b"", b"SELECT 1\0\0\0") + wire.message(b"S"))
        await turn()
        parts.opened[0].data_received(broken)
        assert parts.opened[0].closed, broken
        told = client_got(session)
        assert kinds(told) == "EZ" and b"C08007\0" in told
        assert not session.closed


async def test_a_client_that_names_no_database_says_nothing_of_the_target() -> None:
    parts = Parts()
    parts.refuse = LoginFailed("3D000", 'database "none" does not exist')
    session = parts.session(parts.pool(database="none"))
    session.data_received(ASK)
    await turn()
    assert b"does not exist" in client_got(session)
    assert not parts.target.opener.health_problem


async def test_a_user_that_is_refused_says_nothing_of_the_target_while_others_are_served() -> None:
    parts = Parts(budget=2)
    refused, served = parts.session(parts.pool("wrongly")), parts.session()
    parts.refuse = LoginFailed("28P01", "password authentication failed")
    refused.data_received(ASK)
    await turn()
    assert parts.target.opener.health_problem and parts.target.opener.refuses_user
    parts.refuse = None
    served.data_received(ASK)
    await turn()
    assert not parts.target.opener.health_problem
    parts.refuse = LoginFailed("28P01", "password authentication failed")
    refused.data_received(ASK)
    await turn()
    assert parts.target.opener.problem and not parts.target.opener.health_problem


async def test_whether_a_target_is_back_is_looked_at_though_nobody_asks() -> None:
    parts = Parts()
    parts.refuse = OSError("no route")
    session = parts.session()
    session.data_received(ASK)
    await turn()
    session.close()
    assert parts.target.opener.health_problem == "no route"
    parts.refuse = None
    parts.target.serve()  # the retry, of which nobody is left
    for parts.time in (LOOK_AGAIN_S - 1, LOOK_AGAIN_S + 1):
        parts.target.tidy()
        await turn()
        assert bool(parts.target.opener.health_problem) is (parts.time < LOOK_AGAIN_S)
    assert len(parts.target.connections) == 1


async def test_one_who_waits_for_a_slow_init_query_has_one_connection_opened() -> None:
    parts = Parts(budget=9)
    parts.target.init_query = b"SELECT pg_sleep(9)"
    session = parts.session()
    session.data_received(ASK)
    await turn()
    for parts.time in (1.0, 2.0, SETTLING_S):
        parts.target.serve()
        parts.target.tidy()
        await turn()
        assert len(parts.opened) == 1
    parts.time = SETTLING_S + 1
    parts.target.tidy()
    assert "initialization query took longer" in parts.target.opener.health_problem
    session.close()


async def test_since_when_a_connection_is_idle_is_told_by_one_clock_however_it_came_free() -> None:
    """Workers compare it with the look of that moment: by a finer clock one that has just come free would be later."""
    parts = Parts(budget=1)
    session = parts.session()
    session.data_received(ASK)
    await turn()
    (connection,) = parts.opened
    parts.time += 0.05  # between two looks
    connection.data_received(ANSWER)
    assert connection.idle_since == parts.target.looked_at
    session.data_received(ASK)
    connection.retired = False
    parts.target.over = True  # the other way: by `settled`
    connection.data_received(ANSWER)
    assert connection.pool.idle.all() == [connection] and connection.idle_since == parts.target.looked_at
