"""What the agent remembers of one node across its own restarts: the spec, and what of it is in effect."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec

from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import fsync_directory, make_private_directory, write_atomically
from mainstay.host.volumes.mounts import remove_tree
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeSpec, without_keys


class InEffect(msgspec.Struct, frozen=True, kw_only=True):
    """Digests of the parts of a spec that were applied. `loaded` is tied to one process by its pid.

    `data_name` is the name of the data in place, "" before it was first exchanged. `told_to_lead` is the last epoch in
    which this node, a follower till then, was told to lead, 0 for none: noted before it is told.
    """

    written: str = ""
    loaded: str = ""
    loaded_by_pid: int = 0
    accounts: str = ""
    had_data: bool = False
    data_name: str = ""
    told_to_lead: int = 0


class Journal:
    """The files `spec.json` and `in-effect.json` of each node, below `directory`."""

    def __init__(self, directory: Path, sockets: Path) -> None:
        self._directory = directory
        self._sockets = sockets
        make_private_directory(directory, mode=0o711)
        make_private_directory(sockets, mode=0o711)

    def files(self, node_id: str, *, logs_on_volume: bool = False) -> NodeFiles:
        """Where the node's things are, whether or not they exist yet."""
        return NodeFiles(root=self._directory / node_id, sockets=self._sockets / node_id, logs_on_volume=logs_on_volume)

    def specs(self) -> list[NodeSpec]:
        """Every node's last spec. A spec that cannot be read stops the agent: guessing would be worse."""
        found = []
        for root in self._directory.iterdir():
            if not (root / "spec.json").exists():
                with suppress(OSError):  # what a kill left of the first or the last moment of a node, if it is empty
                    root.rmdir()
        for path in sorted(self._directory.glob("*/spec.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=NodeSpec))
            except (msgspec.DecodeError, OSError) as error:
                raise Permanent(
                    f"{path} cannot be read: {error}", hint="Restore the file or remove its directory."
                ) from error
        return found

    def write_spec(self, spec: NodeSpec) -> None:
        """Remembers the spec before anything is done for it; of a node with an encrypted volume no key of its data."""
        root = self._directory / spec.node_id
        make_private_directory(root, mode=0o711)
        write_atomically(root / "spec.json", msgspec.json.encode(without_keys(spec)))
        fsync_directory(self._directory)

    def in_effect(self, node_id: str) -> InEffect:
        """What was applied; nothing, if that is not known."""
        try:
            return msgspec.json.decode((self._directory / node_id / "in-effect.json").read_bytes(), type=InEffect)
        except (FileNotFoundError, msgspec.DecodeError):
            return InEffect()

    def write_in_effect(self, node_id: str, in_effect: InEffect) -> None:
        """Remembers what is applied now."""
        write_atomically(self._directory / node_id / "in-effect.json", msgspec.json.encode(in_effect))

    async def forget(self, node_id: str) -> None:
        """Removes everything of a node; `spec.json` goes last, so that an interrupted removal is resumed."""
        await asyncio.to_thread(self._remove, node_id)

    def _remove(self, node_id: str) -> None:
        root = self._directory / node_id
        shutil.rmtree(self._sockets / node_id, ignore_errors=True)
        if not root.exists():
            return
        for child in root.iterdir():
            if child.name == "spec.json":
                continue
            remove_tree(child)  # never through a mount: what is still mounted must be unmounted first
        (root / "spec.json").unlink(missing_ok=True)
        root.rmdir()
        fsync_directory(self._directory)
