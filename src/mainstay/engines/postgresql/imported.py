"""Makes a base backup that stock PostgreSQL tools have taken into the data of one of our instances.

The files, already a copy of their own, are checked (pg_verifybackup), recovered to the end of the backup and converted
by the engine itself in single-user mode, which no client can reach. Afterwards the bootstrap superuser is ours
(rdsadmin), nobody else is one, and what it owned is the master user's; the rest is as it was.
Source: PostgreSQL manual, pg_verifybackup, "postgres" (single-user mode), 25.3.5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mainstay.engines.postgresql.accounts import OUTREACHING_ROLES
from mainstay.engines.postgresql.configuration import ADMIN_ROLE
from mainstay.engines.postgresql.quoting import identifier, literal
from mainstay.engines.postgresql.wal import SEGMENT_BYTES
from mainstay.host.file_identity import files_as
from mainstay.host.processes import User, run
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent

TIMEOUT_S = 24 * 3600.0
CONFIGURATION = "mainstay-import.conf"
FOREIGN_FILES = ("postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf", "standby.signal",
                 "recovery.signal", "postmaster.opts", "README-MAINSTAY.txt")  # fmt: skip
FIRST_USER_OID = 16384
NAME = re.compile(rb'^\t 1: name = "([0-9a-f]*)"', re.MULTILINE)
FAULT = re.compile(r"(?:ERROR|FATAL|PANIC):\s+(.*)")
DATABASES = "SELECT encode(convert_to(datname, 'UTF8'), 'hex') AS name FROM pg_database WHERE datallowconn"

WITHOUT_TABLESPACES = (
    "Move what is in them with `ALTER TABLE ALL IN TABLESPACE … SET TABLESPACE pg_default` (also INDEX, and ALTER"
    " DATABASE … SET TABLESPACE), drop them, and take the backup again; or take a dump, which `mainstay backups load`"
    " brings in without them."
)
"""What to do about a backup with tablespaces."""

CLUSTER = """DO $mainstay$ BEGIN
 IF EXISTS (SELECT FROM pg_authid WHERE rolname = {admin} AND oid <> 10) THEN
  RAISE EXCEPTION 'it has a role {admin_name} of its own, which is the name of the service''s superuser';
 END IF;
 IF EXISTS (SELECT FROM pg_prepared_xacts) THEN
  RAISE EXCEPTION 'it has prepared transactions: commit or roll them back before the backup is taken';
 END IF;
 UPDATE pg_authid SET rolname = {admin} WHERE oid = 10;
 UPDATE pg_authid SET rolsuper = false WHERE oid <> 10 AND rolsuper;
 DELETE FROM pg_auth_members WHERE roleid IN (SELECT oid FROM pg_authid WHERE rolname IN ({outreaching}));
 DELETE FROM pg_db_role_setting WHERE setrole = 10;
 UPDATE pg_subscription SET subenabled = false;
END $mainstay$"""
"""Settings of the superuser and subscriptions would act as soon as it runs."""

MASTER = """DO $mainstay$ BEGIN
 IF NOT EXISTS (SELECT FROM pg_authid WHERE rolname = {master_text}) THEN CREATE ROLE {master} LOGIN; END IF;
