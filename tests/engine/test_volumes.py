"""Instances on volumes of their own, with a real engine: a size that is a limit, data that needs its key."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.pairs import MultiAZ
from harness.service import Service, eventually
from harness.volumes import ask_agent, why_not
from mainstay.host.volumes.image import can_resize_mounted
from mainstay.host.volumes.loops import devices_of
from mainstay.host.volumes.mounts import mounts_below

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not("image", False)), reason=why_not("image", False)),
]
MIB = 1 << 20
CANARY = "canary-" + os.urandom(16).hex()


@pytest.fixture
def sized() -> Iterator[Service]:
    """A service whose instances have images; nothing of them may be left at the end."""
    with Service(volumes="image") as service:
        yield service
        nodes = service.home / "agent" / "nodes"
        service.cli("down")
        assert not mounts_below(nodes)
        assert not [device for image in nodes.glob("*/volume.img*") for device in devices_of(image)]


@pytest.fixture
def encrypting() -> Iterator[Service]:
    if reason := why_not("image", True):
        pytest.skip(reason)
    with Service() as service:
        yield service
        service.cli("down")
        assert not mounts_below(service.home / "agent")


def root_of(service: Service, identifier: str) -> Path:
    return service.home / "agent" / "nodes" / str(service.node(identifier)["node"])


def events(service: Service, identifier: str) -> list[str]:
    found = service.client("rds").describe_events(SourceIdentifier=identifier, SourceType="db-instance", Duration=60)
    return [one["Message"] for one in found["Events"]]


def one(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]


def grows(service: Service, identifier: str, size_gib: int) -> None:
    """Returns when the instance is available with this storage."""
    service.client("rds").modify_db_instance(
        DBInstanceIdentifier=identifier, AllocatedStorage=size_gib, ApplyImmediately=True
    )
    eventually(
        lambda: (
            (seen := service.describe(identifier))["DBInstanceStatus"] == "available"
            and seen["AllocatedStorage"] == size_gib
        )
    )


def test_a_full_storage_is_a_status_that_an_increase_heals(sized: Service) -> None:
    instance = sized.create_instance("full", StorageType="standard", AllocatedStorage=5)
    root = root_of(sized, "full")
    with sized.connect(instance) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
        connection.execute("CREATE TABLE big (filler text)")
    free = os.statvfs(root / "volume")
    ballast = root / "volume" / "ballast"
    subprocess.run(
        ["fallocate", "-l", str(free.f_bavail * free.f_frsize - 100 * MIB), str(ballast)], check=True, timeout=30
    )
    sized.kill("agent")  # it looks at once when it comes up
    eventually(lambda: any("storage capacity for the DB instance is low" in text for text in events(sized, "full")))
    sized.await_status("full", "available")  # and not storage-full; a new agent has yet to look at it
    kept = 1
    with pytest.raises(psycopg.Error):
        while True:  # until there is no room for the log either, which ends the engine
            with sized.connect(instance, connect_timeout=2) as connection:
                connection.execute("INSERT INTO kept SELECT 1")
                kept += 1
                connection.execute(
                    "INSERT INTO big SELECT repeat(md5(random()::text), 30) FROM generate_series(1, 5000)"
                )
    sized.await_status("full", "storage-full")
    texts = events(sized, "full")
    assert texts.count("Allocated storage has been exhausted") == 1
    assert sum("is low" in text for text in texts) == 1
    grows(sized, "full", 7)
    with sized.connect(instance) as connection:
        assert one(connection, "SELECT count(*) FROM kept") >= kept
        connection.execute("INSERT INTO big SELECT repeat('x', 1000) FROM generate_series(1, 10000)")
    assert sized.describe("full")["DBInstanceStatus"] == "available"
    sized.delete_instance("full")
    assert not root.exists() and not mounts_below(sized.home)


def test_a_full_storage_with_a_maximum_heals_by_itself(sized: Service) -> None:
    instance = sized.create_instance("growing", StorageType="gp3", AllocatedStorage=20, MaxAllocatedStorage=27)
    root = root_of(sized, "growing")
    with sized.connect(instance) as connection:
        connection.execute("CREATE TABLE big (filler text)")
    free = os.statvfs(root / "volume")
    ballast = root / "volume" / "ballast"  # which takes nothing of the host: it is only promised
    subprocess.run(
        ["fallocate", "-l", str(free.f_bavail * free.f_frsize - 100 * MIB), str(ballast)], check=True, timeout=30
    )
    with pytest.raises(psycopg.Error):
        while True:
            with sized.connect(instance, connect_timeout=2) as connection:
                connection.execute(
                    "INSERT INTO big SELECT repeat(md5(random()::text), 30) FROM generate_series(1, 5000)"
                )
    eventually(
        lambda: (
            (seen := sized.describe("growing"))["DBInstanceStatus"] == "available" and seen["AllocatedStorage"] == 27
        )
    )
    with sized.connect(instance) as connection:
        connection.execute("INSERT INTO big SELECT repeat('x', 1000) FROM generate_series(1, 10000)")
    texts = events(sized, "growing")
    assert "Applying autoscaling-initiated modification to allocated storage" in texts
    assert "Finished applying autoscaling-initiated modification to allocated storage" in texts
    assert any("is approaching the maximum storage threshold 27 GB" in text for text in texts)
    assert sized.describe("growing")["MaxAllocatedStorage"] == 27
    sized.delete_instance("growing")


def test_an_engine_that_died_of_a_full_volume_comes_back_by_itself_when_it_is_larger(sized: Service) -> None:
    instance = sized.create_instance("dead", StorageType="standard", AllocatedStorage=5)
    root = root_of(sized, "dead")
    with sized.connect(instance) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
        connection.execute("CHECKPOINT")
    free = os.statvfs(root / "volume")
    ballast = root / "volume" / "ballast"
    subprocess.run(["fallocate", "-l", str(free.f_bavail * free.f_frsize - MIB), str(ballast)], check=True, timeout=30)
    with pytest.raises(psycopg.Error), sized.connect(instance) as connection:
        for number in range(100):  # the segments that are there are used up: the next one has no room
            connection.execute(f"SELECT pg_logical_emit_message(false, 'x', repeat('{number}', 8000000))")
    sized.await_status("dead", "storage-full")
    eventually(lambda: "storage is full" in sized.node("dead")["failure"] or sized.node("dead")["pid"] == 0)
    grows(sized, "dead", 6)
    with sized.connect(instance) as connection:
        assert one(connection, "SELECT count(*) FROM kept") == 1


def test_an_instance_survives_agent_kills_restarts_and_a_machine_that_went_down(sized: Service) -> None:
    instance = sized.create_instance("kept")
    root = root_of(sized, "kept")
    with sized.connect(instance) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
        sized.kill("agent")
        assert one(connection, "SELECT count(*) FROM kept") == 1, "the engine never noticed"
    sized.cli("down")
    assert not mounts_below(root) and not devices_of(root / "volume.img"), "as after a reboot"
    sized.cli("up", "--detach")
    sized.await_status("kept", "available")
    with sized.connect(instance) as connection:
        assert one(connection, "SELECT count(*) FROM kept") == 1
    grows(sized, "kept", 25)
    with sized.connect(instance) as connection:
        assert one(connection, "SELECT count(*) FROM kept") == 1
    assert (root / "volume.img").stat().st_size == 25 << 30


def holds(file: Path, text: str) -> bool:
    """Whether the text is anywhere in the file, holes skipped."""
    found = subprocess.run(["grep", "-q", "-a", "-F", text, str(file)], timeout=120, check=False)
    return found.returncode == 0


def write_canary(service: Service, instance: dict[str, Any]) -> None:
    with service.connect(instance) as connection:
        connection.execute("CREATE TABLE canary (value text)")
        connection.execute(f"INSERT INTO canary SELECT '{CANARY}' FROM generate_series(1, 1000)")
        connection.execute("CHECKPOINT")


def test_no_plain_text_is_in_the_image_of_an_encrypted_instance(encrypting: Service, sized: Service) -> None:
    found = {}
    for name, service in (("encrypted", encrypting), ("plain", sized)):
        instance = service.create_instance(
            "canary", StorageType="standard", AllocatedStorage=5, StorageEncrypted=service is encrypting
        )
        assert instance["StorageEncrypted"] == (service is encrypting)
        write_canary(service, instance)
        found[name] = holds(root_of(service, "canary") / "volume.img", CANARY)
    assert found == {"encrypted": False, "plain": True}


def test_the_key_of_an_encrypted_volume_is_in_no_file_of_the_agent(encrypting: Service) -> None:
    encrypting.create_instance("secret", StorageEncrypted=True)
    spec = (root_of(encrypting, "secret") / "spec.json").read_text()
    assert '"volume":{"driver":"image"' in spec and "data_key" not in spec
    encrypting.kill("agent")
    encrypting.await_status("secret", "available")
    eventually(lambda: not encrypting.node("secret")["failure"])


async def test_a_locked_volume_stops_the_engine_and_its_key_brings_it_back(encrypting: Service) -> None:
    instance = encrypting.create_instance("locked", StorageType="standard", AllocatedStorage=5, StorageEncrypted=True)
    write_canary(encrypting, instance)
    node = encrypting.node("locked")
    data = root_of(encrypting, "locked") / "volume" / "data"
    assert (data / "PG_VERSION").exists()
    connection = encrypting.connect(instance)
    with encrypting.stopped("control"):  # else it gives the key back at once, for nobody has disabled it
        await ask_agent(encrypting, "lock_node", node_id=node["node"])
        with pytest.raises(psycopg.Error):
            for _ in range(100):
                connection.execute("SELECT count(*) FROM canary").fetchone()
                psycopg.connect(
                    host=instance["Endpoint"]["Address"], port=instance["Endpoint"]["Port"], connect_timeout=2
                ).close()
        connection.close()
        eventually(lambda: not data.exists() and not mounts_below(data.parent.parent), timeout_s=20)
        pids = subprocess.run(["pgrep", "-f", str(data)], capture_output=True, text=True, check=False).stdout.split()
        assert not pids, "nothing of the engine is left"
        encrypting.kill("agent")  # who comes after it knows no key
        eventually(lambda: data.parent.parent.exists() and not data.exists())
    eventually(lambda: encrypting.describe("locked")["DBInstanceStatus"] == "available")
    with encrypting.connect(instance) as connection:
        assert one(connection, "SELECT count(*) FROM canary") == 1000


def test_an_encrypted_instance_comes_up_again_by_itself_after_a_reboot(encrypting: Service) -> None:
    instance = encrypting.create_instance("boot", StorageType="standard", AllocatedStorage=5, StorageEncrypted=True)
    write_canary(encrypting, instance)
    encrypting.cli("down")
    assert not mounts_below(encrypting.home)
    encrypting.cli("up", "--detach")
    encrypting.await_status("boot", "available")
    with encrypting.connect(instance) as connection:
        assert one(connection, "SELECT count(*) FROM canary") == 1000
    grows(encrypting, "boot", 6)
    with encrypting.connect(instance) as connection:
        assert one(connection, "SELECT count(*) FROM canary") == 1000


def test_both_nodes_of_a_multi_az_instance_grow_and_stay_in_sync(sized: Service) -> None:
    instance = sized.create_instance("pair", StorageType="standard", AllocatedStorage=5, MultiAZ=True)
    pair = MultiAZ(sized, instance)
    pair.await_in_sync()
    with sized.connect(instance) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
    grows(sized, "pair", 6)
    images = [sized.home / "agent" / "nodes" / node_id / "volume.img" for node_id in pair.node_ids]
    assert [image.stat().st_size for image in images] == [6 << 30, 6 << 30]
    pair.await_in_sync()
    with sized.connect(instance) as connection:
        assert one(connection, "SELECT count(*) FROM kept") == 1
    if not can_resize_mounted():
        assert pair.record.epoch == 2, "the standby's grew first, and it took over"


def test_a_stop_on_a_full_volume_is_an_orderly_one(sized: Service) -> None:
    instance = sized.create_instance("orderly", StorageType="standard", AllocatedStorage=5)
    root = root_of(sized, "orderly")
    with sized.connect(instance) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 100000) AS id")
    free = os.statvfs(root / "volume")
    ballast = root / "volume" / "ballast"
    subprocess.run(["fallocate", "-l", str(free.f_bavail * free.f_frsize), str(ballast)], check=True, timeout=30)
    sized.kill("agent")
    sized.await_status("orderly", "storage-full")
    sized.cli("down")
    sized.cli("up", "--detach")
    eventually(lambda: sized.describe("orderly")["DBInstanceStatus"] in ("storage-full", "available"))
    grows(sized, "orderly", 6)
    logs = "".join(path.read_text() for path in (root / "log").rglob("*") if path.is_file())
    assert "database system was shut down at" in logs and "PANIC" not in logs
    assert "was not properly shut down" not in logs.split("received fast shutdown request")[-1]
    with sized.connect(instance) as connection:
        assert one(connection, "SELECT count(*) FROM kept") == 100000
