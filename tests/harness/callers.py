"""Who calls, for tests below authorisation."""

from __future__ import annotations

from mainstay.services.operations import Caller


def root_caller(account_id: str) -> Caller:
    """The account's root user."""
    return Caller(
        kind="root",
        account_id=account_id,
        arn=f"arn:aws:iam::{account_id}:root",
        user_id=account_id,
        principal="root",
        access_key_id="AKIAEXAMPLE",
    )
