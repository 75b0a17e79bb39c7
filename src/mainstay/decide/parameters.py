"""Values of DB parameters: RDS's formulas, and whether a value fits its definition (RDS user guide, "Specifying DB
parameters").

Guarantees: a formula of any length a client can send ends with a value or `ApiError` InvalidParameterValue, in time
linear in its length and without evaluating anything but arithmetic. Every operator gives an integer, cut towards zero.
Tested in tests/unit/decide/test_parameters.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction

import msgspec

from mainstay.model.engine import ParameterDefinition
from mainstay.model.errors import invalid_value

VALUE_CHARACTERS_MAX = 4096
ALLOWED_CHARACTERS_TOLD = 4000
FORMULA_CHARACTERS_MAX = 1000
FORMULA_DEPTH_MAX = 20
FUNCTION_ARGUMENTS_MAX = 50
DIGITS_MAX = 18
RESULT_LIMIT = 1 << 63

FORMULA = re.compile(r"\{|\s*(?:GREATEST|LEAST|SUM|IF|LOG)\s*\(", re.IGNORECASE)
WORD = re.compile(r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?)|(?P<name>[A-Za-z]+)|(?P<sign>[{}(),+\-*/]))")
RANGE = re.compile(r"(?P<low>-?\d[\d.]*(?:e[+-]?\d+)?)-(?P<high>-?\d[\d.]*(?:e[+-]?\d+)?)")
INTEGER = re.compile(r"-?[0-9]+")
DECIMAL = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


class FormulaVariables(msgspec.Struct, frozen=True, kw_only=True):
    """What a formula may ask about the DB instance it is evaluated for."""

    db_instance_class_memory_bytes: int
    db_instance_vcpu: int
    endpoint_port: int
    allocated_storage_bytes: int = 0
    true_if_replica: bool = False

    def by_name(self) -> dict[str, int]:
        """The variables under RDS's names."""
        return {
            "AllocatedStorage": self.allocated_storage_bytes,
            "DBInstanceClassMemory": self.db_instance_class_memory_bytes,
            "DBInstanceVCPU": self.db_instance_vcpu,
            "EndPointPort": self.endpoint_port,
            "TrueIfReplica": int(self.true_if_replica),
        }


# Stands in for an instance when only a formula's form is checked.
ANY_INSTANCE = FormulaVariables(
    db_instance_class_memory_bytes=16 << 30, db_instance_vcpu=4, endpoint_port=5432, allocated_storage_bytes=100 << 30
)


def is_formula(value: str) -> bool:
    """Whether the value is to be evaluated rather than taken literally."""
    return "{" in value or FORMULA.match(value) is not None


def evaluate(value: str, variables: FormulaVariables) -> str:
    """The value that the engine gets: a formula's result, or the value itself if it is none.

    Raises `ApiError` InvalidParameterValue when the formula is malformed, too long, too deep, divides by zero or its
    result does not fit 64 bits.
    """
    if not is_formula(value):
        return value
    if len(value) > FORMULA_CHARACTERS_MAX:
        raise invalid_value(f"The parameter formula is longer than {FORMULA_CHARACTERS_MAX} characters.")
    result = int(_Formula(value, variables.by_name()).result())
    if not -RESULT_LIMIT <= result < RESULT_LIMIT:
        raise invalid_value(f"The result of the parameter formula {value} is out of range.")
    return str(result)


def check_value(definition: ParameterDefinition, value: str) -> None:
    """Whether RDS would accept the value for the parameter, as ModifyDBParameterGroup decides it.

    Numbers are plain, in the parameter's unit ("64MB" is refused). A formula is checked for its form; whether its
    result is in range depends on the instance. Raises `ApiError` InvalidParameterValue.
    """
    if not definition.is_modifiable:
        raise invalid_value(f"The parameter {definition.name} cannot be modified.")
    if len(value) > VALUE_CHARACTERS_MAX:
        raise invalid_value(f"The value of parameter {definition.name} exceeds {VALUE_CHARACTERS_MAX} characters.")
    if not value.isprintable():
        raise invalid_value(f"The value of parameter {definition.name} contains a character that is not printable.")
    if is_formula(value):
        evaluate(value, ANY_INSTANCE)
    elif not _is_allowed(definition, value):
        allowed = definition.allowed_values
        if len(allowed) > ALLOWED_CHARACTERS_TOLD:
            allowed = allowed[:ALLOWED_CHARACTERS_TOLD].rpartition(",")[0] + ",…"
        raise invalid_value(f"Invalid parameter value: {value} for: {definition.name} allowed values are: {allowed}")


def _is_allowed(definition: ParameterDefinition, value: str) -> bool:
    allowed = definition.allowed_values
    if definition.data_type == "integer":
        return INTEGER.fullmatch(value) is not None and len(value) <= DIGITS_MAX + 1 and _number_fits(value, allowed)
    if definition.data_type == "float":
        return DECIMAL.fullmatch(value) is not None and _number_fits(value, allowed)
    if not allowed:
        return True
    choices = {choice.strip().lower() for choice in allowed.split(",")}
    if definition.data_type == "list":
        entries = [entry.strip().lower() for entry in value.split(",")] if value.strip() else []
        names = {entry.partition("=")[0] for entry in entries}  # no switch is both on and off
        return len(entries) == len(names) and choices.issuperset(entries)
    return value.lower() in choices


