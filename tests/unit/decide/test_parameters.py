"""Formulas of DB parameters and the check of a user's value."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide import parameters
from mainstay.decide.parameters import FormulaVariables, check_value, evaluate, is_formula
from mainstay.model.engine import ParameterDefinition
from mainstay.model.errors import ApiError

GIB = 1 << 30
INSTANCE = FormulaVariables(
    allocated_storage_bytes=20 * GIB,
    db_instance_class_memory_bytes=8 * GIB,
    db_instance_vcpu=2,
    endpoint_port=5433,
    true_if_replica=True,
)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("LEAST({DBInstanceClassMemory/9531392},5000)", "901"),
        ("{DBInstanceClassMemory/32768}", "262144"),
        ("GREATEST({DBInstanceClassMemory*1024/63963136},65536)", "137518"),
        ("GREATEST({DBInstanceClassMemory/64371566592},3)", "3"),
        ("{DBInstanceClassMemory*3/4}", str(6 * GIB)),
        ("SUM({DBInstanceVCPU},-50,{AllocatedStorage/1073741824})", "-28"),
        ("{EndPointPort}", "5433"),
        ("{TrueIfReplica}", "1"),
        ("IF({TrueIfReplica}, 7, 9)", "7"),
        ("IF({TrueIfReplica-1}, 7, 9)", "9"),
        ("{log(DBInstanceClassMemory/1073741824)*1000}", "3000"),
        ("{log(DBInstanceVCPU*3)*1000}", "2584"),
        ("greatest(1, least({DBInstanceVCPU}, 9))", "2"),
        ("{DBInstanceVCPU+3*4}", "14"),
        ("{(DBInstanceVCPU+3)*4}", "20"),
        ("{9-3-2}", "4"),
        ("{7/2*2}", "6"),
        ("{0-7/2}", "-3"),
        ("{DBInstanceVCPU*1.25}", "2"),
        (" { DBInstanceVCPU } ", "2"),
    ],
)
def test_a_formula_has_the_value_that_rds_computes(formula: str, expected: str) -> None:
    assert evaluate(formula, INSTANCE) == expected


@pytest.mark.parametrize("literal", ["", "on", "42", "pg_stat_statements,auto_explain", "iso, mdy", "sum", "a*b"])
def test_a_literal_is_taken_as_it_is(literal: str) -> None:
    assert not is_formula(literal)
    assert evaluate(literal, INSTANCE) == literal


@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        ("{", "ends too early"),
        ("{}", "'}' is not expected"),
        ("{1", "'}' is missing"),
        ("{1 2}", "'}' is missing before '2'"),
        ("{1}}", "'}' is not expected"),
        ("{DBInstanceVCPU/0}", "divides by zero"),
        ("{1/(DBInstanceVCPU-2)}", "divides by zero"),
        ("{Nope}", "no variable Nope"),
        ("{dbinstancevcpu}", "no variable"),
        ("LEAST(DBInstanceVCPU,3)", "must stand between braces"),
        ("{1}*2", "must stand between braces"),
        ("LEAST()", "is not expected"),
        ("{log(0)}", "positive"),
        ("{log(1,2)}", "one argument"),
        ("IF({1},2)", "two values"),
        ("{__import__}", "is not expected"),
        ("{1;2}", "is not expected"),
        ("{1.}", "is not expected"),
        ("{1**2}", "is not expected"),
    ],
)
def test_a_malformed_formula_is_refused_with_its_reason(formula: str, reason: str) -> None:
    with pytest.raises(ApiError, match="InvalidParameterValue") as caught:
        evaluate(formula, INSTANCE)
    assert reason in caught.value.message


def test_limits_of_length_depth_arguments_digits_and_result() -> None:
    filler = parameters.FORMULA_CHARACTERS_MAX - 3
    assert evaluate("{" + " " * filler + "1}", INSTANCE) == "1"
    deep = parameters.FORMULA_DEPTH_MAX - 2
    assert evaluate("{" + "(" * deep + "1" + ")" * deep + "}", INSTANCE) == "1"
    wide = parameters.FUNCTION_ARGUMENTS_MAX
    assert evaluate(f"SUM({','.join(['1'] * wide)})", INSTANCE) == str(wide)
    assert evaluate("{" + "9" * parameters.DIGITS_MAX + "}", INSTANCE) == "9" * parameters.DIGITS_MAX
    assert evaluate(f"{{{2**53}*1024-1+{2**53}*0}}", INSTANCE) == str(2**63 - 1)
    for formula in (
        "{" + " " * (filler + 1) + "1}",
        "{" + "(" * (deep + 1) + "1" + ")" * (deep + 1) + "}",
        f"SUM({','.join(['1'] * (wide + 1))})",
        "{" + "9" * (parameters.DIGITS_MAX + 1) + "}",
        f"{{{2**53}*1024}}",
    ):
        with pytest.raises(ApiError, match="InvalidParameterValue"):
            evaluate(formula, INSTANCE)


@given(st.text(alphabet="{}(),+-*/ 0123456789.ILEASTGRUMFlogDBnceVCP", max_size=80))
def test_any_text_ends_with_a_value_or_an_api_error(text: str) -> None:
    try:
        assert isinstance(evaluate(text, INSTANCE), str)
    except ApiError as error:
        assert error.shape == "InvalidParameterValue"


def _trees() -> st.SearchStrategy[tuple[str, int]]:
    """Arithmetic as text, with the value Python's own arithmetic gives it."""
    leaves = st.integers(0, 999).map(lambda number: (str(number), number))

    def grow(inner: st.SearchStrategy[tuple[str, int]]) -> st.SearchStrategy[tuple[str, int]]:
        def join(operator: str, left: tuple[str, int], right: tuple[str, int]) -> tuple[str, int]:
            text = f"({left[0]}{operator}{right[0]})"
            if operator == "/":
                divisor = right[1] or 1
                text = f"({left[0]}/GREATEST({right[0]},1))" if right[1] <= 0 else text
                return text, int(Fraction(left[1], max(divisor, 1)))
            return text, {"+": left[1] + right[1], "-": left[1] - right[1], "*": left[1] * right[1]}[operator]

        return st.builds(join, st.sampled_from("+-*/"), inner, inner)

    return st.recursive(leaves, grow, max_leaves=6)