END $mainstay$"""

OWNERS = """DO $mainstay$ DECLARE one record; BEGIN
 FOR one IN
  SELECT format('ALTER %s %s OWNER TO %I', word, (pg_identify_object(class, id, 0)).identity, {master_text}) AS command
  FROM (
   SELECT 'pg_class'::regclass AS class, c.oid AS id, c.relowner AS owner, CASE c.relkind WHEN 'v' THEN 'VIEW'
     WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END AS word
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_(temp|toast)' AND (c.relkind IN ('r', 'p', 'v', 'm', 'f') OR (c.relkind = 'S' AND NOT EXISTS
     (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype IN ('a', 'i'))))
   UNION ALL SELECT 'pg_proc'::regclass, oid, proowner, CASE prokind WHEN 'a' THEN 'AGGREGATE' ELSE 'ROUTINE' END
    FROM pg_proc
   UNION ALL SELECT 'pg_type'::regclass, t.oid, t.typowner, CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END
    FROM pg_type AS t WHERE t.typtype <> 'm' AND NOT EXISTS (SELECT FROM pg_type WHERE typarray = t.oid)
     AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class WHERE oid = t.typrelid AND relkind = 'c'))
   UNION ALL SELECT 'pg_namespace'::regclass, oid, nspowner, 'SCHEMA' FROM pg_namespace WHERE nspname !~ '^pg_'
   UNION ALL SELECT 'pg_collation'::regclass, oid, collowner, 'COLLATION' FROM pg_collation
   UNION ALL SELECT 'pg_conversion'::regclass, oid, conowner, 'CONVERSION' FROM pg_conversion
   UNION ALL SELECT 'pg_operator'::regclass, oid, oprowner, 'OPERATOR' FROM pg_operator
   UNION ALL SELECT 'pg_opclass'::regclass, oid, opcowner, 'OPERATOR CLASS' FROM pg_opclass
   UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfowner, 'OPERATOR FAMILY' FROM pg_opfamily
   UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictowner, 'TEXT SEARCH DICTIONARY' FROM pg_ts_dict
   UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgowner, 'TEXT SEARCH CONFIGURATION' FROM pg_ts_config
   UNION ALL SELECT 'pg_foreign_server'::regclass, oid, srvowner, 'SERVER' FROM pg_foreign_server
   UNION ALL SELECT 'pg_publication'::regclass, oid, pubowner, 'PUBLICATION' FROM pg_publication
   UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxowner, 'STATISTICS' FROM pg_statistic_ext
   UNION ALL SELECT 'pg_largeobject'::regclass, oid, lomowner, 'LARGE OBJECT' FROM pg_largeobject_metadata
  ) AS owned
  WHERE owner = 10 AND id >= {first} AND NOT EXISTS
   (SELECT FROM pg_depend WHERE classid = class AND objid = id AND deptype = 'e')
 LOOP
  EXECUTE one.command;
 END LOOP;
 UPDATE pg_event_trigger SET evtenabled = 'D' WHERE oid >= {first};
END $mainstay$"""
"""What belongs to an extension stays the superuser's, as if the extension had been created here."""


def refusal(names: Mapping[str, int]) -> str:
    """Why a directory with these names, of these sizes, is no base backup that can be taken; "" if it may be one."""
    if "PG_VERSION" not in names:
        return "there is no PG_VERSION in it: it is no PostgreSQL data directory"
    if "postmaster.pid" in names:
        return "there is a postmaster.pid in it: it is the data directory of a server, not a backup of one"
    if "backup_label" not in names:
        return "there is no backup_label in it: it is no base backup, or a server has been started on it since"
    if names.get("tablespace_map"):
        return f"it has tablespaces, which a DB instance cannot have. {WITHOUT_TABLESPACES}"
    return ""


async def check(data: Path, build: EngineBuild, user: User, *, has_manifest: bool) -> None:
    """Raises `Permanent` saying what is wrong with it, unless every file and the log it needs is there and unchanged.

    Without a manifest only what recovery itself reads is checked.
    """
    major = _text(data / "PG_VERSION", user).strip()
    if major != build.major:
        raise Permanent(
            f"the backup is of PostgreSQL {major[:20]}, the DB instance of {build.major}",
            hint=f"Create a DB instance of version {major[:20]} for it.",
        )
    control = await _run("pg_controldata", [f"--pgdata={data}"], build, user)
    if f"Bytes per WAL segment: {SEGMENT_BYTES}" not in " ".join(control.split()):
        raise Permanent(f"its log has segments of another length than {SEGMENT_BYTES >> 20} MiB")
    if has_manifest:
        await _run("pg_verifybackup", ["--exit-on-error", "--quiet", str(data)], build, user)


