"""IAM database authentication: is this token a right to log in, as this user, here and now?

A token is a presigned GET of "host:port/" for the service "rds-db", without its scheme, as the `generate_db_auth_token`
of every AWS SDK makes it. It may be used again within its 15 minutes, as on AWS, but only for what it names.
Source: RDS user guide, "IAM database authentication for MariaDB, MySQL, and PostgreSQL".
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime
from urllib.parse import unquote

from mainstay.host.clock import Clock
from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.records import Scope
from mainstay.protocol.aws.message import HttpRequest
from mainstay.protocol.aws.sigv4 import SigningRules, read_signature, verify
from mainstay.services.iam.authorization import authorize
from mainstay.services.iam.principals import resolve
from mainstay.services.operations import Caller, Demand
from mainstay.store.base import Reader

TOKEN_CHARACTERS_MAX = 64 * 1024
"""A token is about a kilobyte, and more with the session token of a role."""

LIFE_MAX_S = 900
SERVICE = "rds-db"
ACTION = "rds-db:connect"
_TOKEN = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<port>\d{1,5})/?\?(?P<query>[!-~]+)")


def verify_token(
    reader: Reader,
    vault: Vault,
    clock: Clock,
    token: str,
    *,
    username: str,
    allowed_hosts_ports: Collection[tuple[str, int]],
    resource_id: str,
    scope: Scope,
) -> Caller:
    """Who may log in as `username` with this token; raises `ApiError` that says why nobody may.

    `allowed_hosts_ports` are the names and addresses of the endpoint asked, `resource_id` is its DbiResourceId or
    `prx-…`, `scope` its account and region. No message repeats the token or its signature.
    """
    host, port, query = _parts(token)
    if (host.lower(), port) not in {(name.lower(), number) for name, number in allowed_hosts_ports}:
        raise refused(f"The token is for {host}:{port}, which is not the endpoint that was connected to.")
    _check_parameters(query, username)
    caller = _authenticate(reader, vault, clock, host, port, query, scope)
    demand = Demand(action=ACTION, resource=scope.arn(SERVICE, f"dbuser:{resource_id}/{username}"))
    authorize(reader, caller, [demand], _context(clock, scope))
    return caller


def refused(message: str) -> ApiError:
    """`AccessDenied` for this reason."""
    return ApiError("AccessDenied", message, status=403)


def _parts(token: str) -> tuple[str, int, str]:
    """Host and port as they stand in the token, and the query string."""
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise refused(f"The password is longer than {TOKEN_CHARACTERS_MAX} characters; no token is.")
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise refused("The password is not an authentication token: a token begins with host:port/?Action=connect.")
    return match["host"], int(match["port"]), match["query"]


def _check_parameters(query: str, username: str) -> None:
    """Action and DBUser, each given once. All else in the query is the signature's."""
    values: dict[str, list[str]] = {"Action": [], "DBUser": []}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if (known := values.get(unquote(name))) is not None:
            known.append(value)
    if values["Action"] != ["connect"]:
        raise refused("The token must have the parameter Action once, with the value connect.")
    if len(values["DBUser"]) != 1 or "+" in values["DBUser"][0]:  # "+" is read as itself by some, as a space by others
        raise refused("The token must have the parameter DBUser once, percent-encoded.")
    try:
        named = unquote(values["DBUser"][0], errors="strict")
    except UnicodeDecodeError:
        raise refused("The token's DBUser is not UTF-8.") from None
    if named != username:
        raise refused(f"The token is for the user {named!r}, not for {username!r}.")


def _authenticate(reader: Reader, vault: Vault, clock: Clock, host: str, port: int, query: str, scope: Scope) -> Caller:
    """Who signed the token."""
    now = clock.wall()
    rules = SigningRules(service=SERVICE, protocol="query", regions=frozenset({scope.region}))
    request = _request(host, port, query)
    signature = read_signature(request, now, rules)
    if signature.expires_s is None or signature.expires_s > LIFE_MAX_S:
        raise refused(f"A token lives {LIFE_MAX_S} seconds at most.")
    credentials = resolve(reader, vault, clock, signature.access_key_id, signature.session_token, scope)
    try:
        verify(request, signature, credentials.secret_access_key, now)
    except ApiError:
        if host == host.lower():
            raise
        # Some SDKs sign the host as it was typed, others (botocore) in lower case.
        verify(_request(host.lower(), port, query), signature, credentials.secret_access_key, now)
    return credentials.caller


def _request(host: str, port: int, query: str) -> HttpRequest:
    return HttpRequest(method="GET", path="/", query=query, headers=(("host", f"{host}:{port}"),), body=b"")


def _context(clock: Clock, scope: Scope) -> dict[str, str]:
    """The global condition keys that hold for `rds-db:connect`; where the client is, AWS does not tell there either."""
    now = clock.wall()
    return {
        "aws:CurrentTime": datetime.fromtimestamp(now, UTC).isoformat(),
        "aws:EpochTime": str(int(now)),
        "aws:RequestedRegion": scope.region,
        "aws:SecureTransport": "true",
    }
