"""Type bytes of messages. Source: PostgreSQL documentation, 55.7 Message Formats.

What the two sides send shares letters. Numbers, not `ord`: compiled, these are constants in the code.
"""

from __future__ import annotations

from typing import Final

# Sent by clients.
BIND: Final = 0x42  # B
CLOSE: Final = 0x43  # C
DESCRIBE: Final = 0x44  # D
EXECUTE: Final = 0x45  # E
FLUSH: Final = 0x48  # H
FUNCTION_CALL: Final = 0x46  # F
PARSE: Final = 0x50  # P
PASSWORD: Final = 0x70  # p
QUERY: Final = 0x51  # Q
SYNC: Final = 0x53  # S
TERMINATE: Final = 0x58  # X

# Sent by the database.
BIND_COMPLETE: Final = 0x32  # 2
CLOSE_COMPLETE: Final = 0x33  # 3
COMMAND_COMPLETE: Final = 0x43  # C
DATA_ROW: Final = 0x44  # D
EMPTY_QUERY: Final = 0x49  # I
ERROR: Final = 0x45  # E
NO_DATA: Final = 0x6E  # n
NOTICE: Final = 0x4E  # N
NOTIFICATION: Final = 0x41  # A
PARAMETER_STATUS: Final = 0x53  # S
PARSE_COMPLETE: Final = 0x31  # 1
PORTAL_SUSPENDED: Final = 0x73  # s
READY_FOR_QUERY: Final = 0x5A  # Z
ROW_DESCRIPTION: Final = 0x54  # T

# Sent by either.
COPY_DATA: Final = 0x64  # d
COPY_DONE: Final = 0x63  # c
COPY_FAIL: Final = 0x66  # f
COPY: Final = b"dcf"

REQUESTS: Final = b"QBPDECF"
"""Of clients: those that are answered, but for Sync, which is answered even where there is nothing else to do."""

# What Describe and Close name, if it is no portal.
STATEMENT: Final = 0x53  # S

# What ReadyForQuery says of the transaction.
IDLE: Final = 0x49  # I
FAILED: Final = 0x45  # E
