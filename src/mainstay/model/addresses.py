"""Which loopback addresses of the service are taken, and by what."""

from __future__ import annotations

from typing import ClassVar

from mainstay.model.records import Record


class AddressSlot(Record, frozen=True, kw_only=True):
    """Which part of the loopback pools is this service's, chosen at its first start so that no other has it."""

    KIND: ClassVar[str] = "address-slot"
    CURRENT: ClassVar[str] = "current"

    number: int

    def key(self) -> str:
        return self.CURRENT


class AddressLease(Record, frozen=True, kw_only=True):
    """One loopback address that an endpoint or a node holds. The scope is the service's, not a region's."""

    KIND: ClassVar[str] = "address-lease"

    address: str
    holder: str

    def key(self) -> str:
        return self.address

    def index(self) -> dict[str, str]:
        return {"holder": self.holder}
