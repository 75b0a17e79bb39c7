"""MariaDB in Debian: which packages of which suite, and what of them a server runs without.

mariadb-server brings the plugins and mariadb-install-db; what it needs beside them is for clusters (Galera), for the
host's init system and for scripts in Perl, none of which runs here.
"""

from __future__ import annotations

from mainstay.engines.mysql_family import iam_logins
from mainstay.model.engine import DebianPackages, PackagedEngine

SERVER = "../sbin/mariadbd"
"""Beside the directory of all other programs."""

PACKAGES = ("mariadb-server-core", "mariadb-server", "mariadb-backup", "mariadb-client")

REMOVED_PROGRAMS = """galera_* innotop mariadb-access mariadb-convert-table-format mariadb-dumpslow
    mariadb-fix-extensions mariadb-hotcopy mariadb-report mariadb-secure-installation mariadb-setpermission
    mariadbd-multi mariadbd-safe* mysqld_safe msql2mysql mytop wsrep_*""".split()
"""For people at a shell of the host, in Perl, or for clusters."""

REMOVED_PLUGINS = """auth_pam* disks* file_key_management* ha_federated* ha_sphinx* handlersocket* provider_*
    sql_errlog* wsrep_info*""".split()
"""They open ports, files or connections of their own: INSTALL SONAME would need no more than INSERT on mysql.plugin."""

MARIADB = PackagedEngine(
    engine="mariadb",
    default_major="11.8",
    releases={
        "10.11": DebianPackages(suite="bookworm", packages=PACKAGES),
        "11.8": DebianPackages(suite="trixie", packages=PACKAGES),
    },
    bin_directory="usr/bin",
    library_directory="usr/lib/mysql/plugin",
    share_directory="usr/share",
    binaries=(
        SERVER,
        "mariadb",
        "mariadb-admin",
        "mariadb-backup",
        "mariadb-binlog",
        "mariadb-dump",
        "mbstream",
    ),
    version_command=(SERVER, "--no-defaults", "--version"),
    version_pattern=r"Ver (\d+(?:\.\d+)+)-MariaDB",
    unneeded_packages=tuple(
        """debianutils dpkg galera-* gawk iproute2 libbpf1 libelf1* libgmp10 liblsof0 libmnl0 libmpfr6 libpopt0
        libsigsegv2 libtirpc* libxtables12 lsof mariadb-common mysql-common psmisc rsync socat tar usrmerge
        openssl-provider-legacy""".split()
    ),
    unneeded_paths=(
        *(f"usr/bin/{pattern}" for pattern in REMOVED_PROGRAMS),
        *(f"usr/lib/mysql/plugin/{pattern}" for pattern in REMOVED_PLUGINS),
    ),
    plugins=(iam_logins.compiled(),),
)
