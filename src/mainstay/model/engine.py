"""What an engine is made of: an installed build, its parameters, and where Debian keeps its packages."""

from __future__ import annotations

from pathlib import Path

import msgspec

DYNAMIC = "dynamic"
STATIC = "static"
SOURCE_ENGINE_DEFAULT = "engine-default"
SOURCE_SYSTEM = "system"

ORIGIN_INSTALLED = "installed"
ORIGIN_SYSTEM = "system"


class EngineBuild(msgspec.Struct, frozen=True, kw_only=True):
    """One engine version that can be started on this host.

    `environment` is what every process of the build must find in its environment; `extensions` are those a user may
    name in CREATE EXTENSION, `trusted_extensions` those among them that need no superuser.
    """

    engine: str
    version: str
    major: str
    family: str
    prefix: Path
    bin_directory: Path
    library_directory: Path
    share_directory: Path
    origin: str
    extensions: tuple[str, ...] = ()
    trusted_extensions: tuple[str, ...] = ()
    environment: dict[str, str] = {}

    @property
    def name(self) -> str:
        """ "postgres-17.5": the name of the build's directory and of what is cached about it."""
        return f"{self.engine}-{self.version}"


class ParameterDefinition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One parameter of a DB parameter group family, with the members of AWS's `Parameter` shape.

    `default` is the value of an untouched group, possibly a formula. With source "engine-default" it is what the
    engine uses when nothing is configured; with source "system" the service must configure it.
    """

    name: str
    data_type: str
    apply_type: str
    default: str
    allowed_values: str = ""
    description: str = ""
    unit: str = ""
    is_modifiable: bool = True
    minimum_engine_version: str = ""
    source: str = SOURCE_ENGINE_DEFAULT


class TrustedExtension(msgspec.Struct, frozen=True):
    """An extension vetted to be created without superuser, as on RDS.

    `install_sql` is added to its installation script; `@extowner@` in it is the user who creates the extension. With
    `upgrades` it is added to the scripts between two versions as well.
    """

    name: str
    install_sql: str = ""
    upgrades: bool = False


class CompiledPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin of our own: C without headers and libraries, compiled to `library` in the build's library directory."""

    library: str
    source: Path
    defined: dict[str, str] = {}


class DebianPackages(msgspec.Struct, frozen=True, kw_only=True):
    """Where one major version of an engine comes from. `packages[0]` carries the engine's version."""

    suite: str
    packages: tuple[str, ...]


class PackagedEngine(msgspec.Struct, frozen=True, kw_only=True):
    """All that installing an engine needs to know about it; every engine's own package provides one.

    Paths are relative to the prefix and may contain `{major}`. `unneeded_packages` and `unneeded_paths` are shell
    patterns of what the engine runs without. `host_paths` maps a path that its binaries expect on the host itself to a
    hint how to get it. `plugins` are compiled when it is installed. `host_majors` are major versions that are used
    where the host has them, and not installed. `version_command` prints a version that `version_pattern`'s first group
    matches.
    """

    engine: str
    default_major: str
    releases: dict[str, DebianPackages]
    bin_directory: str
    library_directory: str
    share_directory: str
    binaries: tuple[str, ...]
    version_command: tuple[str, ...]
    version_pattern: str
    unneeded_packages: tuple[str, ...] = ()
    unneeded_paths: tuple[str, ...] = ()
    host_paths: dict[str, str] = {}
    extension_directory: str = ""
    trusted_extensions: tuple[TrustedExtension, ...] = ()
    plugins: tuple[CompiledPlugin, ...] = ()
    host_majors: tuple[str, ...] = ()
    system_pattern: str = ""
    """Glob of the binary of `version_command` where the host's own packages put it, absolute."""

    def family(self, major: str) -> str:
        """DB parameter group family of a major version."""
        return f"{self.engine}{major}"

    def major_of(self, version: str) -> str:
        """The major version that a version (or a major version itself) belongs to, "" if it is none we know.

        The longest known major wins, so that "10.11.9" is "10.11" where that is a major version.
        """
        majors = (*self.releases, *self.host_majors)
        fits = [major for major in majors if version == major or version.startswith(major + ".")]
        return max(fits, key=len, default="")
