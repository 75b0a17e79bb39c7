"""Which tokens are a right to log in to a database. The tokens are botocore's own."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as Keys

from harness.accounts import Account, document
from mainstay.model.errors import ApiError
from mainstay.model.records import Scope
from mainstay.services.iam.database_tokens import TOKEN_CHARACTERS_MAX, verify_token

ACCOUNT = "123456789012"
REGION = "us-east-1"
RESOURCE = "db-ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NAME = "orders.abcdef123456.us-east-1.rds.mainstay.internal"
ADDRESS = "127.64.16.1"
PORT = 5432
WHERE = [(NAME, PORT), (ADDRESS, PORT)]


def connect(resource: str = f"{RESOURCE}/alice", effect: str = "Allow", **more: Any) -> dict[str, Any]:
    arn = f"arn:aws:rds-db:{REGION}:{ACCOUNT}:dbuser:{resource}"
    return {"Effect": effect, "Action": "rds-db:connect", "Resource": arn, **more}


ALL = connect("*/*")


@pytest.fixture(autouse=True)
def now(account: Account) -> None:
    """botocore signs with the time it is."""
    account.clock.jump_wall(int(time.time()) - account.clock.wall())


def token(
    keys: Any, *, host: str = NAME, port: int = PORT, user: str = "alice", region: str = REGION, session: str = ""
) -> str:
    client = boto3.client(
        "rds",
        region_name=region,
        aws_access_key_id=keys.caller.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        aws_session_token=session or None,
    )
    made: str = client.generate_db_auth_token(DBHostname=host, Port=port, DBUsername=user)
    return made


def presigned(
    keys: Any,
    query: str = "Action=connect&DBUser=alice",
    *,
    service: str = "rds-db",
    expires: int = 900,
    path: str = "/",
    headers: dict[str, str] | None = None,
    method: str = "GET",
) -> str:
    """What a client of its own mind could sign."""
    request = AWSRequest(method, f"https://{NAME}:{PORT}{path}?{query}", headers=headers or {})
    signer = SigV4QueryAuth(Keys(keys.caller.access_key_id, keys.secret_access_key), service, REGION, expires=expires)
    signer.add_auth(request)
    return str(request.url).removeprefix("https://")


def signed_as_sent(keys: Any, query: str) -> str:
    """A token over a query that botocore would tidy up first."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    day = moment[:8]
    scope = f"{day}/{REGION}/rds-db/aws4_request"
    query += (
        "&X-Amz-Algorithm=AWS4-HMAC-SHA256"
        f"&X-Amz-Credential={quote(keys.caller.access_key_id + '/' + scope, safe='')}"
        f"&X-Amz-Date={moment}&X-Amz-Expires=900&X-Amz-SignedHeaders=host"
    )
    ordered = "&".join(sorted(query.split("&")))
    request = f"GET\n/\n{ordered}\nhost:{NAME}:{PORT}\n\nhost\n{sha256(b'').hexdigest()}"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + keys.secret_access_key.encode()
    for part in (day, REGION, "rds-db", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return f"{NAME}:{PORT}/?{query}&X-Amz-Signature={hmac.digest(key, text.encode(), 'sha256').hex()}"


def go_to_signing_time(account: Account, presented: str) -> None:
    """The clock then stands at the moment that the token names."""
    moment = presented.split("X-Amz-Date=")[1][:16]
    signed_at = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    account.clock.jump_wall(signed_at - account.clock.wall())


def check(account: Account, presented: str, **more: Any) -> Any:
    wanted: dict[str, Any] = {
        "username": "alice",
        "allowed_hosts_ports": WHERE,
        "resource_id": RESOURCE,
        "scope": Scope(ACCOUNT, REGION),
        **more,
    }
    with account.store.read() as view:
        return verify_token(view, account.vault, account.clock, presented, **wanted)


def reason(account: Account, presented: str, **more: Any) -> str:
    with pytest.raises(ApiError) as caught:
        check(account, presented, **more)
    for part in presented.split("&"):
        if part.startswith(("X-Amz-Signature=", "X-Amz-Security-Token=")):
            assert part.partition("=")[2] not in str(caught.value)
    return caught.value.message


@pytest.mark.parametrize("host", [NAME, NAME.upper(), NAME.title(), ADDRESS])
def test_a_token_for_the_endpoint_in_any_spelling(account: Account, host: str) -> None:
    bob = account.user("bob", connect())
    assert check(account, token(bob, host=host)).arn == f"arn:aws:iam::{ACCOUNT}:user/bob"


def test_the_host_may_be_signed_as_it_was_typed(account: Account) -> None:
    bob = account.user("bob", connect())
    presented = presigned(bob, headers={"host": f"{NAME.upper()}:{PORT}"})
    assert check(account, presented.replace(NAME, NAME.upper())).principal == "bob"


def test_the_slash_before_the_query_may_be_missing(account: Account) -> None:
    """The SDK for Go leaves it out."""
    bob = account.user("bob", connect())
    assert check(account, token(bob).replace("/?Action", "?Action")).principal == "bob"


def test_the_order_of_parameters_and_the_case_of_escapes_do_not_matter(account: Account) -> None:
    bob = account.user("bob", connect())
    place, _, query = token(bob).partition("?")
    assert check(account, place + "?" + "&".join(reversed(query.split("&")))).principal == "bob"
    assert check(account, place + "?" + query.replace("%2F", "%2f")).principal == "bob"


def test_a_token_may_be_used_again_within_its_time_but_nowhere_else(account: Account) -> None:
    """There is no nonce in AWS's design: what is refused is every other target."""
    bob = account.user("bob", ALL)
    presented = token(bob)
    go_to_signing_time(account, presented)
    check(account, presented)
    account.clock.advance(899)
    check(account, presented)
    assert "not the endpoint" in reason(account, presented, allowed_hosts_ports=[("127.64.16.2", PORT)])
    assert "for the user 'alice'" in reason(account, presented, username="carol")


def test_a_token_ends_after_fifteen_minutes(account: Account) -> None:
    presented = token(account.user("bob", ALL))
    go_to_signing_time(account, presented)
    account.clock.advance(900)
    check(account, presented)
    account.clock.advance(1)
    assert "Signature expired" in reason(account, presented)


def test_a_token_from_the_future(account: Account) -> None:
    presented = token(account.user("bob", ALL))
    go_to_signing_time(account, presented)
    account.clock.jump_wall(-300)
    check(account, presented)
    account.clock.jump_wall(-1)
    assert "not yet current" in reason(account, presented)


def test_a_token_signed_for_longer_than_fifteen_minutes(account: Account) -> None:
    assert "lives 900 seconds" in reason(account, presigned(account.user("bob", ALL), expires=901))


@pytest.mark.parametrize("wrong", [{"host": "127.64.16.9"}, {"host": "orders"}, {"port": 5433}])
def test_another_host_or_port(account: Account, wrong: dict[str, Any]) -> None:
    assert "not the endpoint" in reason(account, token(account.user("bob", ALL), **wrong))


def test_a_host_that_was_put_in_later(account: Account) -> None:
    bob = account.user("bob", ALL)
    moved = token(bob, host="127.64.16.9").replace("127.64.16.9", ADDRESS)
    assert "does not match the signature" in reason(account, moved)


@pytest.mark.parametrize("user", ["ALICE", "alice ", "bob", "alice/../root", 'a,b="c', "älice"])
def test_the_user_is_the_one_in_the_token_letter_by_letter(account: Account, user: str) -> None:
    bob = account.user("bob", ALL)
    assert "The token is for the user" in reason(account, token(bob, user=user))
    assert check(account, token(bob, user=user), username=user).principal == "bob"


def test_a_user_that_was_put_in_later(account: Account) -> None:
    bob = account.user("bob", ALL)
    assert "does not match the signature" in reason(
        account, token(bob).replace("DBUser=alice", "DBUser=admin"), username="admin"
    )


def test_an_ambiguous_plus(account: Account) -> None:
    presented = signed_as_sent(account.user("bob", ALL), "Action=connect&DBUser=a+b")
    assert "percent-encoded" in reason(account, presented, username="a+b")
    assert "percent-encoded" in reason(account, presented, username="a b")


@pytest.mark.parametrize(
    "query",
    [
        "DBUser=alice",
        "Action=Connect&DBUser=alice",
        "Action=connect&Action=connect&DBUser=alice",
        "Action=connect",
        "Action=connect&DBUser=alice&DBUser=alice",
        "Action=connect&DBUser=admin&DB%55ser=alice",
        "Action=connect&DBUser=%FF",
    ],
)
def test_parameters_that_are_missing_wrong_or_given_twice(account: Account, query: str) -> None:
    said = reason(account, signed_as_sent(account.user("bob", ALL), query))
    assert said.startswith("The token must have the parameter") or said == "The token's DBUser is not UTF-8."


def test_the_raw_signer_of_these_tests_is_right(account: Account) -> None:
    assert check(account, signed_as_sent(account.user("bob", ALL), "DBUser=alice&Action=connect")).principal == "bob"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: it[:-1] + ("0" if it[-1] != "0" else "1"), "does not match the signature"),
        (lambda it: it[:-1], "64 lower-case hexadecimal"),
        (lambda it: it + "&extra=1", "does not match the signature"),
        (lambda it: it.replace("X-Amz-Expires=900", "X-Amz-Expires=800"), "does not match the signature"),
        (lambda it: it.split("&X-Amz-Signature")[0], "X-Amz-Signature"),
        (lambda it: it.split("&X-Amz-Algorithm")[0], "Missing|must include|Authentication Token"),
        (lambda it: it.replace("HMAC-SHA256", "HMAC-SHA1"), "Unsupported AWS 'algorithm'"),
        (lambda it: it + "&" + it[it.index("X-Amz-Signature") :], "more than once"),
        (lambda it: it.replace("/?", "/x?"), "not an authentication token"),
        (lambda it: "https://" + it, "not an authentication token"),
        (lambda it: it.replace(f":{PORT}", ""), "not an authentication token"),
        (lambda it: it + "\n", "not an authentication token"),
        (lambda it: it + "é", "not an authentication token"),
        (lambda it: "", "not an authentication token"),
        (lambda it: it + "&x=" + "a" * TOKEN_CHARACTERS_MAX, "longer than"),
    ],
)
def test_a_token_that_was_changed(account: Account, change: Callable[[str], str], said: str) -> None:
    found = reason(account, change(token(account.user("bob", ALL))))
    assert any(words in found for words in said.split("|"))


