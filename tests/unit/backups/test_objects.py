"""One suite for every object storage: in memory, in a directory, and real servers of S3 and of Azure over HTTP."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from harness.azure import azure_server
from harness.s3 import OPTIONS, NotInstallable, s3_server
from mainstay.backups import directory_objects
from mainstay.backups.directory_objects import WRITING, DirectoryObjects
from mainstay.backups.manifests import list_backups, read_manifest
from mainstay.backups.objects import (
    KEY_LENGTH_MAX,
    MemoryObjects,
    ObjectNotFound,
    Objects,
    load_options,
    object_storage,
    open_objects,
)
from mainstay.backups.remote_objects import RemoteObjects
from mainstay.backups.repository import Repository
from mainstay.backups.restore import restore_backup
from mainstay.backups.sources import walk
from mainstay.backups.write import write_backup
from mainstay.host.layout import environment
from mainstay.host.randomness import SystemRandomness
from mainstay.model.errors import MainstayError, Permanent, Transient
from mainstay.settings import load_settings

pytestmark = pytest.mark.timeout(400)  # the first time, the S3 server is installed first


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server that speaks S3, with the bucket `backups`."""
    try:
        with s3_server() as url:
            urlopen(Request(f"{url}/backups", method="PUT"), timeout=10).close()  # noqa: S310 - our own loopback address
            yield url
    except NotInstallable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def azure() -> Iterator[dict[str, str]]:
    """Options for a server that speaks Azure's, with the container `backups`."""
    try:
        with azure_server("backups") as options:
            yield options
    except NotInstallable as error:
        pytest.skip(str(error))


@pytest.fixture(params=["memory", "directory", "s3", "azure"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """An empty object storage."""
    if request.param == "memory":
        return MemoryObjects()
    if request.param == "directory":
        return open_objects(str(tmp_path / "objects"), {})
    if request.param == "azure":
        return open_objects(f"az://backups/{tmp_path.name}", request.getfixturevalue("azure"))
    options = OPTIONS | {"aws_endpoint": request.getfixturevalue("endpoint")}
    return open_objects(f"s3://backups/{tmp_path.name}", options)


def test_what_is_put_is_there_until_deleted(objects: Objects) -> None:
    assert objects.list("") == []
    content = os.urandom(100_000)
    objects.put("a/b/one", content)
    objects.put("a/b/one", content[:99_999])
    objects.put("a/two", b"")
    assert objects.get("a/b/one") == content[:99_999]
    assert objects.get("a/two") == b""
    assert (objects.size("a/b/one"), objects.size("a/two")) == (99_999, 0)
    objects.delete(["a/b/one", "a/b/never", "never/never"])
    objects.delete(["a/b/one"])
    objects.delete([])
    assert objects.list("") == [("a/two", 0)]


def test_absent_objects_are_not_found(objects: Objects) -> None:
    objects.put("a/b", b"x")
    for key in ("a/c", "b", "a/b/c", "x/y/z"):
        for call in (objects.get, objects.size, lambda key: objects.get_range(key, 0, 1)):
            with pytest.raises(ObjectNotFound, match=key):
                call(key)


def test_ranges_end_where_the_object_ends(objects: Objects) -> None:
    objects.put("a", bytes(range(10)))
    for start, length in ((0, 10), (0, 1), (3, 4), (9, 1), (3, 100), (10, 1), (11, 5), (0, 0)):
        assert objects.get_range("a", start, length) == bytes(range(10))[start : start + length]


def test_lists_are_of_directories_and_sorted(objects: Objects) -> None:
    for key in ("a/x", "a/b/2", "a/b/1", "ab/1", "a.c/1", "b", "A/1"):
        objects.put(key, key.encode())
    assert objects.list("") == sorted((key, len(key)) for key in ("a/x", "a/b/2", "a/b/1", "ab/1", "a.c/1", "b", "A/1"))
    assert objects.list("a/") == [("a/b/1", 5), ("a/b/2", 5), ("a/x", 3)]
    assert objects.list("a/b/") == [("a/b/1", 5), ("a/b/2", 5)]
    assert objects.list("c/") == []
    with pytest.raises(Permanent, match="slash"):
        objects.list("a")


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "..", "../a", "a/../b", "./a", ".writing/x", "a/.b", "a\nb", "a b", "ä", "a\0",
     "a" * (KEY_LENGTH_MAX + 1), "a" * 201, "-a"],
)  # fmt: skip
def test_keys_that_are_no_plain_paths_are_refused(key: str, objects: Objects) -> None:
    for call in (objects.get, objects.size, lambda key: objects.put(key, b""), lambda key: objects.delete([key])):
        with pytest.raises(Permanent, match="cannot be the key"):
            call(key)


