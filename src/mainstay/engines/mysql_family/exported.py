"""What makes a restored backup into a directory that a stock server starts from: it is one already."""

from __future__ import annotations

import msgspec

from mainstay.engines.mysql_family.rules import FamilyRules
from mainstay.model.repository_job import BackupFacts


class Stock(msgspec.Struct, frozen=True, kw_only=True):
    """The stock programs of an engine. `options` are lines of the server's group, `socket_login` is its plugin's name.

    `recovers` are more lines, of a copy as after a power cut: its binary log says which prepared transactions were
    committed. `remarks`: what else there is to know, whole lines.
    """

    title: str
    server: str
    client: str
    options: tuple[str, ...]
    socket_login: str
    recovers: tuple[str, ...] = ()
    remarks: str = ""


README = """\
This is a {title} {major} data directory, exported by Mainstay: the backup {backup_id}, made with {title} {version}.
Every file was checked when it was written. It needs a {title} {major} or newer for this kind of machine.

Its owner must be the system user that runs {title}, which is never root:

    chown -R mysql: DIRECTORY

Start it, as that user, with no other options than its own (my.cnf is in it):

    {server} --defaults-file=DIRECTORY/my.cnf --datadir=DIRECTORY

It listens on its Unix socket only, DIRECTORY/mysqld.sock. The system user {owner} may be an administrator there:

    {client} --socket=DIRECTORY/mysqld.sock --user={owner}

if its name is an account with {socket_login} authentication, as the users that ran the DB instance are. Otherwise start
it once with --skip-grant-tables, and make an account. Everybody else needs the password that their user had in the DB
instance. Take a copy first if you want to use these files twice: a started server changes them.
{remarks}"""
CONFIGURATION = """\
# Written by `mainstay backups export`: the defaults of {title}.
[{server}]
socket = mysqld.sock
skip_networking
"""


def files(stock: Stock, facts: BackupFacts, owner: str) -> dict[str, bytes]:
    """Path -> content, the README last. `owner` is the system user who owns the files."""
    words = msgspec.structs.asdict(stock) | {
        "major": FamilyRules.major_of(facts.engine_version),
        "version": facts.engine_version,
        "backup_id": facts.backup_id,
        "owner": owner,
    }
    options = (*stock.options, *(stock.recovers if facts.crash_consistent else ()))
    configuration = CONFIGURATION.format(**words) + "".join(f"{line}\n" for line in options)
    return {"my.cnf": configuration.encode(), "README-MAINSTAY.txt": README.format(**words).encode()}
