"""Control groups: real ones where this host lets us make them, and the files of both versions in a tree of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import structlog

from mainstay.host.cgroups import CPU_PERIOD_US, ROOT, ControlGroups
from mainstay.model.node import NodeLimits

MIB = 1 << 20
LIMITS = NodeLimits(memory_bytes=64 * MIB, vcpus=1)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root sets limits")
JOIN = "import sys; [open(path, 'w').write('0') for path in sys.argv[1:]];"


@pytest.fixture
def real() -> Iterator[ControlGroups]:
    """Groups of this host below a parent of the test's own."""
    name = f"mainstay-unit-{os.getpid()}"
    groups = ControlGroups(name)
    if not groups.version:
        pytest.skip("this host lets us make no control groups")
    yield groups
    groups.remove("n1")
    groups.remove_parent()
    assert not any((ROOT / controller / name).exists() for controller in ("", "memory", "cpu"))


def joined(groups: tuple[str, ...], work: str) -> subprocess.CompletedProcess[str]:
    """A process that puts itself into the groups, as the shim does, and then works."""
    return subprocess.run(
        [sys.executable, "-c", JOIN + work, *groups], capture_output=True, text=True, timeout=60, check=False
    )


def value(groups: ControlGroups, old: str, new: str) -> str:
    place = old if groups.version == 1 else new
    return (ROOT / place.format(parent=groups._parent)).read_text().strip()


def test_the_kernel_has_the_limits_of_the_class_and_of_the_next_one(real: ControlGroups) -> None:
    for limits in (LIMITS, NodeLimits(memory_bytes=128 * MIB, vcpus=2), LIMITS):
        assert real.prepare("n1", limits)
        memory = value(real, "memory/{parent}/n1/memory.limit_in_bytes", "{parent}/n1/memory.max")
        assert int(memory) == limits.memory_bytes
        quota = value(real, "cpu/{parent}/n1/cpu.cfs_quota_us", "{parent}/n1/cpu.max")
        assert int(quota.split()[0]) == limits.vcpus * CPU_PERIOD_US


@pytest.mark.skipif(psutil.swap_memory().total > 0, reason="with swap the kernel moves memory out instead")
def test_memory_beyond_the_limit_costs_the_process_its_life(real: ControlGroups) -> None:
    procs = real.prepare("n1", LIMITS)
    assert joined(procs, "x = bytearray(16 << 20)").returncode == 0
    assert joined(procs, "x = bytearray(128 << 20); x[::4096] = b'1' * len(x[::4096])").returncode == -signal.SIGKILL


def test_the_kernel_counts_what_the_process_takes_of_its_quota(real: ControlGroups) -> None:
    procs = real.prepare("n1", LIMITS)
    work = """
import os, time
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        end = time.monotonic() + 1.0
        while time.monotonic() < end: pass
        os._exit(0)
    children.append(child)
for child in children: os.waitpid(child, 0)
"""
    assert joined(procs, "\n" + work).returncode == 0
    stat = value(real, "cpu/{parent}/n1/cpu.stat", "{parent}/n1/cpu.stat")
    periods = dict(line.split() for line in stat.splitlines())
    # Whether it was ever held back depends on how much the rest of the machine has left it.
    assert int(periods["nr_periods"]) > 0


def test_groups_are_removed_when_they_are_empty(real: ControlGroups) -> None:
    procs = real.prepare("n1", LIMITS)
    guest = subprocess.Popen([sys.executable, "-c", JOIN + "print(flush=True); input()", *procs],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert guest.stdout is not None and guest.stdout.readline() == b"\n"
    real.remove("n1")  # somebody is inside: nothing happens, and nobody is told off
    assert all(Path(path).exists() for path in procs)
    guest.communicate(b"\n", timeout=30)
    real.remove("n1")
    assert not any(Path(path).exists() for path in procs)
    real.remove("n1")


@root_only
def test_version_2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    groups = ControlGroups("ours", root=tmp_path)
    assert groups.version == 2
    for tree in (tmp_path, tmp_path / "ours"):
        assert (tree / "cgroup.subtree_control").read_text() == "+memory +cpu"
    assert groups.prepare("n1", LIMITS) == (str(tmp_path / "ours" / "n1" / "cgroup.procs"),)
    group = tmp_path / "ours" / "n1"
    assert (group / "memory.max").read_text() == str(64 * MIB)
    assert (group / "cpu.max").read_text() == "100000 100000"


@root_only
def test_version_1(tmp_path: Path) -> None:
    for controller in ("memory", "cpu"):
        (tmp_path / controller).mkdir()
        (tmp_path / controller / "tasks").touch()
    groups = ControlGroups("ours", root=tmp_path)
    assert groups.version == 1
    assert groups.prepare("n1", LIMITS) == tuple(
        str(tmp_path / controller / "ours" / "n1" / "cgroup.procs") for controller in ("memory", "cpu")
    )
    assert (tmp_path / "memory/ours/n1/memory.limit_in_bytes").read_text() == str(64 * MIB)
    assert (tmp_path / "cpu/ours/n1/cpu.cfs_quota_us").read_text() == "100000"


@root_only
def test_without_all_of_it_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset io pids\n")  # without memory and cpu
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "tasks").touch()  # and version 1 without cpu
    groups = ControlGroups("ours", root=tmp_path)
    assert groups.version == 0
    assert groups.prepare("n1", LIMITS) == ()
    groups.remove("n1")


@root_only
def test_a_limit_that_is_refused_is_told_and_the_others_hold(tmp_path: Path) -> None:
    for controller in ("memory", "cpu"):
        (tmp_path / controller).mkdir()
        (tmp_path / controller / "tasks").touch()
    groups = ControlGroups("ours", root=tmp_path)
    (tmp_path / "memory" / "ours" / "n1" / "memory.limit_in_bytes").mkdir(parents=True)
    with structlog.testing.capture_logs() as told:
        procs = groups.prepare("n1", LIMITS)
    assert procs == (str(tmp_path / "cpu" / "ours" / "n1" / "cgroup.procs"),)
    assert [(one["event"], one["node_id"]) for one in told] == [("cgroups.not_limited", "n1")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may set limits")
def test_an_ordinary_user_sets_none() -> None:
    groups = ControlGroups("ours")
    assert groups.version == 0 and groups.prepare("n1", LIMITS) == ()
