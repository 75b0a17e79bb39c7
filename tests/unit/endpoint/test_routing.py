"""The rules of the routing table."""

from __future__ import annotations

import msgspec
import pytest

from mainstay.endpoint import routing
from mainstay.endpoint.routing import RoutingTable, admitted, survives
from mainstay.model.errors import Permanent
from mainstay.model.route import ADMITS_MAX, ENDPOINT_ID_LENGTH_MAX, Route

OLD = ("127.96.0.1", 24000)
NEW = ("127.96.0.2", 24000)
ROUTE = Route(
    endpoint_id="db", address="127.64.0.5", port=5432, epoch=3, target_address=OLD[0], target_port=OLD[1], admits=()
)
change = msgspec.structs.replace


@pytest.mark.parametrize(
    ("route", "epoch", "target", "lives"),
    [
        (ROUTE, 3, OLD, True),
        (ROUTE, 2, OLD, False),  # an older epoch, even to the same engine
        (ROUTE, 3, NEW, False),  # the engine is another one now
        (change(ROUTE, target_address=None), 3, OLD, True),  # no primary: the engine ends them itself
        (change(ROUTE, target_address=None), 2, OLD, False),
        (None, 3, OLD, False),
    ],
)
def test_which_connections_survive(route: Route | None, epoch: int, target: tuple[str, int], lives: bool) -> None:
    assert survives(route, epoch, target) is lives


def test_an_epoch_never_goes_back() -> None:
    table = RoutingTable([ROUTE])
    with pytest.raises(Permanent, match="epoch 2 is over"):
        table.put(change(ROUTE, epoch=2))
    assert table.get("db") == ROUTE


def test_a_place_belongs_to_one_endpoint() -> None:
    table = RoutingTable([ROUTE])
    with pytest.raises(Permanent, match="belongs to db"):
        table.put(change(ROUTE, endpoint_id="other"))
    table.put(change(ROUTE, endpoint_id="other", port=5433))
    assert [route.endpoint_id for route in table.all()] == ["db", "other"]


def test_a_change_tells_what_to_do_with_sockets() -> None:
    table = RoutingTable()
    new = table.put(ROUTE)
    assert (new.listens_anew, new.listens_no_more) == (True, False)
    promoted = table.put(change(ROUTE, epoch=4))
    assert (promoted.listens_anew, promoted.listens_no_more) == (False, False)
    moved = table.put(change(ROUTE, epoch=4, port=5433))
    assert (moved.listens_anew, moved.listens_no_more) == (True, True)
    gone = table.remove("db")
    assert (gone.listens_anew, gone.listens_no_more) == (False, True)
    again = table.remove("db")
    assert (again.listens_anew, again.listens_no_more) == (False, False)


def test_the_table_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "ROUTES_MAX", 2)
    table = RoutingTable()
    table.put(change(ROUTE, endpoint_id="1", port=1))
    table.put(change(ROUTE, endpoint_id="2", port=2))
    with pytest.raises(Permanent, match="2 routes already"):
        table.put(change(ROUTE, endpoint_id="3", port=3))
    table.put(change(ROUTE, endpoint_id="2", port=3))  # a change is not an addition


@pytest.mark.parametrize(
    ("admits", "client", "comes_in"),
    [
        ((), "127.0.0.1", False),
        (("127.0.0.1/32",), "127.0.0.1", True),
        (("127.0.0.1/32",), "127.0.0.2", False),
        (("10.0.0.0/8", "127.0.0.2/31"), "127.0.0.3", True),
        (("0.0.0.0/0",), "203.0.113.9", True),
        (("0.0.0.0/0",), "::1", False),
        (("::/0",), "127.0.0.1", False),
        (("127.0.0.0/8",), "::ffff:127.0.0.9", True),
        (("2001:db8::/32",), "2001:db8::1", True),
    ],
)
def test_who_is_admitted(admits: tuple[str, ...], client: str, comes_in: bool) -> None:
    assert admitted(change(ROUTE, admits=admits), client) is comes_in


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 0},
        {"port": 65536},
        {"target_port": 0},
        {"address": "localhost"},
        {"target_address": "nowhere"},
        {"admits": ("10.0.0.0/33",)},
        {"admits": ("10.0.0.0/8",) * (ADMITS_MAX + 1)},
        {"epoch": -1},
        {"endpoint_id": ""},
        {"endpoint_id": "x" * (ENDPOINT_ID_LENGTH_MAX + 1)},
    ],
)
def test_a_wrong_route_cannot_be_made(wrong: dict[str, object]) -> None:
    values = {name: getattr(ROUTE, name) for name in ROUTE.__struct_fields__}
    with pytest.raises(Permanent):
        Route(**{**values, **wrong})


def test_the_limits_of_a_route_are_inclusive() -> None:
    change(ROUTE, admits=("10.0.0.0/8",) * ADMITS_MAX, endpoint_id="x" * ENDPOINT_ID_LENGTH_MAX, port=65535)
