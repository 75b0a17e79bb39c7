"""All settings, in one place: a frozen tree read once at start and passed down, never imported as a global.

Sources, strongest first: a command-line flag, an environment variable `MAINSTAY_<NAME>`, the file `mainstay.toml`
under MAINSTAY_HOME (same names in lower case), the default below. docs/settings.md is generated from this module.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mainstay.model.dns_name import NAME_LENGTH_MAX, is_dns_name
from mainstay.model.errors import Permanent

_NAME_BEFORE_REGION = len(f"{'i' * 63}.{'h' * 12}..rds.")  # <DB instance identifier>.<hash>.<region>.rds.<zone>

RESTORE_TEST_INTERVAL_DAYS_MAX = 365
PROXY_WORKERS_MAX = 15
"""Cancel keys have room for so many."""

PROXY_WORKERS_BY_CORES_MAX = 8


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every field can be set; the text under each field is its documentation."""

    home: Path
    """Directory of everything this service keeps. Default /var/lib/mainstay (root) or ~/.local/share/mainstay."""

    engines: Path | None = None
    """Directory of engine builds, one per version. Several services may share one. Default: `engines` under home."""

    port: int = 4566
    """TCP port of the AWS API."""

    listen: str = "127.0.0.1"
    """Address the AWS API listens on. Anything but a loopback address makes the API demand TLS."""

    account_id: str = "123456789012"
    """The AWS account number that owns everything, twelve digits."""

    region: str = "us-west-2"
    """Region that `mainstay env` prints. In us-east-1 the aws CLI version 1 ignores AWS_ENDPOINT_URL for rds."""

    regions: tuple[str, ...] = ("us-east-1", "us-west-2", "eu-west-1")
    """Regions that exist; each has three Availability Zones (a, b, c)."""

    dns_zone: str = "mainstay.internal"
    """Zone of the RDS-style names in certificates: <instance>.<hash>.<region>.rds.<zone>."""

    dns_listen: str = ""
    """Address and port where `dns_zone` is served over DNS, such as 127.0.0.1:5354; empty: nowhere. See docs/dns.md."""

    endpoint_network: str = ""
    """CIDR that endpoint addresses are taken from, all configured on this host; empty: loopback, this machine only."""

    endpoint_path: str = "auto"
    """What carries clients' bytes: "relay" (user space), "kernel" (nftables, root, loopback IPv4 only) or "auto"."""

    volumes: str = "directory"
    """What unencrypted instances keep data on: "directory", or "image", which makes AllocatedStorage a limit."""

    memory_overcommit: float = 2.0
    """Instances may be placed while the sum of their class memory stays below host memory times this factor."""

    engine_user: str = "mainstay"
    """System user that engines run as when the service runs as root; created at first start."""

    object_storage: str = ""
    """Where backups are: a directory, or s3://, gs:// or az:// with bucket and prefix. Empty: `objects` under home."""

    object_storage_options: Path | None = None
    """TOML file, readable by the service alone, with what object_storage needs: region, endpoint, credentials."""

    restore_test_interval_days: int = 7
    """So often the newest backup of each instance is really restored, after a daily backup, and checked. 0: never."""

    progress_event_interval_s: float = 60.0
    """A backup, copy, export or restore that takes longer tells how far it is in events, seldom. 0: in none."""

    proxy_workers: int = 0
    """Processes that serve RDS Proxies; 0: one for each core but one, at most 8. From 2 on, another coordinates."""

    log_level: str = "info"
    """debug, info, warning or error."""

    @property
    def dns_place(self) -> tuple[str, int] | None:
        """Address and port of `dns_listen`; None when the zone is not served."""
        if not self.dns_listen:
            return None
        address, _, port = self.dns_listen.rpartition(":")
        return address.removeprefix("[").removesuffix("]"), int(port)

    @property
    def proxy_worker_count(self) -> int:
        """How many processes serve RDS Proxies: one core is left to engines and clients."""
        return self.proxy_workers or max(1, min(len(os.sched_getaffinity(0)) - 1, PROXY_WORKERS_BY_CORES_MAX))

    @property
    def runtime(self) -> Path:
        """Directory for sockets and locks: short (Unix socket paths end at 107 bytes) and private to this home."""
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:10]
        base = Path("/run") if os.geteuid() == 0 and os.access("/run", os.W_OK) else Path("/tmp")  # noqa: S108 - 0711, owner checked
        return base / f"mainstay-{os.geteuid()}-{digest}"

    @property
    def builds(self) -> Path:
        """Where engine builds are."""
        return self.engines or self.home / "engines"

    @property
    def availability_zones(self) -> dict[str, tuple[str, ...]]:
        """Region -> its zone names."""
        return {region: tuple(region + letter for letter in "abc") for region in self.regions}


