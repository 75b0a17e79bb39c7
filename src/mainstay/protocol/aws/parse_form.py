"""Reads the tree of a form by a shape, for the query and ec2 protocols.

They differ in names only: query puts list items below `member` (or the model's name for an item), ec2 directly below
the list. All three spellings are read, because hand-written clients mix them up; two in one list are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

from mainstay.model.errors import ApiError
from mainstay.protocol.aws import limits, scalars
from mainstay.protocol.aws.form import Node
from mainstay.protocol.aws.vocabulary import Protocol, bad_value, malformed

_SCALARS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "integer": ("an integer", lambda text: scalars.integer_from_text(text, "integer")),
    "long": ("an integer", lambda text: scalars.integer_from_text(text, "long")),
    "float": ("a number", scalars.float_from_text),
    "double": ("a number", scalars.float_from_text),
    "boolean": ("true or false", scalars.boolean_from_text),
    "timestamp": ("an ISO 8601 timestamp", scalars.timestamp_from_text),
    "blob": ("base64 data", scalars.blob_from_text),
}


class FormReader:
    """One request's reader. `path` is the dotted name as the client wrote it, for error messages."""

    def __init__(self, service: str, protocol: Protocol) -> None:
        self._service = service
        self._protocol = protocol

    def structure(self, shape: StructureShape, node: Node, path: str) -> dict[str, Any]:
        """The members that are given."""
        if node.value:
            raise self._bad(path, "a structure")
        if not node.children:
            return {}
        values: dict[str, Any] = {}
        for name, member in shape.members.items():
            child_name = self._member_name(member, name)
            child = node.children.get(child_name)
            if child is None:
                continue
            value = self._value(member, child, f"{path}.{child_name}" if path else child_name)
            if value is not None:
                values[name] = value
        return values

    def _member_name(self, shape: Shape, default: str) -> str:
        traits = shape.serialization
        if self._protocol == "ec2":
            if "queryName" in traits:
                return str(traits["queryName"])
            name = str(traits.get("name", default))
            return name[0].upper() + name[1:]
        if isinstance(shape, ListShape) and traits.get("flattened"):
            return str(shape.member.serialization.get("name", traits.get("name", default)))
        return str(traits.get("name", default))

    def _value(self, shape: Shape, node: Node, path: str) -> Any:
        if isinstance(shape, StructureShape):
            return self.structure(shape, node, path)
        if isinstance(shape, ListShape):
            return self._list(shape, node, path)
        if isinstance(shape, MapShape):
            return self._map(shape, node, path)
        if node.value is None:
            return None  # only longer names were given, such as Port.1; AWS does not know them and ignores them
        return self._scalar(shape, node.value, path)

    def _scalar(self, shape: Shape, text: str, path: str) -> Any:
        if shape.type_name in ("string", "character"):
            return text
        wanted, convert = _SCALARS[shape.type_name]
        try:
            return convert(text)
        except ValueError:
            raise self._bad(path, wanted) from None

    def _list(self, shape: ListShape, node: Node, path: str) -> list[Any]:
        if node.value:
            raise self._bad(path, f"a list ({path}.1, …)")
        item_name = str(shape.member.serialization.get("name", "member"))
        items = self._indexed(node, {item_name, "member"}, path)
        return [self._required_value(shape.member, item, f"{path}.{n}") for n, item in enumerate(items, 1)]

    def _map(self, shape: MapShape, node: Node, path: str) -> dict[str, Any]:
        if node.value:
            raise self._bad(path, f"a map ({path}.entry.1.key, …)")
        key_name = str(shape.key.serialization.get("name", "key"))
        value_name = str(shape.value.serialization.get("name", "value"))
        found: dict[str, Any] = {}
        for number, entry in enumerate(self._indexed(node, {"entry"}, path), 1):
            key, value = entry.children.get(key_name), entry.children.get(value_name)
            where = f"{path}.entry.{number}"
            if key is None or key.value is None or value is None:
                raise self._malformed(f"{where} must have both {key_name} and {value_name}.")
            if key.value in found:
                raise self._malformed(f"{where} repeats a key.")
            found[key.value] = self._required_value(shape.value, value, where)
        return found

    def _required_value(self, shape: Shape, node: Node, path: str) -> Any:
        value = self._value(shape, node, path)
        if value is None:
            raise self._malformed(f"{path} has no value.")
        return value

    def _indexed(self, node: Node, wrappers: set[str], path: str) -> list[Node]:
        """The numbered children, below a wrapper such as `member` or directly, in order and without gaps."""
        holders = [child for name, child in node.children.items() if name in wrappers]
        if any(_is_number(name) for name in node.children):
            holders.append(node)
        if not holders:
            return []
        if len(holders) > 1:
            raise self._malformed(f"The items of {path} are named in two ways.")
        numbered = holders[0].children
        count = sum(map(_is_number, numbered))
        if count > limits.LIST_ITEMS_MAX:
            raise self._malformed(f"{path} must not have more than {limits.LIST_ITEMS_MAX} items.")
        items = [numbered.get(str(number)) for number in range(1, count + 1)]
        found = [item for item in items if item is not None]
        if len(found) != count:
            raise self._malformed(f"The items of {path} must be numbered 1, 2, 3, … without gaps.")
        return found

    def _bad(self, path: str, wanted: str) -> ApiError:
        return bad_value(self._service, self._protocol, f"Invalid value for parameter {path[:200]}: expected {wanted}.")

    def _malformed(self, message: str) -> ApiError:
        return malformed(self._protocol, message[:400])


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()
