"""Every workflow program by name: what the worker can run."""

from mainstay.workflows.apply_pending_modifications import APPLY_PENDING
from mainstay.workflows.db_instances import CREATE, MODIFY, REBOOT, START, STOP
from mainstay.workflows.delete_db_instance import DELETE
from mainstay.workflows.engine import Program
from mainstay.workflows.refresh_db_instance import REFRESH
from mainstay.workflows.restart_stopped_db_instance import RESTART_STOPPED

PROGRAMS: dict[str, Program] = {
    program.name: program
    for program in (CREATE, MODIFY, REBOOT, START, STOP, DELETE, REFRESH, APPLY_PENDING, RESTART_STOPPED)
}
