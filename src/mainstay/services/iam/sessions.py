"""Temporary credentials. The session token carries them, sealed with the master key: nothing is stored, nothing to
clean up, and any control process can read them. A token opens only together with the access key id it was made for.
"""

from __future__ import annotations

import msgspec

from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError, Permanent
from mainstay.model.iam import Session

TOKEN_LENGTH = 16384
"""Longest token that is looked at; ours are shorter, for session policies and tags are limited."""


def seal_session(vault: Vault, session: Session) -> str:
    """The session token."""
    return vault.seal(msgspec.json.encode(session).decode(), _context(session.access_key_id))


def open_session(vault: Vault, access_key_id: str, token: str, now: float) -> Session:
    """The session behind a token; raises `InvalidClientTokenId` or `ExpiredToken`."""
    if len(token) > TOKEN_LENGTH:
        raise invalid_token()
    try:
        session = msgspec.json.decode(vault.unseal(token, _context(access_key_id)), type=Session)
    except (Permanent, ValueError) as error:
        raise invalid_token() from error
    if now >= session.expires_at:
        raise ApiError("ExpiredToken", "The security token included in the request is expired")
    return session


def invalid_token() -> ApiError:
    """`InvalidClientTokenId`: the key is unknown or inactive, or the token is not of this key.

    Which status goes with it, here and in `ExpiredToken`, depends on the protocol: `protocol.aws.vocabulary`.
    """
    return ApiError("InvalidClientTokenId", "The security token included in the request is invalid.")


def _context(access_key_id: str) -> str:
    return f"sts-session/{access_key_id}"
