"""What the keepers of one host share, made once by its agent."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mainstay.agent.archiver import Archiver
from mainstay.agent.journal import Journal
from mainstay.agent.login_questions import Logins, NoLogins
from mainstay.agent.repositories import Repositories
from mainstay.agent.routes import Routes
from mainstay.engines.builds import Builds
from mainstay.host.cgroups import ControlGroups
from mainstay.host.clock import Clock
from mainstay.host.processes import User
from mainstay.host.shims import Shims
from mainstay.host.volumes.clones import Clones
from mainstay.model.engine import EngineBuild
from mainstay.model.node import NodeSpec, NodeStatus


class KeeperTools(msgspec.Struct, frozen=True, kw_only=True):
    """What every keeper of a host shares."""

    journal: Journal
    shims: Shims
    cgroups: ControlGroups
    routes: Routes
    builds: Builds
    repositories: Repositories
    clones: Clones
    user: User
    clock: Clock
    report: Callable[[NodeStatus], None]
    archiver: Callable[..., Archiver] = Archiver
    """What ships a log; simulated time has another one."""
    logins: Logins = NoLogins()

    def build(self, spec: NodeSpec) -> EngineBuild:
        """What a node with this spec runs, or is to run."""
        return self.builds.resolve(spec.engine, spec.engine_version)
