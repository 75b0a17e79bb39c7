"""MySQL in Debian: which packages of which suite, and what of them a server runs without.

Debian has MySQL in unstable only, one version at a time. Of the host's own MySQL an older one may be used as well.
"""

from __future__ import annotations

from mainstay.engines.mysql_family import iam_logins
from mainstay.model.engine import DebianPackages, PackagedEngine

SERVER = "../sbin/mysqld"
"""Beside the directory of all other programs."""

MYSQL = PackagedEngine(
    engine="mysql",
    default_major="9.7",
    releases={"9.7": DebianPackages(suite="sid", packages=("mysql-server-core", "mysql-client-core"))},
    host_majors=("8.0", "8.4"),
    bin_directory="usr/bin",
    library_directory="usr/lib/mysql/plugin",
    share_directory="usr/share",
    binaries=(SERVER, "mysql", "mysqladmin", "mysqlbinlog", "mysqldump"),
    plugins=(iam_logins.compiled(MYSQL="1"),),
    version_command=(SERVER, "--no-defaults", "--version"),
    version_pattern=r"Ver (\d+(?:\.\d+)+)(?!\S*MariaDB)\S* for ",
    system_pattern="/usr/sbin/mysqld",
)
