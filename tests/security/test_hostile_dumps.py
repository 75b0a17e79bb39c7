"""B9: whatever is in a dump, nothing of it runs but SQL with the rights of the user who loads it.

Each attack is first shown to be one: the engine's own client, without a hardened path, runs it.
"""

from __future__ import annotations

import random
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.service import HOMES, PASSWORD, Service
from mainstay.cli.agent import ask_control
from mainstay.engines.builds import Builds
from mainstay.engines.dumps import Loaded, LoadOrder
from mainstay.engines.postgresql.dump_sources import refusal
from mainstay.engines.postgresql.dumps import PostgresqlDumps
from mainstay.engines.postgresql.quoting import identifier
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent
from mainstay.model.login_place import LoginPlace
from mainstay.model.secret import Secret

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

BROKEN_NAME = "e\n\\! touch {marker}\n--"
"""At most 63 bytes, as every name."""

FILLING = "A" * 200
"""A value that a crafted archive has other bytes in the place of."""


class Target:
    """An instance that dumps are brought into, and a directory that anybody may write in."""

    def __init__(self, service: Service, instance: dict[str, Any], directory: Path) -> None:
        self.service, self.instance, self.directory = service, instance, directory
        self.name = instance["DBInstanceIdentifier"]
        version = instance["EngineVersion"]
        self.build: EngineBuild = next(one for one in Builds(service.settings).of("postgres") if one.version == version)
        self.password_file = directory / "password"
        self.password_file.touch(mode=0o600)
        self.password_file.write_text(f"{PASSWORD}\n")

    def connect(self, database: str) -> psycopg.Connection[Any]:
        return self.service.connect(self.instance, dbname=database)

    @contextmanager
    def database(self, name: str = "") -> Iterator[str]:
        """A new one with a table `keep`."""
        name = name or f"d{secrets.token_hex(4)}"
        with self.connect("postgres") as session:
            session.execute(f"CREATE DATABASE {identifier(name)}")
        try:
            with self.connect(name) as session:
                session.execute("CREATE TABLE keep (n int)")
            yield name
        finally:
            with self.connect("postgres") as session:
                session.execute(f"DROP DATABASE {identifier(name)} WITH (FORCE)")

    def tables(self, database: str) -> list[str]:
        with self.connect(database) as session:
            rows = session.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200 ORDER BY 1"
            )
            return [row[0] for row in rows.fetchall()]

    def client(self, program: str, database: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """The engine's own client program, as anybody would use it; what it says is decided by the caller."""
        endpoint = self.instance["Endpoint"]
        environment = {"PATH": "/usr/bin:/bin", "PGPASSWORD": PASSWORD, **self.build.environment}
        environment |= {"PGHOST": endpoint["Address"], "PGPORT": str(endpoint["Port"]), "PGUSER": "app"}
        return subprocess.run(
            [str(self.build.bin_directory / program), f"--dbname={database}", *arguments],
            env=environment, input=stdin, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def dump(self, database: str, form: str, *arguments: str) -> Path:
        path = self.directory / f"{database}.{form}"
        done = self.client("pg_dump", database, f"--format={form}", f"--file={path}", *arguments)
        assert done.returncode == 0, done.stderr
        return path

    def script(self, text: str) -> Path:
        path = self.directory / f"{secrets.token_hex(4)}.sql"
        path.write_text(text)
        return path

    def load(self, dump: Path, database: str, **members: Any) -> Loaded:
        """As `mainstay backups load` does it, in this process."""
        plan = ask_control(self.service.settings, "where_to_load", {"name": self.name, "database": database})
        wanted: dict[str, Any] = {
            "place": LoginPlace(**plan["place"], authorities=self.service.home / "ca-bundle.pem"),
            "user": "app",
            "password": Secret(PASSWORD),
            "build": self.build,
            "scratch": self.service.home,
            "script_bytes_max": 1 << 30,
            "timeout_s": 120.0,
            **members,
        }
        with pytest.MonkeyPatch.context() as surroundings:  # a loader that took them would go elsewhere, and fail
            surroundings.setenv("PGHOSTADDR", "192.0.2.1")
            surroundings.setenv("PGOPTIONS", "-c statement_timeout=1")
            return PostgresqlDumps().load(dump, LoadOrder(**wanted), lambda _done, _total: None)

    def refused(self, dump: Path, database: str, reason: str, **members: Any) -> Permanent:
        """Not loaded, for this reason, and nothing of it is in the database."""
        before = self.tables(database)
        with pytest.raises(Permanent, match=reason) as error:
            self.load(dump, database, **members)
        assert self.tables(database) == before
        return error.value

    def marker(self) -> Path:
        return self.directory / f"m{secrets.token_hex(3)}"


@pytest.fixture(scope="module")
def target(service: Service) -> Iterator[Target]:
    directory = Path(tempfile.mkdtemp(dir=HOMES))
    directory.chmod(0o777)
    made = service.create_instance()
    try:
        yield Target(service, made, directory)
    finally:
        service.delete_instance(made["DBInstanceIdentifier"])
        shutil.rmtree(directory)


def fill(target: Target, database: str, marker: Path) -> str:
    """Objects with names that break out of comments, every kind of data; the name of a table."""
    evil = BROKEN_NAME.format(marker=marker)
    assert len(evil) <= 63
    with target.connect(database) as session:
        session.execute("DROP TABLE keep")
        session.execute(f"CREATE TABLE {identifier(evil)} (id int PRIMARY KEY, {identifier(evil)} text)")
        session.execute(
            f"INSERT INTO {identifier(evil)} SELECT g, E'\\\\.\\n\\\\! x' || g FROM generate_series(1, 3000) g"
        )
        session.execute(f"CREATE SCHEMA {identifier(evil)}")
        session.execute(
            "CREATE FUNCTION f(a int) RETURNS int BEGIN ATOMIC SELECT a; SELECT CASE a WHEN 1 THEN 2 END; END"
        )
        session.execute("CREATE VIEW v AS SELECT ';' AS \"a;b\", f(1)")
        session.execute("SELECT lo_from_bytea(0, 'large; object')")
        session.execute("CREATE TABLE filled (word text)")
        session.execute("INSERT INTO filled VALUES (%s)", (FILLING,))
    return evil


def test_every_format_of_pg_dump_comes_in_whole_whatever_its_names_are(target: Target) -> None:
    marker = target.marker()
    with target.database() as source:
        evil = fill(target, source, marker)
        dumps = [target.dump(source, form) for form in ("plain", "custom", "tar", "directory")]
        dumps.append(target.dump(source, "plain", "--inserts", "--compress=gzip"))
    for dump in dumps:
        with target.database() as into:
            target.load(dump, into)
            assert target.tables(into) == [evil, "filled", "keep"]
            with target.connect(into) as session:
                rows = session.execute(f"SELECT count(*), count(DISTINCT {identifier(evil)}) FROM {identifier(evil)}")
                assert rows.fetchone() == (3000, 3000)
                assert session.execute('SELECT "a;b", f FROM v').fetchone() == (";", 2)
                large = session.execute("SELECT lo_get(oid) FROM pg_largeobject_metadata").fetchone()
                assert large == (b"large; object",)
    assert not marker.exists()


SCRIPTS = {
    "a command": "CREATE TABLE made (n int);\n\\! touch {marker}\n",
    "a command behind a statement": "CREATE TABLE made (n int);\nSELECT 1\n\\g |touch {marker}\n",
    "a command in what unrestrict is given": "\\restrict a\nCREATE TABLE made (n int);\n\\unrestrict a\n"
    "\\restrict `touch {marker}`\n",
    "a name in the comment of an old pg_dump": "CREATE TABLE made (n int);\n--\n"
    "-- Name: evil\n\\! touch {marker}\n; Type: TABLE; Schema: public; Owner: app\n--\n",
    "a program that reads": "CREATE TABLE made (n int);\n\\copy made FROM PROGRAM 'touch {marker}'\n",
    "another file": "CREATE TABLE made (n int);\n\\o |touch {marker}\nSELECT 1;\n",
}


@pytest.mark.parametrize("attack", SCRIPTS)
def test_commands_to_psql_are_not_run(target: Target, attack: str) -> None:
    marker = target.marker()
    script = target.script(SCRIPTS[attack].format(marker=marker))
    with target.database() as into:
        target.refused(script, into, "a command to psql, which is not run")
        assert not marker.exists()
        target.client("psql", into, f"--file={script}")
        assert marker.exists(), "without the hardened path it runs"


HEAD = "--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE made (n int);\n\n"
OLD_NAME = "--\n-- Name: evil\nDROP TABLE keep; --; Type: TABLE; Schema: public; Owner: app\n--\n"
END = "--\n-- PostgreSQL database dump complete\n--\n"


def test_sql_in_the_name_of_an_object_is_not_run(target: Target) -> None:
    """As a pg_dump from before CVE-2025-8715 was fixed wrote it."""
    script = target.script(HEAD + OLD_NAME + END)
    with target.database() as into:
        target.refused(script, into, "the name of an object has a line break in it")
        assert target.tables(into) == ["keep"]
        target.client("psql", into, f"--file={script}")
        assert target.tables(into) == ["made"], "without the hardened path it runs"


def crafted(dump: Path, injected: str) -> Path:
    """An archive, not compressed, with other data of the same length."""
    content = dump.read_bytes()
    assert content.count(FILLING.encode()) == 1 and len(injected) <= len(FILLING)
    made = dump.with_suffix(".crafted")
    made.write_bytes(content.replace(FILLING.encode(), injected.ljust(len(FILLING)).encode()))
    return made


def test_a_crafted_archive_reaches_nothing(target: Target) -> None:
    marker = target.marker()
    with target.database() as source:
        fill(target, source, marker)
        dump = target.dump(source, "custom", "--compress=0")
    archive = crafted(dump, f"x\n\\.\n\\! touch {marker}\nDROP TABLE keep;\nCOPY filled FROM stdin;\n")
    with target.database() as into:
        script = target.directory / "script.sql"
        argv = [str(target.build.bin_directory / "pg_restore"), f"--file={script}", str(archive)]
        subprocess.run(argv, check=True, env=target.build.environment)
        assert f"\n\\! touch {marker}\n" in script.read_text(), "what pg_restore writes has the command in it"
        target.refused(archive, into, "a command to psql, which is not run")
        text = script.read_text().replace("\\restrict", "-- restrict").replace("\\unrestrict", "-- unrestrict")
        target.client("psql", into, "--quiet", stdin=text)
        assert marker.exists(), "without the hardened path it runs"


def damaged(dump: Path) -> dict[str, bytes]:
    content = dump.read_bytes()
    return {
        "cut off": content[: len(content) // 2],
        "only its head": content[:40],
        **{f"garbage {seed}": content[:11] + random.Random(seed).randbytes(5000) for seed in range(4)},
        "huge lengths": content[:40] + b"\x00\xff\xff\xff\x7f" * 2000,
        "zeroes": content[:60] + bytes(len(content) - 60),
    }


def test_archives_that_are_damaged_are_refused_and_change_nothing(target: Target) -> None:
    with target.database() as source:
        fill(target, source, target.marker())
        dump = target.dump(source, "custom")
        directory = target.dump(source, "directory")
    with target.database() as into:
        for name, content in damaged(dump).items():
            path = target.directory / "damaged.dump"
            path.write_bytes(content)
            said = target.refused(path, into, "the archive cannot be read|there is nothing in the dump|cut off")
            assert len(said.message) < 3000 and "Traceback" not in said.message, name
        data = max(directory.glob("*.dat.gz"), key=lambda path: path.stat().st_size)
        data.unlink()
        data.symlink_to("/etc/passwd")
        target.refused(directory, into, "the archive cannot be read|cannot be read")


def test_old_builds_are_not_given_an_archive(target: Target) -> None:
    old = [one for one in Builds(target.service.settings).of("postgres") if refusal(one)]
    if not old:
        pytest.skip("no build here is old enough")
    with target.database() as source:
        dump = target.dump(source, "custom")
        target.refused(dump, source, "CVE-2026-116314.*is fixed in", build=old[0])


MADE = "CREATE TABLE made (n int);\n"
ENDINGS: dict[str, tuple[str, str]] = {
    "a mistake": (MADE + "SELECT nonsense;\n", r'line 2 .*column "nonsense" does not exist'),
    "bad data": (MADE + "COPY made FROM stdin;\n1\nx\n\\.\n", r"line 2 .*integer.*COPY made, line 2"),
    "a commit": (MADE + "/**/Commit; Begin transaction;\nSELECT 1/0;\n", "line 3 .*division by zero"),
    "a commit in disguise": (MADE + "DO $$ BEGIN COMMIT; END $$;\n", r"invalid transaction termination"),
    "two statements in one": (
        "SET standard_conforming_strings = off;\nCREATE TABLE made (n int);\nSELECT 'a\\'; COMMIT; --';\nSELECT 1/0;\n",
        "division by zero",
    ),
    "an encoding with quotes in its characters": (
        MADE + "SET client_encoding = 'SJIS';\n", "SJIS cannot be read safely",
    ),
    "a program": ("CREATE TABLE made (n text);\nCOPY made FROM PROGRAM 'id';\n", r"line 2 .*permission denied"),
    "a file": ("CREATE TABLE made (n text);\nCOPY made FROM '/etc/passwd';\n", r"line 2 .*permission denied"),
    "another role": (MADE + "SET ROLE rdsadmin;\n", r"line 2 .*permission denied to set role"),
    "what is asked for": (MADE + "COPY made TO stdout;\n", "line 2 of the dump asks for data"),
    "a database": (MADE + "CREATE DATABASE other;\n", "CREATE DATABASE is not part of one database"),
    "a rollback": (MADE + "ROLLBACK;\n", "ROLLBACK would end the transaction"),
    "another transaction": (MADE + "COMMIT AND CHAIN;\n", "COMMIT AND would end the transaction"),
    "nothing": ("-- nothing\nSET work_mem = 99;\n", "there is nothing in the dump"),
}  # fmt: skip


@pytest.fixture(scope="module")
def empty(target: Target) -> Iterator[str]:
    """A database that refused dumps leave as it is."""
    with target.database() as made:
        yield made


@pytest.mark.parametrize("name", ENDINGS)
def test_a_dump_comes_in_whole_or_not_at_all(target: Target, empty: str, name: str) -> None:
    script, reason = ENDINGS[name]
    target.refused(target.script(script), empty, reason)


def test_it_is_done_with_the_rights_of_who_is_named(target: Target) -> None:
    user = f"u{secrets.token_hex(4)}"
    with target.database() as into:
        with target.connect(into) as session:
            session.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'loader-7'")
            session.execute(f"GRANT {user} TO CURRENT_USER")
            session.execute(f"CREATE SCHEMA own AUTHORIZATION {user}")
        try:
            as_user: dict[str, Any] = {"user": user, "password": Secret("loader-7")}
            script = target.script("CREATE TABLE own.made (n int); COPY own.made FROM stdin;\n1\n2\n\\.\n")
            assert target.load(script, into, **as_user) == Loaded(statements=2, rows=2)
            target.refused(target.script("CREATE TABLE made (n int);"), into, "permission denied", **as_user)
            target.refused(script, into, "cannot log in", user=user, password=Secret("wrong"))
            target.refused(script, into, "own superuser", user="rdsadmin")
        finally:
            with target.connect(into) as session:
                session.execute(f"DROP OWNED BY {user}")
                session.execute(f"DROP ROLE {user}")


def test_time_and_size_are_bounded(target: Target) -> None:
    with target.database() as source:
        with target.connect(source) as session:
            session.execute("DROP TABLE keep")
            session.execute("CREATE TABLE big AS SELECT repeat('x', 100000) AS x FROM generate_series(1, 100)")
        dump = target.dump(source, "custom")
        assert dump.stat().st_size < 1 << 20
    with target.database() as into:
        target.refused(dump, into, "more than", script_bytes_max=1 << 20)
        target.refused(target.script("SELECT pg_sleep(1000);"), into, "takes too long", timeout_s=2.0)


def test_the_command(target: Target) -> None:
    """As an operator does it; what is wrong is one sentence, and the password is in a file that is private."""
    script = target.script("CREATE TABLE made (n int);\nCOPY made FROM stdin;\n1\n2\n\\.\n")
    command = ("backups", "load", str(script), target.name)

    def refused(*more: str) -> str:
        done = target.service.cli(*command, *more, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        return done.stderr

    with target.database() as into:
        named = ("--database", into, "--password-file", str(target.password_file))
        assert "--password-file" in refused("--database", into)
        open_file = target.directory / "open"
        open_file.write_text(PASSWORD)
        open_file.chmod(0o644)
        assert "can be read by others" in refused("--database", into, "--password-file", str(open_file))
        assert "of archives only" in refused(*named, "--no-owner")
        loaded = target.service.cli(*command, *named)
        assert f"Loaded into {into} of {target.name}: 2 statements, 2 rows." in loaded.stdout
        assert target.tables(into) == ["keep", "made"]
        assert "already exists" in refused(*named)
