"""`mainstay tour`: the main job, once, with the same API calls and the same client libraries that users have.

Every line printed is something that was just done or seen. Ends with how to log in and how to point the aws CLI here.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import botocore.session
import psycopg
from botocore.exceptions import ClientError
from rich.console import Console

from mainstay.cli.environment import variables
from mainstay.host.files import write_atomically
from mainstay.model.errors import Permanent
from mainstay.settings import Settings

INSTANCE = "tour"
GROUP = "tour-parameters"
MASTER = "tour_admin"
DATABASE = "shop"
CLASSES = ("db.t3.micro", "db.t3.small")
SETTLE_TIMEOUT_S = 120.0
POLL_S = 0.1
ROWS = 1000


class Tour:
    """One run of the tour against one service."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._variables = variables(settings)
        session = botocore.session.Session()
        self._rds: Any = session.create_client(
            "rds",
            region_name=settings.region,
            endpoint_url=self._variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=self._variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._variables["AWS_SECRET_ACCESS_KEY"],
            verify=self._variables.get("AWS_CA_BUNDLE"),
        )
        self._password = secrets.token_urlsafe(18)

    def run(self, *, keep: bool) -> None:
        """The whole walk. Raises `Permanent` if anything is not as it should be."""
        self._clear_away()
        started = time.monotonic()
        with self._step("create-db-instance: PostgreSQL, db.t3.micro, 20 GiB"):
            self._create()
        with self._step("write and read over verified TLS"):
            rows, version, tls = self._write_and_read()
        self._say(f"{version}; {tls}; {rows} rows written and read back")
        self._say(f"from the API call to the last row read: {time.monotonic() - started:.2f} s")
        with self._step("modify-db-parameter-group: work_mem = 12 MB, without a restart"):
            self._change_parameter()
        with self._step(f"modify-db-instance: {CLASSES[0]} -> {CLASSES[1]}, at once"):
            before, after = self._resize()
        self._say(f"max_connections {before} -> {after}, from the class's memory; all {ROWS} rows are still there")
        self._show()
        if not keep:
            with self._step("delete-db-instance"):
                self._clear_away()

    def _create(self) -> None:
        family = self._rds.describe_db_engine_versions(Engine="postgres", DefaultOnly=True)["DBEngineVersions"][0]
        self._rds.create_db_parameter_group(
            DBParameterGroupName=GROUP,
            DBParameterGroupFamily=family["DBParameterGroupFamily"],
            Description="Parameters of the tour",
        )
        self._rds.create_db_instance(
            DBInstanceIdentifier=INSTANCE,
            Engine="postgres",
            EngineVersion=family["EngineVersion"],
            DBInstanceClass=CLASSES[0],
            AllocatedStorage=20,
            MasterUsername=MASTER,
            MasterUserPassword=self._password,
            DBName=DATABASE,
            DBParameterGroupName=GROUP,
            BackupRetentionPeriod=0,
        )
        write_atomically(self._password_file(), f"*:*:*:{MASTER}:{self._password}\n".encode())
        self._await_status("available")

    def _write_and_read(self) -> tuple[int, str, str]:
        with self._connect() as connection:
            connection.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY, amount numeric)")
            connection.execute("INSERT INTO orders (amount) SELECT random() * 100 FROM generate_series(1, %s)", (ROWS,))
            count = _one(connection, "SELECT count(*) FROM orders")
            if count != ROWS:
                raise Permanent(f"{count} rows read back instead of {ROWS}")
            version = str(_one(connection, "SELECT split_part(version(), ' on ', 1)"))
            tls = str(_one(connection, "SELECT version || ' ' || cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
        return ROWS, version, tls

    def _change_parameter(self) -> None:
        self._rds.modify_db_parameter_group(
            DBParameterGroupName=GROUP,
            Parameters=[{"ParameterName": "work_mem", "ParameterValue": "12288", "ApplyMethod": "immediate"}],
        )
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            with self._connect() as connection:
                if _one(connection, "SHOW work_mem") == "12MB":
                    return
            time.sleep(POLL_S)
        raise Permanent("the parameter did not come into force")

    def _resize(self) -> tuple[str, str]:
        with self._connect() as connection:
            before = str(_one(connection, "SHOW max_connections"))
        self._rds.modify_db_instance(DBInstanceIdentifier=INSTANCE, DBInstanceClass=CLASSES[1], ApplyImmediately=True)
        self._await_status("available")
        with self._connect() as connection:
            if _one(connection, "SELECT count(*) FROM orders") != ROWS:
                raise Permanent("rows are missing after the change of class")
            return before, str(_one(connection, "SHOW max_connections"))

    def _show(self) -> None:
        instance = self._describe()
        self._say("describe-db-instances says:")
        for member in (
            "DBInstanceIdentifier", "DBInstanceStatus", "Engine", "EngineVersion", "DBInstanceClass",
            "AllocatedStorage", "StorageType", "AvailabilityZone", "DbiResourceId",
            "DBInstanceArn", "CACertificateIdentifier",
        ):  # fmt: skip
            self._console.print(f"      {member:<24}{instance[member]}", highlight=False)
        endpoint = instance["Endpoint"]
        bundle = self._variables["MAINSTAY_CA_BUNDLE"]
        self._console.print()
        self._console.print(f"[bold]Endpoint[/bold]   {endpoint['Address']}:{endpoint['Port']}", highlight=False)
        self._console.print("[bold]Log in[/bold]")
        self._console.print(
            f"  PGPASSFILE={self._password_file()} psql 'host={endpoint['Address']} port={endpoint['Port']}"
            f" user={MASTER} dbname={DATABASE} sslmode=verify-full sslrootcert={bundle}'",
            highlight=False,
            soft_wrap=True,
        )
        self._console.print("[bold]aws CLI, boto3, Terraform[/bold]")
        command = f'eval "$(mainstay env --home {self._settings.home})"'
        self._console.print(f"  {command} && aws rds describe-db-instances", highlight=False, soft_wrap=True)

    def _clear_away(self) -> None:
        """Removes what an earlier tour left."""
        try:
            self._rds.delete_db_instance(DBInstanceIdentifier=INSTANCE, SkipFinalSnapshot=True)
        except ClientError as error:
            if error.response["Error"]["Code"] != "DBInstanceNotFound":
                raise
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while any(one["DBInstanceIdentifier"] == INSTANCE for one in self._rds.describe_db_instances()["DBInstances"]):
            if time.monotonic() > deadline:
                raise Permanent("the instance of an earlier tour could not be deleted", hint="See `mainstay logs`.")
            time.sleep(POLL_S)
        try:
            self._rds.delete_db_parameter_group(DBParameterGroupName=GROUP)
        except ClientError as error:
            if error.response["Error"]["Code"] != "DBParameterGroupNotFound":
                raise

    def _await_status(self, wanted: str) -> None:
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            status = self._describe()["DBInstanceStatus"]
            if status == wanted:
                return
            if status in ("failed", "incompatible-parameters", "incompatible-network"):
                raise Permanent(f"the instance is {status}", hint="`mainstay nodes` and `mainstay logs agent` say why.")
            time.sleep(POLL_S)
        raise Permanent(f"the instance was not {wanted} within {SETTLE_TIMEOUT_S:.0f} s", hint="See `mainstay logs`.")

    def _describe(self) -> dict[str, Any]:
        found: dict[str, Any] = self._rds.describe_db_instances(DBInstanceIdentifier=INSTANCE)["DBInstances"][0]
        return found

    @contextmanager
    def _connect(self) -> Iterator[psycopg.Connection]:
        endpoint = self._describe()["Endpoint"]
        with psycopg.connect(
            host=endpoint["Address"],
            port=endpoint["Port"],
            user=MASTER,
            password=self._password,
            dbname=DATABASE,
            sslmode="verify-full",
            sslrootcert=self._variables["MAINSTAY_CA_BUNDLE"],
            connect_timeout=10,
        ) as connection:
            yield connection

    def _password_file(self) -> Any:
        return self._settings.home / "tour.pgpass"

    @contextmanager
    def _step(self, text: str) -> Iterator[None]:
        started = time.monotonic()
        with self._console.status(text):
            yield
        self._console.print(
            f"  [green]✓[/green] {text} [dim]({time.monotonic() - started:.2f} s)[/dim]", highlight=False
        )

    def _say(self, text: str) -> None:
        self._console.print(f"    {text}", highlight=False)


def _one(connection: psycopg.Connection, query: str) -> object:
    row = connection.execute(query.encode()).fetchone()
    return None if row is None else row[0]


def run_tour(settings: Settings, *, keep: bool) -> None:
    """Runs the tour; errors of the API and of the engine end it with their own words."""
    console = Console()
    console.print("[bold]Mainstay tour[/bold]: a managed PostgreSQL of your own")
    try:
        Tour(settings, console).run(keep=keep)
    except (ClientError, psycopg.Error) as error:
        raise Permanent(f"the tour stopped: {error}", hint="`mainstay logs` has the details.") from error
