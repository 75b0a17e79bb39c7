"""Users of an account whom no policy allows anything yet."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.service import Service


@contextmanager
def guest_of(service: Service, api: str) -> Iterator[Any]:
    """A client of this API for a user of its own, whose ARN is its `user_arn`."""
    iam = service.client("iam")
    user = f"guest-{secrets.token_hex(4)}"
    arn = iam.create_user(UserName=user)["User"]["Arn"]
    key = iam.create_access_key(UserName=user)["AccessKey"]
    made = service.client(api, key=(key["AccessKeyId"], key["SecretAccessKey"]))
    made.user_arn = arn
    try:
        yield made
    finally:
        iam.delete_access_key(UserName=user, AccessKeyId=key["AccessKeyId"])
        iam.delete_user(UserName=user)
