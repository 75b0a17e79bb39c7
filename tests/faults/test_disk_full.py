"""A full disk below one service: clear refusals, nothing lost, a neighbour unaffected, and healing by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError

from harness.full_disk import fill
from harness.service import Service, eventually

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root"),
]

SIZE = "400m"


class CrampedService(Service):
    """A service whose home is a small file system of its own."""

    def __enter__(self) -> Service:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0711", "tmpfs", str(self.home)], check=True, timeout=20
        )
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        self.cli("down")
        subprocess.run(["umount", "-l", str(self.home)], check=True, timeout=20)
        self.home.rmdir()


@pytest.fixture
def cramped() -> Iterator[Service]:
    try:
        service = CrampedService()
        with service:
            yield service
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine does not let us mount: {error}")


def inserts(service: Service, instance: dict[str, Any]) -> bool:
    try:
        with service.connect(instance) as connection:
            connection.execute("INSERT INTO kept SELECT 1")
    except psycopg.Error:
        return False
    return True


def test_full_disk(cramped: Service) -> None:
    instance = cramped.create_instance("tight")
    with cramped.connect(instance) as connection:
        connection.execute("CREATE TABLE kept (id int)")
        connection.execute("INSERT INTO kept SELECT 1")
    with Service() as neighbour:
        beside = neighbour.create_instance("roomy")
        ballast = cramped.home / "ballast"
        fill(ballast)
        with pytest.raises(psycopg.Error, match=r"No space left|could not|recovery|starting|terminat|closed|refused"):
            with cramped.connect(instance) as connection:
                connection.execute("CREATE TABLE big AS SELECT repeat('x', 2000) FROM generate_series(1, 50000)")
        with pytest.raises(ClientError) as refusal:
            for number in range(200):
                cramped.client("rds").create_db_parameter_group(
                    DBParameterGroupName=f"g{number}", DBParameterGroupFamily="postgres17", Description="d" * 200
                )
        print(f"API with a full disk: {refusal.value}")
        assert refusal.value.response["Error"]["Code"] in ("ServiceUnavailable", "StorageQuotaExceeded")
        cramped.describe("tight")
        with neighbour.connect(beside) as connection:
            connection.execute("CREATE TABLE fine AS SELECT 1")
        ballast.unlink()
        eventually(lambda: inserts(cramped, instance))
        eventually(lambda: cramped.describe("tight")["DBInstanceStatus"] == "available")
        with cramped.connect(instance) as connection:
            row = connection.execute("SELECT count(*) FROM kept").fetchone()
            assert row is not None and row[0] >= 2
