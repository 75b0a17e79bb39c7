"""Standbys that a power cut met are told from those that ended in order, or were killed on a host that went on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mainstay.engines.mysql_family import unforced
from mainstay.engines.mysql_family.binlog import MAGIC
from mainstay.engines.node_files import NodeFiles


@pytest.fixture
def files(tmp_path: Path) -> NodeFiles:
    """A node whose newest binary log is open."""
    found = NodeFiles(root=tmp_path / "node", sockets=tmp_path / "runtime" / "node")
    found.data.mkdir(parents=True)
    found.sockets.mkdir(parents=True)
    write_log(found, 1, open_=False)
    write_log(found, 2, open_=True)
    return found


def write_log(files: NodeFiles, number: int, *, open_: bool) -> None:
    begin = MAGIC + bytes(17) + bytes([unforced.IN_USE if open_ else 0]) + bytes(80)
    (files.data / f"mysql-bin-changelog.{number:06}").write_bytes(begin)
    (files.data / "mysql-bin-changelog.index").touch()


def power_cut(files: NodeFiles) -> None:
    """What is in memory is gone."""
    shutil.rmtree(files.sockets.parent)


def test_what_ran_when_the_host_went_down_is_torn_until_it_is_copied_anew(files: NodeFiles) -> None:
    assert not unforced.is_torn(files)
    unforced.note_running(files)
    assert not unforced.is_torn(files), "killed, it would be whole"
    power_cut(files)
    assert unforced.is_torn(files)
    files.sockets.mkdir(parents=True)
    unforced.note_running(files)
    assert unforced.is_torn(files), "another start does not mend it"
    unforced.forget(files)
    assert not unforced.is_torn(files)
    unforced.note_running(files)
    power_cut(files)
    assert unforced.is_torn(files)


def test_another_boot_is_noticed_where_the_runtime_directory_outlives_it(
    files: NodeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unforced.note_running(files)
    other = tmp_path / "boot_id"
    other.write_text("another boot")
    monkeypatch.setattr(unforced, "BOOT", other)
    assert unforced.is_torn(files)


def test_an_orderly_end_is_no_loss(files: NodeFiles) -> None:
    unforced.note_running(files)
    write_log(files, 2, open_=False)
    power_cut(files)
    assert not unforced.is_torn(files)
    files.sockets.mkdir(parents=True)
    unforced.note_running(files)
    write_log(files, 3, open_=True)
    assert not unforced.is_torn(files)
    power_cut(files)
    assert unforced.is_torn(files)


def test_a_binary_log_of_which_nothing_is_left_is_not_held_for_closed(files: NodeFiles) -> None:
    unforced.note_running(files)
    power_cut(files)
    (files.data / "mysql-bin-changelog.000003").write_bytes(MAGIC)
    assert unforced.is_torn(files)
    for path in files.data.iterdir():
        path.unlink()
    assert not unforced.is_torn(files), "a copy has no log of its own"
