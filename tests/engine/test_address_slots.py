"""Two services of one host whose homes have the same digest: both have instances that can be reached."""

from __future__ import annotations

import itertools

import pytest

from harness.service import HOMES, Service
from mainstay.workflows.addresses import preferred_slot

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def test_two_services_that_prefer_the_same_addresses(own_service: Service) -> None:
    first = own_service
    wanted = preferred_slot(first.home)
    alike = next(
        home
        for number in itertools.count()
        if preferred_slot(home := HOMES / f"{first.home.name}-{number}") == wanted and not home.exists()
    )
    second = Service()
    second.home.rmdir()
    second.home = alike
    alike.mkdir(mode=0o711)
    second.environment["MAINSTAY_HOME"] = str(alike)
    with second:
        made = [service.create_instance("db1") for service in (first, second)]
        places = [(one["Endpoint"]["Address"], one["Endpoint"]["Port"]) for one in made]
        assert len(set(places)) == 2 and {port for _, port in places} == {5432}
        for service, instance in zip((first, second), made, strict=True):
            with service.connect(instance) as connection:
                connection.execute("CREATE TABLE mine AS SELECT 1 AS id")
        for service in (first, second):  # each finds its own again, whoever comes first
            service.cli("down")
        for service in (second, first):
            service.cli("up", "--detach")
        for service, instance in zip((first, second), made, strict=True):
            again = service.await_status("db1", "available")
            assert again["Endpoint"] == instance["Endpoint"]
            with service.connect(again) as connection:
                assert connection.execute("SELECT id FROM mine").fetchone() == (1,)
