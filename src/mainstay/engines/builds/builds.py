"""The builds of one service, below `settings.builds`.

Guarantees: a build is offered only if its manifest, the last thing written, is there, so a kill at any moment leaves
nothing half-made on offer; installing what is installed does nothing; two installations at once happen one after the
other.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from mainstay.engines.builds.apt import Package, PrivateApt, Progress
from mainstay.engines.builds.mirrors import find_mirrors
from mainstay.engines.builds.plugins import PACKAGES as COMPILER_PACKAGES
from mainstay.engines.builds.plugins import compile_plugins, digests
from mainstay.engines.builds.tree import (
    NEVER_RUN,
    check_libraries,
    extensions_in,
    patch,
    trust_extensions,
    unpack,
)
from mainstay.engines.mariadb.packages import MARIADB
from mainstay.engines.mysql.packages import MYSQL
from mainstay.engines.postgresql.packages import POSTGRESQL
from mainstay.host.files import fsync_directory, write_atomically
from mainstay.host.processes import SAFE_ENVIRONMENT
from mainstay.model.engine import ORIGIN_INSTALLED, ORIGIN_SYSTEM, EngineBuild, PackagedEngine
from mainstay.model.errors import Permanent, Transient
from mainstay.settings import Settings

PACKAGED: dict[str, PackagedEngine] = {engine.engine: engine for engine in (POSTGRESQL, MARIADB, MYSQL)}
MANIFEST = "manifest.json"
PARTIAL = ".partial"
BEFORE = f"-before{PARTIAL}"
SYNC_TIMEOUT_S = 300.0
VERSION_TIMEOUT_S = 10.0


class Installable(msgspec.Struct, frozen=True):
    """A major version that can be installed, and from which suite."""

    engine: str
    major: str
    suite: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a build is and what it was made of: package file name -> SHA-256, and `digests` of its plugins."""

    build: EngineBuild
    suite: str
    packages: dict[str, str]
    plugins: dict[str, str] = {}


