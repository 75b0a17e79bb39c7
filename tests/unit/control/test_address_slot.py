"""Which slot a service settles on at its first start, and afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mainstay.control.address_slot import settle_address_slot
from mainstay.host.address_slots import AddressSlots
from mainstay.settings import Settings
from mainstay.store import SqliteStore
from mainstay.workflows import addresses


class Host:
    """Services of one host."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.slots = AddressSlots(directory / "claims", directory / "no-listeners")

    def settings(self, name: str) -> Settings:
        home = self._directory / name
        home.mkdir(exist_ok=True)
        return Settings(home=home)

    def alike(self, other: Settings) -> Settings:
        """A service whose home has the same digest."""
        wanted = addresses.preferred_slot(other.home)
        names = (f"s{number}" for number in range(100_000))
        return self.settings(
            next(
                name
                for name in names
                if addresses.preferred_slot(self._directory / name) == wanted and self._directory / name != other.home
            )
        )

    def settle(self, store: SqliteStore, settings: Settings) -> int:
        return settle_address_slot(store, settings, self.slots)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def stores() -> Iterator[tuple[SqliteStore, SqliteStore]]:
    made = SqliteStore(":memory:"), SqliteStore(":memory:")
    yield made
    for store in made:
        store.close()


def lease(store: SqliteStore, settings: Settings, holder: str) -> IPv4Address:
    with store.transaction() as tx:
        return IPv4Address(addresses.lease(tx, settings.account_id, addresses.node_block(tx, settings), holder))


def test_the_second_of_two_chooses_another_and_keeps_it(host: Host, stores: tuple[SqliteStore, SqliteStore]) -> None:
    first, second = stores
    one = host.settings("one")
    two = host.alike(one)
    number = host.settle(first, one)
    assert number == addresses.preferred_slot(one.home)
    other = host.settle(second, two)
    assert other == (number + 1) % addresses.SLOTS
    for _ in range(2):
        assert (host.settle(first, one), host.settle(second, two)) == (number, other)
    assert lease(first, one, "n1") in addresses.blocks(number)[1]
    assert lease(second, two, "n1") in addresses.blocks(other)[1]
    with second.read() as view:
        assert addresses.endpoint_block(view, two) == addresses.blocks(other)[0]


def test_a_service_of_before_with_instances_keeps_its_slot(host: Host, stores: tuple[SqliteStore, SqliteStore]) -> None:
    first, second = stores
    one = host.settings("one")
    two = host.alike(one)
    address = lease(second, two, "n1")  # made before there were claims
    number = host.settle(first, one)
    assert host.settle(second, two) == number and address in addresses.blocks(number)[1]


def test_a_claim_that_was_lost_before_anything_was_there_is_no_harm(
    host: Host, stores: tuple[SqliteStore, SqliteStore]
) -> None:
    first, second = stores
    one = host.settings("one")
    two = host.alike(one)
    number = host.settle(first, one)
    (host.slots._directory / str(number)).unlink()
    assert host.settle(second, two) == number
    assert host.settle(first, one) == (number + 1) % addresses.SLOTS
