"""IAM logins: who must come with a token, and whom the server asks about it.

PostgreSQL asks by LDAP (manual 20.10, simple bind mode), the one password method of it that takes tokens of kilobytes
to a server that must prove who it is. Nothing of the user's name is interpreted: it is all that follows the prefix.

Members of `rds_iam` log in with a token over TLS, and with nothing else, from the moment they are granted it. But since
PostgreSQL 16 whoever may administer a role is its member too, as pg_hba.conf sees it: those who may grant `rds_iam`,
and whoever has created a role that was granted it. They must go on with their passwords. So members of `rds_superuser`
do, and all others who are members for that reason alone, but those who really were granted `rds_iam`; the two lists of
names that this takes stand in files, which `note_members` keeps right, within a probe's interval.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import psycopg
import structlog
from psycopg.rows import TupleRow

from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import write_atomically
from mainstay.model.node import NodeSpec

IAM_ROLE = "rds_iam"
SERVER = "127.0.0.1"
TIMEOUT_S = 5
ADMINISTRATION_IS_MEMBERSHIP_SINCE = 160000

TOKEN_USERS = "iam_token_users"  # noqa: S105 - the name of a file
"""File of the members of `rds_superuser` that were granted `rds_iam`."""

PASSWORD_USERS = "iam_password_users"  # noqa: S105 - the name of a file
"""File of the other users who only administer a member of `rds_iam`."""

NOBODY = '"rdsadmin"\n'
"""A list must not be empty: the field would vanish from its line. Earlier lines have refused rdsadmin already."""

log = structlog.get_logger()

_MEMBERS = """
WITH RECURSIVE
 member(oid) AS (
  SELECT oid FROM pg_roles WHERE rolname = 'rds_iam'
  UNION SELECT m.member FROM pg_auth_members AS m JOIN member ON m.roleid = member.oid),
 granted(oid) AS (
  SELECT oid FROM pg_roles WHERE rolname = 'rds_iam'
  UNION SELECT m.member FROM pg_auth_members AS m JOIN granted ON m.roleid = granted.oid WHERE {usable}),
 superuser(oid) AS (
  SELECT oid FROM pg_roles WHERE rolname = 'rds_superuser'
  UNION SELECT m.member FROM pg_auth_members AS m JOIN superuser ON m.roleid = superuser.oid)
SELECT rolname, oid IN (TABLE granted), oid IN (TABLE superuser) FROM pg_roles
 WHERE rolcanlogin AND oid IN (TABLE member) ORDER BY rolname
"""


def hba_rows(spec: NodeSpec, password: str) -> list[str]:
    """Lines of pg_hba.conf that stand before those of password logins; `password` is the method of those."""
    by_token = (
        f"ldap ldapscheme=ldaps ldapserver={SERVER} ldapport={spec.iam_login_port}"
        f' ldapprefix="dbuser:{spec.dbi_resource_id}/"'
    )
    rows: list[str] = []
    for users, method in (
        (f"@{TOKEN_USERS}", by_token),
        ("+rds_superuser", password),
        (f"@{PASSWORD_USERS}", password),
        (f"+{IAM_ROLE}", by_token),
    ):
        rows.append(f"hostssl all {users} all {method}")
        if method == by_token:
            rows.append(f"hostnossl all {users} all reject")
        elif not spec.require_tls:
            rows.append(f"hostnossl all {users} all {method}")
    return rows


def lists(files: NodeFiles) -> dict[str, str]:
    """The lists of names that the lines refer to, as they are on disk."""
    found = {}
    for name in (TOKEN_USERS, PASSWORD_USERS):
        path = files.configuration / name
        found[name] = path.read_text() if path.exists() else NOBODY
    return found


def environment(files: NodeFiles) -> dict[str, str]:
    """What libldap (ldap.conf(5)) must know: whom to believe, what to show, and not to wait long.

    Always set, so that IAM database authentication can be enabled without a restart.
    """
    conf = files.configuration
    return {
        "LDAPTLS_REQCERT": "demand",
        "LDAPTLS_CACERT": str(conf / "ca.crt"),
        "LDAPTLS_CERT": str(conf / "server.crt"),
        "LDAPTLS_KEY": str(conf / "server.key"),
        "LDAPNETWORK_TIMEOUT": str(TIMEOUT_S),
        "LDAPTIMEOUT": str(TIMEOUT_S),
    }


async def note_members(connection: psycopg.AsyncConnection[TupleRow], files: NodeFiles) -> None:
    """Makes the lists right and has them read, if they were not."""
    new = connection.info.server_version >= ADMINISTRATION_IS_MEMBERSHIP_SINCE
    usable = "m.inherit_option OR m.set_option" if new else "true"
    cursor = await connection.execute(_MEMBERS.format(usable=usable).encode())
    rows = await cursor.fetchall()
    wanted = {
        TOKEN_USERS: _list(name for name, granted, superuser in rows if granted and superuser),
        PASSWORD_USERS: _list(name for name, granted, superuser in rows if not granted and not superuser),
    }
    if wanted == lists(files):
        return
    try:
        _write(wanted, files)
    except OSError as error:  # a full disk: who comes with what stays as it was, and the engine is none the worse
        log.error("iam_logins.lists_not_written", files=str(files.configuration), error=str(error))
        return
    await connection.execute("SELECT pg_reload_conf()")


def _write(wanted: Mapping[str, str], files: NodeFiles) -> None:
    owner = files.volume.stat()
    for name, content in wanted.items():
        unfinished = files.configuration / f"{name}.new"
        write_atomically(unfinished, content.encode())
        os.chown(unfinished, owner.st_uid, owner.st_gid)
        unfinished.rename(files.configuration / name)


def _list(names: Iterable[str]) -> str:
    """One quoted name a line (manual 20.1). A name that would be a pattern, or not one line, cannot be listed."""
    listed = [name for name in names if name.isprintable() and not name.startswith("/")]
    return NOBODY + "".join('"{}"\n'.format(name.replace('"', '""')) for name in listed)
