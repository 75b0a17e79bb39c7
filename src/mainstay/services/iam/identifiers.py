"""Unique ids and access keys in AWS's forms ("Unique identifiers", IAM User Guide)."""

from __future__ import annotations

import base64
import binascii

from mainstay.host.randomness import BASE32_UPPER, Randomness

USER, GROUP, ROLE, POLICY = "AIDA", "AGPA", "AROA", "ANPA"
LONG_TERM_KEY, TEMPORARY_KEY = "AKIA", "ASIA"
SECRET_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"  # noqa: S105 - an alphabet
SECRET_LENGTH = 40
_ACCOUNT_SHIFT = 7
_MARK = 1 << 47


def unique_id(randomness: Randomness, prefix: str) -> str:
    """An id of 21 characters such as AIDACKCEVSQ6C2EXAMPLE."""
    return prefix + randomness.text(17, BASE32_UPPER)


def access_key_id(randomness: Randomness, prefix: str, account_id: str) -> str:
    """A key id of 20 characters. As in AWS it holds the account number, so that anybody can tell whose it is."""
    head = _MARK | int(account_id) << _ACCOUNT_SHIFT | randomness.below(1 << _ACCOUNT_SHIFT)
    return prefix + base64.b32encode(head.to_bytes(6, "big") + randomness.token_bytes(4)).decode()


def account_of_access_key(key_id: str) -> str | None:
    """The account number inside a key id, or None for text that is no key id of this form."""
    try:
        head = base64.b32decode(key_id[4:])[:6]
    except (binascii.Error, ValueError):
        return None
    if len(key_id) != 20 or len(head) != 6:
        return None
    account = (int.from_bytes(head, "big") & ~_MARK) >> _ACCOUNT_SHIFT
    return f"{account:012d}" if account < 10**12 else None


def secret_access_key(randomness: Randomness) -> str:
    """A secret of 40 characters (240 bits)."""
    return randomness.text(SECRET_LENGTH, SECRET_ALPHABET)
