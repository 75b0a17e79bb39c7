"""The step graphs are data: complete, without dead ends, and drawn as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mainstay.services.rds import refresh
from mainstay.workflows.engine import Program
from mainstay.workflows.programs import PROGRAMS

ROOT = Path(__file__).parents[3]
EACH = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)


def reachable(program: Program) -> set[str]:
    found: set[str] = set()
    todo = [program.first]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += program.steps[name].successors
    return found


@EACH
def test_every_successor_exists_and_every_step_can_be_reached(program: Program) -> None:
    for step in program.steps.values():
        assert set(step.successors) <= set(program.steps)
    assert reachable(program) == set(program.steps)


@EACH
def test_every_program_has_a_deadline_and_somebody_to_tell(program: Program) -> None:
    assert 60 <= program.deadline_s <= 30 * 24 * 3600
    assert callable(program.failed) and callable(program.overdue)


@EACH
def test_some_step_of_every_cycle_can_end_the_workflow(program: Program) -> None:
    """Each step's source returns `Finish` itself, or leads to one that does."""
    ends = {name for name, step in program.steps.items() if "Finish" in step.run.__code__.co_names}
    for name in program.steps:
        seen, todo = set(), [name]
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                todo += program.steps[one].successors
        assert seen & ends, f"{program.name}: nothing ends it after {name}"


def test_programs_are_found_by_their_own_names() -> None:
    assert all(program.name == name for name, program in PROGRAMS.items())
    assert refresh.PROGRAM in PROGRAMS


def test_the_drawn_graphs_are_the_real_ones() -> None:
    script = ROOT / "scripts" / "workflow_diagrams.py"
    done = subprocess.run([sys.executable, str(script), "--check"], check=False)
    assert done.returncode == 0, "run scripts/workflow_diagrams.py and review the difference"