def test_the_longest_keys_are_possible(objects: Objects) -> None:
    key = "/".join(["n" * 127] * 4)
    assert len(key) < KEY_LENGTH_MAX
    objects.put(key, b"x")
    assert objects.list("") == [(key, 1)]


def test_many_threads_at_once(objects: Objects) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                # All in one directory, which the deletes empty again and again.
                objects.put(f"d/e/{number}", bytes([number]) * 1000)
                assert objects.get(f"d/e/{number}") == bytes([number]) * 1000
                if turn % 2:
                    objects.delete([f"d/e/{number}"])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == [] and objects.list("") == []


def test_two_writers_of_one_key_leave_one_content(objects: Objects) -> None:
    contents = [bytes([number]) * 50_000 for number in range(3)]

    def put_often(content: bytes) -> None:
        for _ in range(5):
            objects.put("a/b", content)

    threads = [threading.Thread(target=put_often, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert objects.get("a/b") in contents


def test_a_backup_goes_there_and_back(objects: Objects, data: Path, tmp_path: Path) -> None:
    repository = Repository(objects, "region/db-ONE/", bytes(32), SystemRandomness())
    write_backup(repository, "one", walk(data))
    assert list_backups(repository) == ["one"]
    restore_backup(repository, read_manifest(repository, "one"), tmp_path / "restored")
    for path in data.rglob("*"):
        assert path.is_dir() or (tmp_path / "restored" / path.relative_to(data)).read_bytes() == path.read_bytes()


# Directory


def test_files_are_private_and_the_root_is_made(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path / "a" / "objects")
    objects.put("x/y", b"secret")
    for path in (tmp_path / "a" / "objects").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_an_object_is_on_disk_before_put_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = DirectoryObjects(tmp_path)
    done: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "rename")}

    def fsync(descriptor: int) -> None:
        done.append("fsync " + os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(tmp_path)).partition(".")[0])
        real["fsync"](descriptor)

    def rename(source: Path, target: Path) -> None:
        real["rename"](source, target)
        done.append(f"rename {str(target).removeprefix(str(tmp_path))}")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    objects.put("x/y/z", b"content")
    assert done == ["fsync /", "fsync ", "fsync /x", "rename /x/y/z", "fsync /x/y"]
    done.clear()
    objects.put("x/y/z", b"again")
    assert done == ["fsync /", "rename /x/y/z", "fsync /x/y"]
    objects.delete(["x/y/z"])
    done.clear()
    objects.put("x/y/z", b"the directories had to be made again")
    assert done == ["fsync /", "fsync ", "fsync /x", "rename /x/y/z", "fsync /x/y"]


KILLED = """
import os, sys
from pathlib import Path
from mainstay.backups import directory_objects as module
objects = module.DirectoryObjects(Path(sys.argv[1]))
objects.put("old", b"old")
module.os.rename = lambda *_: os.kill(os.getpid(), 9)
objects.put("old", b"new")
"""


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode == -9
    leftovers = list((tmp_path / WRITING).iterdir())
    assert len(leftovers) == 1 and DirectoryObjects.__name__
    mine = tmp_path / WRITING / f"{directory_objects._writer(os.getpid())}.77"
    mine.write_bytes(b"being written")
    foreign = tmp_path / WRITING / "other-boot.1.1.0"
    foreign.write_bytes(b"by another host")
    ancient = tmp_path / WRITING / "other-boot.1.1.1"
    ancient.write_bytes(b"by another host, long ago")
    os.utime(ancient, (0, 0))
    objects = DirectoryObjects(tmp_path)
    assert sorted((tmp_path / WRITING).iterdir()) == sorted([mine, foreign])
    assert objects.list("") == [("old", 3)] and objects.get("old") == b"old"


