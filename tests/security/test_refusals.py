"""Every way of not being who one says, over real HTTP: AWS's code and status, in the words of each service."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterator

import botocore.auth
import msgspec
import pytest

from harness.access import SERVICES, TARGETS, Key, allow, refused, root_key, send, signed
from harness.service import Service
from mainstay.host.randomness import SystemRandomness
from mainstay.host.vault import Vault
from mainstay.services.iam.sessions import open_session, seal_session

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600), pytest.mark.parametrize("name", SERVICES)]

Refusal = tuple[int, str]
QUERY: dict[str, Refusal] = {
    "denied": (403, "AccessDenied"),
    "expired session": (403, "ExpiredToken"),
    "incomplete": (400, "IncompleteSignature"),
    "mismatch": (403, "SignatureDoesNotMatch"),
    "stale": (403, "SignatureDoesNotMatch"),
    "unknown key": (403, "InvalidClientTokenId"),
    "unsigned": (403, "MissingAuthenticationToken"),
}
EC2: dict[str, Refusal] = {
    "denied": (403, "UnauthorizedOperation"),
    "expired session": (400, "RequestExpired"),
    "incomplete": (400, "IncompleteSignature"),
    "mismatch": (401, "AuthFailure"),
    "stale": (400, "RequestExpired"),
    "unknown key": (401, "AuthFailure"),
    "unsigned": (401, "AuthFailure"),
}
JSON: dict[str, Refusal] = {
    "denied": (400, "AccessDeniedException"),
    "expired session": (400, "ExpiredTokenException"),
    "incomplete": (400, "IncompleteSignatureException"),
    "mismatch": (400, "InvalidSignatureException"),
    "stale": (400, "InvalidSignatureException"),
    "unknown key": (400, "UnrecognizedClientException"),
    "unsigned": (400, "MissingAuthenticationTokenException"),
}


def words(name: str) -> dict[str, Refusal]:
    """How this service says it (reference: common errors of each service's API)."""
    return EC2 if name == "ec2" else JSON if name in TARGETS else QUERY


def test_a_right_signature_is_accepted_and_one_of_another_secret_is_not(service: Service, name: str) -> None:
    key = root_key(service)
    assert send(signed(service, name, key))[0] == 200
    assert refused(signed(service, name, (key[0], "x" * 40))) == words(name)["mismatch"]


def test_an_altered_body(service: Service, name: str) -> None:
    altered = signed(service, name, root_key(service))
    assert isinstance(altered.data, str)
    altered.data += " " if name in TARGETS else "&MaxRecords=21"
    assert refused(altered) == words(name)["mismatch"]


def test_an_altered_header(service: Service, name: str) -> None:
    altered = signed(service, name, root_key(service))
    altered.headers.replace_header("Content-Type", altered.headers["Content-Type"] + ";x=y")
    assert refused(altered) == words(name)["mismatch"]


def test_a_key_that_nobody_has(service: Service, name: str) -> None:
    assert refused(signed(service, name, ("AKIA" + "Q" * 16, "x" * 40))) == words(name)["unknown key"]


def test_a_deactivated_key(service: Service, name: str, user: tuple[str, Key]) -> None:
    who, key = user
    allow(service, who, {"Effect": "Allow", "Action": "*"})
    iam = service.client("iam")
    assert send(signed(service, name, key))[0] == 200
    iam.update_access_key(UserName=who, AccessKeyId=key[0], Status="Inactive")
    assert refused(signed(service, name, key)) == words(name)["unknown key"]
    iam.update_access_key(UserName=who, AccessKeyId=key[0], Status="Active")
    assert send(signed(service, name, key))[0] == 200
    iam.delete_access_key(UserName=who, AccessKeyId=key[0])
    assert refused(signed(service, name, key)) == words(name)["unknown key"]


def test_a_denied_action(service: Service, name: str, user: tuple[str, Key]) -> None:
    who, key = user
    if name != "sts":  # GetCallerIdentity needs no permission and cannot be denied
        assert refused(signed(service, name, key)) == words(name)["denied"]
    allow(service, who, {"Effect": "Allow", "Action": "*"})
    assert send(signed(service, name, key))[0] == 200
    allow(service, who, {"Effect": "Allow", "Action": "*"}, {"Effect": "Deny", "Action": "*"})
    if name != "sts":
        assert refused(signed(service, name, key)) == words(name)["denied"]
    assert send(signed(service, "sts", key))[0] == 200


def test_headers_that_are_missing(service: Service, name: str) -> None:
    def without(header: str) -> Refusal:
        request = signed(service, name, root_key(service))
        del request.headers[header]
        return refused(request)

    assert without("Authorization") == words(name)["unsigned"]
    assert without("X-Amz-Date") == words(name)["incomplete"]
    if name in TARGETS:  # a signed header that is not there
        request = signed(service, name, root_key(service))
        assert "x-amz-target" in request.headers["Authorization"]
        del request.headers["X-Amz-Target"]
        assert refused(request) == words(name)["mismatch"]


@pytest.mark.parametrize("part", ["Credential", "SignedHeaders", "Signature"])
def test_parts_of_the_authorization_that_are_missing(service: Service, name: str, part: str) -> None:
    request = signed(service, name, root_key(service))
    kept = re.sub(rf"{part}=[^,]*(, )?", "", request.headers["Authorization"])
    request.headers.replace_header("Authorization", kept)
    assert refused(request) == words(name)["incomplete"]


def test_an_unknown_algorithm(service: Service, name: str) -> None:
    request = signed(service, name, root_key(service))
    text = request.headers["Authorization"].replace("AWS4-HMAC-SHA256", "AWS3-HMAC-SHA256")
    request.headers.replace_header("Authorization", text)
    assert refused(request) == words(name)["incomplete"]


def test_the_host_must_be_signed(service: Service, name: str) -> None:
    request = signed(service, name, root_key(service))
    text = request.headers["Authorization"].replace("host;", "").replace(";host", "")
    request.headers.replace_header("Authorization", text)
    assert refused(request) == words(name)["mismatch"]


@pytest.mark.parametrize(("minutes", "right"), [(-6, False), (-4, True), (4, True), (6, False)])
def test_dates(service: Service, name: str, minutes: int, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: moment)
    request = signed(service, name, root_key(service))  # a right signature of that time
    if right:
        assert send(request)[0] == 200
    else:
        assert refused(request) == words(name)["stale"]
        assert ("Signature expired" if minutes < 0 else "Signature not yet current") in send(request)[1]


@pytest.fixture
def session(service: Service, role: str) -> Iterator[tuple[Key, str]]:
    """Key and token of a role's session."""
    got = service.client("sts").assume_role(RoleArn=role, RoleSessionName="s1", DurationSeconds=900)["Credentials"]
    yield (got["AccessKeyId"], got["SecretAccessKey"]), got["SessionToken"]


def test_a_session_ends_when_its_time_is_over(service: Service, name: str, session: tuple[Key, str]) -> None:
    key, token = session
    assert send(signed(service, name, key, token=token))[0] == 200
    # Only the service can make a token; with its key, this one is made as if it had been asked for earlier.
    vault = Vault.open_file(service.home / "control" / "master.key", SystemRandomness())
    opened = open_session(vault, key[0], token, time.time())
    assert opened.expires_at == pytest.approx(time.time() + 900, abs=30)
    left = seal_session(vault, msgspec.structs.replace(opened, expires_at=time.time() + 30))
    assert send(signed(service, name, key, token=left))[0] == 200
    over = seal_session(vault, msgspec.structs.replace(opened, expires_at=time.time() - 1))
    assert refused(signed(service, name, key, token=over)) == words(name)["expired session"]


def test_a_session_without_its_token_or_with_another(service: Service, name: str, session: tuple[Key, str]) -> None:
    key, token = session
    assert refused(signed(service, name, key)) == words(name)["unknown key"]
    assert refused(signed(service, name, key, token=token[:-8] + "AAAAAAAA")) == words(name)["unknown key"]
    assert refused(signed(service, name, root_key(service), token=token)) == words(name)["unknown key"]
