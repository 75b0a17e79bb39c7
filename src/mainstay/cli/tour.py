"""`mainstay tour`: the main job, once, with the same API calls and the same client libraries that users have.

Every line printed is something that was just done or seen. Ends with how to log in and how to point the aws CLI here.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.session
from botocore.exceptions import ClientError
from rich.console import Console

from mainstay.cli.agent import ask_agent
from mainstay.cli.environment import variables
from mainstay.cli.tour_engines import ClientErrors, Login, TourEngine, TourSession, tour_engine
from mainstay.cli.tour_proxy import CLIENTS, CONNECTIONS, Crowd, TourProxy
from mainstay.cli.tour_writers import Writers
from mainstay.engines.builds import Builds
from mainstay.host.fencing import processes_below
from mainstay.host.files import write_atomically
from mainstay.model.errors import Permanent
from mainstay.settings import Settings

INSTANCE = "tour"
REPLICA = "tour-replica"
RESTORED = "tour-restored"
WRITERS = 8
LOAD_S = 1.5

GROUP = "tour-parameters"
MASTER = "tour_admin"
DATABASE = "shop"
CLASSES = ("db.t3.micro", "db.t3.small")
SETTLE_TIMEOUT_S = 120.0
POLL_S = 0.1
ROWS = 1000


class Tour:
    """One run of the tour against one service."""

    def __init__(self, settings: Settings, console: Console, engine: TourEngine) -> None:
        self._settings = settings
        self._engine = engine
        self._console = console
        self._variables = variables(settings)
        self._session_of_botocore = botocore.session.Session()
        self._rds: Any = self._client("rds")
        self._proxy = TourProxy(self._client, INSTANCE)
        self._endpoints: dict[str, tuple[str, int]] = {}
        self._password = secrets.token_urlsafe(18)

    def _client(self, service: str) -> Any:
        return self._session_of_botocore.create_client(
            service,
            region_name=self._settings.region,
            endpoint_url=self._variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=self._variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._variables["AWS_SECRET_ACCESS_KEY"],
            verify=self._variables.get("AWS_CA_BUNDLE"),
        )

    def run(self, *, keep: bool) -> None:
        """The whole walk. Raises `Permanent` if anything is not as it should be."""
        self._clear_away()
        started = time.monotonic()
        with self._step(f"create-db-instance: {self._engine.title}, {CLASSES[0]}, 20 GiB, Multi-AZ"):
            self._create()
        with self._step("write and read over verified TLS"):
            rows, version, tls = self._write_and_read()
        self._say(f"{version}; {tls}; {rows} rows written and read back")
        self._say(f"from the API call to the last row read: {time.monotonic() - started:.2f} s")
        with self._step(f"modify-db-parameter-group: {self._engine.parameter_text}, without a restart"):
            self._change_parameter()
        with self._step(f"modify-db-instance: {CLASSES[0]} -> {CLASSES[1]}, at once: the standby first, then a switch"):
            before, after = self._resize()
        self._say(f"max_connections {before} -> {after}, from the class's memory; all {ROWS} rows are still there")
        self._fail_over()
        self._replicate()
        if self._engine.pooled:
            self._pool()
        if self._describe()["BackupRetentionPeriod"]:
            self._restore()
        self._show()
        if not keep:
            with self._step("delete-db-instance"):
                self._clear_away()

    def _create(self) -> None:
        found = self._rds.describe_db_engine_versions(Engine=self._engine.name, DefaultOnly=True)["DBEngineVersions"]
        if not found:
            raise Permanent(
                f"no {self._engine.title} is installed", hint=f"Run `mainstay engines install {self._engine.name}`."
            )
        family = found[0]
        self._rds.create_db_parameter_group(
            DBParameterGroupName=GROUP,
            DBParameterGroupFamily=family["DBParameterGroupFamily"],
            Description="Parameters of the tour",
        )
        self._rds.create_db_instance(
            DBInstanceIdentifier=INSTANCE,
            Engine=self._engine.name,
            EngineVersion=family["EngineVersion"],
            DBInstanceClass=CLASSES[0],
            AllocatedStorage=20,
            MasterUsername=MASTER,
            MasterUserPassword=self._password,
            DBName=DATABASE,
            DBParameterGroupName=GROUP,
            MultiAZ=True,
        )
        self._await_status("available")

    def _write_and_read(self) -> tuple[int, str, str]:
        with self._connect() as connection:
            connection.rows(self._engine.orders_table)
            connection.rows(self._engine.orders, (ROWS,))
            count = connection.one("SELECT count(*) FROM orders")
            if count != ROWS:
                raise Permanent(f"{count} rows read back instead of {ROWS}")
            version = str(connection.one(self._engine.version_query))
            tls = str(connection.one(self._engine.tls_query))
        return ROWS, version, tls

    def _change_parameter(self) -> None:
        name, value = self._engine.parameter
        self._rds.modify_db_parameter_group(
            DBParameterGroupName=GROUP,
            Parameters=[{"ParameterName": name, "ParameterValue": value, "ApplyMethod": "immediate"}],
        )
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            with self._connect() as connection:
                if str(connection.one(self._engine.parameter_query)) == self._engine.parameter_shown:
                    return
            time.sleep(POLL_S)
        raise Permanent("the parameter did not come into force")

    def _resize(self) -> tuple[str, str]:
        with self._connect() as connection:
            before = str(connection.one(self._engine.max_connections_query))
        self._rds.modify_db_instance(DBInstanceIdentifier=INSTANCE, DBInstanceClass=CLASSES[1], ApplyImmediately=True)
        self._await_status("available")
        with self._connect() as connection:
            if connection.one("SELECT count(*) FROM orders") != ROWS:
                raise Permanent("rows are missing after the change of class")
            return before, str(connection.one(self._engine.max_connections_query))

    def _fail_over(self) -> None:
        """Kills the primary under load; every commit that a writer was told of must be there afterwards."""
        with self._connect() as connection:
            connection.rows("CREATE TABLE commits (writer int, number int, PRIMARY KEY (writer, number))")
        self._await_in_sync()
        zone = self._describe()["AvailabilityZone"]
        with self._step(f"{WRITERS} writers at work; kill -9 of every process of the primary in {zone}"):
            with Writers(self._connect, WRITERS) as writers:
                time.sleep(LOAD_S)
                processes = self._kill_primary()
                self._await_in_sync()  # the standby is made anew meanwhile, under load
                writers.await_acknowledged(time.monotonic())
                gap_s = writers.gap_s()
            with self._connect() as connection:
                rows = connection.rows("SELECT writer, number FROM commits")
            lost = writers.acknowledged - {(row[0], row[1]) for row in rows}
        if lost:
            raise Permanent(f"{len(lost)} acknowledged rows are missing after the failover")
        self._await_status("available")
        now = self._describe()["AvailabilityZone"]
        killed = f"{processes} {'process' if processes == 1 else 'processes'} killed"
        self._say(f"{killed}; no commit for {gap_s * 1000:.0f} ms; now in {now}, same endpoint")
        self._say(f"{len(writers.acknowledged)} commits were acknowledged, before and after: none is missing")

    def _kill_primary(self) -> int:
        node = next(node for node in self._nodes() if node["role"] == "primary")
        processes = processes_below(Path(node["data_directory"]))
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(processes)

    def _nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask_agent(self._settings, "nodes")
        return [node for node in found if node["db_instance_identifier"] == INSTANCE]

    def _await_in_sync(self) -> None:
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        time.sleep(POLL_S)  # what has just been done to the primary is seen by now
        while not all((node.get("pair") or {}).get("in_sync") for node in self._nodes()):
            if time.monotonic() > deadline:
                raise Permanent("the standby does not get in sync", hint=f"`mainstay explain {INSTANCE}` says why.")
            time.sleep(POLL_S)

    def _replicate(self) -> None:
        with self._step("create-db-instance-read-replica, and read from it"):
            self._rds.create_db_instance_read_replica(DBInstanceIdentifier=REPLICA, SourceDBInstanceIdentifier=INSTANCE)
            self._await_status("available", REPLICA)
            with self._connect() as connection:
                written = connection.one("SELECT count(*) FROM commits")
            deadline = time.monotonic() + SETTLE_TIMEOUT_S
            read: object = None
            while read != written and time.monotonic() < deadline:
                with self._connect(REPLICA) as connection:
                    read = connection.one("SELECT count(*) FROM commits")
        if read != written:
            raise Permanent(f"the replica has {read} rows of {written}")
        endpoint = self._describe(REPLICA)["Endpoint"]
        self._say(f"{read} rows read from {endpoint['Address']}:{endpoint['Port']}, an endpoint of its own")

    def _restore(self) -> None:
        """Drops a table, and brings it back as it was in the second before, beside the instance that goes on."""
        with self._step("DROP TABLE commits, by mistake"):
            with self._connect() as connection:
                written = connection.one("SELECT count(*) FROM commits")
            moment = int(time.time()) + 1
            time.sleep(max(0.0, moment - time.time()) + POLL_S)  # moments are whole seconds
            with self._connect() as connection:
                connection.rows("DROP TABLE commits")
        before = datetime.fromtimestamp(moment, UTC)
        with self._step(f"restore-db-instance-to-point-in-time: {before:%H:%M:%S}, the second before"):
            deadline = time.monotonic() + SETTLE_TIMEOUT_S
            while self._describe().get("LatestRestorableTime", before - timedelta(days=1)) < before:
                if time.monotonic() > deadline:
                    raise Permanent("the log is not in the archive", hint=f"`mainstay backups list {INSTANCE}`")
                time.sleep(POLL_S)
            self._rds.restore_db_instance_to_point_in_time(
                SourceDBInstanceIdentifier=INSTANCE, TargetDBInstanceIdentifier=RESTORED, RestoreTime=before
            )
            self._await_status("available", RESTORED)
            with self._connect(RESTORED) as connection:
                read = connection.one("SELECT count(*) FROM commits")
        if read != written:
            raise Permanent(f"the restored instance has {read} rows of {written}")
        self._say(f"all {read} rows of the dropped table are in {RESTORED}; {INSTANCE} went on meanwhile")

    def _pool(self) -> None:
        """A thousand clients through an RDS Proxy; the primary is killed, and none of them is disconnected."""
        with self._connect() as connection:
            limit = int(str(connection.one(self._engine.max_connections_query)))
        with self._step(f"create-db-proxy, with a pool of {CONNECTIONS} connections"):
            address = self._proxy.create(MASTER, self._password, limit)
        asyncio.run(self._crowd(address))

    async def _crowd(self, address: str) -> None:
        crowd = Crowd(self._conninfo(address, 5432))
        try:
            with self._step(f"{CLIENTS} clients connect through the proxy, and ask"):
                sessions = await crowd.connect()
            self._say(f"{CLIENTS} clients were answered by {len(sessions)} database sessions")
            await asyncio.to_thread(self._await_in_sync)
            with self._step("kill -9 of the primary; all of them ask again, on the connections they have"):
                await asyncio.to_thread(self._kill_primary)
                await crowd.ask()
            self._say(f"{CLIENTS} of {CLIENTS} clients are still connected and were answered by the new primary;")
            self._say(f"{crowd.told_unknown} statements that were under way when it died were reported as unknown")
        finally:
            await crowd.close()

    def _show(self) -> None:
        instance = self._describe()
        self._say("describe-db-instances says:")
        for member in (
            "DBInstanceIdentifier", "DBInstanceStatus", "Engine", "EngineVersion", "DBInstanceClass",
            "AllocatedStorage", "StorageType", "MultiAZ", "AvailabilityZone", "SecondaryAvailabilityZone",
            "DbiResourceId",
            "DBInstanceArn", "CACertificateIdentifier",
        ):  # fmt: skip
            self._console.print(f"      {member:<28}{instance[member]}", highlight=False)
        endpoint = instance["Endpoint"]
        self._console.print()
        self._console.print(f"[bold]Endpoint[/bold]   {endpoint['Address']}:{endpoint['Port']}", highlight=False)
        self._console.print("[bold]Log in[/bold]")
        login = self._login()
        name, content = self._engine.login_file(login)
        write_atomically(self._settings.home / name, content.encode())
        build = Builds(self._settings).resolve(self._engine.name, instance["EngineVersion"])
        command = self._engine.login_command(login, self._settings.home / name, build.bin_directory)
        self._console.print(f"  {command}", highlight=False, soft_wrap=True)
        self._console.print("[bold]aws CLI, boto3, Terraform[/bold]")
        command = f'eval "$(mainstay env --home {self._settings.home})"'
        self._console.print(f"  {command} && aws rds describe-db-instances", highlight=False, soft_wrap=True)

    def _clear_away(self) -> None:
        """Removes what an earlier tour left."""
        self._proxy.delete()
        ours = (RESTORED, REPLICA, INSTANCE)
        for identifier in ours:
            try:
                self._rds.delete_db_instance(DBInstanceIdentifier=identifier, SkipFinalSnapshot=True)
            except ClientError as error:
                if error.response["Error"]["Code"] != "DBInstanceNotFound":
                    raise
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while any(one["DBInstanceIdentifier"] in ours for one in self._rds.describe_db_instances()["DBInstances"]):
            if time.monotonic() > deadline:
                raise Permanent("the instance of an earlier tour could not be deleted", hint="See `mainstay logs`.")
            time.sleep(POLL_S)
        try:
            self._rds.delete_db_parameter_group(DBParameterGroupName=GROUP)
        except ClientError as error:
            if error.response["Error"]["Code"] != "DBParameterGroupNotFound":
                raise

    def _await_status(self, wanted: str, identifier: str = INSTANCE) -> None:
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            status = self._describe(identifier)["DBInstanceStatus"]
            if status == wanted:
                return
            if status in ("failed", "incompatible-parameters", "incompatible-network", "incompatible-restore"):
                raise Permanent(f"the instance is {status}", hint="`mainstay nodes` and `mainstay logs agent` say why.")
            time.sleep(POLL_S)
        raise Permanent(f"the instance was not {wanted} within {SETTLE_TIMEOUT_S:.0f} s", hint="See `mainstay logs`.")

    def _describe(self, identifier: str = INSTANCE) -> dict[str, Any]:
        found: dict[str, Any] = self._rds.describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"][0]
        return found

    def _connect(self, identifier: str = INSTANCE) -> TourSession:
        return self._engine.connect(self._login(identifier))

    def _login(self, identifier: str = INSTANCE) -> Login:
        if identifier not in self._endpoints:  # they never change
            endpoint = self._describe(identifier)["Endpoint"]
            self._endpoints[identifier] = (endpoint["Address"], endpoint["Port"])
        host, port = self._endpoints[identifier]
        authorities = self._variables["MAINSTAY_CA_BUNDLE"]
        return Login(
            host=host, port=port, user=MASTER, password=self._password, database=DATABASE, authorities=authorities
        )

    def _conninfo(self, host: str, port: int) -> dict[str, Any]:
        return {
            "host": host,
            "port": port,
            "user": MASTER,
            "password": self._password,
            "dbname": DATABASE,
            "sslmode": "verify-full",
            "sslrootcert": self._variables["MAINSTAY_CA_BUNDLE"],
            "connect_timeout": 30,
        }

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


def run_tour(settings: Settings, engine: str, *, keep: bool) -> None:
    """Runs the tour; errors of the API and of the engine end it with their own words."""
    console = Console()
    chosen = tour_engine(engine)
    console.print(f"[bold]Mainstay tour[/bold]: a managed {chosen.title} of your own")
    try:
        Tour(settings, console, chosen).run(keep=keep)
    except (ClientError, *ClientErrors) as error:
        raise Permanent(f"the tour stopped: {error}", hint="`mainstay logs` has the details.") from error