def _number_fits(value: str, allowed: str) -> bool:
    """Allowed values of a number: "0-100", "-1-2147483647", "16,32,64" or both kinds mixed; empty allows every one."""
    if not allowed:
        return True
    number = float(value)
    for part in allowed.split(","):
        span = RANGE.fullmatch(part.strip())
        if span is None:
            if number == float(part):
                return True
        elif float(span["low"]) <= number <= float(span["high"]):
            return True
    return False


class _Formula:
    """A recursive-descent evaluator of one formula.

    expression: term (("+" | "-") term)* ; term: factor (("*" | "/") factor)*
    factor: "-" factor | number | variable | "{" expression "}" | "(" expression ")" | function "(" expression, … ")"
    Variables and operators are allowed between braces only.
    """

    def __init__(self, text: str, variables: dict[str, int]) -> None:
        self._text = text
        self._variables = variables
        self._words = self._split(text)
        self._at = 0
        self._depth = 0
        self._braces = 0

    def result(self) -> Fraction:
        value = self._expression()
        if self._peek():
            raise self._wrong(f"{self._peek()!r} is not expected")
        return value

    def _split(self, text: str) -> list[str]:
        words, position, text = [], 0, text.rstrip()
        while position < len(text):
            word = WORD.match(text, position)
            if word is None:
                raise self._wrong(f"{text[position:].lstrip()[:1]!r} is not expected")
            words.append(word[0].strip())
            position = word.end()
        return words

    def _wrong(self, reason: str) -> Exception:
        return invalid_value(f"The parameter formula {self._text} is not valid: {reason}.")

    def _peek(self) -> str:
        return self._words[self._at] if self._at < len(self._words) else ""

    def _next(self) -> str:
        word = self._peek()
        self._at += 1
        return word

    def _expect(self, wanted: str) -> None:
        word = self._next()
        if word != wanted:
            raise self._wrong(f"{wanted!r} is missing before {word!r}" if word else f"{wanted!r} is missing")

    def _expression(self) -> Fraction:
        value = self._term()
        while self._peek() in ("+", "-"):
            operator = self._operator()
            right = self._term()
            value = self._cut(value + right if operator == "+" else value - right)
        return value

    def _term(self) -> Fraction:
        value = self._factor()
        while self._peek() in ("*", "/"):
            operator = self._operator()
            right = self._factor()
            if operator == "/" and not right:
                raise self._wrong("it divides by zero")
            value = self._cut(value * right if operator == "*" else value / right)
        return value

    def _operator(self) -> str:
        if not self._braces:
            raise self._wrong(f"{self._peek()!r} must stand between braces")
        return self._next()

    @staticmethod
    def _cut(value: Fraction) -> Fraction:
        return Fraction(int(value))

    def _factor(self) -> Fraction:
        self._depth += 1
        if self._depth > FORMULA_DEPTH_MAX:
            raise self._wrong(f"it is nested more than {FORMULA_DEPTH_MAX} levels deep")
        word = self._next()
        if word == "-":
            value = -self._factor()
        elif word == "{":
            value = self._braced()
        elif word == "(":
            value = self._expression()
            self._expect(")")
        elif word[:1].isdigit():
            value = self._number(word)
        elif word.isalpha():
            value = self._named(word)
        else:
            raise self._wrong(f"{word!r} is not expected" if word else "it ends too early")
        self._depth -= 1
        return value

    def _braced(self) -> Fraction:
        self._braces += 1
        value = self._expression()
        self._expect("}")
        self._braces -= 1
        return value

    def _number(self, word: str) -> Fraction:
        if len(word) > DIGITS_MAX:
            raise self._wrong(f"a number has more than {DIGITS_MAX} digits")
        return Fraction(word)

    def _named(self, name: str) -> Fraction:
        function = FUNCTIONS.get(name.upper())
        if function is not None and self._peek() == "(":
            return self._call(name, function)
        if name not in self._variables:
            raise self._wrong(f"there is no variable {name}")
        if not self._braces:
            raise self._wrong(f"the variable {name} must stand between braces")
        return Fraction(self._variables[name])

    def _call(self, name: str, function: Callable[[list[Fraction]], Fraction]) -> Fraction:
        self._expect("(")
        values = [self._expression()]
        while self._peek() == ",":
            self._next()
            values.append(self._expression())
        self._expect(")")
        if len(values) > FUNCTION_ARGUMENTS_MAX:
            raise self._wrong(f"{name} has more than {FUNCTION_ARGUMENTS_MAX} arguments")
        try:
            return function(values)
        except ValueError as error:
            raise self._wrong(f"{name} {error}") from error


def _log(values: list[Fraction]) -> Fraction:
    """The logarithm to base 2. It alone is not cut: RDS's own formulas scale it, as in {log(x/y)*1000}."""
    if len(values) != 1:
        raise ValueError("takes one argument")
    if values[0] <= 0:
        raise ValueError("needs a positive argument")
    return Fraction(math.log2(values[0]))


def _if(values: list[Fraction]) -> Fraction:
    if len(values) != 3:
        raise ValueError("takes a condition and two values")
    return values[1] if values[0] else values[2]


FUNCTIONS: dict[str, Callable[[list[Fraction]], Fraction]] = {
    "GREATEST": max,
    "LEAST": min,
    "SUM": lambda values: sum(values, Fraction(0)),
    "LOG": _log,
    "IF": _if,
}
