"""Text patterns of policies: wildcards `*` and `?`, policy variables `${key, 'default'}`, ARNs and action names.

Matching takes time proportional to pattern length times text length at worst: every `*` but the last becomes an
atomic group, so a pattern such as `*a*a*a*b` cannot make a request slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

Context = Mapping[str, str | Sequence[str]]
"""Condition keys in lower case -> value or values."""

_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_WILDCARDS = re.compile(r"(\*+|\?)")
_DEFAULT = re.compile(r"""\s*([^,]+?)\s*(?:,\s*'([^']*)'\s*)?""")
_ARN_SEGMENTS = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text. In a literal piece (the value of a variable, `${*}`) wildcards stand for themselves."""

    text: str
    literal: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """`${key}` or `${key, 'default'}`; the key is in lower case."""

    key: str
    default: str | None


@dataclass(frozen=True, slots=True)
class Template:
    """A policy value: text with variables. Without variables `fixed` holds the pieces, ready to match."""

    source: str
    parts: tuple[Piece | Variable, ...]
    fixed: tuple[Piece, ...] | None

    def resolve(self, context: Context) -> tuple[Piece, ...] | None:
        """The pieces with every variable replaced, or None when one has neither a single value nor a default.

        None matches nothing: AWS says of a variable without value that "there is no equal or like value".
        """
        if self.fixed is not None:
            return self.fixed
        pieces: list[Piece] = []
        for part in self.parts:
            if isinstance(part, Piece):
                pieces.append(part)
                continue
            value = context.get(part.key, part.default)
            if not isinstance(value, str):
                return None
            pieces.append(Piece(value, literal=True))
        return tuple(pieces)

    def text(self, context: Context) -> str | None:
        """The plain text with variables replaced, for operators that know no wildcards."""
        pieces = self.resolve(context)
        return None if pieces is None else "".join(piece.text for piece in pieces)

    @property
    def variables(self) -> tuple[str, ...]:
        """Context keys the value refers to."""
        return tuple(part.key for part in self.parts if isinstance(part, Variable))


def template(source: str, *, variables: bool) -> Template:
    """Reads a policy value. Only documents of version 2012-10-17 have variables; elsewhere `${` is plain text."""
    if not variables or "${" not in source:
        pieces = (Piece(source),)
        return Template(source, pieces, pieces)
    parts: list[Piece | Variable] = []
    position = 0
    for match in _VARIABLE.finditer(source):
        if match.start() > position:
            parts.append(Piece(source[position : match.start()]))
        parts.append(_variable(match.group(1)))
        position = match.end()
    if position < len(source):
        parts.append(Piece(source[position:]))
    fixed = [part for part in parts if isinstance(part, Piece)]
    return Template(source, tuple(parts), tuple(fixed) if len(fixed) == len(parts) else None)


def _variable(inner: str) -> Piece | Variable:
    if inner in ("*", "?", "$"):
        return Piece(inner, literal=True)
    match = _DEFAULT.fullmatch(inner)
    if match is None:
        return Piece("${" + inner + "}", literal=True)
    return Variable(match.group(1).lower(), match.group(2))


def like(pieces: tuple[Piece, ...], value: str) -> bool:
    """Whether the value matches, `*` standing for any text and `?` for any one character."""
    return _like_regex(pieces).match(value) is not None


def arn_like(pieces: tuple[Piece, ...], value: str) -> bool:
    """Whether an ARN matches. Each of its first five parts is matched by itself; missing parts count as `*`."""
    return _arn_regex(pieces).match(value) is not None


@lru_cache(maxsize=8192)
def _like_regex(pieces: tuple[Piece, ...]) -> re.Pattern[str]:
    return re.compile(_translate(_tokens(pieces), ".") + r"\Z", re.DOTALL)


@lru_cache(maxsize=8192)
def _arn_regex(pieces: tuple[Piece, ...]) -> re.Pattern[str]:
    tokens = _tokens(pieces)
    if tokens == ["*"]:
        return re.compile("")
    segments: list[list[str]] = [[]]
    for token in tokens:
        if token.startswith(":") and len(segments) < _ARN_SEGMENTS:
            segments.append([])
        else:
            segments[-1].append(token)
    segments += [["*"] for _ in range(_ARN_SEGMENTS - len(segments))]
    heads = [_translate(segment, "[^:]") for segment in segments[:-1]]
    return re.compile(":".join([*heads, _translate(segments[-1], ".")]) + r"\Z", re.DOTALL)


def _tokens(pieces: Iterable[Piece]) -> list[str]:
    """`*`, `?` and `:` as themselves, everything else escaped for a regular expression and marked by a leading `=`."""
    tokens: list[str] = []
    for piece in pieces:
        if piece.literal:
            tokens.append("=" + re.escape(piece.text))
            continue
        for run in _WILDCARDS.split(piece.text):
            if run.startswith("*"):
                tokens.append("*")
            elif run == "?":
                tokens.append("?")
            else:
                tokens += [word if word == ":" else "=" + re.escape(word) for word in re.split("(:)", run) if word]
    return tokens


def _translate(tokens: Sequence[str], any_character: str) -> str:
    """A regular expression for the tokens; must be followed by an anchor."""
    chunks = [""]
    for token in tokens:
        if token == "*":  # noqa: S105 - a wildcard, no secret
            chunks.append("")
        elif token == "?":  # noqa: S105
            chunks[-1] += any_character
        else:
            chunks[-1] += token.removeprefix("=")
    if len(chunks) == 1:
        return chunks[0]
    first, *middle, last = chunks
    return first + "".join(f"(?>{any_character}*?{chunk})" for chunk in middle if chunk) + f"{any_character}*{last}"


class ActionPatterns:
    """The actions of one statement, arranged so that a request's action is found without trying each of them."""

    __slots__ = ("_by_vendor", "_everything", "sources")

    def __init__(self, sources: Sequence[str]) -> None:
        self.sources = tuple(sources)
        names: dict[str, set[str]] = {}
        for source in sources:
            vendor, _, name = source.lower().partition(":")
            names.setdefault(vendor, set()).add(name if vendor != "*" or name else "*")
        self._everything = "*" in names.get("*", ())
        self._by_vendor = {vendor: _Names(of_vendor) for vendor, of_vendor in names.items()}

    def match(self, action: str) -> bool:
        """Whether the action, in lower case, is one of them."""
        if self._everything:
            return True
        vendor, _, name = action.partition(":")
        exact, anywhere = self._by_vendor.get(vendor), self._by_vendor.get("*")
        return (exact is not None and exact.match(name)) or (anywhere is not None and anywhere.match(name))


class _Names:
    """Action names of one service: a set of plain names and one expression for those with wildcards."""

    __slots__ = ("_exact", "_wild")

    def __init__(self, names: set[str]) -> None:
        self._exact = frozenset(name for name in names if not _WILDCARDS.search(name))
        wild = sorted(names - self._exact)
        sources = [f"{_translate(_tokens([Piece(name)]), '.')}\\Z" for name in wild]
        self._wild = re.compile("|".join(sources), re.DOTALL) if wild else None

    def match(self, name: str) -> bool:
        return name in self._exact or (self._wild is not None and self._wild.match(name) is not None)