def test_a_token_of_the_greatest_length_is_looked_at(account: Account) -> None:
    presented = token(account.user("bob", ALL))
    longest = presented + "&x=" + "a" * (TOKEN_CHARACTERS_MAX - len(presented) - 3)
    assert "longer than" not in reason(account, longest)
    assert "longer than" in reason(account, longest + "a")


def test_something_else_that_was_signed(account: Account) -> None:
    bob = account.user("bob", ALL)
    assert "correct service: 'rds-db'" in reason(account, presigned(bob, service="rds"))
    assert "valid region" in reason(account, token(bob, region="eu-west-1"))
    assert "does not match the signature" in reason(account, presigned(bob, method="POST"))
    assert "does not match the signature" in reason(account, presigned(bob, path="/x").replace("/x?", "/?"))
    more = presigned(bob, headers={"x-amz-meta": "1"})
    assert "is not present" in reason(account, more)


def test_the_access_key_must_be_known_and_active(account: Account) -> None:
    bob = account.user("bob", ALL)
    presented = token(bob)
    account.iam("UpdateAccessKey", UserName="bob", AccessKeyId=bob.caller.access_key_id, Status="Inactive")
    assert "security token" in reason(account, presented)
    account.iam("UpdateAccessKey", UserName="bob", AccessKeyId=bob.caller.access_key_id, Status="Active")
    check(account, presented)
    account.iam("DeleteAccessKey", UserName="bob", AccessKeyId=bob.caller.access_key_id)
    assert "security token" in reason(account, presented)