async def convert(data: Path, build: EngineBuild, user: User, master: str) -> None:
    """Recovers it and makes it ours; when this returns all of it is on disk. Raises `Permanent`."""
    owner = None if user.user_id is None or user.group_id is None else (user.user_id, user.group_id)
    with files_as(owner):
        for name in FOREIGN_FILES:
            (data / name).unlink(missing_ok=True)
        for name, text in ((CONFIGURATION, "max_prepared_transactions = 1000\n"), ("postgresql.auto.conf", "")):
            (data / name).write_text(text)
    admin, master_text = literal(ADMIN_ROLE), literal(master)
    outreaching = ", ".join(literal(name) for name in OUTREACHING_ROLES)
    words = {"admin": admin, "admin_name": ADMIN_ROLE, "outreaching": outreaching, "master": identifier(master)}
    await _single(data, build, user, "template1", [
        CLUSTER.format(**words), MASTER.format(master_text=master_text, **words),
    ])  # fmt: skip
    found = await _single(data, build, user, "template1", [DATABASES])
    names = [bytes.fromhex(one.decode()).decode() for one in NAME.findall(found)]
    owners = OWNERS.format(master_text=master_text, first=FIRST_USER_OID)
    for name in names:
        await _single(data, build, user, name, [owners])
    given = [
        f"ALTER DATABASE {identifier(name)} OWNER TO {identifier(master)}"
        for name in names
        if name not in ("template1", ADMIN_ROLE)
    ]
    if ADMIN_ROLE not in names:
        given.append(f"CREATE DATABASE {identifier(ADMIN_ROLE)} TEMPLATE template0")
    if "postgres" not in names:
        given.append("CREATE DATABASE postgres TEMPLATE template0")
    await _single(data, build, user, "template1", given)
    control = await _run("pg_controldata", [f"--pgdata={data}"], build, user)
    if "checksum version: 0" in " ".join(control.split()):
        await _run("pg_checksums", ["--enable", f"--pgdata={data}"], build, user)
    with files_as(owner):
        (data / CONFIGURATION).unlink()
    await _run("initdb", ["--sync-only", f"--pgdata={data}"], build, user)


def _text(path: Path, user: User) -> str:
    owner = None if user.user_id is None or user.group_id is None else (user.user_id, user.group_id)
    try:
        with files_as(owner):
            return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Permanent(f"{path.name} cannot be read: this is no PostgreSQL data directory") from error


async def _run(program: str, arguments: list[str], build: EngineBuild, user: User) -> str:
    argv = [str(build.bin_directory / program), *arguments]
    return (await run(argv, user=user, timeout_s=TIMEOUT_S, env=build.environment)).decode(errors="replace")


async def _single(data: Path, build: EngineBuild, user: User, database: str, statements: list[str]) -> bytes:
    """Runs statements in a database in single-user mode, which recovers first. Raises `Permanent` naming the fault."""
    settings = {"config_file": str(data / CONFIGURATION), "exit_on_error": "on", "lc_messages": "C",
                "client_min_messages": "error", "log_min_messages": "error", "hba_file": "/dev/null",
                "ident_file": "/dev/null", "event_triggers": "off", "allow_system_table_mods": "on"}  # fmt: skip
    if int(build.major) < 17:
        del settings["event_triggers"]  # single-user mode fires none before either
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    argv = [str(build.bin_directory / "postgres"), "--single", "-j", "-D", str(data), *options, database]
    script = "".join(f"{statement};\n\n" for statement in statements)
    try:
        return await run(
            argv, user=user, timeout_s=TIMEOUT_S, env={"TZ": "UTC", **build.environment}, stdin=script.encode()
        )
    except Permanent as error:
        said = FAULT.search(error.message)
        raise Permanent(f"PostgreSQL cannot use it: {said[1] if said else error.message}") from error
