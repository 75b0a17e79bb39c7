"""Nobody notices that commits wait for room on a full disk."""

from mainstay.engines.mysql_family.monitor import FamilyMonitor


def waits_for_room(_self: FamilyMonitor) -> bool:
    """Never."""
    return False


FamilyMonitor._waits_for_room = waits_for_room
