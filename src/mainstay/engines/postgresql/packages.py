"""PostgreSQL in Debian: which packages of which suite, and what of them a server runs without.

Contrib modules are part of postgresql-N. JIT compilation is left out: the provider and LLVM take as much room as all
the rest, and PostgreSQL runs without them as if `jit` were off (manual 32.4.1).
"""

from __future__ import annotations

from mainstay.model.engine import DebianPackages, PackagedEngine, TrustedExtension

# Vetted one by one: none reads or writes files, runs programs or returns raw pages. Never add file_fdw, adminpack,
# pageinspect, pg_walinspect or an untrusted language. dblink and postgres_fdw demand a password of non-superusers.
TRUSTED = (
    TrustedExtension("dblink"),
    TrustedExtension("pg_buffercache"),
    TrustedExtension("pg_prewarm"),
    # As on RDS; upgrade scripts make the function anew, without the grant.
    TrustedExtension(
        "pg_stat_statements", "GRANT EXECUTE ON FUNCTION pg_stat_statements_reset TO rds_superuser;", upgrades=True
    ),
    TrustedExtension("pgaudit"),
    TrustedExtension("pgrowlocks"),
    TrustedExtension("pgstattuple"),
    # Objects of a trusted extension belong to the bootstrap superuser: without this nobody could CREATE SERVER.
    TrustedExtension(
        "postgres_fdw", "GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO @extowner@ WITH GRANT OPTION;"
    ),
    TrustedExtension("sslinfo"),
    TrustedExtension("vector"),
)


def _packages(major: int, *extras: str) -> tuple[str, ...]:
    return (f"postgresql-{major}", f"postgresql-client-{major}", *(f"postgresql-{major}-{extra}" for extra in extras))


POSTGRESQL = PackagedEngine(
    engine="postgres",
    default_major="17",
    releases={
        "15": DebianPackages(suite="bookworm", packages=_packages(15, "pgaudit")),
        "17": DebianPackages(suite="trixie", packages=_packages(17, "pgaudit", "pgvector")),
        "18": DebianPackages(suite="sid", packages=_packages(18, "pgaudit", "pgvector")),
    },
    bin_directory="usr/lib/postgresql/{major}/bin",
    library_directory="usr/lib/postgresql/{major}/lib",
    share_directory="usr/share/postgresql/{major}",
    binaries=(
        "initdb",
        "pg_basebackup",
        "pg_controldata",
        "pg_ctl",
        "pg_dump",
        "pg_receivewal",
        "pg_restore",
        "pg_rewind",
        "pg_upgrade",
        "postgres",
        "psql",
        "vacuumdb",
    ),
    version_command=("postgres", "--version"),
    version_pattern=r"\(PostgreSQL\) (\d+(?:\.\d+)+)",
    unneeded_packages=("libllvm*", "libz3-*", "postgresql-common*", "postgresql-client-common"),
    unneeded_paths=("usr/lib/postgresql/*/lib/bitcode", "usr/lib/postgresql/*/lib/llvmjit*"),
    host_paths={"/usr/share/zoneinfo/UTC": "Install the host's package tzdata: PostgreSQL reads /usr/share/zoneinfo."},
    extension_directory="usr/share/postgresql/{major}/extension",
    trusted_extensions=TRUSTED,
    system_pattern="/usr/lib/postgresql/*/bin/postgres",
)
