"""An engine's answer reaches its client also if the engine's last words come in the same piece."""

from __future__ import annotations

import pytest

from harness.proxy_parts import ANSWER, Parts, client_got, kinds, turn
from mainstay.protocol.postgres import wire
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.session import ClientSession

DONE = wire.message(b"C", b"INSERT 0 1\0") + wire.ready_for_query(b"I")
GOING = wire.error_response("57P01", "terminating connection due to unexpected postmaster exit", severity="FATAL")
BATCH = b"".join(
    (
        wire.message(b"P", b"\0INSERT INTO t VALUES (1)\0\0\0"), wire.message(b"B", b"\0\0\0\0\0\0\0\0"),
        wire.message(b"E", b"\0\0\0\0\0"), wire.message(b"S"),
    )
)  # fmt: skip
BATCH_DONE = wire.message(b"1") + wire.message(b"2") + DONE
OUT_OF_STEP = wire.message(b"Z", b"I")
TOO_SHORT = b"D\0\0\0\1"


@pytest.mark.parametrize("last", [GOING, OUT_OF_STEP, TOO_SHORT], ids=["fatal", "unasked", "invalid"])
@pytest.mark.parametrize(
    ("request_", "answer", "told"),
    [(wire.query(b"INSERT INTO t VALUES (1)"), DONE, "CZ"), (BATCH, BATCH_DONE, "12CZ")],
    ids=["simple", "extended"],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_what_was_answered_before_the_last_words_is_told(
    request_: bytes, answer: bytes, told: str, last: bytes, at_once: bool
) -> None:
    parts = Parts()
    session = parts.session()
    session.data_received(request_)
    await turn()
    (connection,) = parts.opened
    for piece in [answer + last] if at_once else [answer, last]:
        connection.data_received(piece)
    assert kinds(client_got(session)) == told
    assert connection.closed and not session.closed
    session.data_received(wire.query(b"SELECT"))
    await turn()
    parts.opened[-1].data_received(ANSWER)
    assert kinds(client_got(session)) == "TCZ" and len(parts.opened) == 2
    session.close()


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_request_under_way_is_told_that_its_outcome_is_not_known(at_once: bool) -> None:
    parts = Parts()
    session = parts.session()
    session.data_received(wire.query(b"INSERT INTO t VALUES (1)"))
    session.data_received(wire.query(b"INSERT INTO t VALUES (2)"))
    await turn()
    (connection,) = parts.opened
    for piece in [DONE + GOING] if at_once else [DONE, GOING]:
        connection.data_received(piece)
    told = client_got(session)
    assert kinds(told) == "CZEZ" and b"C08007\0" in told
    session.close()


async def test_messages_without_a_body_are_no_accident() -> None:
    """CommandComplete and Query have one; a peer may leave it out all the same."""
    parts = Parts()
    session = parts.session(a=b"SET a = 1")
    session.data_received(wire.message(b"Q"))
    await turn()
    (connection,) = parts.opened
    session.state.pin("a reason", probe=False)  # now the end of a statement is looked at
    connection.data_received(wire.ready_for_query(b"I") + wire.message(b"C") + wire.ready_for_query(b"I"))
    assert kinds(client_got(session)) == "CZ"
    session.data_received(wire.message(b"D") + wire.message(b"S"))
    assert not session.closed
    session.close()


async def in_transaction() -> tuple[ClientSession, ServerConnection]:
    """A client that has begun one and read the answer, and the connection that it has for that."""
    parts = Parts()
    session = parts.session()
    session.data_received(wire.query(b"BEGIN"))
    await turn()
    (connection,) = parts.opened
    connection.data_received(wire.message(b"C", b"BEGIN\0") + wire.ready_for_query(b"T"))
    client_got(session)
    return session, connection


@pytest.mark.parametrize(
    ("asked", "told"),
    [(wire.query(b"COMMIT"), b"C08007\0"), (wire.query(b"INSERT"), b"C57P01\0"), (b"", b"C57P01\0")],
    ids=["commit", "statement", "nothing"],
)
async def test_of_a_commit_in_a_pinned_session_the_outcome_is_not_known(asked: bytes, told: bytes) -> None:
    session, connection = await in_transaction()
    session.state.pin("a reason", probe=False)
    if asked:
        session.data_received(asked)
    connection.data_received(GOING)
    assert told in client_got(session) and session.closed


async def test_a_commit_among_other_statements_of_a_batch_is_not_called_rolled_back() -> None:
    session, connection = await in_transaction()
    commit = (
        wire.parse(b"", b"COMMIT\0\0\0") + wire.message(b"B", b"\0\0\0\0\0\0\0\0") + wire.message(b"E", b"\0\0\0\0\0")
    )
    session.data_received(commit + BATCH)
    connection.data_received(GOING)
    assert b"C08007\0" in client_got(session)
    session.close()
