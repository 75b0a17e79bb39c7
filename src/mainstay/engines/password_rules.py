"""What RDS takes as a master user's password, whatever the engine (RDS API reference, MasterUserPassword)."""

from __future__ import annotations

from mainstay.model.errors import invalid_value

FORBIDDEN = frozenset("/@\" '")


def check_master_password(password: str, shortest: int, longest: int) -> None:
    """Raises `ApiError` InvalidParameterValue for a password that is too short, too long or has a forbidden character.

    What passes is printable ASCII.
    """
    refused = "The parameter MasterUserPassword is not a valid password"
    if len(password) < shortest:
        raise invalid_value(f"{refused} because it is shorter than {shortest} characters.")
    if len(password) > longest:
        raise invalid_value(f"{refused} because it is longer than {longest} characters.")
    if FORBIDDEN & set(password) or not all(" " < character <= "~" for character in password):
        raise invalid_value(f"{refused}. Only printable ASCII characters besides '/', '@', '\"', ' ' may be used.")
