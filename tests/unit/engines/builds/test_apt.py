"""The private apt, against a real signed archive in a directory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.debian_archive import Archive
from mainstay.engines.builds import apt
from mainstay.engines.builds.apt import Package, PrivateApt, parse_closure
from mainstay.engines.builds.mirrors import Mirrors
from mainstay.model.errors import Permanent, Transient

SUITE = "trixie"


def quiet(_phase: str, _share: float) -> None:
    """A progress nobody watches."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    made = tmp_path / "cache"
    made.mkdir()
    return made


@pytest.fixture
def private_apt(archive: Archive, tmp_path: Path) -> PrivateApt:
    archive.add("engine", "1:7.1-2", depends="library (>= 3)")
    archive.add("library", "3.0")
    archive.add("bystander", "1")
    archive.publish()
    return PrivateApt(tmp_path / "apt", SUITE, Mirrors(archive.uri), archive.keyring)


def test_the_closure_of_a_package_is_downloaded_and_nothing_else(private_apt: PrivateApt, cache: Path) -> None:
    packages = private_apt.download(("engine",), (), cache, quiet)
    assert sorted((one.name, one.version) for one in packages) == [("engine", "1:7.1-2"), ("library", "3.0")]
    assert sorted(path.name for path in cache.iterdir()) == sorted(one.file for one in packages)
    assert all(one.is_at(cache) for one in packages)


def test_what_is_not_needed_is_not_downloaded(private_apt: PrivateApt, cache: Path) -> None:
    assert [one.name for one in private_apt.download(("engine",), ("lib*",), cache, quiet)] == ["engine"]
    assert len(list(cache.iterdir())) == 1


def test_a_second_time_downloads_nothing_and_works_without_the_mirror(
    private_apt: PrivateApt, cache: Path, archive: Archive
) -> None:
    first = private_apt.download(("engine",), (), cache, quiet)
    (archive.root).rename(archive.root.with_name("gone"))
    assert private_apt.download(("engine",), (), cache, quiet) == first
    (cache / first[0].file).unlink()
    with pytest.raises(Transient, match="apt failed") as caught:
        private_apt.download(("engine",), (), cache, quiet)
    assert "network" in caught.value.hint


def test_a_damaged_file_in_the_cache_is_fetched_again(private_apt: PrivateApt, cache: Path) -> None:
    package = private_apt.download(("engine",), (), cache, quiet)[0]
    path = cache / package.file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert not package.is_at(cache)
    private_apt.download(("engine",), (), cache, quiet)
    assert package.is_at(cache)


def test_a_package_that_is_not_what_the_archive_signed_is_refused(
    private_apt: PrivateApt, cache: Path, archive: Archive
) -> None:
    deb = next((archive.root / "pool").glob("library_*"))
    content = bytearray(deb.read_bytes())
    content[-1] ^= 1
    deb.write_bytes(content)
    with pytest.raises(Transient):
        private_apt.download(("engine",), (), cache, quiet)
    assert not (cache / deb.name).exists()


def test_package_lists_signed_by_another_key_are_refused(archive: Archive, tmp_path: Path, cache: Path) -> None:
    archive.add("engine", "1")
    archive.publish()
    private = PrivateApt(tmp_path / "apt", SUITE, Mirrors(archive.uri))
    if not apt.KEYRING.exists():
        pytest.skip("the host has no Debian keyring")
    with pytest.raises(Transient, match=r"not signed|NO_PUBKEY|couldn't be verified"):
        private.download(("engine",), (), cache, quiet)


def test_a_package_that_does_not_exist_is_a_permanent_error(private_apt: PrivateApt, cache: Path) -> None:
    with pytest.raises(Permanent, match="does not have the packages"):
        private_apt.download(("no-such-thing",), (), cache, quiet)


def test_too_little_room_is_noticed_before_the_download(
    private_apt: PrivateApt, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "ROOM_FACTOR", 1 << 60)
    with pytest.raises(Transient, match="MiB free"):
        private_apt.download(("engine",), (), cache, quiet)
    assert not list(cache.iterdir())


def test_without_the_keyring_the_hint_names_the_package(archive: Archive, tmp_path: Path, cache: Path) -> None:
    private = PrivateApt(tmp_path / "apt", SUITE, Mirrors(archive.uri), tmp_path / "none.gpg")
    with pytest.raises(Permanent) as caught:
        private.download(("engine",), (), cache, quiet)
    assert "debian-archive-keyring" in caught.value.hint


def test_the_hosts_apt_is_left_alone(private_apt: PrivateApt, cache: Path, tmp_path: Path) -> None:
    private_apt.download(("engine",), (), cache, quiet)
    text = (tmp_path / "apt" / "apt.conf").read_text()
    dumped = subprocess.run(
        ["apt-config", "dump"], check=True, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "APT_CONFIG": str(tmp_path / "apt" / "apt.conf")},
    ).stdout  # fmt: skip
    assert "Invoke" not in dumped, "hooks of the host would run"
    assert f'Dir::State "{tmp_path}/apt/state"' in text
    assert "Valid-Until" not in "".join(line for line in text.splitlines() if line.startswith("APT"))


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("E: Write error - write (28: No space left on device)", Transient, "disk is full"),
        ("E: You don't have enough free space in /x/.", Transient, "disk is full"),
        ("E: Unable to locate package x", Permanent, "does not have the packages"),
        ("E: Failed to fetch http://m/x  Connection refused", Transient, "apt failed: E: Failed to fetch"),
        ("strange\nwords", Transient, "words"),
    ],
)
def test_what_apt_says_becomes_an_error_with_a_hint(said: str, kind: type[Exception], words: str) -> None:
    error = apt._failure(said)
    assert type(error) is kind
    assert words in error.message
    assert error.hint


def test_only_complete_lines_with_a_sha256_are_packages() -> None:
    digest = "a" * 64
    printed = (
        f"'http://m/pool/e/engine_1%3a7.1-2_amd64.deb' engine_1%3a7.1-2_amd64.deb 12 SHA256:{digest}\n"
        "'http://m/x_1_all.deb' x_1_all.deb 12 MD5Sum:abc\n"
        f"'http://m/y' ../y_1_all.deb/../../z 12 SHA256:{digest}\n"
    )
    assert parse_closure(printed) == [
        Package(name="engine", version="1:7.1-2", file="engine_1%3a7.1-2_amd64.deb", size_bytes=12, sha256=digest)
    ]
