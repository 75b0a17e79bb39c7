"""What is taken for a dump, and which pg_restore may take one apart."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard

from mainstay.engines.dumps import LoadOrder
from mainstay.engines.postgresql.dump_sources import open_script, refusal
from mainstay.model.engine import ORIGIN_SYSTEM, EngineBuild
from mainstay.model.errors import Permanent
from mainstay.model.login_place import LoginPlace
from mainstay.model.secret import Secret


def build_of(version: str) -> EngineBuild:
    nowhere = Path("/nonexistent")
    return EngineBuild(
        engine="postgres", version=version, major=version.split(".")[0], family="", prefix=nowhere,
        origin=ORIGIN_SYSTEM, bin_directory=nowhere, library_directory=nowhere, share_directory=nowhere,
    )  # fmt: skip


def order_of(scratch: Path, version: str = "17.12", **members: bool) -> LoadOrder:
    place = LoginPlace(address="127.0.0.1", host="x", port=1, database="d", authorities=scratch)
    return LoadOrder(
        place=place, user="app", password=Secret("x"), build=build_of(version), scratch=scratch, timeout_s=60.0,
        script_bytes_max=1 << 30, **members,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("version", "fixed"),
    [("13.22", "14.25"), ("14.24", "14.25"), ("15.18", "15.20"), ("16.15", "16.16"), ("17.11", "17.12"),
     ("18.6", "18.7")],
)  # fmt: skip
def test_an_old_pg_restore_is_refused_with_the_release_that_mends_it(version: str, fixed: str) -> None:
    reason = refusal(build_of(version))
    assert "CVE-2026-116314" in reason and reason.endswith(f"fixed in {fixed}")


@pytest.mark.parametrize("version", ["14.25", "15.20", "16.16", "17.12", "17.13", "18.7", "19.0"])
def test_one_that_has_the_fixes_is_taken(version: str) -> None:
    assert refusal(build_of(version)) == ""


def test_an_archive_is_not_given_to_an_old_one(tmp_path: Path) -> None:
    archive = tmp_path / "x.dump"
    archive.write_bytes(b"PGDMP\x01\x10\x00")
    with pytest.raises(Permanent, match=r"CVE-2026-116314.* fixed in 15\.20") as refused:
        with open_script(archive, order_of(tmp_path, "15.18"), lambda _done, _total: None):
            pass
    assert "engines install postgres 15" in refused.value.hint


def contents(dump: Path, scratch: Path) -> bytes:
    seen: list[tuple[int, int]] = []
    with open_script(dump, order_of(scratch, "15.18"), lambda done, total: seen.append((done, total))) as script:
        found = b""
        while piece := script.read(7):
            found += piece
        script.finish()
    assert seen[-1] == (dump.stat().st_size, dump.stat().st_size), "progress is of the file as it is"
    return found


def test_scripts_are_read_plain_and_compressed(tmp_path: Path) -> None:
    script = b"SELECT 1;\n" * 1000
    for name, content in (
        ("plain", script),
        ("gz", gzip.compress(script[:5000]) + gzip.compress(script[5000:])),
        ("zst", zstandard.compress(script)),
    ):
        (tmp_path / name).write_bytes(content)
        assert contents(tmp_path / name, tmp_path) == script


def test_a_compressed_script_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gz").write_bytes(gzip.compress(b"SELECT 1;\n" * 1000)[:-9])
    with pytest.raises(Permanent, match="cannot be read"):
        contents(tmp_path / "gz", tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfeS\x00E\x00", "UTF-16"),
        (b"SELECT\x00", "is no dump of PostgreSQL"),
        (b"\x04\x22\x4d\x18....", "compressed in a way that is not read here"),
        (b"PK\x03\x04....", "compressed in a way that is not read here"),
    ],
)
def test_what_is_no_dump_is_refused_in_words(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(Permanent, match=reason):
        contents(tmp_path / "x", tmp_path)


def test_directories_and_devices(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=r"no toc\.dat"):
        contents(tmp_path, tmp_path)
    with pytest.raises(Permanent, match="is no file"):
        contents(Path("/dev/null"), tmp_path)


def test_owners_cannot_be_left_out_of_a_script(tmp_path: Path) -> None:
    (tmp_path / "x.sql").write_text("SELECT 1;")
    order = order_of(tmp_path, without_owners=True)
    with pytest.raises(Permanent, match="of archives only") as refused:
        with open_script(tmp_path / "x.sql", order, lambda _done, _total: None):
            pass
    assert "pg_dump --no-owner" in refused.value.hint
