"""What is acknowledged is not on the disk."""

from collections.abc import Mapping
from typing import Any

from mainstay.engines.postgresql import configuration

rightly = configuration.render


def render(*arguments: Any) -> Mapping[str, str]:
    """As it should be, but for the one line."""
    files = rightly(*arguments)
    return {**files, "postgresql.conf": files["postgresql.conf"] + "fsync = off\n"}


configuration.render = render
