"""Making a tree of package files that runs where it lies."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.debian_archive import Archive
from mainstay.engines.builds.elf import read_elf
from mainstay.engines.builds.tree import check_libraries, extensions_in, patch, trust_extensions, unpack
from mainstay.model.engine import DebianPackages, PackagedEngine, TrustedExtension
from mainstay.model.errors import Permanent, Transient

ENGINE = PackagedEngine(
    engine="toy",
    default_major="7",
    releases={"7": DebianPackages(suite="trixie", packages=("toy-7",))},
    bin_directory="usr/lib/toy/{major}/bin",
    library_directory="usr/lib/toy/{major}/lib",
    share_directory="usr/share/toy/{major}",
    binaries=("toyd",),
    version_command=("toyd", "--version"),
    version_pattern=r"(\d+\.\d+)",
    unneeded_paths=("usr/lib/toy/*/lib/jit*",),
    extension_directory="usr/share/toy/{major}/extension",
    trusted_extensions=(TrustedExtension("safe"), TrustedExtension("wrapper", "GRANT x TO @extowner@;")),
)


def quiet(_phase: str, _share: float) -> None:
    """A progress nobody watches."""


def _tree_with_a_program(tree: Path) -> Path:
    """A tree with this host's `true` as the engine's only program, its loader and its C library."""
    program = tree / "usr/lib/toy/7/bin/toyd"
    source = Path(shutil.which("true") or "/bin/true").resolve()
    elf = read_elf(source)
    assert elf is not None
    libraries = tree / "usr/lib" / f"{os.uname().machine}-linux-gnu"
    libraries.mkdir(parents=True)
    program.parent.mkdir(parents=True)
    (tree / "usr/lib/toy/7/lib").mkdir()
    shutil.copy(source, program)
    loader = Path(f"{tree}{elf.interpreter}")
    loader.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(elf.interpreter).resolve(), loader)
    for name in elf.needed:
        shutil.copy(next(Path("/").glob(f"lib/*-linux-gnu/{name}")).resolve(), libraries / name)
    return program


def test_a_patched_program_runs_with_the_trees_own_loader_and_libraries(tmp_path: Path) -> None:
    tree, prefix = tmp_path / ".partial", tmp_path / "toy-7.1"
    program = _tree_with_a_program(tree)
    check_libraries(tree, ENGINE, "7")
    patch(tree, prefix, quiet)
    tree.rename(prefix)
    program = prefix / program.relative_to(tree)
    elf = read_elf(program)
    assert elf is not None
    assert elf.interpreter.startswith(f"{prefix}/")
    assert elf.search_path[0].startswith(f"{prefix}/usr/lib/")
    loaded = subprocess.run(
        [str(program)], check=True, capture_output=True, text=True, env={"LD_TRACE_LOADED_OBJECTS": "1"}
    ).stdout
    libraries = [line.split("=>")[1].split()[0] for line in loaded.splitlines() if "=>" in line]
    assert libraries
    assert all(library.startswith(f"{prefix}/") for library in libraries), loaded
    subprocess.run([str(program)], check=True)


def test_a_missing_library_or_loader_is_named(tmp_path: Path) -> None:
    program = _tree_with_a_program(tmp_path)
    elf = read_elf(program)
    assert elf is not None
    library = next(tmp_path.glob("usr/lib/*-linux-gnu/libc.so.6"))
    library.rename(library.with_name("elsewhere"))
    with pytest.raises(Permanent, match=r"toyd needs libc\.so\.6"):
        check_libraries(tmp_path, ENGINE, "7")
    library.with_name("elsewhere").rename(library)
    Path(f"{tmp_path}{elf.interpreter}").unlink()
    with pytest.raises(Permanent, match=r"toyd needs .*ld-"):
        check_libraries(tmp_path, ENGINE, "7")


def test_unpacking_keeps_merged_directories_and_drops_what_no_engine_reads(archive: Archive, tmp_path: Path) -> None:
    deb = archive.add(
        "toy-7",
        "7.1-1",
        files={
            "lib/thing.so": b"1",
            "usr/lib/toy/7/lib/jit.so": b"1",
            "usr/lib/toy/7/lib/keep.so": b"1",
            "usr/share/doc/toy/README": b"1",
            "usr/share/locale/xx/toy.mo": b"1",
        },
    )
    unpack([deb], tmp_path, ENGINE, quiet)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert (tmp_path / "lib").is_symlink()
    assert [name for name in files if name.startswith("usr")] == ["usr/lib/thing.so", "usr/lib/toy/7/lib/keep.so"]


def test_nothing_in_a_tree_is_setuid_leads_out_or_is_closed_to_the_engine_user(
    archive: Archive, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN/control").write_text(
        "Package: toy-7\nVersion: 1\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: x\n"
    )
    (source / "lib64").mkdir()
    (source / "lib64/loader").symlink_to("/lib/real-loader")
    (source / "lib64/away").symlink_to("/etc/passwd")
    (source / "lib").mkdir()
    (source / "lib/real-loader").write_text("x")
    (source / "usr/sbin").mkdir(parents=True)
    (source / "usr/sbin/su").write_text("x")
    os.chmod(source / "usr/sbin/su", 0o4755)  # noqa: S103 - what is to be taken away
    os.chmod(source / "lib/real-loader", 0o600)
    deb = tmp_path / "toy-7_1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(source), str(deb)], check=True, capture_output=True)
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o700)
    unpack([deb], tree, ENGINE, quiet)
    assert (tree / "usr/sbin/su").stat().st_mode & 0o7777 == 0o755
    assert (tree / "usr/lib/real-loader").stat().st_mode & 0o7777 == 0o644
    assert tree.stat().st_mode & 0o7777 == 0o755
    assert (tree / "usr/lib64/loader").resolve() == (tree / "usr/lib/real-loader").resolve()
    assert not os.path.lexists(tree / "usr/lib64/away")


def test_a_broken_package_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "toy-7_1_all.deb").write_bytes(b"not a package")
    tree = tmp_path / "tree"
    tree.mkdir()
    with pytest.raises(Transient, match=r"toy-7_1_all\.deb"):
        unpack([tmp_path / "toy-7_1_all.deb"], tree, ENGINE, quiet)


def test_only_vetted_extensions_become_trusted(tmp_path: Path) -> None:
    directory = tmp_path / "usr/share/toy/7/extension"
    directory.mkdir(parents=True)
    controls = {
        "safe": "comment = 'x'\n#trusted = true\n",
        "wrapper": "comment = 'x'\ntrusted = false",
        "reads_files": "comment = 'trusted = true is not here'\n",
        "was_trusted": "trusted = true\n",
    }
    for name, text in controls.items():
        (directory / f"{name}.control").write_text(text)
    for script in ("wrapper--1.0.sql", "wrapper--1.0--1.1.sql"):
        (directory / script).write_text("SELECT 1;")
    present, trusted = trust_extensions(tmp_path, ENGINE, "7")
    assert present == ("reads_files", "safe", "was_trusted", "wrapper")
    assert trusted == ("safe", "was_trusted", "wrapper")
    assert (directory / "wrapper.control").read_text().count("trusted") == 1
    assert "GRANT x TO @extowner@;" in (directory / "wrapper--1.0.sql").read_text()
    assert "GRANT" not in (directory / "wrapper--1.0--1.1.sql").read_text()
    assert extensions_in(tmp_path / "nowhere") == ((), ())
