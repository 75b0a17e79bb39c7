"""Where secrets must not be found after a service has handled them, and what TLS proves to a client."""

from __future__ import annotations

import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.files import files_below
from harness.service import Service, eventually

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

FIRST, SECOND = "first-Secret-83642", "second-Secret-99171"
PUBLIC = ("ca-bundle.pem",)


@pytest.fixture(scope="module")
def used() -> Iterator[tuple[Service, dict[str, Any]]]:
    """A service that created an instance which logs every statement, and reset its password twice."""
    with Service() as service:
        rds = service.client("rds")
        versions = rds.describe_db_engine_versions(Engine="postgres", EngineVersion=service.engine_version)
        family = versions["DBEngineVersions"][0]["DBParameterGroupFamily"]
        rds.create_db_parameter_group(DBParameterGroupName="loud", DBParameterGroupFamily=family, Description="d")
        rds.modify_db_parameter_group(
            DBParameterGroupName="loud",
            Parameters=[
                {"ParameterName": "log_statement", "ParameterValue": "all", "ApplyMethod": "immediate"},
                {"ParameterName": "log_min_duration_statement", "ParameterValue": "0", "ApplyMethod": "immediate"},
            ],
        )
        service.create_instance("quiet", DBParameterGroupName="loud", MasterUserPassword=FIRST)
        rds.modify_db_instance(DBInstanceIdentifier="quiet", MasterUserPassword=SECOND, ApplyImmediately=True)
        instance = service.await_status("quiet", "available")
        eventually(lambda: opens(service, instance, SECOND))
        yield service, instance


def opens(service: Service, instance: dict[str, Any], password: str) -> bool:
    try:
        service.connect(instance, password=password).close()
    except psycopg.OperationalError:
        return False
    return True


def private_key_lines(service: Service) -> list[bytes]:
    """One telling line of every private key of the service."""
    found = []
    for path in files_below(service.home):
        content = path.read_bytes() if path.stat().st_size < 20_000 else b""
        if b"PRIVATE KEY-----" in content:
            pem = content.replace(b"\\n", b"\n").split(b"PRIVATE KEY-----", 1)[1]  # as a file, or within JSON
            found.append(pem.split(b"\n")[2])
    assert found
    return found


def test_no_secret_in_logs_or_the_store(used: tuple[Service, dict[str, Any]]) -> None:
    service, _ = used
    root = service.variables["AWS_SECRET_ACCESS_KEY"].encode()
    hidden = [FIRST.encode(), SECOND.encode(), root, *private_key_lines(service)]
    logs = [path for path in files_below(service.home) if "log" in path.name or "output" in path.name]
    store = list((service.home / "control").glob("store.sqlite*"))
    assert logs and store
    for path in (*logs, *store):
        content = path.read_bytes()
        for secret in hidden:
            assert secret not in content, path
        if path in logs:
            assert b"SCRAM-SHA-256$" not in content, path


def test_no_secret_in_any_command_line_or_environment(used: tuple[Service, dict[str, Any]]) -> None:
    service, _ = used
    hidden = [FIRST.encode(), SECOND.encode(), service.variables["AWS_SECRET_ACCESS_KEY"].encode()]
    seen = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            content = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(service.home).encode() in content:
            seen += 1
            assert not any(secret in content for secret in hidden), process
    assert seen >= 4


def test_files_are_closed_to_others(used: tuple[Service, dict[str, Any]]) -> None:
    """Every file is unreadable for others, or below a directory that others cannot enter."""
    service, _ = used

    def open_files(directory: Path) -> Iterator[Path]:
        for entry in directory.iterdir():
            try:
                mode = entry.lstat().st_mode
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(mode) and mode & 0o011:
                yield from open_files(entry)
            elif stat.S_ISREG(mode) and mode & 0o044 and entry.name not in PUBLIC:
                yield entry

    assert list(open_files(service.home)) == []
    assert [path for path in open_files(service.settings.runtime) if path.suffix != ".lock"] == []


@contextmanager
def speaking_tls(instance: dict[str, Any], context: ssl.SSLContext, name: str) -> Iterator[ssl.SSLSocket]:
    """TLS with the engine, after PostgreSQL's SSLRequest."""
    address = (instance["Endpoint"]["Address"], instance["Endpoint"]["Port"])
    with socket.create_connection(address, timeout=5) as plain:
        plain.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain, server_hostname=name) as client:
            yield client


def handshake(instance: dict[str, Any], context: ssl.SSLContext, name: str) -> str | None:
    """The TLS version that is spoken."""
    with speaking_tls(instance, context, name) as client:
        return client.version()


def test_the_end_of_the_certificate_is_told(used: tuple[Service, dict[str, Any]]) -> None:
    service, instance = used
    context = ssl.create_default_context(cafile=service.variables["MAINSTAY_CA_BUNDLE"])
    with speaking_tls(instance, context, instance["Endpoint"]["Address"]) as client:
        shown = client.getpeercert()
    assert shown is not None
    told = service.describe("quiet")["CertificateDetails"]["ValidTill"]
    assert told.timestamp() == ssl.cert_time_to_seconds(str(shown["notAfter"]))
    assert timedelta(days=364) < told - datetime.now(UTC) < timedelta(days=366)


def test_tls(used: tuple[Service, dict[str, Any]]) -> None:
    service, instance = used
    address = instance["Endpoint"]["Address"]
    bundle = service.variables["MAINSTAY_CA_BUNDLE"]
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=bundle)
        context.minimum_version = context.maximum_version = version
        assert handshake(instance, context, address) == version.name.replace("_", ".")
        with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid"):
            handshake(instance, context, "127.0.0.77")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(instance, ssl.create_default_context(), address)
    with pytest.raises(psycopg.OperationalError, match="protocol"):
        service.connect(instance, password=SECOND, ssl_min_protocol_version="TLSv1", ssl_max_protocol_version="TLSv1.1")
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        service.connect(instance, password=SECOND, sslmode="disable", sslrootcert=None)
