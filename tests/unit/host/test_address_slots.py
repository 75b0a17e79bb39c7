"""Claims on slots of loopback addresses: homes that are there, gone, not to be seen, and strangers that listen."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import threading
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from harness.service import new_home
from mainstay.host.address_slots import AddressSlots
from mainstay.workflows.addresses import SLOTS, blocks


def empty(_: int) -> Sequence[IPv4Network]:
    """Slots without addresses: nobody can listen there."""
    return ()


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    return tmp_path / "claims"


def home(tmp_path: Path, name: str) -> Path:
    made = tmp_path / name
    made.mkdir()
    return made


def test_each_home_has_a_slot_of_its_own_and_keeps_it(tmp_path: Path, claims: Path) -> None:
    slots = AddressSlots(claims)
    one, two = home(tmp_path, "one"), home(tmp_path, "two")
    assert slots.claim(one, [7, 8, 9], empty) == 7
    assert slots.claim(two, [7, 8, 9], empty) == 8
    assert slots.claim(one, [7, 8, 9], empty) == 7
    assert not slots.keep(two, 7) and slots.keep(two, 8)
    assert slots.claim(home(tmp_path, "three"), [7, 8], empty) is None
    assert stat.S_IMODE(claims.stat().st_mode) == 0o1777
    assert (claims / "7").read_text() == f"{one}\n"


def test_a_claim_ends_with_its_home(tmp_path: Path, claims: Path) -> None:
    slots = AddressSlots(claims)
    one, two = home(tmp_path, "one"), home(tmp_path, "two")
    slots.claim(one, [7], empty)
    one.rmdir()
    assert slots.claim(two, [7, 8], empty) == 7
    assert (claims / "7").read_text() == f"{two}\n"


def test_a_claim_that_was_cleaned_away_is_made_anew(tmp_path: Path, claims: Path) -> None:
    slots = AddressSlots(claims)
    one = home(tmp_path, "one")
    slots.claim(one, [7], empty)
    (claims / "7").unlink()
    assert slots.keep(one, 7)
    assert (claims / "7").read_text() == f"{one}\n"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\0", b"x" * 5000, b"/root/" + b"x" * 300])
def test_a_claim_that_says_nothing_is_somebodys(tmp_path: Path, claims: Path, content: bytes) -> None:
    slots = AddressSlots(claims)
    slots.claim(home(tmp_path, "one"), [1], empty)
    (claims / "7").write_bytes(content)
    if content.startswith(b"\xff"):  # a relative path that is not there
        assert slots.claim(home(tmp_path, "two"), [7, 8], empty) == 7
    else:
        assert slots.claim(home(tmp_path, "two"), [7, 8], empty) == 8


def test_a_trap_in_place_of_a_claim(tmp_path: Path, claims: Path) -> None:
    slots = AddressSlots(claims)
    slots.claim(home(tmp_path, "one"), [1], empty)
    victim = tmp_path / "victim"
    (claims / "5").symlink_to(victim)
    (claims / "6").mkdir()
    os.mkfifo(claims / "7")
    assert slots.claim(home(tmp_path, "two"), [5, 6, 7, 8], empty) == 8
    assert not victim.exists()


def test_a_slot_in_which_somebody_listens_is_left_alone(tmp_path: Path, claims: Path) -> None:
    number = 300
    endpoints, nodes = blocks(number)
    for block in (endpoints, nodes):
        with socket.create_server((str(block[9]), 0)):
            for slots in (AddressSlots(claims), AddressSlots(Path("/nonexistent/claims"))):
                one = home(tmp_path, f"{block.network_address}{id(slots)}")
                assert slots.claim(one, [number, number + 1], blocks) == number + 1
                one.rmdir()
    assert AddressSlots(claims).claim(home(tmp_path, "later"), [number], blocks) == number


@pytest.mark.parametrize("kind", ["not sticky", "a link", "a file"])
def test_a_directory_that_cannot_be_trusted_is_not_used(tmp_path: Path, claims: Path, kind: str) -> None:
    elsewhere = home(tmp_path, "elsewhere")
    if kind == "not sticky":
        claims.mkdir(mode=0o777)
    elif kind == "a link":
        claims.symlink_to(elsewhere)
    else:
        claims.touch()
    assert AddressSlots(claims).claim(home(tmp_path, "one"), [7], empty) == 7
    assert list(elsewhere.iterdir()) == []
    assert kind != "not sticky" or list(claims.iterdir()) == []


def test_many_at_once(tmp_path: Path, claims: Path) -> None:
    homes = [home(tmp_path, f"h{number}") for number in range(20)]
    got: list[int | None] = []
    threads = [
        threading.Thread(target=lambda one=one: got.append(AddressSlots(claims).claim(one, range(30), empty)))
        for one in homes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number in got if number is not None) == list(range(20))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_claims_of_another_user() -> None:
    tmp_path = new_home()  # of a directory that other users may pass through
    claims = tmp_path / "claims"
    slots = AddressSlots(claims)
    slots.claim(home(tmp_path, "one"), [1], empty)
    hidden = home(tmp_path, "hidden") / "home"
    (claims / "7").write_text(f"{hidden.parent / 'home'}\n")  # not there, but only root can tell
    hidden.parent.chmod(0o700)
    (claims / "8").write_text("/nowhere/at/all\n")  # gone, but only its owner may remove the claim
    two = home(tmp_path, "two")
    reached, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setegid(65534)
            os.seteuid(65534)
            os.write(writer, str(slots.claim(two, [7, 8, 9], empty)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reached) as answer:
        assert answer.read() == "9"
    assert slots.claim(two, [8], empty) == 8  # its owner does remove it
    shutil.rmtree(tmp_path)


def test_slots_do_not_overlap() -> None:
    every = [block for number in range(SLOTS) for block in blocks(number)]
    assert SLOTS == 512 and len(set(every)) == 2 * SLOTS
    assert sum(block.num_addresses for block in every) == 2 * IPv4Network("127.64.0.0/11").num_addresses
