"""What clients are told of the engine's parameters without asking it again."""

from __future__ import annotations

from mainstay.protocol.postgres import wire
from mainstay.proxy.welcome import KEPT_MAX, Welcome

REPORTED = {"server_version": "17.2", "TimeZone": "Etc/UTC", "application_name": "RDSProxy"}


def parameters(told: bytes) -> dict[str, str]:
    found = {}
    for kind, body in wire.split(told):
        assert kind == ord("S")
        name, value, _ = wire.two_strings(body)
        found[name.decode()] = value.decode()
    return found


def test_nothing_is_told_before_a_connection_was_there() -> None:
    welcome = Welcome()
    assert welcome.told({}) == b"" == welcome.told({"application_name": "psql"})
    assert parameters(welcome.learn_with({"TimeZone": "Asia/Tokyo"}, REPORTED)) == REPORTED
    assert welcome.told({"TimeZone": "Asia/Tokyo"}) == b"", "what it is compared with is not known yet"


def test_the_applications_name_is_told_as_the_engine_would() -> None:
    welcome = Welcome()
    welcome.learn(REPORTED)
    assert parameters(welcome.told({})) == REPORTED
    assert parameters(welcome.told({"application_name": "psql"})) == REPORTED | {"application_name": "psql"}
    assert parameters(welcome.told({"application_name": "x" * 70}))["application_name"] == "x" * 63
    for name in ("größer", "a\tb", "\x7f"):
        assert welcome.told({"application_name": name}) == b"", "how the engine shows it depends on its version"
        learnt = welcome.learn_with({"application_name": name}, REPORTED | {"application_name": "?"})
        assert parameters(learnt)["application_name"] == "?"
        assert welcome.told({"application_name": name}) == b""
        assert parameters(welcome.told({"application_name": "psql"})) == REPORTED | {"application_name": "psql"}


def test_settings_are_asked_for_once() -> None:
    welcome = Welcome()
    welcome.learn(REPORTED)
    asked = {"TimeZone": "asia/tokyo", "application_name": "one"}
    assert welcome.told(asked) == b"" == welcome.told({"TimeZone": "UTC"})
    known = REPORTED | {"TimeZone": "Asia/Tokyo", "application_name": "one"}
    assert parameters(welcome.learn_with(asked, known)) == known
    assert parameters(welcome.told({"application_name": "two", "TimeZone": "asia/tokyo"})) == known | {
        "application_name": "two"
    }
    assert welcome.told({"TimeZone": "UTC"}) == b""
    assert parameters(welcome.told({})) == REPORTED


def test_other_defaults_end_what_was_known() -> None:
    welcome = Welcome()
    welcome.learn(REPORTED)
    welcome.learn_with({"TimeZone": "UTC"}, REPORTED)
    welcome.learn(REPORTED)
    assert welcome.told({"TimeZone": "UTC"})
    welcome.learn(REPORTED | {"server_version": "18.1"})
    assert welcome.told({"TimeZone": "UTC"}) == b""
    assert parameters(welcome.told({}))["server_version"] == "18.1"


def test_what_is_kept_has_a_limit() -> None:
    welcome = Welcome()
    welcome.learn(REPORTED)
    for number in range(KEPT_MAX + 5):
        welcome.learn_with({"work_mem": str(number)}, REPORTED)
    kept = [number for number in range(KEPT_MAX + 5) if welcome.told({"work_mem": str(number)})]
    assert kept == list(range(5, KEPT_MAX + 5))
    assert welcome.told({})


def test_what_was_told_before_is_not_told_when_it_holds_no_more() -> None:
    welcome = Welcome()
    welcome.learn(REPORTED)
    named = {"application_name": "psql"}
    for _twice in range(2):
        assert parameters(welcome.told({})) == REPORTED
        assert parameters(welcome.told(named)) == REPORTED | named
    welcome.learn(REPORTED | {"application_name": "other"})
    assert parameters(welcome.told({}))["application_name"] == "other"
    welcome.learn(REPORTED | {"TimeZone": "Asia/Tokyo"})
    assert parameters(welcome.told(named)) == REPORTED | {"TimeZone": "Asia/Tokyo"} | named
    for number in range(3 * KEPT_MAX):
        assert welcome.told({"application_name": str(number)})
    assert len(welcome._with_name) <= KEPT_MAX
