"""What MariaDB and MySQL certainly share: the wire protocol's sessions, quoting, option files, hashes, name rules."""
