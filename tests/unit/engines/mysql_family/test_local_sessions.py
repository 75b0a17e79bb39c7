"""Errors of the driver end at the seam: what the engine answers is told in its words, and can be tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.constants import CR, ER

from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql.words import MYSQL_WORDS
from mainstay.engines.mysql_family import local_sessions
from mainstay.engines.mysql_family.checking import check_tables
from mainstay.engines.mysql_family.followers import Followers
from mainstay.engines.mysql_family.words import Words
from mainstay.engines.node_files import NodeFiles
from mainstay.model.errors import CannotLead, MainstayError, Refused, Transient

RUNNING = "This operation cannot be performed as you have a running replica"
NO = pymysql.err.OperationalError(ER.SLAVE_MUST_STOP, RUNNING)
GONE = pymysql.err.OperationalError(CR.CR_SERVER_LOST, "Lost connection")


class Answering:
    """A session in which every question has one answer."""

    def __init__(self, answer: Exception) -> None:
        self.answer = answer

    async def execute(self, *_: Any) -> Any:
        raise self.answer

    records = value = execute


@pytest.fixture(params=[MARIADB_WORDS, MYSQL_WORDS], ids=["mariadb", "mysql"])
def followers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Followers:
    words: Words = request.param

    async def ready(*_: Any) -> bool:
        return True

    monkeypatch.setattr(Followers, "_forces", ready)
    monkeypatch.setattr(Followers, "_keeps_up", ready)
    return Followers(words, str)


def answers(monkeypatch: pytest.MonkeyPatch, answer: Exception) -> None:
    @asynccontextmanager
    async def session(_sockets: Path, **_: Any) -> AsyncIterator[Answering]:
        yield Answering(answer)

    monkeypatch.setattr(local_sessions, "session", session)


@pytest.mark.parametrize(("answer", "told"), [(NO, RUNNING), (GONE, "does not answer")], ids=["answers", "gone"])
async def test_what_stands_in_the_way_of_a_step_is_told(
    followers: Followers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Exception, told: str
) -> None:
    answers(monkeypatch, answer)
    files = NodeFiles(tmp_path / "node-1", tmp_path / "sockets")
    for step in (
        followers.promote(files),
        followers.confirm_synchronous(files, "node-2"),
        check_tables(files, lambda done, total: None),
    ):
        with pytest.raises(Transient, match=told) as raised:
            await step
        assert not isinstance(raised.value, Refused | CannotLead)


async def test_what_every_engine_takes_and_one_does_not_says_that_it_cannot_be_operated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, NO)
    with pytest.raises(MainstayError) as raised:
        async with local_sessions.operating(NodeFiles(tmp_path / "node-1", tmp_path / "sockets")) as session:
            await session.execute("SELECT 1")
    assert isinstance(raised.value, Refused) and RUNNING in raised.value.message