class Builds:
    """Finds, resolves and installs builds."""

    def __init__(self, settings: Settings) -> None:
        self.directory = settings.builds
        self.engine_user_name = settings.engine_user
        self._seen: tuple[object, list[EngineBuild]] = ((), [])

    def installed(self) -> list[EngineBuild]:
        """Every build that can be started: our own, and the host's packages where we have none of that version."""
        manifests = sorted(self.directory.glob(f"*/{MANIFEST}"))
        key = (*map(_stamp, manifests), *map(_stamp, _system_programs()))
        if key != self._seen[0]:
            own = [
                manifest.build
                for path in manifests
                # An engine that a newer Mainstay has installed here is none that this one could operate.
                if (manifest := _read_manifest(path)) is not None and manifest.build.engine in PACKAGED
            ]
            names = {build.name for build in own}
            system = [build for build in _system_builds() if build.name not in names]
            self._seen = (key, own + system)
        return list(self._seen[1])

    def of(self, engine: str) -> list[EngineBuild]:
        """The builds of one engine."""
        return [build for build in self.installed() if build.engine == engine]

    def vetted(self, engine: str) -> tuple[str, ...]:
        """The extensions that a user without superuser can create in builds of our own."""
        return tuple(extension.name for extension in PACKAGED[engine].trusted_extensions)

    def installable(self) -> list[Installable]:
        """What `install` can be asked for."""
        return [
            Installable(engine.engine, major, release.suite)
            for engine in PACKAGED.values()
            for major, release in engine.releases.items()
        ]

    def resolve(self, engine: str, version: str) -> EngineBuild:
        """The build of this version, or the newest of this major version. Raises `Permanent` if there is none."""
        found = [
            build for build in self.installed() if build.engine == engine and version in (build.version, build.major)
        ]
        if not found:
            raise Permanent(
                f"{engine} {version} is not installed", hint=f"Run `mainstay engines install {engine} {version}`."
            )
        return max(found, key=lambda build: [int(part) for part in build.version.split(".")])

    def install(self, engine: str, version: str | None, progress: Progress, *, again: bool = False) -> EngineBuild:
        """Installs the newest release of a major version (the engine's default one if None); returns the build.

        `again` fetches what Debian has now also for a version that is there: a later revision of its packages, or of
        the libraries it needs. Engines that run keep the files they have open until they are started again.
        Raises `Permanent` for what cannot be installed, `Transient` for what may work another time.
        """
        packaged = PACKAGED.get(engine)
        if packaged is None:
            raise Permanent(f"there is no engine {engine!r}", hint=f"Engines: {', '.join(PACKAGED)}.")
        major = packaged.major_of(version) if version else packaged.default_major
        if major not in packaged.releases:
            raise Permanent(
                f"{engine} {version} cannot be installed", hint=f"Major versions: {', '.join(packaged.releases)}."
            )
        if not self.directory.exists():
            self.directory.mkdir(parents=True)
            self.directory.chmod(0o755)  # whatever the umask: engines run as another user than root
        with _only_one(self.directory / ".install.lock", progress):
            _put_back(self.directory)
            present = None if again else self._own(engine, major, version)
            try:
                if present is None:
                    return self._install(packaged, major, version, progress)
                self._renew_plugins(packaged, present, progress)
                return present
            except OSError as error:
                raise Transient(
                    f"{engine} {major} could not be stored in {self.directory}: {error.strerror}",
                    hint="Is the disk full, or the directory not yours?",
                ) from error

    def clean(self, progress: Progress) -> int:
        """Removes the downloaded packages; returns how many bytes they took."""
        cache = self.directory / ".cache"
        if not cache.is_dir():
            return 0
        with _only_one(self.directory / ".install.lock", progress):
            freed = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
            shutil.rmtree(cache, ignore_errors=True)
        return freed

    def _own(self, engine: str, major: str, version: str | None) -> EngineBuild | None:
        own = [build for build in self.installed() if build.origin == ORIGIN_INSTALLED and build.engine == engine]
        return next((build for build in own if build.major == major and version in (None, major, build.version)), None)

    def _install(self, engine: PackagedEngine, major: str, version: str | None, progress: Progress) -> EngineBuild:
        for path, hint in engine.host_paths.items():
            if not Path(path).exists():
                raise Permanent(f"{path} is missing on this host", hint=hint)
        release = engine.releases[major]
        cache, packages = self._download(release.suite, release.packages, engine.unneeded_packages, progress)
        found = _upstream_version(packages, release.packages[0])
        if version not in (None, major, found):
            raise Permanent(
                f"the mirror has {engine.engine} {found}, not {version}", hint=f"Ask for {major} or {found}."
            )
        prefix = self.directory / f"{engine.engine}-{found}"
        tree = prefix.with_name(f".{prefix.name}{PARTIAL}")
        before = prefix.with_name(f".{prefix.name}{BEFORE}")
        for leftover in self.directory.glob(f".*{PARTIAL}"):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            tree.mkdir()
            unpack([cache / package.file for package in packages], tree, engine, progress)
            check_libraries(tree, engine, major)
            patch(tree, prefix, progress)
            extensions, trusted = trust_extensions(tree, engine, major)
            self._compile(engine, release.suite, tree / engine.library_directory.format(major=major), progress)
            _sync(tree)
            build = _build(engine, major, found, prefix, ORIGIN_INSTALLED, extensions, trusted)
            hashes = {package.file: package.sha256 for package in packages}
            plugins = digests(engine.plugins)
            manifest = Manifest(build=build, suite=release.suite, packages=hashes, plugins=plugins)
            _put_in_place(engine, manifest, tree, prefix, before)
        finally:
            shutil.rmtree(tree, ignore_errors=True)  # gone already unless something failed
        shutil.rmtree(before, ignore_errors=True)
        progress("done", 1.0)
        return build

    def _download(
        self, suite: str, names: tuple[str, ...], unneeded: tuple[str, ...], progress: Progress
    ) -> tuple[Path, list[Package]]:
        """Where the packages' whole closure is now, and what it is."""
        cache = self.directory / ".cache" / suite
        cache.mkdir(parents=True, exist_ok=True)
        apt = PrivateApt(self.directory / ".apt" / suite, suite, find_mirrors(Path("/etc/apt")))
        return cache, apt.download(names, (*NEVER_RUN, *unneeded), cache, progress)

    def _renew_plugins(self, engine: PackagedEngine, build: EngineBuild, progress: Progress) -> None:
        """A build of an earlier Mainstay gets the plugins of this one. Engines that run keep what they have loaded."""
        manifest = _read_manifest(build.prefix / MANIFEST)
        wanted = digests(engine.plugins)
        if manifest is None or manifest.plugins == wanted:
            return
        self._compile(engine, manifest.suite, build.library_directory, progress)
        _sync(build.library_directory)
        _write_manifest(msgspec.structs.replace(manifest, plugins=wanted))
        progress("done", 1.0)

    def _compile(self, engine: PackagedEngine, suite: str, directory: Path, progress: Progress) -> None:
        if not engine.plugins:
            return
        cache, packages = self._download(suite, COMPILER_PACKAGES, (), progress)
        toolchain = self.directory / f".tcc-{suite}{PARTIAL}"
        shutil.rmtree(toolchain, ignore_errors=True)
        try:
            toolchain.mkdir()
            everything = msgspec.structs.replace(engine, unneeded_paths=())
            unpack([cache / package.file for package in packages], toolchain, everything, progress)
            progress("compiling plugins", 0.0)
            compile_plugins(engine.plugins, toolchain, directory)
        finally:
            shutil.rmtree(toolchain, ignore_errors=True)


