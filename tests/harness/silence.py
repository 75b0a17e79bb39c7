"""A part of this machine's network that is gone: packets are dropped, and nobody is told (root and nftables)."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

BEFORE_EVERYTHING = -310
"""Before connections are tracked, and before the endpoint's own table sends its clients' packets elsewhere."""


def why_no_silence() -> str:
    """Why packets cannot be dropped here, "" if they can."""
    if os.geteuid() != 0:
        return "dropping packets needs root"
    return "" if shutil.which("nft") else "nftables are not here"


@contextmanager
def dropped(matches: Sequence[str]) -> Iterator[None]:
    """Every packet that one of these nftables expressions matches, as it is sent, for the time of the block."""
    table = f"silence_{secrets.token_hex(4)}"
    rules = "\n".join(f"{match} drop" for match in matches)
    chain = f"type filter hook output priority {BEFORE_EVERYTHING}; policy accept;\n{rules}"
    _nft(f"table inet {table} {{\nchain sent {{\n{chain}\n}}\n}}")
    try:
        yield
    finally:
        _nft(f"delete table inet {table}")


def _nft(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, capture_output=True, timeout=60)
