"""The slot of loopback addresses that this service has: chosen at its first start, then kept.

Of two services with one slot the one that starts later could not listen where its instances are.
"""

from __future__ import annotations

import structlog

from mainstay.host.address_slots import AddressSlots
from mainstay.model.addresses import AddressSlot
from mainstay.model.records import GLOBAL_REGION, Scope
from mainstay.settings import Settings
from mainstay.store import Store
from mainstay.workflows import addresses

log = structlog.get_logger()


def settle_address_slot(store: Store, settings: Settings, slots: AddressSlots | None = None) -> int:
    """Records the slot and claims it. While no address of it is in use, it may still become another one."""
    slots = slots or AddressSlots()
    scope = Scope(settings.account_id, GLOBAL_REGION)
    with store.transaction() as tx:
        known = tx.get(AddressSlot, scope, AddressSlot.CURRENT)
        wanted = addresses.preferred_slot(settings.home) if known is None else known.number
        if addresses.any_leased(tx, settings.account_id):
            number = wanted
            if not slots.keep(settings.home, number):
                log.error(
                    "addresses.slot_shared",
                    slot=number,
                    hint="Another service of this host has these loopback addresses too. Move the instances of one of"
                    " them elsewhere by snapshot and restore.",
                )
        else:
            order = ((wanted + step) % addresses.SLOTS for step in range(addresses.SLOTS))
            claimed = slots.claim(settings.home, order, addresses.blocks)
            number = wanted if claimed is None else claimed
            if number != wanted:
                log.info("addresses.slot_chosen", slot=number, instead_of=wanted)
        record = AddressSlot(scope=scope, number=number)
        if known is None:
            tx.insert(record)
        elif known != record:
            tx.put(record)
    return number
