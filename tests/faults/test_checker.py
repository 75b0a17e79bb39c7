"""The checker itself: it must find every anomaly that is put before it, and none where there is none."""

from __future__ import annotations

import math
import random
import time

import pytest

from harness.backups import judge_restore
from harness.writers import Gap, Operation, Outcome, Row, gaps, judge

ACK, UNSURE, FAILED = Outcome.ACKNOWLEDGED, Outcome.INDETERMINATE, Outcome.FAILED


def operation(row: Row, outcome: Outcome, began: float = 0.0, ended: float = 1.0) -> Operation:
    return Operation(row, began, ended, outcome)


BASE = [operation((1, 1), ACK), operation((1, 2), UNSURE), operation((2, 1), FAILED), operation((2, 2), ACK)]
SOUND: list[Row] = [(1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("operations", "read", "final", "anomaly", "rows"),
    [
        pytest.param(BASE, [], [(1, 1)], "lost", [(2, 2)], id="one acknowledged commit lost"),
        pytest.param(BASE, [], [], "lost", [(1, 1), (2, 2)], id="all lost"),
        pytest.param(BASE, [], [(1, 2)], "lost", [(1, 1), (2, 2)], id="lost beside a recovered one"),
        pytest.param([operation((3, 3), ACK)], [], [(3, 2)], "lost", [(3, 3)], id="another row in its place"),
        pytest.param(BASE, [], [*SOUND, (2, 1)], "phantom", [(2, 1)], id="a failed commit is there"),
        pytest.param(BASE, [], [*SOUND, (9, 9)], "phantom", [(9, 9)], id="nobody wrote it"),
        pytest.param([], [], [(1, 1)], "phantom", [(1, 1)], id="phantom in an empty history"),
        pytest.param(BASE, [], [*SOUND, (1, 1)], "duplicate", [(1, 1)], id="acknowledged, there twice"),
        pytest.param(BASE, [], [*SOUND, (1, 2), (1, 2)], "duplicate", [(1, 2)], id="indeterminate, there twice"),
        pytest.param(BASE, [], [*SOUND, (9, 9), (9, 9)], "duplicate", [(9, 9)], id="phantom, there twice"),
        pytest.param(BASE, [(1, 2)], SOUND, "unread", [(1, 2)], id="indeterminate, read and gone"),
        pytest.param(BASE, [(1, 1)], [(2, 2)], "unread", [(1, 1)], id="acknowledged, read and gone"),
        pytest.param(BASE, [(2, 1)], SOUND, "unread", [(2, 1)], id="dirty read of a failed commit"),
    ],
)
def test_anomaly_is_found(
    operations: list[Operation], read: list[Row], final: list[Row], anomaly: str, rows: list[Row]
) -> None:
    verdict = judge(operations, read, final)
    assert getattr(verdict, anomaly) == rows
    assert not verdict.clean


def test_sound_histories_are_clean() -> None:
    chance = random.Random(7)
    for _ in range(1000):
        operations, final = [], []
        for number in range(chance.randrange(40)):
            row, outcome = (chance.randrange(4), number), chance.choice(list(Outcome))
            operations.append(operation(row, outcome))
            if outcome is ACK or (outcome is UNSURE and chance.random() < 0.5):
                final.append(row)
        chance.shuffle(final)
        read = chance.sample(final, len(final) // 2)
        verdict = judge(operations, read, final)
        assert verdict.clean, (operations, read, final)
        assert verdict.acknowledged + verdict.recovered == len(final)


def test_gap_counts_only_commits_begun_after_the_fault() -> None:
    history = [
        operation((1, 1), ACK, 0.0, 9.9),
        operation((1, 2), ACK, 9.95, 10.5),  # begun before the fault at 10: says nothing about writability after it
        operation((2, 1), UNSURE, 9.9, 10.1),
        operation((2, 2), ACK, 10.2, 12.0),
        operation((1, 3), ACK, 12.0, 12.1),
        operation((2, 3), UNSURE, 20.1, 20.2),
    ]
    first, second = gaps(history, [10.0, 20.0])
    assert first == Gap(2.0, 1.5, 1)
    assert (second.to_first_commit_s, second.indeterminate) == (math.inf, 1)


def test_the_judge_of_restores_sees_every_anomaly() -> None:
    """Of a restore to a moment (B2)."""
    offset = time.time() - time.monotonic()
    target = time.time()
    begun = target - offset
    history = [
        Operation((1, 1), begun - 2.0, begun - 1.9, Outcome.ACKNOWLEDGED),
        Operation((1, 2), begun - 0.1, begun + 0.1, Outcome.ACKNOWLEDGED),
        Operation((1, 3), begun + 1.0, begun + 1.1, Outcome.ACKNOWLEDGED),
        Operation((2, 1), begun - 1.0, begun - 0.5, Outcome.FAILED),
        Operation((2, 2), begun - 0.9, begun - 0.4, Outcome.INDETERMINATE),
    ]
    for right in ([(1, 1)], [(1, 1), (1, 2)], [(1, 1), (2, 2)]):
        assert judge_restore(history, right, target) == ""
    assert "before and missing" in judge_restore(history, [(1, 2)], target)
    assert "after and there" in judge_restore(history, [(1, 1), (1, 3)], target)
    assert "written by nobody" in judge_restore(history, [(1, 1), (2, 1)], target)
    assert "written by nobody" in judge_restore(history, [(1, 1), (9, 9)], target)
    assert "1 twice" in judge_restore(history, [(1, 1), (1, 1)], target)
