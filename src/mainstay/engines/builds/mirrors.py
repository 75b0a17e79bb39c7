"""Which Debian mirrors this host already uses: both formats of its apt sources (man 5 sources.list).

The program names no mirror of its own: it follows the host's administrator, who may have chosen one inside the house.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mainstay.model.errors import Permanent

DEBIAN_SUITES = frozenset(
    "bullseye bookworm trixie forky duke sid oldoldstable oldstable stable testing unstable".split()
)
SECURITY_SUFFIXES = ("-security", "/updates")
ONE_LINE = re.compile(
    r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>(?:\s+[^#\s]+)*)"
)


class Mirrors(msgspec.Struct, frozen=True):
    """Base addresses of the Debian archive and, where the host has one, of its security archive."""

    archive: str
    security: str = ""


class _Source(msgspec.Struct, frozen=True):
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]


def find_mirrors(apt: Path) -> Mirrors:
    """Reads the sources below `apt` (/etc/apt).

    Raises `Permanent` when none of them serves a Debian suite's component main.
    """
    archive = security = ""
    for source in _sources(apt):
        if "main" not in source.components or not source.uris:
            continue
        for suite in source.suites:
            if suite in DEBIAN_SUITES:
                archive = archive or source.uris[0]
            elif suite.endswith(SECURITY_SUFFIXES) and suite.split("-")[0].split("/")[0] in DEBIAN_SUITES:
                security = security or source.uris[0]
    if not archive:
        raise Permanent(
            f"no source below {apt} serves Debian packages",
            hint="Add a Debian source (component main) to the host's apt sources; its suite does not matter.",
        )
    return Mirrors(archive.rstrip("/"), security.rstrip("/"))


def _sources(apt: Path) -> Iterator[_Source]:
    parts = apt / "sources.list.d"
    lists = [apt / "sources.list", *sorted(parts.glob("*.list"))]
    for file in lists:
        yield from _one_line(_read(file))
    for file in sorted(parts.glob("*.sources")):
        yield from _deb822(_read(file))


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # absent, or not for an ordinary user's eyes: then it is no source of ours
        return ""


def _one_line(text: str) -> Iterator[_Source]:
    for line in text.splitlines():
        found = ONE_LINE.match(line.strip())
        if found:
            yield _Source((found["uri"],), (found["suite"],), tuple(found["components"].split()))


def _deb822(text: str) -> Iterator[_Source]:
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, _colon, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "off", "0", "disable", "without")
        if enabled and "deb" in fields.get("types", "").split():
            words = {key: tuple(fields.get(key, "").split()) for key in ("uris", "suites", "components")}
            yield _Source(words["uris"], words["suites"], words["components"])