def test_the_secret_must_be_the_key_s(account: Account) -> None:
    bob, eve = account.user("bob", ALL), account.user("eve", ALL)
    forged = token(eve).replace(eve.caller.access_key_id, bob.caller.access_key_id)
    assert "does not match the signature" in reason(account, forged)


def test_the_root_may_as_on_aws(account: Account) -> None:
    assert check(account, token(account.root)).kind == "root"


@pytest.mark.parametrize(
    "statements",
    [
        [],
        [connect("db-OTHER/alice")],
        [connect(f"{RESOURCE}/bob")],
        [connect(f"{RESOURCE}/ALICE")],
        [{**connect(), "Resource": f"arn:aws:rds-db:{REGION}:999999999999:dbuser:{RESOURCE}/alice"}],
        [{**connect(), "Resource": f"arn:aws:rds-db:eu-west-1:{ACCOUNT}:dbuser:{RESOURCE}/alice"}],
        [{**connect(), "Action": "rds:*"}],
        [connect(Condition={"StringEquals": {"aws:RequestedRegion": "eu-west-1"}})],
        [connect(Condition={"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}})],
        [ALL, connect(effect="Deny")],
        [{"Effect": "Allow", "Action": "*", "Resource": "*"}, connect("*/alice", effect="Deny")],
    ],
)
def test_policies_that_do_not_allow_it(account: Account, statements: list[dict[str, Any]]) -> None:
    said = reason(account, token(account.user("bob", *statements)))
    assert f"not authorized to perform: rds-db:connect on resource: {connect()['Resource']}" in said


@pytest.mark.parametrize(
    "statement",
    [
        connect(),
        connect("*"),
        connect("*/alice"),
        connect(f"{RESOURCE}/*"),
        connect(f"{RESOURCE}/${{aws:username}}", Resource=f"arn:aws:rds-db:*:*:dbuser:*/{'${aws:username}'}"),
        connect(Condition={"Bool": {"aws:SecureTransport": "true"}}),
    ],
)
def test_policies_that_allow_it(account: Account, statement: dict[str, Any]) -> None:
    assert check(account, token(account.user("alice", statement))).principal == "alice"


def test_a_boundary_limits(account: Account) -> None:
    arn = account.iam("CreatePolicy", PolicyName="edge", PolicyDocument=document(connect("db-OTHER/*")))["Policy"][
        "Arn"
    ]
    said = reason(account, token(account.user("bob", ALL, PermissionsBoundary=arn)))
    assert "permissions boundary" in said


def _assumed(account: Account, **request: Any) -> tuple[Any, str]:
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": ACCOUNT}}
    account.iam("CreateRole", RoleName="dba", AssumeRolePolicyDocument=document(trust))
    account.iam("PutRolePolicy", RoleName="dba", PolicyName="own", PolicyDocument=document(ALL))
    bob = account.user("bob", {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"})
    arn = f"arn:aws:iam::{ACCOUNT}:role/dba"
    got = account.sts("AssumeRole", bob, RoleArn=arn, RoleSessionName="session", **request)["Credentials"]
    return account.credentials(got["AccessKeyId"], got["SessionToken"]), got["SessionToken"]


def test_the_token_of_a_role_session(account: Account) -> None:
    session, secret = _assumed(account)
    presented = token(session, session=secret)
    assert check(account, presented).arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/dba/session"
    parts = presented.split("&")
    without = "&".join(part for part in parts if not part.startswith("X-Amz-Security-Token"))
    assert "security token" in reason(account, without)
    spoilt = presented.replace(quote(secret, safe=""), quote(secret[:-8] + "AAAAAAA=", safe=""))
    assert "security token" in reason(account, spoilt)


def test_a_session_that_has_ended(account: Account) -> None:
    opened_at = account.clock.wall()
    session, secret = _assumed(account, DurationSeconds=900)
    presented = token(session, session=secret)
    account.clock.jump_wall(opened_at + 899 - account.clock.wall())
    check(account, presented)
    account.clock.jump_wall(1)
    assert "security token included in the request is expired" in reason(account, presented)


def test_a_session_policy_limits(account: Account) -> None:
    session, secret = _assumed(account, Policy=document(connect("db-OTHER/*")))
    assert "session policy" in reason(account, token(session, session=secret))


def test_a_role_that_was_deleted_or_remade(account: Account) -> None:
    session, secret = _assumed(account)
    presented = token(session, session=secret)
    account.iam("DeleteRolePolicy", RoleName="dba", PolicyName="own")
    assert "no identity-based policy" in reason(account, presented)
    account.iam("DeleteRole", RoleName="dba")
    assert "security token" in reason(account, presented)


def test_a_token_for_a_proxy(account: Account) -> None:
    bob = account.user("bob", connect("prx-0123456789abcdef0/alice"))
    check(account, token(bob), resource_id="prx-0123456789abcdef0")
    assert "not authorized" in reason(account, token(bob))
