"""Every workflow program by name: what the worker can run."""

from mainstay.workflows.apply_pending_modifications import APPLY_PENDING
from mainstay.workflows.automated_backups import AUTOMATED_BACKUPS
from mainstay.workflows.db_instances import CREATE, FAILOVER, MODIFY, REBOOT, RESTORE, START, STOP
from mainstay.workflows.db_proxy import CONVERGE_PROXY
from mainstay.workflows.delete_db_instance import DELETE
from mainstay.workflows.engine import Program
from mainstay.workflows.exchange_data import EXCHANGE, PART_PAIR
from mainstay.workflows.key_timers import AWAIT_KEY_ROTATION, DELETE_KEY
from mainstay.workflows.lose_key import LOSE_KEY
from mainstay.workflows.make_db_snapshot import MAKE_SNAPSHOT
from mainstay.workflows.read_replicas import CREATE_REPLICA, PROMOTE
from mainstay.workflows.reclaim_repository import RECLAIM
from mainstay.workflows.refresh_db_instance import REFRESH
from mainstay.workflows.replicate_backups import REPLICATE_BACKUPS
from mainstay.workflows.restart_stopped_db_instance import RESTART_STOPPED
from mainstay.workflows.restore_test import RESTORE_TEST
from mainstay.workflows.rotate_database_secret import ROTATE_DATABASE
from mainstay.workflows.rotate_master_user_password import ROTATE_MASTER
from mainstay.workflows.secret_timers import AWAIT_ROTATION, PURGE
from mainstay.workflows.verify_backups import VERIFY

PROGRAMS: dict[str, Program] = {
    program.name: program
    for program in (
        VERIFY, RESTORE_TEST,
        CREATE, CREATE_REPLICA, FAILOVER, MODIFY, REBOOT, START, STOP, PROMOTE, DELETE, REFRESH, APPLY_PENDING,
        RESTART_STOPPED, CONVERGE_PROXY, ROTATE_MASTER, ROTATE_DATABASE, AWAIT_ROTATION, PURGE,
        RESTORE, PART_PAIR, EXCHANGE, MAKE_SNAPSHOT, AUTOMATED_BACKUPS, REPLICATE_BACKUPS, RECLAIM,
        AWAIT_KEY_ROTATION, DELETE_KEY, LOSE_KEY,
    )
}  # fmt: skip
