"""Which database our sessions are in before there is one of our own."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from mainstay.engines.postgresql import sessions


async def test_no_session_is_in_template1_where_it_would_keep_databases_from_being_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked_for: list[str] = []

    async def connect(*_: object, dbname: str, **__: object) -> str:
        asked_for.append(dbname)
        if dbname == "rdsadmin":
            raise psycopg.OperationalError(f'FATAL:  database "{dbname}" does not exist')
        return "a session"

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", connect)
    session: object = await sessions.connect(Path("/nowhere"), 1)
    assert session == "a session"
    assert asked_for == ["rdsadmin", "postgres"]
