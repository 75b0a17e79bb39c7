"""Results as XML, for the query and ec2 protocols.

Each shape is compiled once into a closure that appends text to a list, because a page of a hundred DB instances is
some ten thousand elements and answers must take milliseconds. A result with a member that the model does not have is
a bug of ours and raises KeyError; it can never reach a client half written.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

Append = Callable[[str], Any]
Encoder = Callable[[Any, Append], None]
"""Appends one element, tags included. The value is never None."""

_SPECIAL = re.compile('[<>&"\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]').search
_ESCAPES = {
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord("&"): "&amp;",
    ord('"'): "&quot;",
    ord("\r"): "&#xD;",  # a bare carriage return would be read back as a line feed
    # XML 1.0 has no way to write these; the replacement character shows that something was there.
    **{code: "\ufffd" for code in (*range(0x00, 0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0xFFFE, 0xFFFF)},
    **{code: "\ufffd" for code in range(0xD800, 0xE000)},
}


def escape(text: str) -> str:
    """Text as XML 1.0 character data."""
    return text.translate(_ESCAPES) if _SPECIAL(text) else text


def to_datetime(value: datetime | float) -> datetime:
    """A timestamp that a handler gave: an aware datetime or epoch seconds."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a timestamp without time zone is ambiguous")
        return value.astimezone(UTC)
    return datetime.fromtimestamp(value, UTC)


def _iso_8601(value: datetime | float) -> str:
    moment = to_datetime(value)
    precision = "milliseconds" if moment.microsecond >= 1000 else "seconds"
    return moment.isoformat(timespec=precision)[:-6] + "Z"


def _iso_8601_milliseconds(value: datetime | float) -> str:
    return to_datetime(value).isoformat(timespec="milliseconds")[:-6] + "Z"


def _float_text(value: float) -> str:
    text = repr(float(value))
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)


def _blob_text(value: bytes) -> str:
    return b64encode(value).decode("ascii")


class XmlCompiler:
    """Compiles the shapes of one service; equal shapes under equal names are compiled once."""

    def __init__(self, *, is_ec2: bool) -> None:
        self._item_name = "item" if is_ec2 else "member"
        self._texts: dict[str, Callable[[Any], str]] = {
            "integer": lambda value: f"{value:d}",
            "long": lambda value: f"{value:d}",
            "float": _float_text,
            "double": _float_text,
            "timestamp": _iso_8601_milliseconds if is_ec2 else _iso_8601,
            "blob": _blob_text,
        }
        self._compiled: dict[tuple[str, str, bool], Encoder] = {}

    def element(self, shape: Shape, name: str) -> Encoder:
        """The encoder of a shape as an element of this name (for a flattened list: as its items)."""
        flattened = bool(shape.serialization.get("flattened"))
        key = (shape.name, name, flattened)
        found = self._compiled.get(key)
        if found is not None:
            return found
        # Shapes may contain themselves: until this one is compiled, its inner use goes through the table.
        self._compiled[key] = lambda value, append: self._compiled[key](value, append)
        encoder = self._compile(shape, name, flattened)
        self._compiled[key] = encoder
        return encoder

    def members(self, shape: StructureShape) -> Encoder:
        """The encoder of a structure's members without an element around them."""
        table = {
            member_name: self.element(member, str(member.serialization.get("name", member_name)))
            for member_name, member in shape.members.items()
        }

        def encode(value: dict[str, Any], append: Append) -> None:
            for name, item in value.items():
                encoder = table[name]
                if item is not None:
                    encoder(item, append)

        return encode

    def _compile(self, shape: Shape, name: str, flattened: bool) -> Encoder:
        opening, closing = f"<{name}>", f"</{name}>"
        if isinstance(shape, StructureShape):
            return _wrapped(self.members(shape), opening, closing)
        if isinstance(shape, ListShape):
            return self._compile_list(shape, name, flattened)
        if isinstance(shape, MapShape):
            return self._compile_map(shape, name, flattened)
        if shape.type_name == "boolean":
            return _boolean_encoder(f"{opening}true{closing}", f"{opening}false{closing}")
        text = self._texts.get(shape.type_name)
        return _string_encoder(opening, closing) if text is None else _text_encoder(text, opening, closing)

    def _compile_list(self, shape: ListShape, name: str, flattened: bool) -> Encoder:
        item_name = shape.member.serialization.get("name")
        if flattened:
            item = self.element(shape.member, str(item_name or name))
        else:
            item = self.element(shape.member, str(item_name or self._item_name))

        def encode_items(values: Any, append: Append) -> None:
            for value in values:
                item(value, append)

        return encode_items if flattened else _wrapped(encode_items, f"<{name}>", f"</{name}>")

    def _compile_map(self, shape: MapShape, name: str, flattened: bool) -> Encoder:
        key = self.element(shape.key, str(shape.key.serialization.get("name", "key")))
        value = self.element(shape.value, str(shape.value.serialization.get("name", "value")))
        entry = name if flattened else "entry"
        opening, closing = f"<{entry}>", f"</{entry}>"

        def encode_entries(values: dict[str, Any], append: Append) -> None:
            for name_of_entry, item in values.items():
                append(opening)
                key(name_of_entry, append)
                value(item, append)
                append(closing)

        return encode_entries if flattened else _wrapped(encode_entries, f"<{name}>", f"</{name}>")


def _wrapped(inner: Encoder, opening: str, closing: str) -> Encoder:
    def encode(value: Any, append: Append) -> None:
        append(opening)
        inner(value, append)
        append(closing)

    return encode


def _string_encoder(opening: str, closing: str) -> Encoder:
    def encode(value: str, append: Append) -> None:
        append(opening + (value.translate(_ESCAPES) if _SPECIAL(value) else value) + closing)

    return encode


def _boolean_encoder(true: str, false: str) -> Encoder:
    def encode(value: bool, append: Append) -> None:
        append(true if value else false)

    return encode


def _text_encoder(text: Callable[[Any], str], opening: str, closing: str) -> Encoder:
    def encode(value: Any, append: Append) -> None:
        append(opening + text(value) + closing)

    return encode
