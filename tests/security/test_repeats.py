"""A request that an SDK repeats, because the answer did not reach it, is answered and not carried out once more."""

from __future__ import annotations

import secrets
import sqlite3
import uuid

import pytest

from harness.access import Key, allow, refused, root_key, send, signed, told
from harness.files import holding
from harness.service import Service, eventually

pytestmark = pytest.mark.engine


def attempt(service: Service, key: Key, body: str, invocation: str, number: int) -> tuple[int, str]:
    name = "iam" if "2010-05-08" in body else "rds"
    request = signed(service, name, key, body=body)
    return send(told(request, Amz_Sdk_Invocation_Id=invocation, Amz_Sdk_Request=f"attempt={number}; max=25"))


def create_group(name: str) -> str:
    return (
        "Action=CreateDBParameterGroup&Version=2014-10-31&DBParameterGroupFamily=postgres17"
        f"&Description=repeated&DBParameterGroupName={name}"
    )


def test_the_second_attempt_is_answered_as_the_first(service: Service) -> None:
    key, invocation, name = root_key(service), str(uuid.uuid4()), f"g{secrets.token_hex(4)}"
    first = attempt(service, key, create_group(name), invocation, 1)
    assert first[0] == 200
    assert attempt(service, key, create_group(name), invocation, 2) == first
    assert attempt(service, key, create_group(name), invocation, 3) == first
    again = attempt(service, key, create_group(name), str(uuid.uuid4()), 2)
    assert again[0] == 400 and "DBParameterGroupAlreadyExists" in again[1], "another invocation is another request"
    once_more = attempt(service, key, create_group(name), invocation, 1)
    assert once_more[0] == 400, "whoever does not say that it repeats does not repeat"


def test_it_survives_the_death_of_control(own_service: Service) -> None:
    key, invocation = root_key(own_service), str(uuid.uuid4())
    first = attempt(own_service, key, create_group("kept"), invocation, 1)
    own_service.kill("control")
    own_service.process("control")
    assert attempt_when_up(own_service, key, invocation) == first


def attempt_when_up(service: Service, key: Key, invocation: str) -> tuple[int, str]:

    def answered() -> tuple[int, str] | None:
        try:
            return attempt(service, key, create_group("kept"), invocation, 2)
        except OSError:
            return None

    found: tuple[int, str] = eventually(answered)
    return found


def test_an_answer_is_for_whom_it_was_given_and_for_the_same_bytes(service: Service, user: tuple[str, Key]) -> None:
    name, other = user
    invocation, group = str(uuid.uuid4()), f"g{secrets.token_hex(4)}"
    assert attempt(service, root_key(service), create_group(group), invocation, 1)[0] == 200
    assert attempt(service, other, create_group(group), invocation, 2)[0] == 403
    allow(service, name, {"Effect": "Allow", "Action": "rds:*"})
    assert attempt(service, other, create_group(group), invocation, 2)[0] == 400
    different = attempt(service, root_key(service), create_group(group + "x"), invocation, 2)
    assert different[0] == 200 and group + "x" in different[1]
    unsigned = told(
        signed(service, "rds", (root_key(service)[0], "wrong"), body=create_group(group)),
        Amz_Sdk_Invocation_Id=invocation, Amz_Sdk_Request="attempt=2",
    )  # fmt: skip
    assert refused(unsigned) == (403, "SignatureDoesNotMatch")


def test_what_was_refused_is_tried_again_and_a_secret_in_an_answer_is_sealed(
    service: Service, user: tuple[str, Key]
) -> None:
    name, _ = user
    key, invocation = root_key(service), str(uuid.uuid4())
    body = f"Action=CreateAccessKey&Version=2010-05-08&UserName={name}"
    status, text = attempt(service, key, body, invocation, 1)
    assert status == 200 and attempt(service, key, body, invocation, 2) == (status, text)
    secret = text.split("<SecretAccessKey>")[1].split("<")[0]
    assert holding(service.home / "control", secret.encode()) == []
    group, other = f"g{secrets.token_hex(4)}", str(uuid.uuid4())
    wrong = create_group(group).replace("postgres17", "nosuch1")
    assert attempt(service, key, wrong, other, 1)[0] == 400
    with sqlite3.connect(f"file:{service.home / 'control' / 'store.sqlite'}?mode=ro", uri=True) as store:
        before = store.execute("SELECT count(*) FROM records WHERE kind = 'answered-call'").fetchone()
        assert attempt(service, key, wrong, other, 2)[0] == 400
        assert store.execute("SELECT count(*) FROM records WHERE kind = 'answered-call'").fetchone() == before
