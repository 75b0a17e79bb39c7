"""Installing, finding and resolving builds, with a toy engine from an archive of the tests' own."""

from __future__ import annotations

import functools
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from harness.debian_archive import Archive
from mainstay.engines.builds import Builds, builds
from mainstay.engines.builds.apt import PrivateApt, Progress
from mainstay.engines.builds.mirrors import Mirrors
from mainstay.engines.builds.tree import unpack
from mainstay.model.engine import ORIGIN_INSTALLED, ORIGIN_SYSTEM, CompiledPlugin, DebianPackages, PackagedEngine
from mainstay.model.errors import Permanent, Transient
from mainstay.settings import Settings

PROGRAM = "usr/lib/toy/7/bin/toyd"


def script(version: str) -> bytes:
    """The toy engine."""
    return f"#!/bin/sh\necho 'toy version {version}'\n".encode()


def quiet(_phase: str, _share: float) -> None:
    """A progress nobody watches."""


def _toy(tmp_path: Path) -> PackagedEngine:
    return PackagedEngine(
        engine="toy",
        default_major="7",
        releases={
            "7": DebianPackages(suite="trixie", packages=("toy-7",)),
            "7.5": DebianPackages(suite="trixie", packages=("toy-7.5",)),
        },
        host_majors=("6",),
        bin_directory="usr/lib/toy/{major}/bin",
        library_directory="usr/lib/toy/{major}/lib",
        share_directory="usr/share/toy/{major}",
        binaries=("toyd",),
        version_command=("toyd", "--version"),
        version_pattern=r"version (\d+\.\d+)",
        extension_directory="usr/share/toy/{major}/extension",
        system_pattern=f"{tmp_path}/system/*/toyd",
    )


