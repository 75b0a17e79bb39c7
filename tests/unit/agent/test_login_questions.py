"""The socket at which an engine asks about IAM logins: what it is answered, whatever control does."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mainstay.agent import login_questions
from mainstay.agent.login_questions import CONNECTIONS_MAX, LoginQuestions
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.model.errors import Permanent, Transient

TOKEN = b"127.64.0.1:3306/?Action=connect&X-Amz-Signature=5ec7e7"


class Desk:
    """Control, and the questions that it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: bool | Exception | None = True

    async def __call__(self, question: dict[str, Any]) -> bool:
        self.asked.append(question)
        if self.answer is None:
            await asyncio.sleep(3600)
        if isinstance(self.answer, Exception):
            raise self.answer
        return bool(self.answer)


class World:
    def __init__(self, directory: Path) -> None:
        self.files = NodeFiles(root=directory, sockets=directory)
        self.desk = Desk()
        self.questions = LoginQuestions(self.desk, User("nobody"))

    def tend(self, *, listens: bool = True) -> None:
        self.questions.tend("node-1", "db-ONE", self.files if listens else None)

    async def ask(self, question: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self.files.login_socket))
        try:
            writer.write(question)
            async with asyncio.timeout(60):
                return await reader.read(10)
        finally:
            writer.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.tend()
    yield made
    await made.questions.stop()


async def test_control_decides(world: World) -> None:
    assert await world.ask(b"Talice\0" + TOKEN + b"\0") == b"Y"
    world.desk.answer = False
    assert await world.ask("Cünï\0".encode() + b"\0") == b"N"
    assert world.desk.asked == [
        {"resource_id": "db-ONE", "username": "alice", "token": TOKEN.decode(), "over_tls": True},
        {"resource_id": "db-ONE", "username": "ünï", "token": "", "over_tls": False},
    ]


@pytest.mark.parametrize("error", [Transient("away"), Permanent("no")])
async def test_without_an_answer_of_control_nobody_logs_in_and_nothing_of_the_token_is_logged(
    world: World, error: Exception
) -> None:
    world.desk.answer = error
    with capture_logs() as logs:
        assert await world.ask(b"Talice\0" + TOKEN + b"\0") == b"N"
    assert logs and "Signature" not in repr(logs)


async def test_control_that_hangs_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_questions, "TIMEOUT_S", 0.05)
    world.desk.answer = None
    assert await world.ask(b"Talice\0" + TOKEN + b"\0") == b"N"


@pytest.mark.parametrize("question", [b"Xalice\0token\0", b"\0\0", b"T" + b"x" * 70_000 + b"\0"])
async def test_what_is_no_question_is_refused_without_asking(world: World, question: bytes) -> None:
    assert await world.ask(question) == b"N"
    assert world.desk.asked == []


async def test_what_is_not_text_is_asked_as_what_matches_nobody(world: World) -> None:
    world.desk.answer = False
    assert await world.ask(b"T\xff\0to\xffken\0") == b"N"
    assert world.desk.asked[0]["username"] == "\ufffd" and world.desk.asked[0]["token"] == "to\ufffdken"


async def test_only_the_engines_user_can_ask_and_a_former_socket_is_replaced(world: World) -> None:
    mode = world.files.login_socket.stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    successor = LoginQuestions(world.desk, User("nobody", os.getuid(), os.getgid()))
    successor.tend("node-1", "db-ONE", world.files)
    assert await world.ask(b"Talice\0token\0") == b"Y"
    await successor.stop()


async def test_nobody_is_answered_when_the_engine_does_not_run(world: World) -> None:
    world.tend(listens=False)
    world.tend(listens=False)
    with pytest.raises(OSError, match="refused"):
        await world.ask(b"Talice\0token\0")
    world.tend()
    assert await world.ask(b"Talice\0token\0") == b"Y"


async def test_a_directory_that_is_not_there_is_no_error_and_tried_again(tmp_path: Path) -> None:
    late = World(tmp_path / "late")
    late.tend()
    (tmp_path / "late").mkdir()
    late.tend()
    assert await late.ask(b"Talice\0token\0") == b"Y"
    await late.questions.stop()


async def test_more_than_so_many_at_once_are_turned_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CONNECTIONS_MAX > 2
    monkeypatch.setattr(login_questions, "CONNECTIONS_MAX", 1)
    world.desk.answer = None
    _reader, waiting = await asyncio.open_unix_connection(str(world.files.login_socket))
    waiting.write(b"Talice\0token\0")
    while not world.desk.asked:
        await asyncio.sleep(0.01)
    assert await world.ask(b"") == b""
    waiting.close()
