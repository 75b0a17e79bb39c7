"""The class table."""

from __future__ import annotations

import pytest

from mainstay.model.db_instance_class import CLASSES, GIB, MIB, db_instance_class
from mainstay.model.errors import ApiError


@pytest.mark.parametrize(
    ("name", "vcpus", "memory_gib"),
    [
        ("db.t3.micro", 2, 1),
        ("db.t4g.2xlarge", 8, 32),
        ("db.m5.large", 2, 8),
        ("db.m6i.32xlarge", 128, 512),
        ("db.m7g.16xlarge", 64, 256),
        ("db.r5.24xlarge", 96, 768),
        ("db.r6g.xlarge", 4, 32),
    ],
)
def test_classes(name: str, vcpus: int, memory_gib: int) -> None:
    found = db_instance_class(name)
    assert (found.name, found.vcpus, found.memory_bytes) == (name, vcpus, memory_gib * GIB)


@pytest.mark.parametrize("name", ["db.m6g.24xlarge", "db.m5.micro", "db.t3.4xlarge", "t3.micro", "db.r5.32xlarge", ""])
def test_what_is_no_class(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        db_instance_class(name)
    assert str(caught.value) == f"InvalidParameterValue: Invalid DB Instance class: {name}"


def test_every_class_once_and_memory_left() -> None:
    assert len(CLASSES) == 12 + 8 * 7 + 2 + 2 * 2
    for one in CLASSES.values():
        assert one.memory_bytes * 7 // 8 <= one.db_instance_class_memory_bytes < one.memory_bytes


def test_memory_left_for_the_engine() -> None:
    assert db_instance_class("db.t3.micro").db_instance_class_memory_bytes == GIB - 128 * MIB
    assert db_instance_class("db.r5.large").db_instance_class_memory_bytes == 16 * GIB - 512 * MIB
