"""The name of an instance: served by the endpoint process, whoever else is away, and what its certificate says."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from harness.service import Service, eventually, free_port
from mainstay.model.records import Scope
from mainstay.workflows.node_specs import endpoint_name

pytestmark = pytest.mark.engine

Place = tuple[str, int]


@pytest.fixture
def named() -> Iterator[tuple[Service, Place]]:
    """A service that serves its zone, and where."""
    place = ("127.0.0.1", free_port())
    with Service(dns_listen=f"{place[0]}:{place[1]}", dns_zone="db.test") as service:
        yield service, place


def resolve(place: Place, name: str) -> str:
    """The address behind the name, else the code that was answered."""
    answer = DNSRecord.parse(DNSRecord.question(name).send(*place, timeout=5))
    found = [str(one.rdata) for one in answer.rr if one.rtype == QTYPE.A]
    return found[0] if found else str(RCODE[answer.header.rcode])


def test_a_name_follows_its_instance_for_life(named: tuple[Service, Place]) -> None:
    service, place = named
    scope = Scope(service.settings.account_id, service.variables["AWS_DEFAULT_REGION"])
    before, after = (endpoint_name(service.settings, scope, identifier) for identifier in ("before", "after"))
    assert resolve(place, before) == "NXDOMAIN"
    instance = service.create_instance("before")
    address = instance["Endpoint"]["Address"]
    assert resolve(place, before) == address
    assert socket.inet_aton(address)[0] == 127, "the endpoint's address, not the engine's"
    with service.stopped("control"), service.stopped("agent"):
        assert resolve(place, before.upper()) == address
    rds = service.client("rds")
    rds.modify_db_instance(DBInstanceIdentifier="before", NewDBInstanceIdentifier="after", ApplyImmediately=True)
    eventually(lambda: resolve(place, after) == address)
    assert resolve(place, before) == "NXDOMAIN"
    service.await_status("after", "available")
    with service.connect(instance, host=after, hostaddr=resolve(place, after)) as connection:  # verifies the name
        assert connection.execute("SELECT 1").fetchone() == (1,)
    rds.stop_db_instance(DBInstanceIdentifier="after")
    service.await_status("after", "stopped")
    assert resolve(place, after) == "NXDOMAIN"
    rds.start_db_instance(DBInstanceIdentifier="after")
    service.await_status("after", "available")
    service.kill("endpoint")
    eventually(lambda: _answers(place, after) == address)
    service.delete_instance("after")
    assert resolve(place, after) == "NXDOMAIN"


def _answers(place: Place, name: str) -> str | None:
    try:
        return resolve(place, name)
    except OSError:
        return None