@given(_trees())
def test_arithmetic_is_integer_arithmetic_cut_towards_zero(tree: tuple[str, int]) -> None:
    text, expected = tree
    assert evaluate("{" + text + "}", INSTANCE) == str(expected)


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=50))
def test_functions_agree_with_python(numbers: list[int]) -> None:
    arguments = ",".join(map(str, numbers))
    assert evaluate(f"GREATEST({arguments})", INSTANCE) == str(max(numbers))
    assert evaluate(f"LEAST({arguments})", INSTANCE) == str(min(numbers))
    assert evaluate(f"SUM({arguments})", INSTANCE) == str(sum(numbers))


def _definition(data_type: str, allowed: str, *, is_modifiable: bool = True) -> ParameterDefinition:
    return ParameterDefinition(
        name="p",
        data_type=data_type,
        apply_type="dynamic",
        default="",
        allowed_values=allowed,
        is_modifiable=is_modifiable,
    )


@pytest.mark.parametrize(
    ("data_type", "allowed", "value", "accepted"),
    [
        ("integer", "0-100", "0", True),
        ("integer", "0-100", "100", True),
        ("integer", "0-100", "101", False),
        ("integer", "0-100", "-1", False),
        ("integer", "-1-2147483647", "-1", True),
        ("integer", "-1-2147483647", "-2", False),
        ("integer", "-10--5", "-7", True),
        ("integer", "-10--5", "-4", False),
        ("integer", "0,30-3600", "0", True),
        ("integer", "0,30-3600", "29", False),
        ("integer", "0-100", "1.5", False),
        ("integer", "0-100", "64MB", False),
        ("integer", "0-100", "", False),
        ("integer", "", "9" * 400, False),
        ("integer", "0-100", "٣", False),
        ("integer", "0-100", "{DBInstanceVCPU*2}", True),
        ("integer", "0-100", "{DBInstanceVCPU*}", False),
        ("float", "0-1", "0.25", True),
        ("float", "0-1", "1e-3", True),
        ("float", "0-1", "1.01", False),
        ("float", "0-1.79769e+308", "12.5", True),
        ("float", "-1.79769e+308-1.79769e+308", "-12.5", True),
        ("float", "0-1", "nan", False),
        ("float", "0-1", "inf", False),
        ("boolean", "0,1", "1", True),
        ("boolean", "0,1", "on", False),
        ("boolean", "0,1", "{TrueIfReplica}", True),
        ("string", "md5,scram-sha-256", "md5", True),
        ("string", "md5,scram-sha-256", "MD5", True),
        ("string", "md5,scram-sha-256", "plain", False),
        ("string", "", "anything at all, even this: %m", True),
        ("string", "", "an open { brace", False),
        ("string", "", "line\nbreak", False),
        ("list", "a,b,c", "c, a", True),
        ("list", "a,b,c", "", True),
        ("list", "a,b,c", "a,d", False),
        ("list", "a,b,c", "a,a", False),
        ("list", "a,b,c", "a,,b", False),
        ("list", "default,a=on,a=off,b=on", "a=on, B=on", True),
        ("list", "default,a=on,a=off,b=on", "default,a=off", True),
        ("list", "default,a=on,a=off,b=on", "a=on,a=off", False),
    ],
)
def test_a_value_is_accepted_exactly_if_it_fits(data_type: str, allowed: str, value: str, accepted: bool) -> None:
    definition = _definition(data_type, allowed)
    if accepted:
        check_value(definition, value)
    else:
        with pytest.raises(ApiError, match="InvalidParameterValue"):
            check_value(definition, value)


def test_the_error_names_parameter_value_and_what_is_allowed() -> None:
    with pytest.raises(ApiError) as caught:
        check_value(_definition("integer", "0-100"), "64MB")
    assert caught.value.message == "Invalid parameter value: 64MB for: p allowed values are: 0-100"


def test_a_parameter_that_cannot_be_modified_is_refused_whatever_the_value() -> None:
    with pytest.raises(ApiError, match="cannot be modified"):
        check_value(_definition("integer", "0-100", is_modifiable=False), "1")


def test_the_longest_value_is_limited() -> None:
    definition = _definition("string", "")
    check_value(definition, "x" * parameters.VALUE_CHARACTERS_MAX)
    with pytest.raises(ApiError, match="exceeds"):
        check_value(definition, "x" * (parameters.VALUE_CHARACTERS_MAX + 1))
