"""What makes a restored base backup with its WAL into a directory that stock PostgreSQL starts from.

There is a `backup_label` and no `recovery.signal`: the server recovers from `pg_wal` alone up to the end of the backup
and opens (manual 25.3.4 and 25.3.5), and refuses to if WAL is missing.
"""

from __future__ import annotations

from mainstay.engines.postgresql.configuration import ADMIN_ROLE
from mainstay.engines.postgresql.rules import PostgresqlRules
from mainstay.model.repository_job import BackupFacts

MAP = "exported"
CONFIGURATION = """\
# Written by `mainstay backups export`: PostgreSQL's defaults, and room for what the database may hold.
listen_addresses = 'localhost'
max_prepared_transactions = 1000
"""
README = """\
This is a PostgreSQL {major} data directory, exported by Mainstay: the backup {backup_id}, made with PostgreSQL
{version}. Every file was checked when it was written. It needs a PostgreSQL {major} for this kind of machine, the
extensions that the databases use, and the locale C.UTF-8, which Debian and most others have.

Its owner must be the system user that runs PostgreSQL, which is never root:

    chown -R postgres: {here}

Start it, as that user (the first start takes a moment: it recovers from pg_wal to the end of the backup):

    pg_ctl start -D {here} -w

Log in over the Unix socket as its superuser, and give a password to whom you like:

    psql -U {admin} postgres

pg_hba.conf lets the system user {owner} in as {admin}, over the Unix socket; pg_ident.conf names that user: change
it to the one that runs psql. Everybody else needs the password that their role had in the DB instance.
Take a copy first if you want to use these files twice: a started server changes them.
"""


def files(facts: BackupFacts, owner: str) -> dict[str, bytes]:
    """Path -> content, the README last. `owner` is the system user who may log in as the superuser."""
    major = PostgresqlRules.major_of(facts.engine_version)
    readme = README.format(
        major=major,
        version=facts.engine_version,
        backup_id=facts.backup_id,
        here="DIRECTORY",
        admin=ADMIN_ROLE,
        owner=owner,
    )
    hba = f"local all {ADMIN_ROLE} peer map={MAP}\nlocal all all scram-sha-256\nhost all all samehost scram-sha-256\n"
    return {
        "postgresql.conf": CONFIGURATION.encode(),
        "postgresql.auto.conf": b"",
        "pg_hba.conf": hba.encode(),
        "pg_ident.conf": f"{MAP} {owner} {ADMIN_ROLE}\n".encode(),
        "README-MAINSTAY.txt": readme.encode(),
    }
