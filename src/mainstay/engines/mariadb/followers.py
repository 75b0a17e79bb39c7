"""MariaDB's followers: the family's, whose passwords are stored as MariaDB stores them."""

from __future__ import annotations

from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family.followers import Followers
from mainstay.engines.mysql_family.hashes import native_password
from mainstay.engines.mysql_family.quoting import literal

FOLLOWERS = Followers(MARIADB_WORDS, lambda password: literal(native_password(password)))