@pytest.fixture
def home(tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Iterator[Builds]:
    umask = os.umask(0o022)
    archive.add("toy-7", "1:7.1-2+deb13u1", files={PROGRAM: script("7.1")})
    archive.publish()
    monkeypatch.setattr(builds, "PACKAGED", {"toy": _toy(tmp_path)})
    monkeypatch.setattr(builds, "PrivateApt", functools.partial(PrivateApt, keyring=archive.keyring))
    monkeypatch.setattr(builds, "find_mirrors", lambda _apt: Mirrors(archive.uri))

    # dpkg-deb keeps the modes of the files it was given.
    def unpack_and_mark(packages: list[Path], tree: Path, engine: PackagedEngine, progress: Progress) -> None:
        unpack(packages, tree, engine, progress)
        (tree / PROGRAM).chmod(0o755)

    monkeypatch.setattr(builds, "unpack", unpack_and_mark)
    yield Builds(Settings(home=tmp_path / "home"))
    os.umask(umask)


def test_an_installed_build_is_described_offered_and_resolved(home: Builds) -> None:
    assert home.installed() == []
    phases: dict[str, None] = {}
    build = home.install("toy", None, lambda phase, _share: phases.setdefault(phase))
    assert (build.name, build.major, build.family, build.origin) == ("toy-7.1", "7", "toy7", ORIGIN_INSTALLED)
    assert (build.bin_directory / "toyd").is_file()
    assert home.installed() == [build] == home.of("toy")
    assert home.resolve("toy", "7") == home.resolve("toy", "7.1") == build
    assert next(iter(phases)) == "reading package lists"
    assert list(phases)[-1] == "done"
    assert Builds(Settings(home=home.directory.parent)).installed() == [build]


def test_the_manifest_names_every_package_with_its_checksum(home: Builds) -> None:
    build = home.install("toy", "7", quiet)
    manifest = json.loads((build.prefix / "manifest.json").read_text())
    [(name, digest)] = manifest["packages"].items()
    assert name == "toy-7_1%3a7.1-2+deb13u1_all.deb"
    assert len(digest) == 64
    assert manifest["suite"] == "trixie"
    assert (build.prefix / "manifest.json").stat().st_mode & 0o777 == 0o644


def test_installing_again_does_nothing(home: Builds, archive: Archive) -> None:
    build = home.install("toy", "7", quiet)
    before = (build.prefix / "manifest.json").stat().st_mtime_ns
    shutil.rmtree(archive.root)
    for version in (None, "7", "7.1"):
        assert home.install("toy", version, lambda phase, _share: pytest.fail(phase)) == build
    assert (build.prefix / "manifest.json").stat().st_mtime_ns == before


def test_a_newer_release_stands_beside_the_older_and_is_what_the_major_version_means(
    home: Builds, archive: Archive
) -> None:
    old = home.install("toy", "7", quiet)
    archive.add("toy-7", "1:7.10-1", files={PROGRAM: script("7.10")})
    archive.publish()
    new = home.install("toy", "7.10", quiet)
    assert home.resolve("toy", "7") == new
    assert home.resolve("toy", "7.1") == old


def revised(archive: Archive, version: str = "7.1") -> None:
    """Debian has packaged the same release once more."""
    archive.add("toy-7", "1:7.1-2+deb13u2", files={PROGRAM: script(version) + b"# revised\n"})
    archive.publish()


def test_a_later_revision_of_the_same_release_takes_its_place_when_asked_for(home: Builds, archive: Archive) -> None:
    old = home.install("toy", "7", quiet)
    revised(archive)
    assert home.install("toy", "7", quiet) == old
    assert "# revised" not in (old.prefix / PROGRAM).read_text()
    with (old.prefix / PROGRAM).open() as running:  # as an engine has its files open
        assert home.install("toy", "7", quiet, again=True) == old
        assert "# revised" not in running.read()
    assert "# revised" in (old.prefix / PROGRAM).read_text()
    assert home.installed() == [old] and "deb13u2" in (old.prefix / "manifest.json").read_text()
    assert not list(home.directory.glob(".*.partial"))


@pytest.mark.parametrize("stage", ["unpack", "patch", "_check", "write_atomically"])
def test_one_that_cannot_be_installed_again_stays_as_it_was(
    home: Builds, archive: Archive, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    old = home.install("toy", "7", quiet)
    revised(archive)

    def fail(*_arguments: object, **_named: object) -> None:
        raise Permanent("no room")

    with monkeypatch.context() as patched:
        patched.setattr(builds, stage, fail)
        with pytest.raises(Permanent, match="no room"):
            home.install("toy", "7", quiet, again=True)
    assert home.installed() == [old] and "# revised" not in (old.prefix / PROGRAM).read_text()


@pytest.mark.parametrize("half_made", [False, True])
def test_what_a_killed_installation_had_put_aside_is_found_again(
    home: Builds, archive: Archive, half_made: bool
) -> None:
    old = home.install("toy", "7", quiet)
    old.prefix.rename(old.prefix.with_name(f".{old.prefix.name}-before.partial"))
    if half_made:
        old.prefix.mkdir()
    assert home.installed() == []
    shutil.rmtree(archive.root)
    assert home.install("toy", "7", quiet) == old and home.installed() == [old]


@pytest.mark.parametrize("stage", ["unpack", "check_libraries", "patch", "_sync", "_check", "write_atomically"])
def test_dying_at_any_stage_leaves_nothing_on_offer_and_the_next_time_succeeds(
    home: Builds, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    class Killed(BaseException):
        """As sudden as a signal."""

    def die(*_arguments: object, **_named: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(builds, stage, die)
        patched.setattr(shutil, "rmtree", lambda *_arguments, **_named: None)  # a killed process cleans up nothing
        with pytest.raises(Killed):
            home.install("toy", "7", quiet)
    assert home.installed() == []
    build = home.install("toy", "7", quiet)
    assert home.installed() == [build]
    assert not list(home.directory.glob(".*.partial"))


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("8", "cannot be installed"),
        ("6", "cannot be installed"),
        ("7.2", "has toy 7.1, not 7.2"),
        ("x", "cannot be installed"),
    ],
)
def test_what_cannot_be_installed_is_explained(home: Builds, version: str, words: str) -> None:
    with pytest.raises(Permanent, match=words) as caught:
        home.install("toy", version, quiet)
    assert caught.value.hint
    with pytest.raises(Permanent, match="no engine 'nope'"):
        home.install("nope", None, quiet)


def test_a_program_that_says_another_version_is_not_offered(home: Builds, archive: Archive) -> None:
    archive.add("toy-7", "1:7.1-3", files={PROGRAM: script("6.6")})
    archive.publish()
    with pytest.raises(Permanent, match=r"6\.6"):
        home.install("toy", "7", quiet)
    assert home.installed() == []


def test_two_at_once_happen_one_after_the_other(home: Builds) -> None:
    phases: list[str] = []
    at_work, go_on = threading.Event(), threading.Event()

    def first(phase: str, _share: float) -> None:
        at_work.set()
        assert go_on.wait(30)

    def second(phase: str, _share: float) -> None:
        phases.append(phase)
        go_on.set()

    found: list[object] = []

    def install(progress: Callable[[str, float], None]) -> None:
        found.append(Builds(Settings(home=home.directory.parent)).install("toy", "7", progress))

    threads = [threading.Thread(target=install, args=(first,)), threading.Thread(target=install, args=(second,))]
    threads[0].start()
    assert at_work.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert found[0] == found[1]
    assert phases == ["waiting for another installation"]


def test_a_moved_or_damaged_build_is_not_offered(home: Builds) -> None:
    build = home.install("toy", "7", quiet)
    moved = build.prefix.with_name("toy-7.1.old")
    build.prefix.rename(moved)
    assert home.installed() == []
    moved.rename(build.prefix)
    assert home.installed() == [build]
    (build.prefix / "manifest.json").write_text("{")
    assert home.installed() == []
    with pytest.raises(Permanent, match="not installed") as caught:
        home.resolve("toy", "7")
    assert "mainstay engines install toy 7" in caught.value.hint


def test_a_strict_umask_does_not_close_the_tree_to_the_engine_user(home: Builds) -> None:
    os.umask(0o077)
    build = home.install("toy", "7", quiet)
    for directory in (home.directory, build.prefix, build.bin_directory):
        assert directory.stat().st_mode & 0o005 == 0o005, directory


def test_an_engine_of_the_hosts_packages_is_offered_unless_we_have_that_version(home: Builds, tmp_path: Path) -> None:
    for name, version in (("a", "7.1"), ("b", "7.0"), ("c", "99.9")):
        program = tmp_path / "system" / name / "toyd"
        program.parent.mkdir(parents=True)
        program.write_bytes(script(version))
        program.chmod(0o755)
    assert {(build.version, build.origin) for build in home.installed()} == {
        ("7.1", ORIGIN_SYSTEM),
        ("7.0", ORIGIN_SYSTEM),
    }
    own = home.install("toy", "7", quiet)
    assert home.resolve("toy", "7.1") == own
    assert home.resolve("toy", "7.0").origin == ORIGIN_SYSTEM


def test_a_path_that_the_host_must_have_is_checked_first(home: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = msgspec.structs.replace(builds.PACKAGED["toy"], host_paths={"/no/such/path": "Install it."})
    monkeypatch.setattr(builds, "PACKAGED", {"toy": toy})
    with pytest.raises(Permanent, match="/no/such/path") as caught:
        home.install("toy", "7", quiet)
    assert caught.value.hint == "Install it."


def test_a_full_disk_is_a_transient_error(home: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(builds, "trust_extensions", full)
    with pytest.raises(Transient, match="No space left") as caught:
        home.install("toy", "7", quiet)
    assert caught.value.hint
    assert not list(home.directory.glob(".*.partial"))


def test_the_longest_known_major_version_wins(tmp_path: Path) -> None:
    toy = _toy(tmp_path)
    assert [toy.major_of(version) for version in ("7", "7.1", "7.5", "7.5.2", "7.50", "6.2", "70", "")] == [
        "7", "7", "7.5", "7.5", "7", "6", "", "",
    ]  # fmt: skip


def test_what_can_be_installed_is_listed(home: Builds) -> None:
    assert [(one.engine, one.major, one.suite) for one in home.installable()] == [
        ("toy", "7", "trixie"),
        ("toy", "7.5", "trixie"),
    ]


def test_cleaning_removes_the_packages_and_nothing_else(home: Builds) -> None:
    assert home.clean(quiet) == 0
    build = home.install("toy", "7", quiet)
    size = sum(path.stat().st_size for path in (home.directory / ".cache").rglob("*.deb"))
    assert home.clean(quiet) == size > 0
    assert home.installed() == [build]
    assert not (home.directory / ".cache").exists()


class Compiler:
    """In the place of Debian's: which libraries were asked for, and a text in the place of each."""

    def __init__(self) -> None:
        self.fails = False
        self.compiled: list[str] = []

    def __call__(self, plugins: Sequence[CompiledPlugin], toolchain: Path, directory: Path) -> None:
        assert (toolchain / "usr/share/tcc").is_file(), "its packages are unpacked"
        for plugin in plugins:
            self.compiled.append(plugin.library)
            if self.fails:
                raise Permanent("no room")
            (directory / plugin.library).write_bytes(plugin.source.read_bytes())


@pytest.fixture
def plugin(
    home: Builds, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[CompiledPlugin, Compiler]:
    """The toy engine has a plugin from now on."""
    archive.add("tcc", "1")
    archive.add("toy-7", "1:7.1-4", files={PROGRAM: script("7.1"), "usr/lib/toy/7/lib/other": b""})
    archive.publish()
    made = CompiledPlugin(library="ours.so", source=tmp_path / "ours.c")
    made.source.write_text("int first;")
    compiler = Compiler()
    toy = msgspec.structs.replace(_toy(tmp_path), plugins=(made,))
    monkeypatch.setattr(builds, "PACKAGED", {"toy": toy})
    monkeypatch.setattr(builds, "compile_plugins", compiler)
    real = vars(builds)["unpack"]  # the one of `home`

    def unpack_any(packages: list[Path], tree: Path, engine: PackagedEngine, progress: Progress) -> None:
        if "tcc" in packages[0].name:
            (tree / PROGRAM).parent.mkdir(parents=True)
            (tree / PROGRAM).touch()  # what marks programs of the toy finds one
        real(packages, tree, engine, progress)

    monkeypatch.setattr(builds, "unpack", unpack_any)
    return made, compiler


def test_a_plugin_is_compiled_at_the_installation_and_anew_when_it_has_changed(
    home: Builds, archive: Archive, plugin: tuple[CompiledPlugin, Compiler]
) -> None:
    made, compiler = plugin
    build = home.install("toy", "7", quiet)
    library = build.library_directory / made.library
    assert library.read_text() == "int first;" and compiler.compiled == ["ours.so"]
    assert home.install("toy", "7", quiet) == build and len(compiler.compiled) == 1
    made.source.write_text("int second;")
    compiler.fails = True
    for _ in range(2):
        with pytest.raises(Permanent, match="no room"):
            home.install("toy", "7", quiet)
        assert library.read_text() == "int first;" and home.installed() == [build]
    compiler.fails = False
    assert home.install("toy", "7", quiet) == build and library.read_text() == "int second;"
    count = len(compiler.compiled)
    assert home.install("toy", "7", quiet) == build and len(compiler.compiled) == count
    assert not list(home.directory.glob(".*.partial"))


def test_an_engine_whose_plugin_cannot_be_compiled_is_not_installed(
    home: Builds, plugin: tuple[CompiledPlugin, Compiler]
) -> None:
    plugin[1].fails = True
    with pytest.raises(Permanent, match="no room"):
        home.install("toy", "7", quiet)
    assert home.installed() == []
