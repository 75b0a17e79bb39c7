"""Names, passwords and what is stored of them, by the rules of RDS and of the engine."""

from __future__ import annotations

import pytest

from mainstay.engines.mysql_family.hashes import _sha256_crypt, caching_sha2_password, native_password
from mainstay.engines.mysql_family.names import check_database, check_password, check_username
from mainstay.model.errors import ApiError


def test_the_native_hash_is_the_engines() -> None:
    # SELECT PASSWORD('mypass') of the MySQL 5.7 manual, 12.14.
    assert native_password("mypass") == "*6C8989366EAF75BB670AD8EA7A7FC1176A95CEF4"


def test_sha_crypt_is_drepper_s() -> None:
    # "Unix crypt using SHA-256 and SHA-512", the first test vector of SHA-256.
    assert _sha256_crypt(b"Hello world!", b"saltstring", 5000) == "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"


def test_what_caching_sha2_password_stores() -> None:
    stored = caching_sha2_password("a-password", bytes(range(16)))
    assert stored.startswith("$A$005$AAECAwQFBgcICQoLDA0O") and len(stored) == 7 + 20 + 43
    assert stored != caching_sha2_password("a-password", bytes(16))
    with pytest.raises(ValueError, match="too short"):
        caching_sha2_password("a-password", bytes(14))


@pytest.mark.parametrize("name", ["a", "Admin_1", "x" * 16])
def test_master_usernames_taken(name: str) -> None:
    check_username(name)


@pytest.mark.parametrize(
    "name", ["", "1a", "_a", "a-b", "a.b", "x" * 17, "root", "RDSADMIN", "mysql", "ü", "a'b", "a\n"]
)
def test_master_usernames_refused(name: str) -> None:
    with pytest.raises(ApiError, match="MasterUsername"):
        check_username(name)


@pytest.mark.parametrize("password", ["x" * 8, "x" * 41, "!#$%&()*"])
def test_passwords_taken(password: str) -> None:
    check_password(password)


@pytest.mark.parametrize(
    "password", ["x" * 7, "x" * 42, "with/slash", "with@sign", 'with"quote', "with space", "süßholz1"]
)
def test_passwords_refused(password: str) -> None:
    with pytest.raises(ApiError, match="MasterUserPassword"):
        check_password(password)


@pytest.mark.parametrize("name", ["shop", "Shop_2", "x" * 64])
def test_databases_taken(name: str) -> None:
    check_database(name)


@pytest.mark.parametrize("name", ["", "2shop", "a-b", "x" * 65, "mysql", "SYS", "information_schema", "a`b"])
def test_databases_refused(name: str) -> None:
    with pytest.raises(ApiError, match=r"DBName|Database name"):
        check_database(name)
