"""What is wanted of an instance's parameters and what is in force, through every history of changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide.parameter_values import ParameterChange, held_after, values_in_force, wanted_values
from mainstay.model.db_parameter_group import DBParameterGroup, UserParameter
from mainstay.model.engine import ParameterDefinition
from mainstay.model.records import Scope

SCOPE = Scope("123456789012", "us-east-1")


def definition(name: str, default: str, source: str = "engine-default") -> ParameterDefinition:
    return ParameterDefinition(name=name, data_type="string", apply_type="dynamic", default=default, source=source)


DEFINITIONS = {
    "work_mem": definition("work_mem", "4096"),
    "shared_buffers": definition("shared_buffers", "{DBInstanceClassMemory/32768}", "system"),
    "log_statement": definition("log_statement", ""),
}


def group(**values: str) -> DBParameterGroup:
    return DBParameterGroup(
        scope=SCOPE,
        db_parameter_group_name="g",
        db_parameter_group_family="f",
        description="d",
        parameters={name: UserParameter(value, "immediate") for name, value in values.items()},
    )


def test_only_what_must_be_configured_is_wanted() -> None:
    assert wanted_values(None, DEFINITIONS) == {"shared_buffers": "{DBInstanceClassMemory/32768}"}
    mine = group(work_mem="64", shared_buffers="1", of_another_build="x", log_statement="")
    assert wanted_values(mine, DEFINITIONS) == {"work_mem": "64", "shared_buffers": "1", "log_statement": ""}


def test_held_values_are_put_back() -> None:
    mine = group(work_mem="64", shared_buffers="1")
    held = {"work_mem": None, "shared_buffers": None, "log_statement": "all", "gone": "1"}
    assert values_in_force(mine, DEFINITIONS, held) == {
        "shared_buffers": "{DBInstanceClassMemory/32768}",
        "log_statement": "all",
    }


def test_the_first_waiting_change_decides_what_is_held() -> None:
    first = ParameterChange(name="work_mem", old="1", new="2", at_once=False)
    second = ParameterChange(name="work_mem", old="2", new="3", at_once=False)
    assert held_after({}, [first]) == {"work_mem": "1"}
    assert held_after({"work_mem": "1"}, [second]) == {"work_mem": "1"}
    assert held_after({}, [first, second]) == {"work_mem": "1"}


def test_changing_back_or_at_once_ends_the_waiting() -> None:
    back = ParameterChange(name="work_mem", old="2", new="1", at_once=False)
    assert held_after({"work_mem": "1", "other": None}, [back]) == {"other": None}
    at_once = ParameterChange(name="work_mem", old="2", new="3", at_once=True)
    assert held_after({"work_mem": "1"}, [at_once]) == {}
    assert held_after({}, [ParameterChange(name="work_mem", old=None, new=None, at_once=False)]) == {}


@given(st.lists(st.tuples(st.sampled_from(sorted(DEFINITIONS)), st.none() | st.sampled_from("abc"), st.booleans())))
def test_in_force_is_what_acted_at_once_since_the_start(history: list[tuple[str, str | None, bool]]) -> None:
    """A model that keeps the values in force by itself agrees with group + held after every change."""
    wanted: dict[str, str | None] = dict.fromkeys(DEFINITIONS)
    in_force: dict[str, str | None] = dict.fromkeys(DEFINITIONS)
    held: dict[str, str | None] = {}
    for name, new, at_once in history:
        held = held_after(held, [ParameterChange(name=name, old=wanted[name], new=new, at_once=at_once)])
        wanted[name] = new
        if at_once:
            in_force[name] = new
        present = group(**{key: value for key, value in wanted.items() if value is not None})
        expected = group(**{key: value for key, value in in_force.items() if value is not None})
        assert values_in_force(present, DEFINITIONS, held) == wanted_values(expected, DEFINITIONS)
        assert set(held) == {key for key in DEFINITIONS if wanted[key] != in_force[key]}
