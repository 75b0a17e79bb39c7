"""What makes a restored backup into a directory that stock MariaDB starts from: it is one already."""

from __future__ import annotations

from mainstay.engines.mysql_family.layout import BINLOG
from mainstay.model.repository_job import BackupFacts

README = """\
This is a MariaDB {major} data directory, exported by Mainstay: the backup {backup_id}, made with MariaDB {version}.
Every file was checked when it was written. It needs a MariaDB {major} or newer for this kind of machine.

Its owner must be the system user that runs MariaDB, which is never root:

    chown -R mysql: DIRECTORY

Start it, as that user, with no other options than its own (my.cnf is in it):

    mariadbd --defaults-file=DIRECTORY/my.cnf --datadir=DIRECTORY

It listens on its Unix socket only, DIRECTORY/mysqld.sock. The system user {owner} may be an administrator there:

    mariadb --socket=DIRECTORY/mysqld.sock --user={owner}

if its name is an account with unix_socket authentication, as the users that ran the DB instance are. Otherwise start it
once with --skip-grant-tables, and make an account. Everybody else needs the password that their user had in the DB
instance. Take a copy first if you want to use these files twice: a started server changes them.
"""
CONFIGURATION = """\
# Written by `mainstay backups export`: MariaDB's defaults.
[mariadbd]
socket = mysqld.sock
skip_networking
"""


RECOVERS = f"log_bin = {BINLOG}\n"
"""Of a copy as after a power cut: its binary log says which prepared transactions were committed."""


def files(facts: BackupFacts, owner: str) -> dict[str, bytes]:
    """Path -> content, the README last. `owner` is the system user who owns the files."""
    major = ".".join(facts.engine_version.split(".")[:2])
    readme = README.format(major=major, version=facts.engine_version, backup_id=facts.backup_id, owner=owner)
    options = CONFIGURATION + (RECOVERS if facts.crash_consistent else "")
    return {"my.cnf": options.encode(), "README-MAINSTAY.txt": readme.encode()}
