"""IAM logins: `CREATE USER … IDENTIFIED WITH AWSAuthenticationPlugin AS 'RDS'`, the plugin that RDS has.

Neither server has a plugin that asks another program and can be given that name, so it is one of our own
(aws_authentication.c), compiled when the engine is installed. It asks the agent at the node's socket. It is loaded
whether IAM database authentication is enabled or not, so that this can be changed without a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mainstay.engines.node_files import NodeFiles
from mainstay.model.engine import CompiledPlugin, EngineBuild

PLUGIN = "AWSAuthenticationPlugin"
LIBRARY = "aws_authentication.so"
SOURCE = Path(__file__).with_name("aws_authentication.c")
LOAD = f"{PLUGIN}={LIBRARY}"
"""As `plugin_load` and `plugin_load_add` want it."""


def compiled(**defined: str) -> CompiledPlugin:
    """How a build of this family gets the plugin."""
    return CompiledPlugin(library=LIBRARY, source=SOURCE, defined=dict(defined))


def has_plugin(build: EngineBuild) -> bool:
    """Whether users of this build can log in with tokens: not in the host's own builds, nor in those of before."""
    return (build.library_directory / LIBRARY).exists()


def environment(files: NodeFiles) -> Mapping[str, str]:
    """What the plugin must find in the engine's environment."""
    return {"MAINSTAY_LOGIN_SOCKET": str(files.login_socket)}
