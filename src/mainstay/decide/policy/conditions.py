"""Condition operators: names, operands and the logic of missing keys and of several values.

A condition holds when its context values and its operands fit:
- one operator and key: any operand may match (a negated operator: none may match);
- the key is missing: negated operators hold, others do not; with `...IfExists` both hold;
- `ForAllValues`: every context value fits, so a missing key holds; `ForAnyValue`: at least one fits.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from mainstay.decide.policy.patterns import Context, Template, arn_like, like, template

Prepare = Callable[[str, bool], Any]
"""Operand text, whether variables are known -> operand. Raises `ValueError` for text that is no operand."""
Test = Callable[[Any, str, Context], bool]
"""Operand, context value -> whether they fit. A context value of the wrong type fits nothing."""


class Quantifier(Enum):
    """How several context values are taken."""

    NONE = ""
    ALL = "forallvalues"
    ANY = "foranyvalue"


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator without its negation: `StringNotLike` is `StringLike` with `negated`."""

    name: str
    prepare: Prepare
    test: Test
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator applied to one key (in lower case)."""

    operator: Operator
    quantifier: Quantifier
    if_exists: bool
    key: str
    operands: tuple[Any, ...]

    def holds(self, context: Context) -> bool:
        """Whether the request's context satisfies the condition."""
        found = context.get(self.key)
        values = (found,) if isinstance(found, str) else tuple(found or ())
        if self.operator.name == "null":
            return (not values) in self.operands
        if self.quantifier is Quantifier.ALL:
            return all(self._fits(value, context) for value in values)
        if not values:
            return self.if_exists or (self.operator.negated and self.quantifier is Quantifier.NONE)
        if self.quantifier is Quantifier.NONE and self.operator.negated:
            return all(self._fits(value, context) for value in values)
        return any(self._fits(value, context) for value in values)

    @property
    def variables(self) -> tuple[str, ...]:
        """Context keys that the operands refer to."""
        return tuple(key for operand in self.operands if isinstance(operand, Template) for key in operand.variables)

    def _fits(self, value: str, context: Context) -> bool:
        test = self.operator.test
        return any(test(operand, value, context) for operand in self.operands) is not self.operator.negated


def find_operator(name: str) -> tuple[Operator, Quantifier, bool] | None:
    """Reads `[ForAllValues:|ForAnyValue:]<operator>[IfExists]` in any case; None if there is no such operator."""
    prefix, colon, rest = name.lower().rpartition(":")
    try:
        quantifier = Quantifier(prefix) if colon else Quantifier.NONE
    except ValueError:
        return None
    base = rest.removesuffix("ifexists")
    operator = OPERATORS.get(base)
    if operator is None or (colon and quantifier is Quantifier.NONE) or (base == "null" and base != rest):
        return None
    return operator, quantifier, base != rest


def _equals(operand: Template, value: str, context: Context) -> bool:
    return operand.text(context) == value


def _equals_ignoring_case(operand: Template, value: str, context: Context) -> bool:
    text = operand.text(context)
    return text is not None and text.casefold() == value.casefold()


def _like(operand: Template, value: str, context: Context) -> bool:
    pieces = operand.resolve(context)
    return pieces is not None and like(pieces, value)


def _arn_like(operand: Template, value: str, context: Context) -> bool:
    pieces = operand.resolve(context)
    return pieces is not None and arn_like(pieces, value)


def _text(operand: str, variables: bool) -> Template:
    return template(operand, variables=variables)


def read_number(text: str) -> float:
    """A finite number; raises `ValueError` otherwise."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def read_date(text: str) -> float:
    """Epoch seconds of an ISO 8601 date or of a number; raises `ValueError` otherwise."""
    try:
        return read_number(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _read_bool(text: str) -> bool:
    lowered = text.lower()
    if lowered not in ("true", "false"):
        raise ValueError(f"{text} is neither true nor false")
    return lowered == "true"


def _read_binary(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


def _read_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text, strict=False)


def _typed(read: Callable[[str], Any], fits: Callable[[Any, Any], bool]) -> Test:
    """A test that reads the context value first; what cannot be read fits nothing."""

    def test(operand: Any, value: str, _context: Context) -> bool:
        try:
            return fits(read(value), operand)
        except (ValueError, OverflowError):
            return False

    return test


def _plain(read: Callable[[str], Any]) -> Prepare:
    def prepare(operand: str, _variables: bool) -> Any:
        try:
            return read(operand)
        except OverflowError as error:
            raise ValueError(str(error)) from error

    return prepare


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "equals": lambda value, operand: bool(value == operand),
    "lessthan": lambda value, operand: bool(value < operand),
    "lessthanequals": lambda value, operand: bool(value <= operand),
    "greaterthan": lambda value, operand: bool(value > operand),
    "greaterthanequals": lambda value, operand: bool(value >= operand),
}


def _operators() -> dict[str, Operator]:
    table: dict[str, Operator] = {}

    def add(name: str, prepare: Prepare, test: Test, negation: str = "") -> None:
        table[name] = Operator(name, prepare, test)
        if negation:
            table[negation] = Operator(name, prepare, test, negated=True)

    add("stringequals", _text, _equals, "stringnotequals")
    add("stringequalsignorecase", _text, _equals_ignoring_case, "stringnotequalsignorecase")
    add("stringlike", _text, _like, "stringnotlike")
    add("arnequals", _text, _arn_like, "arnnotequals")
    add("arnlike", _text, _arn_like, "arnnotlike")
    for family, read in (("numeric", read_number), ("date", read_date)):
        for order, fits in _ORDER.items():
            negation = f"{family}notequals" if order == "equals" else ""
            add(f"{family}{order}", _plain(read), _typed(read, fits), negation)
    add("bool", _plain(_read_bool), _typed(_read_bool, _ORDER["equals"]))
    add("null", _plain(_read_bool), _typed(_read_bool, _ORDER["equals"]))
    add("binaryequals", _plain(_read_binary), _typed(_read_binary, _ORDER["equals"]))
    inside = _typed(ipaddress.ip_address, lambda address, network: address in network)
    add("ipaddress", _plain(_read_network), inside, "notipaddress")
    return table


OPERATORS = _operators()
