"""Volumes of nodes: where the data of one engine is, with or without a size of its own, with or without encryption.

`base` has the interface, `detection` says which drivers this host can use. Guarantees: a kill at any moment leaves
nothing that the next call of the same method does not find and use or undo; nothing is ever removed through a mount.
"""

from mainstay.host.volumes.base import VolumeDriver, VolumePlace
from mainstay.host.volumes.detection import DRIVERS, examine_drivers

__all__ = ["DRIVERS", "VolumeDriver", "VolumePlace", "examine_drivers"]
