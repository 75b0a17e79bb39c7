"""The worker process: its jobs, its errors, and how it ends when it is told to or when its parent dies."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from harness.backups import workers_of
from mainstay.backups.collect import collect_garbage
from mainstay.backups.jobs import (
    BackupJob,
    CollectJob,
    CopyJob,
    Damage,
    Done,
    Job,
    Message,
    Place,
    Progressed,
    RestoreJob,
    Tree,
    VerifyJob,
)
from mainstay.backups.manifests import list_backups, list_intents, read_manifest
from mainstay.backups.objects import ObjectNotFound
from mainstay.backups.read import verify_backup
from mainstay.backups.sealing import Damaged
from mainstay.backups.streams import StreamBroken, Streaming
from mainstay.backups.worker import run_job
from mainstay.backups.write import Late
from mainstay.model.backup import SourceFile
from mainstay.model.errors import Permanent, Transient

KEY_A, KEY_B = bytes(range(32)), bytes(range(1, 33))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Where the tests' repository is."""
    return Place(url=str(tmp_path / "objects"), prefix="db-ONE/", data_key=KEY_A)


def contents(root: Path) -> dict[str, bytes]:
    """Path -> content of every file below."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def backup(place: Place, data: Path, backup_id: str = "one", base_id: str = "") -> BackupJob:
    """The job that backs the directory up."""
    return BackupJob(place=place, backup_id=backup_id, base_id=base_id, trees=(Tree(root=str(data)),))


async def test_backup_copy_verify_restore_and_collect(place: Place, data: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    done = await run_job(backup(place, data), report=lambda *both: progress.append(both))
    assert done.summary is not None and done.summary.files == 4
    assert progress[-1][0] == progress[-1][1] == done.summary.size
    other = Place(url=str(tmp_path / "elsewhere"), prefix="db-TWO/", data_key=KEY_B)
    copy = CopyJob(source=place, backup_id="one", target=other, target_id="copy")
    assert (await run_job(copy)).summary is not None
    assert await run_job(VerifyJob(place=other, backup_id="copy")) == Done()
    await run_job(RestoreJob(place=other, backup_id="copy", destination=str(tmp_path / "restored")))
    assert contents(tmp_path / "restored") == contents(data)
    assert (await run_job(CollectJob(place=place, delete=("one",)))).freed > 1 << 20
    assert place.open().objects.list("") == []


async def test_a_copy_onto_an_earlier_copy_stores_only_what_changed(place: Place, data: Path, tmp_path: Path) -> None:
    other = Place(url=str(tmp_path / "elsewhere"), prefix="db-TWO/", data_key=KEY_B)
    (data / "table").write_bytes(os.urandom(8 << 20))
    await run_job(backup(place, data))
    first = (await run_job(CopyJob(source=place, backup_id="one", target=other, target_id="one"))).summary
    with (data / "table").open("r+b") as file:
        file.seek(3 << 20)
        file.write(b"changed")
    await run_job(backup(place, data, "two", "one"))
    job = CopyJob(source=place, backup_id="two", target=other, target_id="two", base_id="one")
    second = (await run_job(job)).summary
    assert first and second and second.new == 8192 and second.stored < first.stored / 50
    await run_job(RestoreJob(place=other, backup_id="two", destination=str(tmp_path / "restored")))
    assert contents(tmp_path / "restored") == contents(data)


async def test_files_that_come_through_a_pipe_are_backed_up_and_half_of_them_are_not(
    place: Place, tmp_path: Path
) -> None:
    """As mbstream writes them: one file of ten bytes, then the same without its end."""
    name = (1).to_bytes(4, "little") + b"a"
    file = b"XBSTCK01\0P" + name + struct.pack("<QQI", 10, 0, zlib.crc32(b"0123456789")) + b"0123456789"
    for backup_id, sent in (("one", file + b"XBSTCK01\0E" + name), ("half", file)):
        reading, writing = os.pipe()
        os.write(writing, sent)
        os.close(writing)
        job = BackupJob(place=place, backup_id=backup_id, streaming=Streaming(descriptor=reading, size=10))
        if backup_id == "one":
            await run_job(job, pipe=reading)
        else:
            with pytest.raises(StreamBroken, match="ended within a"):
                await run_job(job, pipe=reading)
    assert list_backups(place.open()) == ["one"]
    await run_job(RestoreJob(place=place, backup_id="one", destination=str(tmp_path / "restored")))
    assert contents(tmp_path / "restored") == {"a": b"0123456789"}


async def test_what_the_engine_tells_in_the_end_is_part_of_the_backup(place: Place, data: Path, tmp_path: Path) -> None:
    asked_at: list[list[str]] = []

    async def late() -> Late:
        asked_at.append(list_backups(place.open()))
        label = SourceFile(path="backup_label", mode=0o600, content=b"\0label")
        return Late(sources=(label,), attributes={"stop": "0/2"})

    excluded = ("*/small", "empty/*", "version")
    job = BackupJob(
        place=place, backup_id="one", trees=(Tree(root=str(data), excluded=excluded),), ask_late=True,
        attributes={"start": "0/1"},
    )  # fmt: skip
    await run_job(job, late=late)
    assert asked_at == [[]]
    assert read_manifest(place.open(), "one").header.attributes == {"start": "0/1", "stop": "0/2"}
    await run_job(RestoreJob(place=place, backup_id="one", destination=str(tmp_path / "restored")))
    assert sorted(contents(tmp_path / "restored")) == ["backup_label", "base/1/large", "base/1/nothing"]
    assert (tmp_path / "restored" / "empty").is_dir()


async def test_errors_arrive_as_they_were_raised(place: Place, data: Path, tmp_path: Path) -> None:
    await run_job(backup(place, data))
    with pytest.raises(Permanent, match="already"):
        await run_job(backup(place, data))
    with pytest.raises(ObjectNotFound, match="manifests/two"):
        await run_job(RestoreJob(place=place, backup_id="two", destination=str(tmp_path / "restored")))
    wrong = Place(url=place.url, prefix=place.prefix, data_key=KEY_B)
    with pytest.raises(Damaged, match="another key"):
        await run_job(RestoreJob(place=wrong, backup_id="one", destination=str(tmp_path / "restored")))
    (damage,) = (await run_job(VerifyJob(place=wrong, backup_id="one"))).damages
    assert isinstance(damage, Damage) and damage.key == "db-ONE/manifests/one"
    with pytest.raises(Transient, match="within"):
        await run_job(VerifyJob(place=place, backup_id="one"), deadline_s=0.001)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as others")
async def test_root_acts_as_the_owner_of_the_files(place: Place, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "data" / "base").mkdir(parents=True)
        (root / "data" / "base" / "table").write_bytes(b"rows")
        (root / "secret").mkdir(mode=0o700)
        (root / "secret" / "table").write_bytes(b"of root")
        for path in (root / "data", *(root / "data").rglob("*")):
            os.chown(path, 4321, 4322)
            path.chmod(0o700 if path.is_dir() else 0o600)
        job = BackupJob(place=place, backup_id="one", trees=(Tree(root=str(root / "data")),), uid=4321, gid=4322)
        await run_job(job)
        (root / "restored").mkdir()
        os.chown(root / "restored", 4321, 4322)
        destination = str(root / "restored")
        await run_job(RestoreJob(place=place, backup_id="one", destination=destination, uid=4321, gid=4322))
        table = root / "restored" / "base" / "table"
        assert (table.stat().st_uid, table.stat().st_gid, table.read_bytes()) == (4321, 4322, b"rows")
        # The owner of the files points elsewhere: as root that would be read.
        shutil.rmtree(root / "data" / "base")
        (root / "data" / "base").symlink_to(root / "secret")
        source = SourceFile(path="base/table", mode=0o600, size=7, origin=str(root / "data" / "base" / "table"))
        stray = BackupJob(place=place, backup_id="two", sources=(source,), uid=4321, gid=4322)
        with pytest.raises(Permanent, match="Permission denied"):
            await run_job(stray)


@contextmanager
def started(job: Job) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that has got its job."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mainstay.backups"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.communicate()


def read_message(process: subprocess.Popen[bytes]) -> Message:
    assert process.stdout is not None
    message: Message = msgspec.json.decode(process.stdout.readline(), type=Message)
    return message


def test_it_ends_when_its_parent_dies_and_when_it_is_told_to(place: Place, data: Path) -> None:
    (data / "table").write_bytes(os.urandom(64 << 20))
    with started(backup(place, data)) as process:
        assert isinstance(read_message(process), Progressed)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(15) == 3
        process.stdin = None
    with started(backup(place, data, "two")) as process:
        assert isinstance(read_message(process), Progressed)
        process.terminate()
        assert process.wait(15) == 3
    assert list_backups(place.open()) == []


def test_a_backup_has_low_priority_and_its_keys_are_in_no_argument(place: Place, data: Path) -> None:
    (data / "table").write_bytes(os.urandom(64 << 20))
    with started(backup(place, data)) as process:
        read_message(process)
        running = psutil.Process(process.pid)
        assert running.nice() == min(19, os.nice(0) + 10)
        assert running.ionice().value == 7
        assert running.cmdline() == [sys.executable, "-m", "mainstay.backups"]
        assert "AAECAw" not in " ".join(running.environ().values())


def test_a_place_does_not_show_its_key(place: Place) -> None:
    assert "AAECAw" not in repr(backup(place, Path("/x"))) and repr(KEY_A) not in repr(backup(place, Path("/x")))


async def test_a_cancelled_caller_leaves_no_worker(place: Place, data: Path) -> None:
    (data / "table").write_bytes(os.urandom(64 << 20))
    begun = asyncio.Event()
    task = asyncio.create_task(run_job(backup(place, data), report=lambda *_: begun.set()))
    await asyncio.wait_for(begun.wait(), 20)
    workers = workers_of(os.getpid())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert workers and not any(worker.is_running() for worker in workers)


def test_killed_at_any_moment_it_leaves_no_half_backup_and_the_next_run_succeeds(
    place: Place, data: Path, tmp_path: Path
) -> None:
    chance = random.Random(7)
    (data / "table").write_bytes(os.urandom(48 << 20))
    killed_at_work = 0
    for number in range(6):
        with started(backup(place, data, f"killed-{number}")) as process:
            read_message(process)
            time.sleep(chance.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        repository = place.open()
        killed_at_work += f"killed-{number}" in list_intents(repository)
        for backup_id in list_backups(repository):
            assert verify_backup(repository, backup_id) == []
    assert killed_at_work >= 2, "the kills came too early or too late to show anything"
    with started(backup(place, data, "whole")) as process:
        assert process.stdin is not None
        while not isinstance(message := read_message(process), Done):
            assert isinstance(message, Progressed)
    repository = place.open()
    needed = {key for key, _ in repository.objects.list("")}
    collect_garbage(repository, ())
    kept = {key for key, _ in repository.objects.list("")}
    assert kept < needed and list_intents(repository) == []
    for backup_id in list_backups(repository):
        assert verify_backup(repository, backup_id) == []
        repository.objects.delete([repository.key(f"manifests/{backup_id}")])
    collect_garbage(repository, ())
    assert repository.objects.list("") == []
    assert list((tmp_path / "objects" / ".writing").iterdir()) == []
