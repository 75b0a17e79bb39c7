"""Commits do not wait for the standby, although the record says that it has every one of them."""

from collections.abc import Mapping
from typing import Any

from mainstay.engines.postgresql import configuration, replication

rightly = configuration.render


def render(*arguments: Any) -> Mapping[str, str]:
    """As it should be, but for the one line."""
    files = rightly(*arguments)
    return {**files, "postgresql.conf": files["postgresql.conf"] + "synchronous_standby_names = ''\n"}


async def confirm_synchronous(*_: Any) -> bool:
    """Believes it."""
    return True


configuration.render = render
replication.confirm_synchronous = confirm_synchronous
