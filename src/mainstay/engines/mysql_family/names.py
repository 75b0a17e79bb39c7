"""RDS's rules for names and passwords of MariaDB and MySQL instances (RDS API reference, CreateDBInstance)."""

from __future__ import annotations

import re

from mainstay.engines.password_rules import check_master_password
from mainstay.model.errors import invalid_value

PASSWORD_LENGTH = (8, 41)
USERNAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,15}")
DATABASE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
RESERVED_USERS = frozenset(
    "rdsadmin rdsrepladmin rds_superuser_role root mysql mariadb public none user current_user session_user"
    " current_role system_user".split()
)
RESERVED_DATABASES = frozenset({"mysql", "information_schema", "performance_schema", "sys"})


def check_username(name: str) -> None:
    """Raises `ApiError` InvalidParameterValue unless RDS would take the master user's name."""
    if not USERNAME.fullmatch(name):
        raise invalid_value(
            f"The parameter MasterUsername is not a valid identifier. {name!r} must begin with a letter, contain"
            " only letters, digits and underscores, and have 1 to 16 characters."
        )
    if name.lower() in RESERVED_USERS:
        raise invalid_value(f"MasterUsername {name} cannot be used as it is a reserved word used by the engine")


def check_password(password: str) -> None:
    """Raises `ApiError` InvalidParameterValue unless RDS would take the master user's password."""
    check_master_password(password, *PASSWORD_LENGTH)


def check_database(name: str) -> None:
    """Raises `ApiError` InvalidParameterValue unless RDS would take the first database's name."""
    if not DATABASE.fullmatch(name):
        raise invalid_value(
            f"DBName {name!r} must begin with a letter, contain only letters, digits and underscores, and have 1 to 64"
            " characters."
        )
    if name.lower() in RESERVED_DATABASES:
        raise invalid_value(f"Database name {name} cannot be used as it is a reserved word used by the engine")
