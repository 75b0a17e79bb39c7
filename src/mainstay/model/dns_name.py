"""Host names as DNS and TLS take them: letters, digits and hyphens (RFC 1123, section 2.1), without a last dot."""

from __future__ import annotations

import re

NAME_LENGTH_MAX = 253
"""Characters of a whole name: 255 bytes on the wire (RFC 1035, section 2.3.4)."""

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def is_dns_name(text: str) -> bool:
    """Whether this is a host name of one or more labels."""
    return len(text) <= NAME_LENGTH_MAX and all(_LABEL.fullmatch(label) for label in text.split("."))
