"""Wiring of the control process."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from contextlib import suppress
from typing import Any

import structlog
import uvicorn

from mainstay import __version__
from mainstay.control.access_lists import AccessListPusher
from mainstay.control.address_slot import settle_address_slot
from mainstay.control.answers import forget_answers
from mainstay.control.archives import ArchiveRecorder
from mainstay.control.backup_desk import BackupDesk
from mainstay.control.database_logins import DatabaseLogins
from mainstay.control.database_tokens import DatabaseTokens
from mainstay.control.encryption_keys import KeyWatcher
from mainstay.control.failovers import FailoverRecorder
from mainstay.control.fleet import RpcFleet
from mainstay.control.front import Front
from mainstay.control.http import Application
from mainstay.control.proxies import ProxyKeeper, RpcProxies
from mainstay.control.replicas import ReplicationRecorder
from mainstay.control.server_certificates import CertificateRenewer
from mainstay.control.storage_scaler import StorageScaler
from mainstay.control.volumes import VolumeKeeper
from mainstay.engines.builds import Builds
from mainstay.engines.registry import Engines, engines
from mainstay.host.capacity import host_capacity
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import SystemClock
from mainstay.host.files import make_private_directory, write_atomically
from mainstay.host.randomness import SystemRandomness
from mainstay.host.rpc import RpcServer
from mainstay.host.vault import Vault
from mainstay.model.capacity import HostCapacity
from mainstay.model.errors import Permanent
from mainstay.model.records import Scope
from mainstay.services import ec2, iam, sts
from mainstay.services.ec2.changes import AccessListListener
from mainstay.services.iam.principals import ensure_root_access_key
from mainstay.services.kms import api as kms
from mainstay.services.kms.changes import KeyStateListener
from mainstay.services.rds import api as rds
from mainstay.services.secretsmanager import api as secretsmanager
from mainstay.settings import Settings
from mainstay.store import SqliteStore
from mainstay.workflows.engine import Tools, Worker
from mainstay.workflows.fleet import Fleet
from mainstay.workflows.programs import PROGRAMS
from mainstay.workflows.proxy_fleet import ProxyFleet

EVENT_RETENTION_S = 14 * 24 * 3600.0
PRUNE_INTERVAL_S = 600.0
KEEP_ALIVE_S = 120
"""Longer than clients keep an idle connection (SDKs up to 90 s): a request must not meet our end of it closing."""
SERVICES = (
    rds.operations,
    ec2.operations,
    iam.operations,
    sts.operations,
    secretsmanager.operations,
    kms.operations,
)
log = structlog.get_logger()


class Control:
    """Everything the control process holds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        directory = settings.home / "control"
        make_private_directory(settings.home, mode=0o711)
        make_private_directory(directory)
        make_private_directory(settings.runtime, mode=0o711)
        clock, randomness = SystemClock(), SystemRandomness()
        self._clock = clock
        self._store = SqliteStore(directory / "store.sqlite")
        settle_address_slot(self._store, settings)
        self._vault = Vault.open_file(directory / "master.key", randomness)
        self._authorities = CertificateAuthorities(directory / "ca", clock)
        self._fleet = RpcFleet(settings.runtime / "agent.sock", self._node_changed, self._job_changed)
        self._proxies = RpcProxies(settings, self._proxy_changed)
        registry = engines(Builds(settings))
        tools = Tools(
            store=self._store,
            fleet=self._fleet,
            proxies=self._proxies,
            clock=clock,
            randomness=randomness,
            settings=settings,
            engines=registry,
            certificates=self._authorities,
            vault=self._vault,
        )
        self._worker = Worker(PROGRAMS, tools)
        self._proxy_keeper = ProxyKeeper(tools, self._proxies, self._worker.wake)
        self._failovers = FailoverRecorder(self._store, self._fleet, clock)
        self._replications = ReplicationRecorder(self._store, self._fleet, clock)
        self._archives = ArchiveRecorder(self._store, self._fleet, clock, self._worker.wake)
        self._volumes = VolumeKeeper(tools)
        self._scaler = StorageScaler(tools, self._worker.wake)
        self._keys = KeyWatcher(self._store, clock, self._volumes, self._worker.wake)
        self._pusher = AccessListPusher(self._store, clock, self._worker)
        self._renewer = CertificateRenewer(self._store, clock, self._worker)
        tokens = DatabaseTokens(self._store, self._vault, clock, settings.account_id)
        self._logins = DatabaseLogins(settings, self._store, clock, randomness, self._authorities, tokens)
        methods: dict[str, Any] = {
            "verify_database_token": tokens.verify_database_token,
            "verify_instance_login": tokens.verify_instance_login,
        }
        self._rpc = RpcServer(settings.runtime / "control.sock", methods | BackupDesk(tools, self._worker).methods)
        self._front = Front(
            settings=settings,
            store=self._store,
            vault=self._vault,
            clock=clock,
            randomness=randomness,
            services=SERVICES,
            collaborators=self._collaborators(registry),
            committed=self._committed,
        )
        self._first_start(randomness)

    def _collaborators(self, registry: Engines) -> dict[type, Any]:
        """What handlers of operations may ask for besides the store."""
        return {
            Engines: registry,
            CertificateAuthorities: self._authorities,
            Fleet: self._fleet,
            ProxyFleet: self._proxies,
            Vault: self._vault,
            HostCapacity: host_capacity(),
            AccessListListener: self._pusher,
            KeyStateListener: self._keys,
        }

    def _first_start(self, randomness: SystemRandomness) -> None:
        """What exists before anybody asked for it: the root's access key and every region's default VPC."""
        settings = self._settings
        with self._store.transaction() as tx:
            key_id, secret = ensure_root_access_key(
                tx, self._vault, randomness, settings.account_id, self._clock.wall()
            )
            for region in settings.regions:
                ec2.ensure_default_vpc(tx, Scope(settings.account_id, region), settings, randomness, self._clock)
        write_atomically(
            settings.home / "credentials",
            f"AWS_ACCESS_KEY_ID={key_id}\nAWS_SECRET_ACCESS_KEY={secret}\n".encode(),
        )
        write_atomically(settings.home / "ca-bundle.pem", self._authorities.bundle_pem.encode(), mode=0o644)

    def _node_changed(self, dbi_resource_id: str) -> None:
        self._failovers.look(dbi_resource_id)
        self._replications.look(dbi_resource_id)
        self._archives.look(dbi_resource_id)
        self._volumes.look(dbi_resource_id)
        self._worker.wake(f"db:{dbi_resource_id}")

    def _job_changed(self, subject: str) -> None:
        self._worker.wake(subject)

    def _proxy_changed(self, proxy_id: str) -> None:
        self._worker.wake(f"proxy:{proxy_id}")

    def _committed(self) -> None:
        self._worker.wake()
        self._proxy_keeper.poke()

    def _health(self) -> dict[str, Any]:
        service = self._settings.runtime.name
        return {"version": __version__, "service": service, "agent_connected": self._fleet.connected}

    async def run(self) -> None:
        """Until SIGTERM."""
        await self._logins.start()
        await self._rpc.start()
        self._fleet.start()
        tasks = [
            asyncio.create_task(task)
            for task in (
                self._worker.run(),
                self._pusher.run(),
                self._renewer.run(),
                self._proxy_keeper.run(),
                self._volumes.run(),
                self._scaler.run(),
                self._keys.run(),
                self._prune(),
            )
        ]
        server = uvicorn.Server(self._server_config())
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        serving = asyncio.create_task(server._serve())
        await asyncio.wait([asyncio.create_task(ended.wait()), serving], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._logins.stop()
        await self._rpc.stop()
        await self._proxies.stop()
        await self._fleet.stop()
        self._store.close()

    def _server_config(self) -> uvicorn.Config:
        settings = self._settings
        options: dict[str, Any] = {}
        address = ipaddress.ip_address(settings.listen)
        if not address.is_loopback:
            options = self._tls_options(str(address))
        return uvicorn.Config(
            Application(self._front, self._health),
            host=settings.listen,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # else any local client could choose its aws:SourceIp by X-Forwarded-For
            lifespan="off",
            loop="uvloop",
            http="httptools",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=5,
            **options,
        )

    def _tls_options(self, address: str) -> dict[str, Any]:
        """Off loopback the API speaks TLS only, with a certificate of the service's own authority."""
        if ipaddress.ip_address(address).is_unspecified:
            raise Permanent(
                "listen must be one address of this machine, not all of them",
                hint="Set MAINSTAY_LISTEN to the address clients use: its certificate is issued for it.",
            )
        issued, _valid_till = self._authorities.issue((), (address,))
        directory = self._settings.home / "control"
        write_atomically(directory / "api.crt", issued.certificate_pem.encode())
        write_atomically(directory / "api.key", issued.private_key_pem.encode())
        return {"ssl_certfile": str(directory / "api.crt"), "ssl_keyfile": str(directory / "api.key")}

    async def _prune(self) -> None:
        while True:
            with suppress(Exception):
                self._store.prune_events(self._clock.wall() - EVENT_RETENTION_S)
                forget_answers(self._store, self._clock.wall())
            await asyncio.sleep(PRUNE_INTERVAL_S)