@pytest.mark.parametrize(
    ("number", "family", "words"),
    [
        (errno.ENOSPC, Transient, "no room"),
        (errno.EDQUOT, Transient, "no room"),
        (errno.EIO, Transient, "cannot be used"),
        (errno.EACCES, Permanent, "cannot be used"),
        (errno.EROFS, Permanent, "cannot be used"),
    ],
)
def test_failures_of_the_disk_are_told_and_leave_nothing(
    number: int, family: type[MainstayError], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = DirectoryObjects(tmp_path)
    objects.put("a", b"old")

    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fails)
        with pytest.raises(family, match=words) as caught:
            objects.put("a", b"new")
    if words == "no room":
        assert "Free space" in caught.value.hint
    assert objects.get("a") == b"old" and list((tmp_path / WRITING).iterdir()) == []


def test_a_full_disk_stops_a_backup_and_leaves_none(data: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=True)
    try:
        (data / "table").write_bytes(os.urandom(5 << 20))
        repository = Repository(DirectoryObjects(disk), "", bytes(32), SystemRandomness())
        with pytest.raises(Transient, match="no room"):
            write_backup(repository, "one", walk(data))
        assert list_backups(repository) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path / "objects")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "objects" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(Permanent):
        objects.get("link")
    assert objects.list("") == []


# URLs and remote storages


@pytest.mark.parametrize("url", ["", "relative", "ftp://x/y", "file://host/x", "http://x/y", "s3:/x"])
def test_what_is_no_object_storage_is_refused(url: str) -> None:
    with pytest.raises(Permanent, match="no object storage"):
        open_objects(url, {})


def test_the_settings_name_the_object_storage(tmp_path: Path) -> None:
    home = {"MAINSTAY_HOME": str(tmp_path)}
    assert object_storage(load_settings(home)) == (str(tmp_path / "objects"), {})
    file = tmp_path / "s3.toml"
    file.touch(mode=0o600)
    file.write_text('aws_region = "eu-west-1"\naws_secret_access_key = "abc"\n')
    settings = load_settings(home, object_storage="s3://b/p", object_storage_options=str(file))
    assert object_storage(settings) == ("s3://b/p", {"aws_region": "eu-west-1", "aws_secret_access_key": "abc"})
    assert not any("abc" in value for value in environment(settings, "agent").values())


@pytest.mark.parametrize(
    ("mode", "text", "told"),
    [
        (0o640, 'a = "b"', "read by other users"),
        (0o604, 'a = "b"', "read by other users"),
        (0o600, "secret word", "no TOML file of texts"),
        (0o600, "a = 1", "no TOML file of texts"),
        (0o600, '[t]\na = "secret word"', "no TOML file of texts"),
        (0o600, None, "cannot be read"),
    ],
)
def test_files_of_options_that_are_wrong_or_public_are_refused(
    mode: int, text: str | None, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "options.toml"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(Permanent, match=told) as caught:
        load_options(file)
    assert "secret word" not in str(caught.value)


@pytest.mark.parametrize("value", ["http://10.0.0.1:9000", "http://example.com", "ftp://127.0.0.1", "127.0.0.1:9000"])
def test_plain_http_is_for_loopback_only(value: str) -> None:
    with pytest.raises(Permanent, match="not https"):
        RemoteObjects("s3://backups", OPTIONS | {"aws_endpoint": value})


def test_unknown_options_and_unreachable_servers_are_told_without_credentials(endpoint: str) -> None:
    with pytest.raises(Permanent, match="cannot be used"):
        RemoteObjects("s3://backups", {"colour": "red"})
    remote = RemoteObjects("s3://nowhere", OPTIONS | {"aws_endpoint": endpoint})
    with pytest.raises(Permanent, match="does not exist") as caught:
        remote.put("a", b"x")
    assert OPTIONS["aws_secret_access_key"] not in str(caught.value)


def test_a_dead_server_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    from mainstay.backups import remote_objects

    monkeypatch.setattr(remote_objects, "RETRIES_MAX", 0)
    remote = RemoteObjects("s3://backups", OPTIONS | {"aws_endpoint": "http://127.0.0.1:1"})
    for call in (lambda: remote.get("a"), lambda: remote.list(""), lambda: remote.put("a", b"x")):
        with pytest.raises(Transient, match="failed at s3://backups"):
            call()


def test_the_default_directory_does_not_load_obstore(tmp_path: Path) -> None:
    script = (
        "import sys; from mainstay.backups.objects import open_objects; import mainstay.backups.worker;"
        "open_objects(sys.argv[1], {}).put('a', b'x'); sys.exit('obstore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 0
