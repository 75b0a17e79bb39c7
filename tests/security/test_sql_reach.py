"""What the master user can and cannot reach by SQL: nothing outside the instance, everything that RDS allows."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from harness.service import PASSWORD, Service, eventually
from mainstay.engines.builds import Builds

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

MAJORS = ("15", "15-system", "17")

FORBIDDEN = (
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT pg_read_binary_file('/etc/passwd')",
    "SELECT pg_stat_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "COPY (SELECT 1) TO '/tmp/mainstay-escape'",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "CREATE TEMP TABLE victim (line text); COPY victim FROM '/etc/passwd'",
    "CREATE TEMP TABLE victim (line text); COPY victim FROM PROGRAM 'id'",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(lo_from_bytea(0, 'x'), '/tmp/mainstay-escape')",
    "CREATE EXTENSION file_fdw",
    "CREATE EXTENSION adminpack",
    "CREATE EXTENSION plpython3u",
    "CREATE EXTENSION pageinspect",
    "CREATE FUNCTION f() RETURNS int AS 'libc.so.6', 'getpid' LANGUAGE c",
    "CREATE FUNCTION f(cstring) RETURNS int AS 'int4in' LANGUAGE internal",
    "CREATE LANGUAGE evil HANDLER plpgsql_call_handler",
    "LOAD '/tmp/evil.so'",
    "ALTER SYSTEM SET work_mem = '1MB'",
    "SET ROLE rdsadmin",
    "SET SESSION AUTHORIZATION rdsadmin",
    "ALTER ROLE rdsadmin PASSWORD 'stolen-1234'",
    "ALTER ROLE rdsadmin RENAME TO gone",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER REPLICATION",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "CREATE ROLE evil SUPERUSER",
    "GRANT rdsadmin TO CURRENT_USER",
    "GRANT pg_read_server_files TO CURRENT_USER",
    "GRANT pg_write_server_files TO CURRENT_USER",
    "GRANT pg_execute_server_program TO CURRENT_USER",
    "CREATE ROLE via; GRANT pg_execute_server_program TO via",
    "CREATE ROLE via IN ROLE pg_read_server_files",
    "SELECT rolpassword FROM pg_authid",
    "SELECT passwd FROM pg_shadow",
    "UPDATE pg_authid SET rolsuper = true",
    "SET allow_system_table_mods = on",
    "SET session_preload_libraries = '/tmp/evil'",
    "SET dynamic_library_path = '/tmp'",
    "ALTER DATABASE postgres SET session_preload_libraries = '/tmp/evil'",
    "CREATE EVENT TRIGGER t ON ddl_command_start EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()",
    "CREATE TABLESPACE outside LOCATION '/tmp'",
    "SELECT pg_reload_conf()",
    "SELECT pg_rotate_logfile()",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rdsadmin'"
    " UNION ALL SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'checkpointer'",
    "SELECT * FROM pg_hba_file_rules",
    "SELECT * FROM pg_ident_file_mappings",
    "DROP DATABASE rdsadmin",
    "ALTER DATABASE rdsadmin OWNER TO CURRENT_USER",
    "DROP ROLE rdsadmin",
    "REASSIGN OWNED BY rdsadmin TO CURRENT_USER",
    "CREATE SUBSCRIPTION s CONNECTION 'host=/tmp dbname=postgres user=rdsadmin' PUBLICATION p",
)  # fmt: skip

PERMITTED = (
    "CREATE ROLE clerk LOGIN PASSWORD 'clerk-pass-1'; GRANT clerk TO CURRENT_USER; DROP ROLE clerk",
    "CREATE EXTENSION pg_stat_statements; DROP EXTENSION pg_stat_statements",
    "CREATE EXTENSION pgcrypto; DROP EXTENSION pgcrypto",
    "CREATE EXTENSION postgres_fdw; CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw;"
    " DROP EXTENSION postgres_fdw CASCADE",
    'CREATE EXTENSION "uuid-ossp"; DROP EXTENSION "uuid-ossp"',
    "CREATE EXTENSION pg_trgm; DROP EXTENSION pg_trgm",
    "SET session_replication_role = replica",
    "SELECT * FROM pg_stat_activity",
    "SELECT pg_ls_waldir()",
    "CREATE ROLE reader; GRANT pg_monitor TO reader; DROP ROLE reader",
)  # fmt: skip


class Reached:
    """An instance and the service that runs it."""

    def __init__(self, service: Service, instance: dict[str, Any], *, system: bool) -> None:
        self.service = service
        self.system = system
        self.instance = instance

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return self.service.connect(self.instance, **options)

    def sockets(self) -> str:
        """Directory of the engine's own Unix socket, which clients must not profit from."""
        node = self.service.node(self.instance["DBInstanceIdentifier"])
        found = next(self.service.settings.runtime.rglob(f"*{node['node']}*/.s.PGSQL.*"), None)
        found = found or next(self.service.settings.runtime.rglob(".s.PGSQL.*"))
        return str(found.parent)


