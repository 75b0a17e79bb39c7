"""In what MariaDB and MySQL differ where they do the same: the words of their SQL for replication.

MariaDB kept the older ones, MySQL 8.4 has no other than the newer ones (MySQL manual 15.4, "Replication Statements").
"""

from __future__ import annotations

import msgspec


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """One engine's words.

    `source` and `follower` are what it calls the two in names of statements, variables and columns. `change` begins
    the statement that says whom to follow, `position` says in it that GTIDs are used. `received` is the column of the
    follower's status with the GTIDs that it has received, `is_applied` and `wait_applied` are queries that answer 1,
    or 0, when those are applied (arguments: the GTIDs; the second one also the seconds to wait). `start_keeps` says
    whether what was received stays when one thread of a follower is started while the other does not run. `hands_out`
    is a query for the thread that has others apply what was received, "" if it stops at once when it is told to.
    `identified` stands before a verifier in CREATE USER. `status_table` has the status variables, `acknowledged` is
    the one that counts what standbys have acknowledged. A source whose state begins with `sent_all` has nothing to
    send. `lost` are words in a follower's log, with what they mean. `unseen` keeps a session's statements out of
    every log and table. `follower_user` is what names of the accounts begin with under which nodes follow (MySQL:
    32 characters in all), `password_characters` how long their passwords may be, `follower_rights` what they may do
    everywhere.

    Of binary logs: `logged` is a query for the GTIDs of all that a leader has logged, `applied` for those of all that a
    follower has applied, `unlogged` for those of all that is in none of the engine's binary logs (as far as the logs
    need it to be told). `mark_session` are statements at the beginning of a session that writes marks, `end_is_forced`
    says whether with sync_binlog 1 the log is on the disk up to where the engine says that it ends. `set_relay_log` is
    the statement that has the engine apply one relay log (%s) that it did not receive.
    """

    source: str
    follower: str
    change: str
    position: str
    received: str
    is_applied: str
    wait_applied: str
    start_keeps: bool
    hands_out: str
    identified: str
    status_table: str
    acknowledged: str
    sent_all: str
    lost: tuple[tuple[str, str], ...]
    unseen: tuple[str, ...]
    follower_user: str
    password_characters: int
    follower_rights: str
    logged: str
    applied: str
    unlogged: str
    mark_session: tuple[str, ...]
    end_is_forced: bool
    set_relay_log: str
    must_be: dict[str, str] = {}

    @property
    def semi_sync(self) -> str:
        """What the names of the source's settings begin with."""
        return f"rpl_semi_sync_{self.source}_"

    @property
    def source_settings(self) -> dict[str, str]:
        """What a primary must run with, or a commit could be acknowledged that one of the two has not on its disk."""
        return {
            f"{self.semi_sync}enabled": "ON",
            f"{self.semi_sync}wait_point": "AFTER_SYNC",
            f"{self.semi_sync}wait_no_{self.follower}": "ON",
            f"{self.semi_sync}timeout": str(SEMI_SYNC_TIMEOUT_MS),
            "sync_binlog": "1",
            "innodb_flush_log_at_trx_commit": "1",
            **self.must_be,
        }


SEMI_SYNC_TIMEOUT_MS = 4_294_967_295
"""Seven weeks: commits that wait for a standby are let go by the pair, which records it before, never by a clock."""
