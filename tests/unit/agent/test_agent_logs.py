"""Log files: only below the log directory, in portions, with markers that go on where the last one ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mainstay.agent.logs import PORTION_BYTES_MAX, list_logs, prune_logs, read_log
from mainstay.engines.node_files import NodeFiles
from mainstay.model.errors import Permanent


@pytest.fixture
def files(tmp_path: Path) -> NodeFiles:
    found = NodeFiles(root=tmp_path / "node", sockets=tmp_path / "sockets")
    found.logs.mkdir(parents=True)
    (found.root / "spec.json").write_text("secret")
    return found


def test_files_are_listed_with_size_and_time_and_links_are_not(files: NodeFiles) -> None:
    (files.logs / "error").mkdir()
    (files.logs / "error" / "a.log").write_text("12345")
    os.utime(files.logs / "error" / "a.log", (1000.5, 1000.5))
    (files.logs / "link").symlink_to(files.root / "spec.json")
    assert list_logs(files) == [{"name": "error/a.log", "last_written_ms": 1000500, "size_bytes": 5}]


@pytest.mark.parametrize(
    "name", ["../spec.json", "/etc/passwd", "link", "", ".", "error", "nothing.log", "x/../../spec.json"]
)
def test_nothing_outside_the_log_directory_is_read(files: NodeFiles, name: str) -> None:
    (files.logs / "error").mkdir()
    (files.logs / "link").symlink_to(files.root / "spec.json")
    with pytest.raises(Permanent, match="no log file"):
        read_log(files, name, "0", None)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "y/" * 5000])
def test_a_name_that_no_file_can_have_is_refused(files: NodeFiles, name: str) -> None:
    with pytest.raises(Permanent, match="no log file"):
        read_log(files, name, "0", None)


def test_reading_by_markers_gives_every_line_once(files: NodeFiles) -> None:
    text = "".join(f"line {number}\n" for number in range(25))
    (files.logs / "a.log").write_text(text)
    marker, read, rounds = "0", "", 0
    while True:
        portion = read_log(files, "a.log", marker, 10)
        read, marker, rounds = read + portion["data"], portion["marker"], rounds + 1
        if not portion["pending"]:
            break
    assert (read, rounds) == (text, 3)
    (files.logs / "a.log").write_text(text + "more\n")
    assert read_log(files, "a.log", marker, 10)["data"] == "more\n"


def test_without_a_marker_the_last_lines_come(files: NodeFiles) -> None:
    (files.logs / "a.log").write_text("one\ntwo\nthree\n")
    assert read_log(files, "a.log", None, 2) == {"data": "two\nthree\n", "marker": "14", "pending": False}


def test_a_portion_has_at_most_a_megabyte(files: NodeFiles) -> None:
    (files.logs / "a.log").write_bytes(b"x" * (PORTION_BYTES_MAX + 10))
    first = read_log(files, "a.log", "0", None)
    assert (len(first["data"]), first["pending"]) == (PORTION_BYTES_MAX, True)
    second = read_log(files, "a.log", first["marker"], None)
    assert (len(second["data"]), second["pending"]) == (10, False)


@pytest.mark.parametrize("marker", ["-1", "abc", "99", "1.5", "²", "", "9" * 5000])
def test_a_marker_that_is_none_of_ours_is_refused(files: NodeFiles, marker: str) -> None:
    (files.logs / "a.log").write_text("one\n")
    with pytest.raises(Permanent, match="marker"):
        read_log(files, "a.log", marker, None)


def test_old_logs_are_removed_and_nothing_else(files: NodeFiles) -> None:
    for name, at in (("old.log", 100.0), ("new.log", 300.0)):
        (files.logs / name).touch()
        os.utime(files.logs / name, (at, at))
    assert prune_logs(files, 200.0) == 1
    assert [one["name"] for one in list_logs(files)] == ["new.log"]
    assert (files.root / "spec.json").exists()


def test_the_logs_of_an_encrypted_node_are_on_its_volume_and_not_found_through_a_link(tmp_path: Path) -> None:
    files = NodeFiles(root=tmp_path / "node", sockets=tmp_path / "sockets", logs_on_volume=True)
    assert files.logs.parent == files.volume
    assert list_logs(files) == [], "the volume is not mounted"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "old.log").write_text("secret")
    os.utime(outside / "old.log", (1.0, 1.0))
    files.volume.mkdir(parents=True)
    files.logs.symlink_to(outside)
    assert list_logs(files) == [] and prune_logs(files, 1000.0) == 0 and (outside / "old.log").exists()
    with pytest.raises(Permanent, match="is a link"):
        read_log(files, "old.log", "0", None)