@pytest.fixture(scope="module", params=MAJORS)
def reached(request: pytest.FixtureRequest, service: Service) -> Iterator[Reached]:
    major, _, system = request.param.partition("-")
    origin = "system" if system else "installed"
    builds = [one for one in Builds(service.settings).of("postgres") if (one.major, one.origin) == (major, origin)]
    if not builds:
        pytest.skip(f"no {origin} build of PostgreSQL {major} on this machine")
    instance = service.create_instance(EngineVersion=max(build.version for build in builds))
    yield Reached(service, instance, system=bool(system))
    service.delete_instance(instance["DBInstanceIdentifier"])


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_refused(reached: Reached, statement: str) -> None:
    # Autocommit, because some refuse to run in a longer transaction; several in one string are one all the same.
    with reached.connect() as connection:
        with pytest.raises(psycopg.Error) as refusal:
            connection.execute(statement.encode())
        # Neither a broken connection nor a slip of the statement itself counts as a refusal.
        assert refusal.value.sqlstate is not None
        assert refusal.value.sqlstate[:2] in ("42", "0A", "55", "58", "22", "2B", "2F", "28", "57"), refusal.value
        assert not isinstance(refusal.value, psycopg.errors.SyntaxError), refusal.value


@pytest.mark.parametrize("statement", PERMITTED)
def test_permitted_as_on_rds(reached: Reached, statement: str) -> None:
    if reached.system and ("pg_stat_statements" in statement or "postgres_fdw" in statement):
        pytest.skip("the distribution's own control files do not trust this extension")
    with reached.connect() as connection:
        connection.autocommit = False
        connection.execute(statement.encode())
        connection.rollback()


def test_databases_and_own_password_and_own_backends(reached: Reached) -> None:
    name = f"d{secrets.token_hex(3)}"
    with reached.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        connection.execute(f"DROP DATABASE {name}".encode())
        connection.execute("ALTER ROLE CURRENT_USER PASSWORD 'self-chosen-8'")
        with reached.connect(password="self-chosen-8") as other:
            pid = other.info.backend_pid
            assert connection.execute(
                "SELECT pg_cancel_backend(%s), pg_terminate_backend(%s)", (pid, pid)
            ).fetchone() == (True, True)
        connection.execute(f"ALTER ROLE CURRENT_USER PASSWORD '{PASSWORD}'".encode())


def test_rdsadmin_cannot_log_in_nor_its_database_be_entered_nor_a_replication_stream_opened(reached: Reached) -> None:
    for options in ({"user": "rdsadmin"}, {"user": "rdsadmin", "password": ""}, {"replication": "true"}):
        with pytest.raises(psycopg.OperationalError):
            reached.connect(**options)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        reached.connect(dbname="rdsadmin")


def test_the_engines_own_socket_admits_no_borrowed_rdsadmin(reached: Reached) -> None:
    if reached.system:
        pytest.skip("the distribution's own control files trust neither dblink nor postgres_fdw")
    sockets = reached.sockets()
    for target in (
        f"host={sockets} port={reached.instance['Endpoint']['Port']} user=rdsadmin dbname=postgres password=x",
        f"host={sockets} user=rdsadmin dbname=postgres",
    ):
        with reached.connect() as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS dblink")
            with pytest.raises(psycopg.Error):
                connection.execute("SELECT * FROM dblink(%s, 'SELECT current_user') AS t(who text)", (target,))
    with reached.connect() as connection:
        connection.execute("DROP EXTENSION dblink")
        connection.execute("CREATE EXTENSION postgres_fdw")
        connection.execute(f"CREATE SERVER own FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{sockets}')".encode())
        connection.execute("CREATE USER MAPPING FOR CURRENT_USER SERVER own OPTIONS (user 'rdsadmin', password 'x')")
        connection.execute(
            "CREATE FOREIGN TABLE stolen (rolname name) SERVER own"
            " OPTIONS (schema_name 'pg_catalog', table_name 'pg_authid')"
        )
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT * FROM stolen")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("ALTER USER MAPPING FOR CURRENT_USER SERVER own OPTIONS (ADD password_required 'false')")
        connection.execute("DROP EXTENSION postgres_fdw CASCADE")


