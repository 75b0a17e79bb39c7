"""Rendering of option files ("my.cnf"). The engine is told to read ours alone (--defaults-file)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mainstay.engines.mysql_family.quoting import option_value

HEADER = "# Written by Mainstay from the DB parameter group; changes made here are lost.\n"


_LINE = re.compile(r'^(?P<name>[a-z_0-9]+) = (?:"(?P<value>.*)")?$')


def parse(text: str) -> dict[str, str]:
    """The options of a file that `render` made."""
    lines = (_LINE.fullmatch(line) for line in text.splitlines())
    return {found["name"]: (found["value"] or "").replace("\\\\", "\\") for found in lines if found is not None}


def render(group: str, *settings: Mapping[str, str]) -> str:
    """One group of options; of several mappings the later ones win."""
    merged: dict[str, str] = {}
    for mapping in settings:
        merged |= mapping
    lines = [f"{name} = {option_value(value)}\n" if value else f"{name} =\n" for name, value in merged.items()]
    return f"{HEADER}[{group}]\n{''.join(lines)}"