def default_home() -> Path:
    """Where a service keeps its things unless told otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/mainstay")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "mainstay"


def load_settings(environ: Mapping[str, str], **flags: Any) -> Settings:
    """Reads all sources once.

    Raises `Permanent` naming the setting and its source when a value does not fit its type.
    """
    home = Path(str(flags.get("home") or environ.get("MAINSTAY_HOME") or default_home())).absolute()
    values: dict[str, Any] = {}
    file = home / "mainstay.toml"
    if file.is_file():
        try:
            values |= tomllib.loads(file.read_text())
        except tomllib.TOMLDecodeError as error:
            raise Permanent(f"{file} is not valid TOML: {error}", hint="Correct the line it names.") from error
    names = {field.name for field in msgspec.structs.fields(Settings)}
    for name in sorted(names):
        if text := environ.get(f"MAINSTAY_{name.upper()}"):
            values[name] = text.split(",") if name == "regions" else text
    values |= {name: value for name, value in flags.items() if value is not None}
    values["home"] = str(home)
    if unknown := set(values) - names:
        raise Permanent(
            f"unknown setting {sorted(unknown)[0]!r} in {file}", hint="docs/settings.md lists all settings."
        )
    try:
        settings = msgspec.convert(values, Settings, strict=False, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        raise Permanent(f"a setting is wrong: {error}", hint="docs/settings.md lists all settings.") from error
    _validate(settings)
    return settings


def _validate(settings: Settings) -> None:
    if not (len(settings.account_id) == 12 and settings.account_id.isdigit()):
        raise Permanent(f"account_id {settings.account_id!r} is not twelve digits")
    if not 1 <= settings.port <= 65535:
        raise Permanent(f"port {settings.port} is not between 1 and 65535")
    if settings.region not in settings.regions:
        raise Permanent(f"region {settings.region!r} is not one of regions {', '.join(settings.regions)}")
    if settings.endpoint_network:
        try:
            ipaddress.IPv4Network(settings.endpoint_network)
        except ValueError as error:
            raise Permanent(
                f"endpoint_network {settings.endpoint_network!r} is not an IPv4 network: {error}"
            ) from error
    _validate_dns(settings)
    if settings.object_storage and not settings.object_storage.startswith(("/", "s3://", "gs://", "az://")):
        raise Permanent(
            f"object_storage {settings.object_storage!r} is neither an absolute directory nor s3://, gs:// or az://",
            hint="Write it like /srv/backups or s3://bucket/prefix.",
        )
    if not 0 <= settings.proxy_workers <= PROXY_WORKERS_MAX:
        raise Permanent(f"proxy_workers {settings.proxy_workers} is not between 0 and {PROXY_WORKERS_MAX}")
    if not 0 <= settings.restore_test_interval_days <= RESTORE_TEST_INTERVAL_DAYS_MAX:
        raise Permanent(
            f"restore_test_interval_days {settings.restore_test_interval_days} is not between 0 and"
            f" {RESTORE_TEST_INTERVAL_DAYS_MAX}"
        )
    if not 0 <= settings.progress_event_interval_s < float("inf"):
        raise Permanent(f"progress_event_interval_s {settings.progress_event_interval_s} is not a number of seconds")
    if settings.endpoint_path not in ("auto", "relay", "kernel"):
        raise Permanent(f"endpoint_path {settings.endpoint_path!r} is none of auto, relay, kernel")
    if settings.volumes not in ("directory", "image"):
        raise Permanent(f"volumes {settings.volumes!r} is neither directory nor image")


def _validate_dns(settings: Settings) -> None:
    room = NAME_LENGTH_MAX - _NAME_BEFORE_REGION - max(map(len, settings.regions))
    if not is_dns_name(settings.dns_zone) or len(settings.dns_zone) > room:
        raise Permanent(
            f"dns_zone {settings.dns_zone!r} is not a DNS name of at most {room} characters",
            hint="Write it like db.example.com: labels of letters, digits and hyphens, no dot at the end.",
        )
    try:
        place = settings.dns_place
        usable = place is None or (not ipaddress.ip_address(place[0]).is_unspecified and 1 <= place[1] <= 65535)
    except ValueError:
        usable = False
    if not usable:
        raise Permanent(
            f"dns_listen {settings.dns_listen!r} is not one address of this host and a port",
            hint="Write it like 127.0.0.1:5354 or [::1]:5354; 0.0.0.0 and :: are not possible.",
        )