HIJACK = (
    "CREATE SCHEMA trap",
    "CREATE TABLE trap.caught (who text)",
    "CREATE FUNCTION trap.spring() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN"
    " IF current_user = 'rdsadmin' THEN ALTER ROLE app SUPERUSER; END IF; RETURN true; END $$",
    "CREATE FUNCTION trap.same(name, name) RETURNS boolean LANGUAGE plpgsql AS"
    " $$ BEGIN RETURN trap.spring() AND $1 OPERATOR(pg_catalog.=) $2; END $$",
    "CREATE OPERATOR trap.= (FUNCTION = trap.same, LEFTARG = name, RIGHTARG = name)",
    "CREATE VIEW trap.pg_database AS SELECT d.* FROM pg_catalog.pg_database d WHERE trap.spring()",
    "CREATE VIEW trap.pg_settings AS SELECT s.* FROM pg_catalog.pg_settings s WHERE trap.spring()",
    "CREATE VIEW trap.pg_file_settings AS SELECT 'x'::text AS name, ''::text AS error WHERE trap.spring()",
    "GRANT USAGE ON SCHEMA trap TO PUBLIC",
    "ALTER DATABASE postgres SET search_path = trap, pg_catalog",
)  # fmt: skip


def test_mainstays_own_sessions_do_not_run_what_the_owner_of_a_database_planted(reached: Reached) -> None:
    """The owner of a database decides its search_path for every role that connects, rdsadmin included."""
    identifier = reached.instance["DBInstanceIdentifier"]
    rds = reached.service.client("rds")
    with reached.connect() as connection:
        for statement in HIJACK:
            connection.execute(statement.encode())
    rds.modify_db_instance(DBInstanceIdentifier=identifier, MasterUserPassword=PASSWORD + "x", ApplyImmediately=True)

    def changed() -> bool:
        try:
            reached.connect(password=PASSWORD + "x").close()
        except psycopg.OperationalError:
            return False
        return True

    eventually(changed, timeout_s=20)
    reached.service.await_status(identifier, "available")
    rds.reboot_db_instance(DBInstanceIdentifier=identifier)
    reached.service.await_status(identifier, "available")
    with reached.connect(password=PASSWORD + "x") as connection:
        row = connection.execute(
            "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'app'"
        ).fetchone()
        assert row == (False,)
        connection.execute("ALTER DATABASE postgres RESET search_path")
        connection.execute("DROP SCHEMA trap CASCADE")
    rds.modify_db_instance(DBInstanceIdentifier=identifier, MasterUserPassword=PASSWORD, ApplyImmediately=True)
    eventually(lambda: _can_connect(reached))
    reached.service.await_status(identifier, "available")


def test_an_owner_who_spoils_his_database_does_not_lock_mainstay_out(reached: Reached) -> None:
    identifier = reached.instance["DBInstanceIdentifier"]
    rds = reached.service.client("rds")
    with reached.connect() as connection:
        connection.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
        connection.execute("ALTER DATABASE postgres CONNECTION LIMIT 0")
    rds.reboot_db_instance(DBInstanceIdentifier=identifier)
    reached.service.await_status(identifier, "available")
    rds.modify_db_instance(DBInstanceIdentifier=identifier, MasterUserPassword=PASSWORD, ApplyImmediately=True)
    reached.service.await_status(identifier, "available")
    with reached.connect(dbname="template1") as connection:
        connection.execute("ALTER DATABASE postgres CONNECTION LIMIT -1")
    with reached.connect(options="-c default_transaction_read_only=off") as connection:
        connection.execute("ALTER DATABASE postgres RESET default_transaction_read_only")


def test_trusted_extension_scripts_do_not_call_planted_objects(reached: Reached) -> None:
    """Their scripts run as rdsadmin, in a schema that the caller owns and may have filled beforehand."""
    extensions = ("citext", "hstore", "pg_trgm", "pgcrypto", "postgres_fdw", "dblink", "pg_stat_statements", "pgaudit")
    with reached.connect() as connection:
        for name in extensions:
            connection.execute("CREATE SCHEMA bait")
            connection.execute(
                "CREATE FUNCTION bait.spring(name, name) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN"
                " IF current_user = 'rdsadmin' THEN ALTER ROLE app SUPERUSER; END IF; RETURN true; END $$"
            )
            connection.execute("CREATE OPERATOR bait.= (FUNCTION = bait.spring, LEFTARG = name, RIGHTARG = name)")
            connection.execute(
                "CREATE FUNCTION bait.hmac(text, text, text) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea'"
            )
            try:
                connection.execute(f"CREATE EXTENSION {name} SCHEMA bait".encode())
                connection.execute(f"DROP EXTENSION {name}".encode())
            except (psycopg.errors.FeatureNotSupported, psycopg.errors.InsufficientPrivilege):
                pass  # not part of this build
            except (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.DuplicateFunction):
                pass  # the engine found the planted object: just as good
            connection.execute("DROP SCHEMA bait CASCADE")
            assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'app'").fetchone() == (False,)


def _can_connect(reached: Reached) -> bool:
    try:
        reached.connect().close()
    except psycopg.OperationalError:
        return False
    return True
