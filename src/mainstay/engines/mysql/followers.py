"""MySQL's followers: the family's, whose passwords are stored as MySQL stores them."""

from __future__ import annotations

import secrets

from mainstay.engines.mysql.words import MYSQL_WORDS
from mainstay.engines.mysql_family.followers import Followers
from mainstay.engines.mysql_family.hashes import caching_sha2_password
from mainstay.engines.mysql_family.quoting import literal

SALT_BYTES = 16

FOLLOWERS = Followers(
    MYSQL_WORDS, lambda password: literal(caching_sha2_password(password, secrets.token_bytes(SALT_BYTES)))
)
