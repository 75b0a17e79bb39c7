"""Forms of the query and ec2 protocols: `A.B.1.C=value` pairs, from body and query string, as one tree.

Guarantee: any request gives a tree within the limits of `limits.py` or an `ApiError`. Each key is walked once, so the
work is linear in the size of the request.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from mainstay.model.errors import ApiError
from mainstay.protocol.aws import limits
from mainstay.protocol.aws.message import HttpRequest
from mainstay.protocol.aws.vocabulary import Protocol, malformed, too_large

_SIGNATURE_PREFIX = "X-Amz-"
_COMMON_PARAMETERS = frozenset({"Action", "Version"})


class Node:
    """One part of a dotted key: the value given for the key that ends here, and the parts that follow."""

    __slots__ = ("children", "value")

    def __init__(self) -> None:
        self.value: str | None = None
        self.children: dict[str, Node] = {}


def read_body(request: HttpRequest, protocol: Protocol) -> bytes:
    """The body, unpacked when it is declared gzip, within the size limit."""
    body = request.body
    if len(body) > limits.BODY_BYTES_MAX:
        raise too_large(protocol, f"The request body must not exceed {limits.BODY_BYTES_MAX} bytes.")
    encoding = (request.header("content-encoding") or "identity").strip().lower()
    if encoding == "identity" or not body:
        return body
    if encoding != "gzip":
        raise malformed(protocol, "The only supported Content-Encoding is gzip.")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = inflater.decompress(body, limits.BODY_BYTES_MAX + 1)
    except zlib.error as error:
        raise malformed(protocol, "The body is not valid gzip data.") from error
    if len(plain) > limits.BODY_BYTES_MAX:
        raise too_large(protocol, f"The unpacked request body must not exceed {limits.BODY_BYTES_MAX} bytes.")
    if not inflater.eof:
        raise malformed(protocol, "The body is not valid gzip data: it ends too early.")
    return plain


def read_pairs(request: HttpRequest, protocol: Protocol) -> Iterator[tuple[str, str]]:
    """The decoded parameters of query string and body, in order, without those of a presigned signature."""
    if len(request.query) > limits.QUERY_STRING_CHARACTERS_MAX:
        raise too_large(protocol, f"The query string must not exceed {limits.QUERY_STRING_CHARACTERS_MAX} characters.")
    body = read_body(request, protocol)
    count = 0
    for source in (request.query.encode("utf-8", "surrogatepass"), body):
        for pair in source.split(b"&"):
            if not pair:
                continue
            count += 1
            if count > limits.FORM_PARAMETERS_MAX:
                raise malformed(protocol, f"A request must not have more than {limits.FORM_PARAMETERS_MAX} parameters.")
            key, _, value = pair.partition(b"=")
            name = _decode(key, protocol)
            if not name.startswith(_SIGNATURE_PREFIX):
                yield name, _decode(value, protocol)


def _decode(raw: bytes, protocol: Protocol) -> str:
    try:
        return unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError as error:
        raise malformed(protocol, "A parameter is not valid UTF-8.") from error


def common_parameters(request: HttpRequest, protocol: Protocol = "query") -> dict[str, str]:
    """`Action` and `Version`, where given. Giving one of them twice is refused, so nobody can read the other one."""
    found: dict[str, str] = {}
    for name, value in read_pairs(request, protocol):
        if name in _COMMON_PARAMETERS:
            if name in found:
                raise malformed(protocol, f"The parameter {name} is given more than once.")
            found[name] = value
    return found


def read_tree(request: HttpRequest, protocol: Protocol) -> Node:
    """All parameters as a tree."""
    root = Node()
    for name, value in read_pairs(request, protocol):
        if name in _COMMON_PARAMETERS:
            continue
        if len(value) > limits.STRING_CHARACTERS_MAX:
            raise _long_value(protocol)
        parts = name.split(".", limits.NESTING_DEPTH_MAX)
        if len(parts) > limits.NESTING_DEPTH_MAX:
            raise malformed(protocol, f"A parameter name must not have more than {limits.NESTING_DEPTH_MAX} parts.")
        node = root
        for part in parts:
            child = node.children.get(part)
            if child is None:
                child = node.children[part] = Node()
            node = child
        if node.value is not None:
            raise malformed(protocol, f"The parameter {name[:200]} is given more than once.")
        node.value = value
    return root


def _long_value(protocol: Protocol) -> ApiError:
    return malformed(protocol, f"A value must not exceed {limits.STRING_CHARACTERS_MAX} characters.")
