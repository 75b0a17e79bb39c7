"""From an access key to who is calling: what the front needs to verify a signature and then to authorise.

Refuses to know signatures and permissions: it hands out the secret to verify with and the caller to authorise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from mainstay.host.clock import Clock
from mainstay.host.randomness import Randomness
from mainstay.host.vault import Vault
from mainstay.model.iam import AccessKey, Role, Session, User
from mainstay.model.records import GLOBAL_REGION, Scope
from mainstay.services.iam import identifiers
from mainstay.services.iam.access_keys import LAST_USE_GRAIN_S, new_access_key
from mainstay.services.iam.lookup import read_policy
from mainstay.services.iam.sessions import invalid_token, open_session
from mainstay.services.operations import Caller
from mainstay.store.base import Reader, Transaction

TRANSITIVE_TAG_KEYS = "mainstay:TransitiveTagKeys"
"""Key of a caller's context: the session tags that go on to the next role, separated by commas (no tag key has one)."""


@dataclass(frozen=True)
class Credentials:
    """A caller and the secret its signatures are made with."""

    caller: Caller
    secret_access_key: str = field(repr=False)


def resolve(
    tx: Reader, vault: Vault, clock: Clock, access_key_id: str, session_token: str | None, scope: Scope
) -> Credentials:
    """Who owns the access key. `scope` names the account.

    Raises `InvalidClientTokenId` for an unknown or inactive key and for a token that is missing, of another key or of
    an identity that is gone; `ExpiredToken` when the session has ended.
    """
    scope = Scope(scope.account_id, GLOBAL_REGION)
    if access_key_id.startswith(identifiers.TEMPORARY_KEY):
        session = open_session(vault, access_key_id, session_token or "", clock.wall())
        return Credentials(_session_caller(tx, scope, session), session.secret_access_key)
    key = tx.get(AccessKey, scope, access_key_id)
    if key is None or key.status != "Active" or session_token:
        raise invalid_token()
    if not key.user_name:
        caller = _root(scope, access_key_id)
    elif (user := tx.get(User, scope, key.user_name)) is not None:
        caller = _user(user, access_key_id)
    else:
        raise invalid_token()
    return Credentials(caller, vault.unseal(key.sealed_secret, key.seal_context))


def ensure_root_access_key(
    tx: Transaction, vault: Vault, randomness: Randomness, account_id: str, created_at: float = 0.0
) -> tuple[str, str]:
    """The root's first access key and its secret, made if there is none. Repeating gives the same key."""
    scope = Scope(account_id, GLOBAL_REGION)
    keys = sorted(tx.find(AccessKey, scope, "user", ""), key=lambda key: (key.created_at, key.access_key_id))
    if keys:
        return keys[0].access_key_id, vault.unseal(keys[0].sealed_secret, keys[0].seal_context)
    key, secret = new_access_key(vault, randomness, scope, "", created_at)
    tx.insert(key)
    return key.access_key_id, secret


def note_use(tx: Transaction, caller: Caller, service: str, region: str, now: float) -> None:
    """Records when a key or role was last used, at most once per quarter of an hour."""
    scope = Scope(caller.account_id, GLOBAL_REGION)
    if caller.kind == "role":
        role = tx.get(Role, scope, caller.principal)
        if role is not None and (role.last_used_at is None or now - role.last_used_at >= LAST_USE_GRAIN_S):
            tx.put(msgspec.structs.replace(role, last_used_at=now, last_used_region=region))
        return
    key = tx.get(AccessKey, scope, caller.access_key_id)
    if key is not None and (key.last_used_at is None or now - key.last_used_at >= LAST_USE_GRAIN_S):
        used = msgspec.structs.replace(key, last_used_at=now, last_used_service=service, last_used_region=region)
        tx.put(used)


def _session_caller(tx: Reader, scope: Scope, session: Session) -> Caller:
    if session.account_id != scope.account_id:
        raise invalid_token()
    if session.kind == "root":
        caller = _root(scope, session.access_key_id)
    elif session.kind == "user":
        user = tx.get(User, scope, session.entity_name)
        if user is None or user.id != session.entity_id:
            raise invalid_token()
        caller = _user(user, session.access_key_id)
    else:
        caller = _role_session(tx, scope, session)
    issued_at = datetime.fromtimestamp(session.issued_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    context = {"aws:TokenIssueTime": issued_at, "aws:MultiFactorAuthPresent": "false"}
    return msgspec.structs.replace(caller, context=caller.context | context)


def _role_session(tx: Reader, scope: Scope, session: Session) -> Caller:
    role = tx.get(Role, scope, session.entity_name)
    if role is None or role.id != session.entity_id:
        raise invalid_token()
    documents = [session.policy] if session.policy else []
    for arn in session.policy_arns:
        policy = read_policy(tx, scope, arn)
        # A session policy that was deleted since allows nothing; it must not lift the limit it was meant to set.
        documents.append(policy.document if policy else NOTHING)
    user_id = f"{role.id}:{session.session_name}"
    context = _caller_context(role.arn, scope.account_id, "AssumedRole", user_id, {**role.tags, **session.tags})
    if session.source_identity:
        context["aws:SourceIdentity"] = session.source_identity
    if session.transitive_tag_keys:
        context[TRANSITIVE_TAG_KEYS] = ",".join(session.transitive_tag_keys)
    return Caller(
        kind="role",
        account_id=scope.account_id,
        arn=scope.arn("sts", f"assumed-role/{role.name}/{session.session_name}"),
        user_id=user_id,
        principal=role.name,
        access_key_id=session.access_key_id,
        session_policies=tuple(documents),
        context=context,
    )


NOTHING = '{"Statement": {"Effect": "Allow", "Action": "none:None", "Resource": "arn:aws:none:::none"}}'
"""A policy that allows only an action no service has."""


def _root(scope: Scope, access_key_id: str) -> Caller:
    arn = scope.arn("iam", "root")
    return Caller(
        kind="root",
        account_id=scope.account_id,
        arn=arn,
        user_id=scope.account_id,
        principal="",
        access_key_id=access_key_id,
        context=_caller_context(arn, scope.account_id, "Account", scope.account_id, {}),
    )


def _user(user: User, access_key_id: str) -> Caller:
    account_id = user.scope.account_id
    return Caller(
        kind="user",
        account_id=account_id,
        arn=user.arn,
        user_id=user.id,
        principal=user.name,
        access_key_id=access_key_id,
        context=_caller_context(user.arn, account_id, "User", user.id, user.tags) | {"aws:username": user.name},
    )


def _caller_context(arn: str, account_id: str, kind: str, user_id: str, tags: dict[str, str]) -> dict[str, str]:
    context = {
        "aws:PrincipalArn": arn,
        "aws:PrincipalAccount": account_id,
        "aws:PrincipalType": kind,
        "aws:userid": user_id,
    }
    return context | {f"aws:PrincipalTag/{key}": value for key, value in tags.items()}