def _put_in_place(engine: PackagedEngine, manifest: Manifest, tree: Path, prefix: Path, before: Path) -> None:
    """The tree becomes the build. One that is in the place already is kept as `before`, and put back if the new one
    does not run; it is missing for the moment between, in which an engine's start is tried again by its agent.
    """
    if prefix.exists():
        prefix.rename(before)
    try:
        tree.rename(prefix)
        fsync_directory(prefix.parent)
        _check(engine, manifest.build)
        _write_manifest(manifest)
    except BaseException:
        if before.exists():
            shutil.rmtree(prefix, ignore_errors=True)
            before.rename(prefix)
        raise


def _write_manifest(manifest: Manifest) -> None:
    content = msgspec.json.format(msgspec.json.encode(manifest, enc_hook=str))
    write_atomically(manifest.build.prefix / MANIFEST, content, mode=0o644)


def _put_back(directory: Path) -> None:
    """Finds again what an installation that was killed had put aside."""
    for before in directory.glob(f".*{BEFORE}"):
        prefix = directory / before.name[1 : -len(BEFORE)]
        if (before / MANIFEST).exists() and not (prefix / MANIFEST).exists():
            shutil.rmtree(prefix, ignore_errors=True)
            before.rename(prefix)


def _stamp(path: Path) -> tuple[Path, int]:
    try:
        return path, path.stat().st_mtime_ns
    except FileNotFoundError:  # removed since it was listed
        return path, 0


def _read_manifest(path: Path) -> Manifest | None:
    """None for what cannot be offered: just removed, damaged, or moved from the place its programs were patched for."""
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest, dec_hook=lambda kind, value: kind(value))
        return manifest if manifest.build.prefix.samefile(path.parent) else None
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _sync(tree: Path) -> None:
    """The tree is on the disk before its manifest can be."""
    try:
        done = subprocess.run(["sync", "-f", str(tree)], check=False, timeout=SYNC_TIMEOUT_S, env=SAFE_ENVIRONMENT)
    except subprocess.TimeoutExpired as error:
        raise Transient(f"the disk took longer than {SYNC_TIMEOUT_S:.0f} s to store {tree.name}") from error
    if done.returncode != 0:
        raise Transient(f"{tree.name} could not be stored", hint="Is the disk full or failing?")


def _upstream_version(packages: list[Package], name: str) -> str:
    """17.11 of Debian's 1:17.11-0+deb13u1."""
    for package in packages:
        if package.name == name:
            return package.version.split(":")[-1].rsplit("-", 1)[0].split("+")[0]
    raise Permanent(f"apt did not deliver {name}")


def _build(
    engine: PackagedEngine,
    major: str,
    version: str,
    prefix: Path,
    origin: str,
    extensions: tuple[str, ...] = (),
    trusted: tuple[str, ...] = (),
) -> EngineBuild:
    return EngineBuild(
        engine=engine.engine,
        version=version,
        major=major,
        family=engine.family(major),
        prefix=prefix,
        bin_directory=prefix / engine.bin_directory.format(major=major),
        library_directory=prefix / engine.library_directory.format(major=major),
        share_directory=prefix / engine.share_directory.format(major=major),
        origin=origin,
        extensions=extensions,
        trusted_extensions=trusted,
    )


def _check(engine: PackagedEngine, build: EngineBuild) -> None:
    """The programs are there and the engine says the version we think it has."""
    missing = [name for name in engine.binaries if not (build.bin_directory / name).exists()]
    if missing:
        raise Permanent(f"{build.name} lacks {', '.join(missing)}")
    said = _ask_version(engine, build.bin_directory)
    if said != build.version:
        raise Permanent(f"{build.name} says it is version {said!r}")


def _ask_version(engine: PackagedEngine, bin_directory: Path) -> str:
    program, *arguments = engine.version_command
    try:
        done = subprocess.run(
            [str(bin_directory / program), *arguments],
            capture_output=True, text=True, check=False, timeout=VERSION_TIMEOUT_S, env=SAFE_ENVIRONMENT,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(engine.version_pattern, done.stdout)
    return found[1] if found else ""


def _system_programs() -> list[Path]:
    patterns = [engine.system_pattern for engine in PACKAGED.values() if engine.system_pattern]
    return [Path(found) for pattern in patterns for found in sorted(glob.glob(pattern))]


def _system_builds() -> Iterator[EngineBuild]:
    """What the host's own packages offer."""
    for engine in PACKAGED.values():
        for found in sorted(glob.glob(engine.system_pattern)) if engine.system_pattern else ():
            version = _ask_version(engine, Path(found).parent)
            major = engine.major_of(version) if version else ""
            if major and os.access(found, os.X_OK):
                extensions = extensions_in(Path("/") / engine.extension_directory.format(major=major))
                yield _build(engine, major, version, Path("/"), ORIGIN_SYSTEM, *extensions)


@contextmanager
def _only_one(path: Path, progress: Progress) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another installation", 0.0)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
